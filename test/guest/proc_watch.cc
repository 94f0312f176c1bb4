// Files of /proc about what a process has mounted and mapped: poll on mounts, mountinfo; map_files; statmount's strings and groups.
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int Ready(int fd, int timeout = 0) {
  pollfd p = {.fd = fd, .events = POLLPRI, .revents = 0};
  MUST(poll(&p, 1, timeout));
  return p.revents;
}

void OwnMounts() {
  if (unshare(CLONE_NEWNS) < 0) Skip("may not unshare mounts");
  MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
}

}  // namespace

GUEST_TEST(ProcWatch, PollTellsOfMounts) {
  OwnMounts();
  TempDir dir;
  for (const char* name : {"/proc/self/mounts", "/proc/self/mountinfo"}) {
    const int fd = MUST(open(name, O_RDONLY));
    EXPECT_EQ(Ready(fd), 0);
    MUST(mount("none", dir.path(), "tmpfs", 0, nullptr));
    CheckpointHere();
    EXPECT_EQ(Ready(fd), POLLERR | POLLPRI);
    EXPECT_EQ(Ready(fd), 0);
    MUST(mount(nullptr, dir.path(), nullptr, MS_REMOUNT | MS_BIND | MS_NOEXEC, nullptr));
    EXPECT_EQ(Ready(fd), POLLERR | POLLPRI);
    MUST(umount(dir.path()));
    EXPECT_EQ(Ready(fd), POLLERR | POLLPRI);
    EXPECT_EQ(Ready(fd), 0);
    close(fd);
  }
}

GUEST_TEST(ProcWatch, PollAndEpollWaitForMounts) {
  OwnMounts();
  TempDir dir;
  const int fd = MUST(open("/proc/self/mountinfo", O_RDONLY)), other = MUST(open("/proc/self/mounts", O_RDONLY));
  const int set = MUST(epoll_create1(0));
  epoll_event event = {.events = EPOLLPRI, .data = {}};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, other, &event));
  const pid_t child = Fork([&] {
    SleepMs(50);
    MUST(mount("none", dir.path(), "tmpfs", 0, nullptr));
  });
  EXPECT_EQ(Ready(fd, 10000), POLLERR | POLLPRI);
  EXPECT_EQ(epoll_wait(set, &event, 1, 10000), 1);
  EXPECT_EQ(event.events, static_cast<unsigned>(EPOLLERR | EPOLLPRI));
  EXPECT_EQ(epoll_wait(set, &event, 1, 0), 0);
  JOIN_OK(child);
  MUST(umount(dir.path()));
  EXPECT_EQ(epoll_wait(set, &event, 1, 0), 1);
  for (const int open_fd : {set, fd, other}) close(open_fd);
}

GUEST_TEST(ProcWatch, MapFiles) {
  TempDir dir;
  WriteFile(dir / "f", "mapped");
  const int fd = MUST(open(dir / "f", O_RDWR));
  char* at = static_cast<char*>(MUST(mmap(nullptr, 3 * kPage, PROT_READ, MAP_SHARED, fd, 0)));
  close(fd);
  const auto from = reinterpret_cast<uint64_t>(at);
  const Str link("/proc/self/map_files/%llx-%llx", static_cast<unsigned long long>(from), static_cast<unsigned long long>(from + 3 * kPage));
  CheckpointHere();
  char text[256] = {};
  MUST(readlink(link, text, sizeof(text) - 1));
  EXPECT_STREQ(text, dir / "f");
  struct stat st;
  MUST(lstat(link, &st));
  EXPECT_EQ(st.st_mode, static_cast<mode_t>(S_IFLNK | 0600));
  EXPECT_EQ(st.st_size, 64);
  MUST(stat("/proc/self/map_files", &st));
  EXPECT_EQ(st.st_mode, static_cast<mode_t>(S_IFDIR | 0500));
  MUST(unlink(dir / "f"));
  const int again = open(link, O_RDONLY);
  if (again < 0) EXPECT_EQ(errno, EPERM);  // it takes a capability that is not always there
  if (again >= 0) ExpectContent(again, "mapped");
  if (again >= 0) close(again);
  bool listed = false;
  DIR* names = opendir("/proc/self/map_files");
  while (const dirent* entry = readdir(names)) listed |= strcmp(entry->d_name, link.c_str() + 21) == 0;
  closedir(names);
  EXPECT(listed);
  auto wrong = [&](uint64_t begin, uint64_t end, const char* format) {
    return readlink(Str(format, static_cast<unsigned long long>(begin), static_cast<unsigned long long>(end)), text, sizeof(text));
  };
  EXPECT_ERRNO(wrong(from, from + kPage, "/proc/self/map_files/%llx-%llx"), ENOENT);
  EXPECT_ERRNO(wrong(from, from + 3 * kPage, "/proc/self/map_files/0%llx-%llx"), ENOENT);
  EXPECT_ERRNO(readlink("/proc/self/map_files/x", text, sizeof(text)), ENOENT);
  char* anonymous = Pages(1);
  EXPECT_ERRNO(wrong(reinterpret_cast<uint64_t>(anonymous), reinterpret_cast<uint64_t>(anonymous) + kPage, "/proc/self/map_files/%llx-%llx"), ENOENT);
}

namespace {

struct Request {
  uint32_t size = 32, spare = 0;
  uint64_t mount_id, param, ns = 0;
};
struct StatMount {
  uint32_t size, options;
  uint64_t mask;
  uint32_t dev_major, dev_minor;
  uint64_t magic;
  uint32_t sb_flags, type;
  uint64_t id, parent_id;
  uint32_t id_old, parent_id_old;
  uint64_t attributes, propagation, peer_group, master, propagate_from;
  uint32_t root, point;
  uint64_t ns;
  uint32_t subtype, source, option_count, option_array, security_count, security_array;
  uint64_t supported;
  uint32_t uid_count, uid_map, gid_count, gid_map;
  uint64_t rest[43];
  char text[512];
};

int Ask(uint64_t id, uint64_t mask, StatMount* out, uint64_t ns = 0) {
  Request request = {.mount_id = id, .param = mask, .ns = ns};
  return Call(457, &request, out, sizeof(*out), 0);
}

uint64_t MountId(const char* path) {
  struct statx st = {};
  MUST(statx(AT_FDCWD, path, 0, 0x4000, &st));
  return st.stx_mnt_id;
}

}  // namespace

GUEST_TEST(ProcWatch, StatMountsNewMasks) {
  OwnMounts();
  TempDir dir;
  MUST(mount("src", dir.path(), "tmpfs", 0, "size=64k,mode=700"));
  StatMount m = {};
  const uint64_t id = MountId(dir.path());
  if (Ask(id, 0x1000, &m) < 0 && errno == ENOSYS) Skip("no statmount");
  if ((m.mask & 0x1000) == 0 || (m.supported & 0x7000) != 0x7000) Skip("an older statmount");
  EXPECT_EQ(m.supported & 0x7fff, 0x7fffu);
  EXPECT_EQ(Ask(id, 0x400, &m), 0);
  EXPECT_EQ(m.mask, 0x400u);
  EXPECT_EQ(m.option_count, 2u);
  EXPECT_EQ(m.option_array, 1u);
  EXPECT_STREQ(m.text + 1, "size=64k");
  EXPECT_STREQ(m.text + 10, "mode=700");
  for (const uint64_t absent : {0x100, 0x800, 0x2000, 0x4000}) {
    EXPECT_EQ(Ask(id, absent, &m), 0);
    EXPECT_EQ(m.mask, 0u);
    EXPECT_EQ(m.size, 513u);
  }
  EXPECT_EQ(Ask(id, 0x6, &m), 0);
  EXPECT_EQ(m.propagation, uint64_t{MS_PRIVATE});
  EXPECT_EQ(m.mask, 6u);
  // Groups.
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  MUST(mount("none", dir / "a", "tmpfs", 0, nullptr));
  MUST(mount(nullptr, dir / "a", nullptr, MS_SHARED, nullptr));
  MUST(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr));
  MUST(mount(nullptr, dir / "b", nullptr, MS_SLAVE, nullptr));
  CheckpointHere();
  EXPECT_EQ(Ask(MountId(dir / "a"), 6, &m), 0);
  EXPECT_EQ(m.propagation, uint64_t{MS_SHARED});
  const uint64_t group = m.peer_group;
  EXPECT_NE(group, 0u);
  EXPECT_EQ(m.master, 0u);
  EXPECT_EQ(Ask(MountId(dir / "b"), 6, &m), 0);
  EXPECT_EQ(m.propagation, uint64_t{MS_SLAVE});
  EXPECT_EQ(m.master, group);
  EXPECT_EQ(m.propagate_from, group);
  EXPECT_EQ(m.peer_group, 0u);
  for (const char* name : {"a", "b"}) MUST(umount(dir / name));
  MUST(umount(dir.path()));
}

GUEST_TEST(ProcWatch, StatMountOfOtherNamespaces) {
  OwnMounts();
  const uint64_t id = MountId("/");
  StatMount m = {};
  if (Ask(id, 0x40, &m) < 0 || (m.mask & 0x40) == 0) Skip("an older statmount");
  const uint64_t ns = m.ns;
  uint64_t told = 0;
  const int fd = MUST(open("/proc/self/ns/mnt", O_RDONLY));
  EXPECT_EQ(ioctl(fd, 0x8008b705 /* NS_GET_MNTNS_ID */, &told), 0);
  close(fd);
  EXPECT_EQ(told, ns);
  EXPECT_EQ(Ask(id, 2, &m, ns), 0);
  EXPECT_ERRNO(Ask(id, 2, &m, ns + 123456), ENOENT);
  Gate gate;
  const pid_t child = Fork([&] {
    MUST(unshare(CLONE_NEWNS));
    gate.Await();
  });
  uint64_t other = ns;
  while (other == ns) {
    const int theirs = MUST(open(Str("/proc/%d/ns/mnt", child), O_RDONLY));
    MUST(ioctl(theirs, 0x8008b705, &other));
    close(theirs);
    SleepMs(1);
  }
  EXPECT_ERRNO(Ask(id, 2, &m, other), ENOENT);
  uint64_t ids[64];
  Request request = {.mount_id = ~uint64_t{0}, .param = 0, .ns = other};
  const int count = Call(458, &request, ids, 64, 0);
  EXPECT_GT(count, 1);
  if (count > 0) EXPECT_EQ(Ask(ids[0], 2, &m, other), 0);
  gate.Open();
  JOIN_OK(child);
}
