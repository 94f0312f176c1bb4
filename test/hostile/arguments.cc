#include "test/hostile/arguments.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <iterator>

#include "test/hostile/calls.h"

namespace hostile {
namespace {

constexpr uint64_t kPage = 4096, kArena = 64 * kPage, kAreas = 256 * kPage, kBehind = 64 * kPage;
constexpr int kMaxFd = 96;

// Arguments point into the arena; mappings come and go in the areas.
char* arena;
char* areas;

constexpr const char* kPaths[] = {
    "a",
    "b",
    "c",
    "a/b",
    "a/c",
    "b/d/e",
    "f",
    "g",
    ".",
    "..",
    "",
    "/",
    "/tmp",
    "/tmp/a",
    "/tmp/b",
    "/proc",
    "/proc/self/maps",
    "/proc/self/mem",
    "/proc/self/status",
    "/proc/self/stat",
    "/proc/self/smaps",
    "/proc/self/fd",
    "/proc/self/fd/3",
    "/proc/self/fd/7",
    "/proc/self/fdinfo/5",
    "/proc/self/task",
    "/proc/self/exe",
    "/proc/self/root",
    "/proc/self/cwd/a",
    "/proc/self/ns/net",
    "/proc/self/ns/mnt",
    "/proc/self/ns/user",
    "/proc/self/ns/pid",
    "/proc/self/ns/time",
    "/proc/self/ns/cgroup",
    "/proc/self/mountinfo",
    "/proc/self/uid_map",
    "/proc/self/setgroups",
    "/proc/self/oom_score_adj",
    "/proc/self/clear_refs",
    "/proc/self/pagemap",
    "/proc/self/environ",
    "/proc/self/syscall",
    "/proc/self/timers",
    "/proc/self/attr/current",
    "/proc/self/coredump_filter",
    "/proc/self/comm",
    "/proc/self/personality",
    "/proc/self/map_files",
    "/proc/thread-self",
    "/proc/locks",
    "/proc/net/tcp",
    "/proc/net/unix",
    "/proc/net/netlink",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/tcp_rmem",
    "/proc/sys/fs/mqueue/msg_max",
    "/proc/sys/kernel/shmmax",
    "/proc/keys",
    "/proc/sysvipc/shm",
    "/proc/mounts",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/ptmx",
    "/dev/pts/0",
    "/dev/tty",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/shm",
    "/dev/kmsg",
    "/dev/mqueue",
    "/sys",
    "/sys/class/net",
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/a",
    "tmpfs",
    "proc",
    "sysfs",
    "overlay",
    "cgroup2",
    "cgroup",
    "fuse",
    "mqueue",
    "devpts",
    "ramfs",
    "lowerdir=/tmp/a,upperdir=/tmp/b,workdir=/tmp/c",
    "size=1m",
    "fd=5,rootmode=40000,user_id=0",
    "user.x",
    "trusted.overlay.opaque",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "user",
    "keyring",
    "logon",
    "/q",
    "/tmp/socket",
    "lo",
    "dummy",
    "source",
    "upperdir",
    "lowerdir+",
};

constexpr uint64_t kNumbers[] = {
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    511,
    512,
    1023,
    1024,
    4095,
    4096,
    4097,
    65535,
    65536,
    1 << 20,
    0x7ffff000,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    ~uint64_t{0},
    ~uint64_t{1},
    ~uint64_t{99},
};

}  // namespace

Arguments::Arguments(uint64_t seed, uint64_t program) : state_(program * 0x9e3779b97f4a7c15 + 1), has_favourites_(program % 4 != 0) {
  for (uint16_t& favourite : favourites_) favourite = static_cast<uint16_t>(Below(std::size(kCalls)));
  state_ = seed * 0x9e3779b97f4a7c15 + 1;
}

uint64_t Arguments::Random() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return state_ * 0x2545f4914f6cdd1d >> 8;
}

void Arguments::Reseed() {
  state_ = state_ * 6364136223846793005 + static_cast<uint64_t>(syscall(SYS_gettid)) + 1;
  if (state_ == 0) state_ = 1;
}

uint64_t Arguments::Size() {
  switch (Below(8)) {
    case 0: return kNumbers[Below(std::size(kNumbers))];
    case 1: return Below(2 * kArena);
    default: return Below(512);
  }
}

uint64_t Arguments::Flags() {
  uint64_t flags = 0;
  switch (Below(4)) {
    case 0: return Below(8);
    case 1: return uint64_t{1} << Below(32);
    case 2: return Random() & 0xffffffff;
    default:
      for (uint64_t bits = Below(4); bits > 0; --bits) flags |= uint64_t{1} << Below(24);
      return flags;
  }
}

uint64_t Arguments::Slot() {
  switch (Below(10)) {
    case 0: return 0;
    case 1: return Below(16);
    case 2: return Below(kMaxFd) | Below(8) << 32;
    case 3:
    case 4: return reinterpret_cast<uint64_t>(arena) + Below(kArena);
    case 5: return Size();
    case 6: return Flags();
    case 7: return Flags() | Flags() << 32;
    case 8: return kNumbers[Below(std::size(kNumbers))];
    default: return Random();
  }
}

uint64_t Arguments::Pointer() {
  switch (Below(24)) {
    case 0: return 0;
    case 1: return kNumbers[Below(std::size(kNumbers))];
    case 2: return 0xffff888000000000 + Below(kPage);
    case 3: return 0x800000000000 - Below(32);
    // Its last bytes are the page's.
    case 4: return reinterpret_cast<uint64_t>(arena) + (1 + Below(kArena / kPage)) * kPage - Below(128);
    case 5: return reinterpret_cast<uint64_t>(areas) + Below(kAreas);
    default: break;
  }
  const uint64_t at = Below(kArena / 8 - 64) * 8 + (OneIn(8) ? Below(8) : 0);
  // Other threads write there, too. What has been left there is as good as anything, now and then.
  if (!OneIn(4)) {
    for (uint64_t i = 0, slots = 1 + Below(24); i < slots; ++i) {
      const uint64_t slot = Slot();
      memcpy(arena + at + 8 * i, &slot, sizeof(slot));
    }
    // Where families of addresses and of messages stand.
    if (OneIn(3)) {
      const auto family = static_cast<uint16_t>(OneIn(2) ? Below(20) : Below(2) * 8 + 2);
      memcpy(arena + at, &family, sizeof(family));
    }
  }
  return reinterpret_cast<uint64_t>(arena) + at;
}

uint64_t Arguments::Path() {
  if (OneIn(32)) return Pointer();
  const char* path = kPaths[Below(std::size(kPaths))];
  char* at = arena + Below(kArena - 512);
  size_t length = strlen(path) + 1;
  memcpy(at, path, length);
  if (OneIn(64)) {
    memset(at + length - 1, 'x', 300);
    at[length + 299] = '\0';
  }
  return reinterpret_cast<uint64_t>(at);
}

uint64_t Arguments::Area() {
  if (OneIn(16)) return 0;
  uint64_t at = reinterpret_cast<uint64_t>(areas) + Below(kAreas / kPage) * kPage;
  return OneIn(16) ? at + Below(kPage) : at;
}

uint64_t Arguments::Value(char kind) {
  // Anything may stand anywhere.
  if (OneIn(64)) return Slot();
  switch (kind) {
    case 'f': return OneIn(32) ? static_cast<uint64_t>(-static_cast<int64_t>(Below(120))) : 3 + Below(kMaxFd);
    case 'd': return OneIn(2) ? static_cast<uint64_t>(AT_FDCWD) : 3 + Below(kMaxFd);
    case 'p': return Pointer();
    case 's': return Path();
    case 'z': return Size();
    case 'i': return OneIn(8) ? kNumbers[Below(std::size(kNumbers))] : Below(48);
    case 'g': return Flags();
    case 't': return OneIn(4) ? Below(64) : OneIn(8) ? static_cast<uint64_t>(-static_cast<int64_t>(Below(64))) : Below(8);
    case 'n': return Below(70);
    case 'a': return Area();
    case 'l': return OneIn(8) ? Size() : (1 + Below(16)) * kPage;
    case 'o': return OneIn(4) ? kNumbers[Below(std::size(kNumbers))] : OneIn(2) ? Below(16) * kPage : Below(1024);
    case 'm': return Below(010000) | (OneIn(2) ? (Below(16) << 12) : 0);
    case '0': return 0;
    default: return Slot();
  }
}

Call Arguments::Next() {
  const bool favourite = has_favourites_ && !OneIn(4);
  const Signature& signature = kCalls[favourite ? favourites_[Below(kFavourites)] : Below(std::size(kCalls))];
  Call call{signature.number, {}};
  size_t known = strlen(signature.kinds);
  for (size_t i = 0; i < 6; ++i) call.args[i] = i < known ? Value(signature.kinds[i]) : OneIn(2) ? 0 : Slot();
  switch (call.number) {
    case SYS_clone: {
      // A child in this memory needs a stack, and would take this one.
      constexpr uint64_t kShares = 0x100 | 0x4000 | 0x10000;
      call.args[0] &= ~kShares;
      call.args[1] = 0;
      call.args[4] = 0;
      break;
    }
    case SYS_clone3: {
      auto* own = reinterpret_cast<uint64_t*>(arena + Below(kArena / 8 - 16) * 8);
      for (int i = 0; i < 11; ++i) own[i] = 0;
      constexpr uint64_t kShares = 0x100 | 0x4000 | 0x10000;
      own[0] = Flags() & ~kShares;
      own[1] = reinterpret_cast<uint64_t>(arena) + Below(kArena);
      own[4] = 17;
      call.args[0] = reinterpret_cast<uint64_t>(own);
      call.args[1] = 88;
      break;
    }
    case SYS_mmap:
      if (!OneIn(8)) call.args[3] = (call.args[3] & ~uint64_t{3}) | 1 << Below(2) | (OneIn(2) ? MAP_ANONYMOUS : 0) | (OneIn(2) ? MAP_FIXED : 0);
      call.args[1] = Below(32) * kPage + (OneIn(16) ? Below(kPage) : 0);
      break;
    case SYS_mremap: call.args[2] = Below(32) * kPage; break;
    case SYS_close:
      if (!OneIn(4)) call.number = SYS_fstat, call.args[1] = Pointer();
      break;
    case SYS_close_range:
      if (!OneIn(8)) call.args[1] = call.args[0] + Below(3);
      break;
    // Memory without end is for the limits' own tests.
    case SYS_ftruncate: call.args[1] &= 0xffffff; break;
    case SYS_truncate: call.args[1] &= 0xffffff; break;
    case SYS_fallocate: call.args[3] &= 0xffffff; break;
    case SYS_rt_sigaction:
      if (call.args[0] == SIGALRM) call.args[0] = SIGUSR1;
      call.args[3] = OneIn(8) ? call.args[3] : 8;
      break;
    case SYS_rt_sigprocmask: call.args[3] = OneIn(8) ? call.args[3] : 8; break;
    case SYS_seccomp:
    case SYS_landlock_restrict_self:
      if (!OneIn(32)) call.number = SYS_getpid;
      break;
    default: break;
  }
  return call;
}

void Arguments::Learn(const Call& call, long result) {
  // What was mapped elsewhere is written to, if it can be: the host's part of the address space is the guest's, too.
  if (call.number == SYS_mmap && result > 0 && (call.args[2] & PROT_WRITE) != 0 && OneIn(2)) {
    const uint64_t slot = Slot();
    const uint64_t local[2] = {reinterpret_cast<uint64_t>(&slot), 8}, remote[2] = {static_cast<uint64_t>(result), 8};
    syscall(SYS_process_vm_writev, syscall(SYS_getpid), local, 1, remote, 1, 0);
  }
}

namespace {

void MakeSockets() {
  int pair[2];
  for (int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
    if (socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, pair) == 0) (void)send(pair[0], "some", 4, 0);
  }
  constexpr int kKinds[][3] = {{AF_INET, SOCK_STREAM, 0},  {AF_INET6, SOCK_STREAM, 0}, {AF_INET, SOCK_DGRAM, 0},   {AF_INET6, SOCK_DGRAM, 0},
                               {AF_INET, SOCK_DGRAM, 1},   {AF_INET, SOCK_RAW, 255},   {AF_PACKET, SOCK_RAW, 768}, {AF_NETLINK, SOCK_RAW, 0},
                               {AF_NETLINK, SOCK_RAW, 4},  {AF_NETLINK, SOCK_RAW, 15}, {AF_UNIX, SOCK_STREAM, 0},  {AF_UNIX, SOCK_DGRAM, 0},
                               {AF_INET, SOCK_DGRAM, 136}, {AF_INET6, SOCK_RAW, 58}};
  for (const auto& kind : kKinds) (void)socket(kind[0], kind[1], kind[2]);
  // One that is connected to itself by a listener.
  const int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(listener, 4) == 0 &&
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0) {
    (void)connect(client, reinterpret_cast<sockaddr*>(&address), length);
  }
}

void MakeFiles() {
  (void)mount("none", "/tmp", "tmpfs", 0, "size=32m");
  (void)chdir("/tmp");
  (void)mkdir("a", 0777);
  (void)mkdir("b", 0777);
  (void)mkdir("c", 0777);
  (void)mkdir("b/d", 0777);
  (void)mount("proc", "/proc", "proc", 0, nullptr);
  for (const char* name : {"f", "g", "a/b", "b/d/e"}) {
    const int fd = open(name, O_RDWR | O_CREAT, 0666);
    (void)ftruncate(fd, 3 * kPage + 17);
  }
  (void)open("/tmp", O_RDONLY | O_DIRECTORY);
  (void)open("/tmp/a", O_PATH);
  (void)open("/tmp", O_TMPFILE | O_RDWR, 0600);
  for (const char* path : {"/dev/null", "/dev/zero", "/dev/ptmx", "/dev/fuse", "/dev/net/tun", "/proc/self/maps", "/proc/self/mem",
                           "/proc/self/ns/net", "/proc/self/mountinfo", "/sys/fs/cgroup"}) {
    if (open(path, O_RDWR | O_NONBLOCK) < 0) (void)open(path, O_RDONLY | O_NONBLOCK);
  }
}

void MakeOthers(uint64_t seed) {
  int pipes[2];
  (void)pipe2(pipes, O_NONBLOCK);
  (void)pipe(pipes);
  (void)eventfd(3, EFD_NONBLOCK);
  const int epoll = epoll_create1(0);
  epoll_event event = {EPOLLIN | EPOLLET, {}};
  (void)epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event);
  sigset_t set;
  sigfillset(&set);
  (void)signalfd(-1, &set, SFD_NONBLOCK);
  const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  const itimerspec often = {{0, 1'000'000}, {0, 1'000'000}};
  (void)timerfd_settime(timer, 0, &often, nullptr);
  const int watch = inotify_init1(IN_NONBLOCK);
  (void)inotify_add_watch(watch, "/tmp", IN_ALL_EVENTS);
  const int group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_REPORT_FID, O_RDONLY);
  (void)fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN | FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD, "/tmp");
  (void)memfd_create("m", MFD_ALLOW_SEALING);
  (void)syscall(SYS_pidfd_open, getpid(), 0);
  (void)syscall(SYS_userfaultfd, O_NONBLOCK | UFFD_USER_MODE_ONLY);
  const uint64_t ruleset[3] = {0x1fff, 3, 0};
  (void)syscall(SYS_landlock_create_ruleset, ruleset, sizeof(ruleset), 0);
  io_uring_params params = {};
  // Of the ways to set one up, some; without what this kernel does not know.
  constexpr uint32_t kSetups[] = {0,       0, IORING_SETUP_SQPOLL, 1u << 10 /* SQE128 */, 1u << 11 /* CQE32 */, IORING_SETUP_R_DISABLED,
                                  1u << 16 /* NO_SQARRAY */};
  params.flags = kSetups[seed % std::size(kSetups)];
  int ring = static_cast<int>(syscall(SYS_io_uring_setup, 8, &params));
  if (ring < 0) {
    params = {};
    ring = static_cast<int>(syscall(SYS_io_uring_setup, 8, &params));
  }
  // The ring's memory is in the arena: its words change as the arena's do.
  if (ring >= 0) {
    (void)mmap(arena, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ring, IORING_OFF_SQ_RING);
    (void)mmap(arena + 4 * kPage, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, ring, static_cast<off_t>(IORING_OFF_SQES));
  }
  uint64_t context = 0;
  (void)syscall(SYS_io_setup, 8, &context);
}

}  // namespace

void MakeObjects(uint64_t seed) {
  constexpr int kRights = PROT_READ | PROT_WRITE;
  arena = static_cast<char*>(mmap(nullptr, kArena + kBehind, kRights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(arena + kArena, kBehind, PROT_NONE);
  areas = static_cast<char*>(mmap(nullptr, kAreas + kBehind, kRights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  MakeFiles();
  MakeSockets();
  MakeOthers(seed);
}

}  // namespace hostile
