// fanotify: who may have it, marks of files, mounts and file systems, what events hold, and what is ignored.
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <initializer_list>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Expected {
  uint64_t mask;
  const char* path;  // of the descriptor; null: none
};

class Group {
 public:
  explicit Group(unsigned flags = 0, unsigned event_flags = O_RDONLY) {
    fd_ = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | flags, event_flags);
    if (fd_ < 0 && (errno == EPERM || errno == ENOSYS)) Skip("no fanotify here");
    MUST(fd_);
  }
  ~Group() { close(fd_); }
  int fd() const { return fd_; }
  int Mark(unsigned flags, uint64_t mask, const char* path) const { return fanotify_mark(fd_, flags, mask, AT_FDCWD, path); }
  // Reads what is queued and compares it with the list; events must come from `pid`.
  void Expect(const char* file, int line, pid_t pid, std::initializer_list<Expected> list) const {
    alignas(8) char buffer[4096];
    const ssize_t length = read(fd_, buffer, sizeof(buffer));
    ssize_t at = 0;
    for (const Expected& expected : list) {
      if (at >= length) return Fail(file, line, false, "no event where %x was expected", static_cast<unsigned>(expected.mask));
      const auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer + at);
      CheckCompare(file, line, false, "length", "24", event->event_len, Op::kEq, 24u);
      CheckCompare(file, line, false, "version", "3", static_cast<int>(event->vers), Op::kEq, 3);
      CheckCompare(file, line, false, "mask", "expected", static_cast<uint64_t>(event->mask), Op::kEq, expected.mask);
      CheckCompare(file, line, false, "pid", "expected", event->pid, Op::kEq, pid);
      char link[64];
      char path[256] = {};
      snprintf(link, sizeof(link), "/proc/self/fd/%d", event->fd);
      if (readlink(link, path, sizeof(path) - 1) < 0) path[0] = 0;
      CheckStrings(file, line, false, "path", path, expected.path);
      if (event->fd >= 0) close(event->fd);
      at += event->event_len;
    }
    if (at < length) Fail(file, line, false, "one more event: %llx", reinterpret_cast<fanotify_event_metadata*>(buffer + at)->mask);
  }

 private:
  int fd_;
};

#define EXPECT_TOLD(group, ...) (group).Expect(__FILE__, __LINE__, getpid(), {__VA_ARGS__})

}  // namespace

GUEST_TEST(Fanotify, Flags) {
  Group group;
  EXPECT_EQ(fcntl(group.fd(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(group.fd(), F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
  EXPECT_ERRNO(fanotify_init(0x80000000, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(0, O_RDONLY | O_CREAT), EINVAL);
  EXPECT_ERRNO(fanotify_init(0, O_ACCMODE), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, 0, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(0, FAN_OPEN, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_REMOVE, FAN_OPEN, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM, FAN_OPEN, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, uint64_t{1} << 32, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, FAN_CREATE, "/"), EINVAL);  // would need FAN_REPORT_FID
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, FAN_OPEN_PERM, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_FLUSH | FAN_MARK_ONLYDIR, FAN_OPEN, "/"), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, FAN_OPEN, "/nothing-here"), ENOENT);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_OPEN, "/proc/self/stat"), ENOTDIR);
  EXPECT_ERRNO(group.Mark(FAN_MARK_REMOVE, FAN_OPEN, "/"), ENOENT);
  EXPECT_ERRNO(fanotify_mark(-1, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "/"), EBADF);
  EXPECT_ERRNO(fanotify_mark(0, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "/"), EINVAL);
  char event[32];
  EXPECT_ERRNO(read(group.fd(), event, sizeof(event)), EAGAIN);
  const int child = Fork([] {
    if (geteuid() == 0) MUST(setresuid(1000, 1000, 1000));
    EXPECT_ERRNO(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), EPERM);
  });
  JOIN_OK(child);
}

GUEST_TEST(Fanotify, OfAFile) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Group group;
  MUST(group.Mark(FAN_MARK_ADD, FAN_ACCESS | FAN_MODIFY | FAN_CLOSE | FAN_OPEN, dir / "f"));
  pollfd p{group.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 0), 0);
  int fd = MUST(open(dir / "f", O_RDWR));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  int available = 0;
  MUST(ioctl(group.fd(), FIONREAD, &available));
  EXPECT_EQ(available, 24);
  EXPECT_TOLD(group, {FAN_OPEN, dir / "f"});
  char byte;
  MUST(read(fd, &byte, 1));
  MUST(write(fd, "x", 1));
  CheckpointHere();
  EXPECT_TOLD(group, {FAN_ACCESS | FAN_MODIFY, dir / "f"});  // Of one process and one file: one event.
  close(fd);
  EXPECT_TOLD(group, {FAN_CLOSE_WRITE, dir / "f"});
  MUST(group.Mark(FAN_MARK_REMOVE, FAN_OPEN, dir / "f"));
  close(MUST(open(dir / "f", O_RDONLY)));
  EXPECT_TOLD(group, {FAN_CLOSE_NOWRITE, dir / "f"});
  MUST(group.Mark(FAN_MARK_FLUSH, 0, nullptr));
  close(MUST(open(dir / "f", O_RDONLY)));
  EXPECT_TOLD(group);
}

GUEST_TEST(Fanotify, OfADirectory) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  WriteFile(dir / "d/f", "content");
  Group group;
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN, dir / "d"));
  close(MUST(open(dir / "d/f", O_RDONLY)));
  close(MUST(open(dir / "d", O_RDONLY)));
  EXPECT_TOLD(group);
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, dir / "d"));
  CheckpointHere();
  close(MUST(open(dir / "d/f", O_RDONLY)));
  EXPECT_TOLD(group, {FAN_OPEN, dir / "d/f"});
  MUST(group.Mark(FAN_MARK_ADD, FAN_ONDIR, dir / "d"));
  close(MUST(open(dir / "d", O_RDONLY)));
  EXPECT_TOLD(group, {FAN_OPEN, dir / "d"});
}

GUEST_TEST(Fanotify, OfMountsAndFileSystems) {
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  if (mount("none", dir / "a", "tmpfs", 0, nullptr) < 0) Skip("may not mount");
  MUST(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr));
  WriteFile(dir / "a/f", "content");
  {
    Group of_mount, of_system;
    MUST(of_mount.Mark(FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, dir / "b"));
    MUST(of_system.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, dir / "b"));
    CheckpointHere();
    close(MUST(open(dir / "a/f", O_RDONLY)));
    EXPECT_TOLD(of_mount);
    EXPECT_TOLD(of_system, {FAN_OPEN, dir / "a/f"});
    close(MUST(open(dir / "b/f", O_RDONLY)));
    EXPECT_TOLD(of_mount, {FAN_OPEN, dir / "b/f"});
    EXPECT_TOLD(of_system, {FAN_OPEN, dir / "b/f"});
    // Marks keep no mount busy.
    EXPECT_OK(umount(dir / "b"));
  }
  EXPECT_OK(umount(dir / "a"));
}

GUEST_TEST(Fanotify, MarksGoWithTheFile) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  WriteFile(dir / "kept", "content");
  Group group;
  MUST(group.Mark(FAN_MARK_ADD, FAN_MODIFY, dir / "f"));
  MUST(group.Mark(FAN_MARK_ADD, FAN_MODIFY, dir / "kept"));
  const auto marks = [&] {
    char path[64], text[1024] = {};
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", group.fd());
    const int info = MUST(open(path, O_RDONLY));
    MUST(read(info, text, sizeof(text) - 1));
    close(info);
    int count = 0;
    for (const char* at = text; (at = strstr(at, "fanotify ino:")) != nullptr; ++at) ++count;
    return count;
  };
  EXPECT_EQ(marks(), 2);
  CheckpointHere();
  // Not while it is open.
  const int open_fd = MUST(open(dir / "f", O_RDONLY));
  MUST(unlink(dir / "f"));
  EXPECT_EQ(marks(), 2);
  close(open_fd);
  EXPECT_EQ(marks(), 1);
}

GUEST_TEST(Fanotify, Ignoring) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  WriteFile(dir / "g", "content");
  Group group;
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_MODIFY | FAN_EVENT_ON_CHILD, dir.path()));
  MUST(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, dir / "f"));
  MUST(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, dir / "g"));
  const int f = MUST(open(dir / "f", O_WRONLY)), g = MUST(open(dir / "g", O_WRONLY));
  EXPECT_TOLD(group);
  CheckpointHere();
  // A change ends it, unless it was to survive that.
  MUST(write(f, "x", 1));
  MUST(write(g, "x", 1));
  EXPECT_TOLD(group, {FAN_MODIFY, dir / "f"}, {FAN_MODIFY, dir / "g"});
  close(MUST(open(dir / "f", O_RDONLY)));
  close(MUST(open(dir / "g", O_RDONLY)));
  EXPECT_TOLD(group, {FAN_OPEN, dir / "f"});
  close(f);
  close(g);
}

// FAN_MARK_IGNORE says itself whether it is about directories and what is in them.
GUEST_TEST(Fanotify, IgnoringPrecisely) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Group group;
  if (group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, FAN_OPEN | FAN_EVENT_ON_CHILD, dir.path()) != 0) Skip("no FAN_MARK_IGNORE");
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_IGNORED_MASK, FAN_OPEN, dir.path()), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORE, FAN_OPEN, dir.path()), EISDIR);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_MOUNT, FAN_OPEN, dir.path()), EINVAL);
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, dir.path()), EEXIST);
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_ONDIR | FAN_EVENT_ON_CHILD, dir.path()));
  CheckpointHere();
  close(MUST(open(dir / "f", O_RDONLY)));  // ignored
  EXPECT_TOLD(group);
  close(MUST(open(dir.path(), O_RDONLY | O_DIRECTORY)));  // not: what is ignored is not about directories
  EXPECT_TOLD(group, {FAN_OPEN, dir.path()});
  MUST(group.Mark(FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, FAN_ONDIR, dir.path()));
  close(MUST(open(dir.path(), O_RDONLY | O_DIRECTORY)));
  EXPECT_TOLD(group);
  MUST(group.Mark(FAN_MARK_REMOVE | FAN_MARK_IGNORE, FAN_EVENT_ON_CHILD, dir.path()));
  close(MUST(open(dir / "f", O_RDONLY)));
  EXPECT_TOLD(group, {FAN_OPEN, dir / "f"});
}

GUEST_TEST(Fanotify, MarksOfDescriptors) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Group group;
  if (group.Mark(FAN_MARK_ADD | FAN_MARK_EVICTABLE, FAN_OPEN, dir / "f") != 0) Skip("no FAN_MARK_EVICTABLE");
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_EVICTABLE | FAN_MARK_MOUNT, FAN_OPEN, dir / "f"), EINVAL);
  char path[64], want[128];
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", group.fd());
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  const auto shows = [&](unsigned flags) {
    const unsigned device = major(status.st_dev) << 20 | minor(status.st_dev);
    snprintf(want, sizeof(want), "fanotify ino:%llx sdev:%x mflags:%x mask:20 ignored_mask:0 ", static_cast<unsigned long long>(status.st_ino),
             device, flags);
    char text[1024] = {};
    ReadFile(path, text, sizeof(text));
    return strstr(text, want) != nullptr;
  };
  EXPECT(shows(FAN_MARK_EVICTABLE));
  CheckpointHere();
  EXPECT(shows(FAN_MARK_EVICTABLE));
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN, dir / "f"));
  EXPECT(shows(0));
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_EVICTABLE, FAN_OPEN, dir / "f"), EEXIST);
}

GUEST_TEST(Fanotify, ReportsProcesses) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_PIDFD | FAN_REPORT_TID, O_RDONLY), EINVAL);
  const int group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_REPORT_PIDFD, O_RDONLY);
  if (group < 0) Skip("no FAN_REPORT_PIDFD");
  MUST(fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, dir / "f"));
  close(MUST(open(dir / "f", O_RDONLY)));
  JOIN_OK(Fork([&] { close(MUST(open(dir / "f", O_RDONLY))); }));  // it has gone when the event is read
  CheckpointHere();
  struct {
    fanotify_event_metadata m;
    fanotify_event_info_pidfd process;
  } event[3] = {};
  int queued = 0;
  MUST(ioctl(group, FIONREAD, &queued));
  EXPECT_EQ(queued, static_cast<int>(2 * FAN_EVENT_METADATA_LEN));  // as if without
  EXPECT_ERRNO(read(group, event, sizeof(event[0]) - 1), EINVAL);
  EXPECT_EQ(MUST(read(group, event, sizeof(event))), static_cast<ssize_t>(2 * sizeof(event[0])));
  EXPECT_EQ(event[0].m.event_len, sizeof(event[0]));
  EXPECT_EQ(event[0].process.hdr.info_type, FAN_EVENT_INFO_TYPE_PIDFD);
  EXPECT_EQ(event[0].process.hdr.len, sizeof(event[0].process));
  EXPECT_EQ(fcntl(event[0].process.pidfd, F_GETFD), FD_CLOEXEC);
  char path[64], want[64], text[512] = {};
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", event[0].process.pidfd);
  ReadFile(path, text, sizeof(text));
  snprintf(want, sizeof(want), "Pid:\t%d\n", getpid());
  EXPECT(strstr(text, want) != nullptr);
  EXPECT_EQ(event[1].process.pidfd, FAN_NOPIDFD);
  for (const auto& e : event) close(e.m.fd);
  close(event[0].process.pidfd);
  close(group);
}

namespace {

// A group that decides, and what it is asked.
class Judge {
 public:
  Judge(uint64_t mask, const char* path) {
    fd_ = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY);
    if (fd_ < 0) Skip("no groups that decide here");
    if (fanotify_mark(fd_, FAN_MARK_ADD, mask, AT_FDCWD, path) != 0) Skip("no permission events here");
  }
  ~Judge() { Close(); }
  int fd() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // So many questions are waiting. (Who asks is in state D of recent kernels.)
  void Await(int questions) const {
    int bytes = 0;
    while (MUST(ioctl(fd_, FIONREAD, &bytes)) == 0 && bytes < questions * static_cast<int>(FAN_EVENT_METADATA_LEN)) SleepMs(1);
  }
  // The event that comes next, which must be this one of `pid`.
  int Question(uint64_t mask, pid_t pid) const {
    fanotify_event_metadata event = {};
    EXPECT_EQ(MUST(read(fd_, &event, sizeof(event))), static_cast<ssize_t>(sizeof(event)));
    EXPECT_EQ(event.mask, mask);
    EXPECT_EQ(event.pid, pid);
    return event.fd;
  }
  void Answer(int fd, unsigned what) const {
    fanotify_response response = {fd, what};
    EXPECT_EQ(write(fd_, &response, sizeof(response)), static_cast<ssize_t>(sizeof(response)));
    close(fd);
  }

 private:
  int fd_;
};

}  // namespace

GUEST_TEST(FanotifyLeave, IsAskedFor) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Judge judge(FAN_OPEN_PERM | FAN_ACCESS_PERM, dir / "f");
  const pid_t child = Fork([&] {
    judge.Close();
    const int fd = MUST(open(dir / "f", O_RDONLY));
    char text[16];
    EXPECT_EQ(read(fd, text, sizeof(text)), 7);
    EXPECT_ERRNO(pread(fd, text, sizeof(text), 0), EPERM);
    EXPECT_ERRNO(open(dir / "f", O_RDONLY), EPERM);
  });
  judge.Await(1);
  CheckpointHere();
  const int opened = judge.Question(FAN_OPEN_PERM, child);
  CheckpointHere();
  judge.Answer(opened, FAN_ALLOW);
  judge.Answer(judge.Question(FAN_ACCESS_PERM, child), FAN_ALLOW);
  judge.Answer(judge.Question(FAN_ACCESS_PERM, child), FAN_DENY);
  judge.Answer(judge.Question(FAN_OPEN_PERM, child), FAN_DENY);
  JOIN_OK(child);
}

GUEST_TEST(FanotifyLeave, ToExecute) {
  TempDir dir;
  Judge judge(FAN_OPEN_EXEC_PERM, "/bin/true");
  const pid_t child = Fork([&] {
    close(MUST(open("/bin/true", O_RDONLY)));  // nobody is asked
    EXPECT_ERRNO(execl("/bin/true", "true", nullptr), EPERM);
    execl("/bin/true", "true", nullptr);
    _exit(9);
  });
  judge.Answer(judge.Question(FAN_OPEN_EXEC_PERM, child), FAN_DENY);
  judge.Answer(judge.Question(FAN_OPEN_EXEC_PERM, child), FAN_ALLOW);
  JOIN_OK(child);
}

GUEST_TEST(FanotifyLeave, WhoWaitsCanBeKilledOrLeftAlone) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Judge judge(FAN_OPEN_PERM, dir / "f");
  pid_t waiting[3];
  for (int i = 0; i < 3; ++i) {
    waiting[i] = Fork([&] {
      judge.Close();
      close(MUST(open(dir / "f", O_RDONLY)));
    });
    judge.Await(i + 1);
  }
  MUST(kill(waiting[0], SIGKILL));  // before anybody has read that it asks
  EXPECT_KILLED(WaitStatus(waiting[0]), SIGKILL);
  const int fd = judge.Question(FAN_OPEN_PERM, waiting[1]);
  MUST(kill(waiting[1], SIGKILL));  // afterwards
  EXPECT_KILLED(WaitStatus(waiting[1]), SIGKILL);
  CheckpointHere();
  judge.Answer(fd, FAN_DENY);
  judge.Close();
  JOIN_OK(waiting[2]);
}

GUEST_TEST(FanotifyLeave, Arguments) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Judge judge(FAN_OPEN_PERM, dir / "f");
  fanotify_response response = {77, FAN_ALLOW};
  EXPECT_ERRNO(write(judge.fd(), &response, sizeof(response)), ENOENT);
  EXPECT_ERRNO(write(judge.fd(), &response, sizeof(response) - 1), EINVAL);
  response = {-1, FAN_ALLOW};
  EXPECT_ERRNO(write(judge.fd(), &response, sizeof(response)), EINVAL);
  response = {77, 99};
  EXPECT_ERRNO(write(judge.fd(), &response, sizeof(response)), EINVAL);
  Group group;
  EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, FAN_ACCESS_PERM, "/"), EINVAL);
  // Without its mark nobody is asked.
  MUST(fanotify_mark(judge.fd(), FAN_MARK_REMOVE, FAN_OPEN_PERM, AT_FDCWD, dir / "f"));
  close(MUST(open(dir / "f", O_RDONLY)));
}

GUEST_TEST(Fanotify, DescriptorsTellNothing) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Group group(0, O_RDWR | O_CLOEXEC);
  MUST(group.Mark(FAN_MARK_ADD, FAN_ACCESS | FAN_MODIFY | FAN_CLOSE | FAN_OPEN, dir / "f"));
  const int fd = MUST(open(dir / "f", O_RDONLY));
  fanotify_event_metadata event;
  EXPECT_EQ(read(group.fd(), &event, sizeof(event)), 24);
  EXPECT_EQ(fcntl(event.fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(event.fd, F_GETFL) & O_ACCMODE, O_RDWR);
  char byte;
  CheckpointHere();
  EXPECT_EQ(read(event.fd, &byte, 1), 1);
  EXPECT_EQ(write(event.fd, "y", 1), 1);
  close(event.fd);
  EXPECT_TOLD(group);
  close(fd);
  EXPECT_ERRNO(read(group.fd(), &event, 23), EINVAL);
  EXPECT_TOLD(group, {FAN_CLOSE_NOWRITE, dir / "f"});
}

GUEST_TEST(Fanotify, WhoAndExecution) {
  TempDir dir;
  Group group;
  const int from = MUST(open("/proc/self/exe", O_RDONLY)), to = MUST(open(dir / "program", O_CREAT | O_WRONLY, 0755));
  while (MUST(sendfile(to, from, nullptr, 1 << 20)) > 0) {
  }
  close(from);
  close(to);
  MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN_EXEC, dir / "program"));
  close(MUST(open(dir / "program", O_RDONLY)));
  EXPECT_TOLD(group);
  const pid_t child = MUST(fork());
  if (child == 0) {
    execl(dir / "program", "program", "--list", nullptr);
    _exit(1);
  }
  EXPECT_EXITED(WaitStatus(child), 0);
  group.Expect(__FILE__, __LINE__, child, {{FAN_OPEN_EXEC, dir / "program"}});
}

GUEST_TEST(Fanotify, Overflow) {
  char text[16] = {};
  const int limit = MUST(open("/proc/sys/fs/fanotify/max_queued_events", O_RDONLY));
  MUST(read(limit, text, sizeof(text) - 1));
  close(limit);
  EXPECT_STREQ(text, "16384\n");
  TempDir dir;
  if (mount("none", dir.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
  {
    Group group;
    MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, dir.path()));
    for (int i = 0; i < 16400; ++i) {
      close(MUST(open(dir / "f", O_CREAT | O_WRONLY, 0600)));
      MUST(unlink(dir / "f"));
    }
    int events = 0;
    uint64_t last = 0;
    fanotify_event_metadata buffer[64];
    ssize_t n;
    while ((n = read(group.fd(), buffer, sizeof(buffer))) > 0) {
      for (ssize_t i = 0; i < n / 24; ++i) {
        ++events;
        last = buffer[i].mask;
        if (buffer[i].fd >= 0) close(buffer[i].fd);
        if (last == FAN_Q_OVERFLOW) EXPECT_EQ(buffer[i].fd, FAN_NOFD);
      }
    }
    EXPECT_EQ(last, uint64_t{FAN_Q_OVERFLOW});
    EXPECT_EQ(events, 16385);
  }
  MUST(umount(dir.path()));
}
