// Control groups of the second version: the tree, who is where, pids, freezing, killing, limits. cgroups(7), cgroup-v2.rst.
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <atomic>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr long kCgroup2Magic = 0x63677270;

// A mount of its own, and in it a group for this test, whose parent hands out `controllers`. Skips where there are none.
struct Tree {
  explicit Tree(const char* controllers = nullptr) {
    snprintf(place, sizeof(place), "/tmp/cgroups-%d", getpid());
    MUST(mkdir(place, 0755));
    if (mount("cgroup2", place, "cgroup2", 0, nullptr) != 0) {
      rmdir(place);
      Skip("no cgroup2 file system");
    }
    snprintf(base, sizeof(base), "%s/test-%d", place, getpid());
    if (mkdir(base, 0755) != 0) {
      Done();
      Skip("groups cannot be made here");
    }
    // Whoever has members may not hand out memory: this process goes elsewhere first.
    char home[160];
    snprintf(home, sizeof(home), "%s/home", base);
    MUST(mkdir(home, 0755));
    char file[200];
    snprintf(file, sizeof(file), "%s/cgroup.procs", home);
    if (!Put(file, "0")) {
      Done();
      Skip("this process cannot be moved");
    }
    if (controllers == nullptr) return;
    char top[160];
    snprintf(top, sizeof(top), "%s/cgroup.subtree_control", place);
    if (!Put(top, controllers)) {
      MakeRoom();
      Put(top, controllers);
    }
    if (!Write("cgroup.subtree_control", controllers)) {
      Done();
      Skip("no such controllers here");
    }
  }
  ~Tree() { Done(); }

  void Done() {
    char file[200];
    snprintf(file, sizeof(file), "%s/cgroup.procs", place);
    Put(file, "0");
    for (const char* below : {"/a/b", "/a", "/b", "/home", ""}) {
      char path[200];
      snprintf(path, sizeof(path), "%s%s", base, below);
      rmdir(path);
    }
    umount2(place, MNT_DETACH);
    rmdir(place);
  }

  // Moves the few processes of the root, if that is a sandbox's, out of the way of its controllers.
  void MakeRoom() {
    char path[160], pids[256] = {};
    snprintf(path, sizeof(path), "%s/cgroup.procs", place);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = read(fd, pids, sizeof(pids));
    close(fd);
    if (n <= 0 || n > 64) return;  // a machine's
    snprintf(path, sizeof(path), "%s/others", place);
    mkdir(path, 0755);
    snprintf(path, sizeof(path), "%s/others/cgroup.procs", place);
    for (char* pid = strtok(pids, "\n"); pid != nullptr; pid = strtok(nullptr, "\n")) Put(path, pid);
  }

  static bool Put(const char* path, const char* text) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool done = write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text));
    const int error = errno;
    close(fd);
    errno = error;
    return done;
  }

  const char* Path(const char* below) {
    snprintf(path_, sizeof(path_), "%s/%s", base, below);
    return path_;
  }
  bool Write(const char* below, const char* text) { return Put(Path(below), text); }
  bool Write(const char* below, int number) {
    char text[16];
    snprintf(text, sizeof(text), "%d", number);
    return Write(below, text);
  }
  const char* Read(const char* below) {
    memset(text_, 0, sizeof(text_));
    const int fd = open(Path(below), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return "";
    ssize_t n = read(fd, text_, sizeof(text_) - 1);
    close(fd);
    return n >= 0 ? text_ : "";
  }
  bool Has(const char* below, const char* part) { return strstr(Read(below), part) != nullptr; }

  char place[64];
  char base[128];

 private:
  char path_[256];
  char text_[1024];
};

// A file of events that was read, and waits for what changes.
struct pollfd ReadAndWatch(const char* path) {
  struct pollfd p = {MUST(open(path, O_RDONLY)), POLLPRI, 0};
  char text[256];
  MUST(pread(p.fd, text, sizeof(text), 0));
  EXPECT_EQ(poll(&p, 1, 0), 0);
  return p;
}

}  // namespace

GUEST_TEST(Cgroups, TheTree) {
  Tree t;
  struct statfs fs = {};
  MUST(statfs(t.base, &fs));
  EXPECT_EQ(fs.f_type, kCgroup2Magic);
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("a/b"), 0755));
  EXPECT_ERRNO(mkdir(t.Path("a"), 0755), EEXIST);
  EXPECT_ERRNO(rmdir(t.Path("a")), EBUSY);
  EXPECT_STREQ(t.Read("cgroup.type"), "domain\n");
  EXPECT(t.Has("cgroup.stat", "nr_descendants 3\n"));

  EXPECT_ERRNO(open(t.Path("a/new-file"), O_CREAT | O_WRONLY, 0644), EACCES);
  EXPECT_ERRNO(unlink(t.Path("a/cgroup.procs")), EPERM);
  EXPECT_ERRNO(rename(t.Path("a"), "/tmp/elsewhere"), EXDEV);
  MUST(rmdir(t.Path("a/b")));
  MUST(rmdir(t.Path("a")));
}

GUEST_TEST(Cgroups, WhoIsWhere) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  Gate ready, go;
  const pid_t child = Fork([&] {
    ready.Open();
    go.Await();
  });
  ready.Await();
  char line[32], path[320], text[512] = {};
  snprintf(line, sizeof(line), "%d\n", child);
  EXPECT(t.Has("home/cgroup.procs", line));  // as its parent was
  EXPECT(t.Write("a/cgroup.procs", child));
  EXPECT(t.Has("a/cgroup.procs", line));
  EXPECT(t.Has("a/cgroup.threads", line));
  EXPECT(!t.Has("home/cgroup.procs", line));
  EXPECT(t.Has("a/cgroup.events", "populated 1\n"));
  snprintf(path, sizeof(path), "/proc/%d/cgroup", child);
  const int fd = MUST(open(path, O_RDONLY));
  EXPECT_GE(read(fd, text, sizeof(text) - 1), 4);
  close(fd);
  snprintf(path, sizeof(path), "/test-%d/a\n", getpid());
  EXPECT(strstr(text, path) != nullptr);
  EXPECT_ERRNO(rmdir(t.Path("a")), EBUSY);
  go.Open();
  JOIN_OK(child);
  EXPECT(t.Has("a/cgroup.events", "populated 0\n"));
  EXPECT_STREQ(t.Read("a/cgroup.procs"), "");
  EXPECT(!t.Write("a/cgroup.procs", child));
  EXPECT_EQ(errno, ESRCH);
  EXPECT(!t.Write("a/cgroup.procs", "x"));
  EXPECT_EQ(errno, EINVAL);
  MUST(rmdir(t.Path("a")));
}

GUEST_TEST(Cgroups, OpenFilesAndLimitsStay) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/cgroup.max.depth", "7"));
  MUST(chown(t.Path("a"), 1234, 1234));
  const int events = MUST(open(t.Path("a/cgroup.events"), O_RDONLY));
  const int freeze = MUST(open(t.Path("a/cgroup.freeze"), O_RDWR));
  CheckpointHere();
  char text[64] = {};
  EXPECT_GE(pread(events, text, sizeof(text) - 1, 0), 10);
  EXPECT_STREQ(text, "populated 0\nfrozen 0\n");
  EXPECT_EQ(write(freeze, "1", 1), 1);
  EXPECT_STREQ(t.Read("a/cgroup.freeze"), "1\n");
  EXPECT_STREQ(t.Read("a/cgroup.max.depth"), "7\n");
  struct stat status = {};
  MUST(stat(t.Path("a"), &status));
  EXPECT_EQ(status.st_uid, 1234u);
}

GUEST_TEST(Cgroups, FilesOfWhatIsRemoved) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  const int fd = MUST(open(t.Path("a/cgroup.procs"), O_RDWR));
  MUST(rmdir(t.Path("a")));
  char text[8];
  EXPECT_ERRNO(read(fd, text, sizeof(text)), ENODEV);
  EXPECT_ERRNO(write(fd, "0", 1), ENODEV);
}

GUEST_TEST(Cgroups, Freezing) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  auto* count = Shared<volatile uint64_t>();
  const pid_t child = Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    Thread second([] { pause(); });
    for (;;) *count = *count + 1;
  });
  while (*count < 1000) usleep(1000);
  EXPECT(t.Write("a/cgroup.freeze", "1"));
  for (int i = 0; i < 2000 && !t.Has("a/cgroup.events", "frozen 1\n"); i++) usleep(1000);
  EXPECT(t.Has("a/cgroup.events", "frozen 1\n"));
  CheckpointHere();
  EXPECT(t.Has("a/cgroup.events", "frozen 1\n"));
  const uint64_t before = *count;
  usleep(50'000);
  EXPECT_EQ(*count, before);
  EXPECT_STREQ(t.Read("a/cgroup.freeze"), "1\n");
  // A process that comes into it stands still, too.
  const pid_t other = Fork([&] {
    t.Write("a/cgroup.procs", "0");
    for (;;) pause();
  });
  usleep(20'000);
  EXPECT(t.Write("a/cgroup.freeze", "0"));
  for (int i = 0; i < 2000 && *count == before; i++) usleep(1000);
  EXPECT_GT(*count, before);
  // Killing does not wait for a thaw.
  EXPECT(t.Write("a/cgroup.freeze", "1"));
  MUST(kill(child, SIGKILL));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
  MUST(kill(other, SIGKILL));
  EXPECT_KILLED(WaitStatus(other), SIGKILL);
  EXPECT(!t.Write("a/cgroup.freeze", "2"));
  EXPECT_EQ(errno, ERANGE);
}

GUEST_TEST(Cgroups, PollTellsOfChanges) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("a/b"), 0755));
  const int above = MUST(open(t.Path("a/cgroup.events"), O_RDONLY)), below = MUST(open(t.Path("a/b/cgroup.events"), O_RDONLY));
  const int other = MUST(open(t.Path("a/cgroup.type"), O_RDONLY));
  struct pollfd p[3] = {{above, POLLPRI, 0}, {below, POLLPRI, 0}, {other, POLLPRI, 0}};
  char text[64];
  // What nobody has read yet has changed.
  EXPECT_EQ(poll(p, 3, 0), 3);
  for (const struct pollfd& one : p) EXPECT_EQ(one.revents, POLLPRI | POLLERR);
  auto read_all = [&] {
    for (const struct pollfd& one : p) MUST(pread(one.fd, text, sizeof(text), 0));
  };
  read_all();
  EXPECT_EQ(poll(p, 3, 0), 0);
  p[0].events = POLLIN | POLLOUT;
  EXPECT_EQ(poll(p, 1, 0), 1);
  EXPECT_EQ(p[0].revents, POLLIN | POLLOUT);
  p[0].events = POLLPRI;
  const int epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
  struct epoll_event event = {};
  event.events = EPOLLPRI;
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, below, &event));
  EXPECT_EQ(epoll_wait(epoll, &event, 1, 0), 0);
  CheckpointHere();
  EXPECT_EQ(poll(p, 3, 0), 0);
  Gate leave;
  const pid_t child = Fork([&] {
    usleep(30'000);
    EXPECT(t.Write("a/b/cgroup.procs", "0"));
    leave.Await();
  });
  EXPECT_EQ(epoll_wait(epoll, &event, 1, 20'000), 1);
  EXPECT_EQ(event.events, uint32_t{EPOLLPRI | EPOLLERR});
  EXPECT_EQ(poll(p, 3, 20'000), 2);
  EXPECT_EQ(p[0].revents, POLLPRI | POLLERR);
  EXPECT_EQ(p[1].revents, POLLPRI | POLLERR);
  CheckpointHere();
  EXPECT_EQ(poll(p, 3, 0), 2);
  read_all();
  EXPECT(t.Has("a/cgroup.events", "populated 1\n"));
  EXPECT_EQ(poll(p, 3, 0), 0);
  // A second one in the group changes nothing.
  JOIN_OK(Fork([&] { EXPECT(t.Write("a/b/cgroup.procs", "0")); }));
  EXPECT_EQ(poll(p, 3, 20), 0);
  leave.Open();
  JOIN_OK(child);
  EXPECT_EQ(poll(p, 1, 20'000), 1);
  read_all();
  EXPECT(t.Has("a/cgroup.events", "populated 0\n"));
  MUST(rmdir(t.Path("a/b")));
  EXPECT_EQ(poll(p, 3, 20'000), 1);
  EXPECT_EQ(p[1].revents, POLLPRI | POLLERR);
}

GUEST_TEST(Cgroups, FreezingIsTold) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  Gate ready;
  const pid_t child = Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    ready.Open();
    for (;;) pause();
  });
  ready.Await();
  struct pollfd p = {MUST(open(t.Path("a/cgroup.events"), O_RDONLY)), POLLPRI, 0};
  char text[64] = {};
  for (const char* state : {"1", "0"}) {
    MUST(pread(p.fd, text, sizeof(text) - 1, 0));
    EXPECT_EQ(poll(&p, 1, 0), 0);
    EXPECT(t.Write("a/cgroup.freeze", state));
    char wanted[16];
    snprintf(wanted, sizeof(wanted), "frozen %s\n", state);
    do {
      EXPECT_EQ(poll(&p, 1, 20'000), 1);
      MUST(pread(p.fd, text, sizeof(text) - 1, 0));
    } while (strstr(text, wanted) == nullptr);
  }
  MUST(kill(child, SIGKILL));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
}

GUEST_TEST(Cgroups, InotifyTellsOfChanges) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  const int inotify = MUST(inotify_init1(IN_NONBLOCK));
  const int file = MUST(inotify_add_watch(inotify, t.Path("a/cgroup.events"), IN_MODIFY));
  const int directory = MUST(inotify_add_watch(inotify, t.Path("a"), IN_MODIFY));
  CheckpointHere();
  JOIN_OK(Fork([&] { EXPECT(t.Write("a/cgroup.procs", "0")); }));
  struct pollfd p = {inotify, POLLIN, 0};
  bool told_file = false, told_directory = false;
  while (!told_file || !told_directory) {
    EXPECT_EQ(poll(&p, 1, 20'000), 1);
    alignas(struct inotify_event) char buffer[1024];
    const ssize_t n = MUST(read(inotify, buffer, sizeof(buffer)));
    for (ssize_t at = 0; at < n;) {
      auto* event = reinterpret_cast<struct inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof(*event) + event->len);
      // (The write that moved the process is one of cgroup.procs.)
      if (event->wd == file) told_file = event->mask == IN_MODIFY && event->len == 0;
      if (event->wd == directory && strcmp(event->name, "cgroup.events") == 0) told_directory = event->mask == IN_MODIFY;
    }
  }
}

GUEST_TEST(Cgroups, CloneIntoAGroup) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("b"), 0755));
  const int a = MUST(open(t.Path("a"), O_RDONLY | O_DIRECTORY)), b = MUST(open(t.Path("b"), O_PATH));
  const int file = MUST(open(t.Path("a/cgroup.procs"), O_RDONLY)), elsewhere = MUST(open("/tmp", O_RDONLY | O_DIRECTORY));
  constexpr uint64_t kInto = 0x200000000;
  struct Arguments {  // struct clone_args
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
  };
  auto clone_into = [&](uint64_t cgroup, uint64_t flags = 0, size_t size = sizeof(Arguments)) {
    Arguments arguments = {};
    arguments.flags = kInto | flags;
    arguments.exit_signal = SIGCHLD;
    arguments.cgroup = cgroup;
    return static_cast<pid_t>(syscall(SYS_clone3, &arguments, size));
  };
  for (int fd : {a, b}) {
    const pid_t child = MUST(clone_into(static_cast<uint64_t>(fd)));
    if (child == 0) {
      char text[512] = {};
      const int own = open("/proc/self/cgroup", O_RDONLY);
      _exit(read(own, text, sizeof(text) - 1) > 0 && strstr(text, fd == a ? "/a\n" : "/b\n") != nullptr ? 0 : 1);
    }
    JOIN_OK(child);
  }
  EXPECT_ERRNO(clone_into(static_cast<uint64_t>(file)), EBADF);
  EXPECT_ERRNO(clone_into(static_cast<uint64_t>(elsewhere)), EBADF);
  EXPECT_ERRNO(clone_into(12345), EBADF);
  EXPECT_ERRNO(clone_into(uint64_t{1} << 32), EINVAL);
  EXPECT_ERRNO(clone_into(static_cast<uint64_t>(a), 0, 80), EINVAL);
  // Who may not write to cgroup.procs may not do this.
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_ERRNO(clone_into(static_cast<uint64_t>(a)), EACCES);
  }));
  MUST(rmdir(t.Path("b")));
  EXPECT_ERRNO(clone_into(static_cast<uint64_t>(b)), ENOENT);
}

GUEST_TEST(Cgroups, KillsAllBelow) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("a/b"), 0755));
  pid_t children[4];
  Gate ready[4];
  for (int i = 0; i < 4; i++) {
    children[i] = Fork([&] {
      EXPECT(t.Write(i % 2 == 0 ? "a/cgroup.procs" : "a/b/cgroup.procs", "0"));
      ready[i].Open();
      for (;;) pause();
    });
    ready[i].Await();
  }
  EXPECT(t.Write("a/cgroup.kill", "1"));
  for (pid_t child : children) EXPECT_KILLED(WaitStatus(child), SIGKILL);
  EXPECT(t.Has("a/cgroup.events", "populated 0\n"));
}

GUEST_TEST(Cgroups, Depth) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/cgroup.max.depth", "0"));
  EXPECT_ERRNO(mkdir(t.Path("a/b"), 0755), EAGAIN);
  EXPECT(t.Write("a/cgroup.max.depth", "max"));
  EXPECT(t.Write("a/cgroup.max.descendants", "0"));
  EXPECT_ERRNO(mkdir(t.Path("a/b"), 0755), EAGAIN);
  EXPECT(t.Write("a/cgroup.max.descendants", "1"));
  MUST(mkdir(t.Path("a/b"), 0755));
}

GUEST_TEST(Cgroups, NamespacesHideWhatIsAbove) {
  Tree t;
  MUST(mkdir(t.Path("a"), 0755));
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    MUST(unshare(CLONE_NEWCGROUP));
    char text[512] = {};
    const int fd = MUST(open("/proc/self/cgroup", O_RDONLY));
    EXPECT_GE(read(fd, text, sizeof(text) - 1), 4);
    EXPECT(strstr(text, "0::/\n") != nullptr);
  }));
}

GUEST_TEST(Cgroups, ControllersAreHandedDown) {
  Tree t("+pids");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Has("a/cgroup.controllers", "pids"));
  MUST(access(t.Path("a/pids.max"), F_OK));
  MUST(mkdir(t.Path("a/b"), 0755));
  EXPECT_ERRNO(access(t.Path("a/b/pids.max"), F_OK), ENOENT);
  EXPECT(!t.Write("a/b/cgroup.subtree_control", "+pids"));
  EXPECT_EQ(errno, ENOENT);
  EXPECT(t.Write("a/cgroup.subtree_control", "+pids"));
  EXPECT_STREQ(t.Read("a/cgroup.subtree_control"), "pids\n");
  MUST(access(t.Path("a/b/pids.max"), F_OK));
  // What hands out controllers has no processes of its own.
  EXPECT(!t.Write("a/cgroup.procs", "0"));
  EXPECT_EQ(errno, EBUSY);
  // Not while a child hands it on.
  EXPECT(!t.Write("cgroup.subtree_control", "-pids"));
  EXPECT_EQ(errno, EBUSY);
  EXPECT(!t.Write("a/cgroup.subtree_control", "+no-such"));
  EXPECT_EQ(errno, EINVAL);
}

GUEST_TEST(Cgroups, PidsMax) {
  Tree t("+pids");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/pids.max"), "max\n");
  EXPECT(t.Write("a/pids.max", "3"));
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    Thread second([] { usleep(20'000); });
    const pid_t third = Fork([] { usleep(20'000); });
    EXPECT_STREQ(t.Read("a/pids.current"), "3\n");
    EXPECT_ERRNO(fork(), EAGAIN);
    EXPECT(t.Has("a/pids.events", "max 1\n"));
    second.Join();
    JOIN_OK(third);
    JOIN_OK(Fork([] {}));
  }));
  EXPECT_STREQ(t.Read("a/pids.peak"), "3\n");
  EXPECT(!t.Write("a/pids.max", "-1"));
}

GUEST_TEST(Cgroups, PidsMaxHoldsForThoseWhoCloneAtOnce) {
  Tree t("+pids");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/pids.max", "12"));
  struct pollfd p = ReadAndWatch(t.Path("a/pids.events"));
  auto* made = Shared<std::atomic<int>>();
  auto* ready = Shared<std::atomic<int>>();
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    pid_t children[8];
    // Eight fork at the same time, for three more.
    for (pid_t& child : children) {
      child = Fork([&] {
        ++*ready;
        while (*ready < 8) sched_yield();
        for (int i = 0; i < 3; i++) {
          const pid_t more = fork();
          if (more == 0) {
            for (;;) pause();
          }
          if (more > 0) ++*made;
        }
        for (;;) pause();
      });
    }
    for (int i = 0; i < 2000 && *made < 3; i++) usleep(1000);
    usleep(100'000);
    EXPECT_EQ(made->load(), 3);
    EXPECT_STREQ(t.Read("a/pids.current"), "12\n");
    EXPECT_STREQ(t.Read("a/pids.peak"), "12\n");
    _exit(0);
  }));
  EXPECT_EQ(poll(&p, 1, 20'000), 1);
  EXPECT_EQ(p.revents, POLLPRI | POLLERR);
  EXPECT(t.Write("a/cgroup.kill", "1"));
  for (int i = 0; i < 2000 && !t.Has("a/cgroup.events", "populated 0\n"); i++) usleep(1000);
}

GUEST_TEST(Cgroups, MemoryMax) {
  Tree t("+memory");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/memory.max", "32M"));
  struct pollfd p = ReadAndWatch(t.Path("a/memory.events"));
  EXPECT_STREQ(t.Read("a/memory.max"), "33554432\n");
  const pid_t child = Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    constexpr size_t kBytes = 128 << 20;
    char* memory = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (;;) {
      for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
    }
  });
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
  EXPECT(t.Has("a/memory.events", "oom_kill 1\n"));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  // Who stays below is left alone.
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    usleep(150'000);
  }));
}

GUEST_TEST(Cgroups, CpuMax) {
  Tree t("+cpu");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/cpu.max"), "max 100000\n");
  EXPECT(t.Write("a/cpu.max", "20000 100000"));
  EXPECT(!t.Write("a/cpu.max", "10 100000"));
  EXPECT_EQ(errno, EINVAL);
  const pid_t child = Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    volatile uint64_t n = 0;
    for (;;) n = n + 1;
  });
  usleep(1'500'000);
  EXPECT(t.Write("a/cpu.max", "max"));
  // A fifth of a processor: a busy machine gives less, no machine gives twice as much.
  unsigned long long used = 0, throttled = 0;
  sscanf(t.Read("a/cpu.stat"), "usage_usec %llu", &used);
  const char* at = strstr(t.Read("a/cpu.stat"), "nr_throttled ");
  if (at != nullptr) sscanf(at, "nr_throttled %llu", &throttled);
  EXPECT_GT(used, 0u);
  EXPECT_LT(used, 750'000u);
  EXPECT_GT(throttled, 1u);
  MUST(kill(child, SIGKILL));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
}

GUEST_TEST(Cgroups, CpuWeights) {
  Tree t("+cpu");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/cpu.weight"), "100\n");
  EXPECT_STREQ(t.Read("a/cpu.weight.nice"), "0\n");
  EXPECT(t.Write("a/cpu.weight.nice", "5"));
  EXPECT_STREQ(t.Read("a/cpu.weight"), "33\n");
  EXPECT(t.Write("a/cpu.weight", "10000"));
  EXPECT_STREQ(t.Read("a/cpu.weight.nice"), "-20\n");
  for (const char* wrong : {"0", "10001"}) {
    EXPECT(!t.Write("a/cpu.weight", wrong));
    EXPECT_EQ(errno, ERANGE);
  }
  EXPECT(!t.Write("a/cpu.weight.nice", "20"));
  EXPECT_EQ(errno, ERANGE);
  EXPECT_STREQ(t.Read("a/cpu.idle"), "0\n");
  EXPECT(t.Write("a/cpu.idle", "1"));
  EXPECT_STREQ(t.Read("a/cpu.weight"), "0\n");
  EXPECT(!t.Write("a/cpu.weight", "100"));
  EXPECT_EQ(errno, EINVAL);
  CheckpointHere();
  EXPECT_STREQ(t.Read("a/cpu.idle"), "1\n");
  EXPECT(t.Write("a/cpu.idle", "0"));
  EXPECT_STREQ(t.Read("a/cpu.weight"), "100\n");
  EXPECT(t.Write("a/cpu.max", "20000 100000"));
  EXPECT(!t.Write("a/cpu.max.burst", "20001"));
  EXPECT_EQ(errno, EINVAL);
  EXPECT(t.Write("a/cpu.max.burst", "20000"));
  EXPECT(t.Has("a/cpu.stat.local", "throttled_usec 0\n"));
}

// One processor, two that want it, 1 to 3.
GUEST_TEST(Cgroups, CpuWeightsAreKept) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0) Skip("needs processor 0");
  Tree t("+cpu");
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("b"), 0755));
  EXPECT(t.Write("b/cpu.weight", "300"));
  pid_t children[2];
  for (int i = 0; i < 2; i++) {
    children[i] = Fork([&] {
      EXPECT(t.Write(i == 0 ? "a/cgroup.procs" : "b/cgroup.procs", "0"));
      for (;;) {
      }
    });
  }
  usleep(300'000);
  CheckpointHere();
  clockid_t clocks[2];
  int64_t before[2], used[2];
  for (int i = 0; i < 2; i++) {
    MUST(clock_getcpuclockid(children[i], &clocks[i]));
    before[i] = NowNs(clocks[i]);
  }
  usleep(2'500'000);
  for (int i = 0; i < 2; i++) used[i] = NowNs(clocks[i]) - before[i];
  EXPECT_GT(used[0], 0);
  EXPECT_GT(used[1] * 10, used[0] * 18);
  EXPECT_LT(used[1], used[0] * 5);
  // Alone, the light one has it all.
  MUST(kill(children[1], SIGKILL));
  EXPECT_KILLED(WaitStatus(children[1]), SIGKILL);
  usleep(300'000);
  before[0] = NowNs(clocks[0]);
  usleep(500'000);
  EXPECT_GT(NowNs(clocks[0]) - before[0], 100'000'000);
  MUST(kill(children[0], SIGKILL));
  EXPECT_KILLED(WaitStatus(children[0]), SIGKILL);
}

GUEST_TEST(Cgroups, MemoryHighSlowsDown) {
  Tree t("+memory");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/memory.high", "16M"));
  auto* grown = Shared<std::atomic<int>>();
  const pid_t child = Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    constexpr size_t kBytes = 64 << 20, kStep = 2 << 20;
    char* memory = static_cast<char*>(MUST(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    for (size_t at = 0; at < kBytes; at += 4096) {
      memory[at] = 1;
      if (at % kStep == 0) ++*grown, usleep(10'000);
    }
    for (;;) pause();
  });
  for (int i = 0; i < 5000 && *grown < 8; i++) usleep(1000);
  usleep(1'200'000);
  EXPECT_LT(grown->load(), 28);
  EXPECT(!t.Has("a/memory.events", "high 0\n"));
  EXPECT(t.Has("a/memory.events", "oom_kill 0\n"));
  // Who stands still for it can be killed.
  MUST(kill(child, SIGKILL));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
}

GUEST_TEST(Cgroups, MemoryFiles) {
  Tree t("+memory");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(!t.Write("a/memory.reclaim", "x"));
  EXPECT_EQ(errno, EINVAL);
  EXPECT(t.Write("a/memory.reclaim", "0"));
  EXPECT_STREQ(t.Read("a/memory.swap.high"), "max\n");
  EXPECT_STREQ(t.Read("a/memory.swap.current"), "0\n");
  EXPECT_STREQ(t.Read("a/memory.swap.events"), "high 0\nmax 0\nfail 0\n");
  EXPECT(t.Write("a/memory.oom.group", "1"));
  EXPECT(t.Write("a/memory.max", "24M"));
  pid_t children[2];
  for (pid_t& child : children) {
    child = Fork([&] {
      EXPECT(t.Write("a/cgroup.procs", "0"));
      constexpr size_t kBytes = 20 << 20;
      char* memory = static_cast<char*>(MUST(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
      for (;;) {
        for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
        usleep(1000);
      }
    });
  }
  for (pid_t child : children) EXPECT_KILLED(WaitStatus(child), SIGKILL);
  EXPECT(t.Has("a/memory.events", "oom_kill 2\noom_group_kill 1\n"));
}

namespace {

// The only processor that this thread may use; -1 if there are several.
int OnlyCpu() {
  cpu_set_t set;
  MUST(sched_getaffinity(0, sizeof(set), &set));
  if (CPU_COUNT(&set) != 1) return -1;
  int cpu = 0;
  while (!CPU_ISSET(cpu, &set)) ++cpu;
  return cpu;
}

int UsableCpus() {
  cpu_set_t set;
  MUST(sched_getaffinity(0, sizeof(set), &set));
  return CPU_COUNT(&set);
}

bool StatusShows(const char* line) {
  char text[4096] = {};
  ReadFile("/proc/self/status", text, sizeof(text));
  return strstr(text, line) != nullptr;
}

}  // namespace

GUEST_TEST(Cgroups, CpusetsLimitAffinity) {
  cpu_set_t first_two, second, first;
  CPU_ZERO(&first_two);
  CPU_ZERO(&second);
  CPU_ZERO(&first);
  CPU_SET(0, &first_two), CPU_SET(1, &first_two), CPU_SET(1, &second), CPU_SET(0, &first);
  if (sched_setaffinity(0, sizeof(first_two), &first_two) != 0 || UsableCpus() != 2) Skip("needs processors 0 and 1");
  Tree t("+cpuset");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/cpuset.cpus"), "\n");
  EXPECT_STREQ(t.Read("a/cpuset.mems.effective"), "0\n");
  EXPECT(!t.Write("a/cpuset.cpus", "1-0"));
  EXPECT_EQ(errno, EINVAL);
  EXPECT(!t.Write("a/cpuset.cpus", "x"));
  EXPECT_EQ(errno, EINVAL);
  EXPECT(t.Write("a/cpuset.cpus", "1"));
  EXPECT_STREQ(t.Read("a/cpuset.cpus"), "1\n");
  EXPECT_STREQ(t.Read("a/cpuset.cpus.effective"), "1\n");
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    EXPECT_EQ(OnlyCpu(), 1);
    EXPECT(StatusShows("Cpus_allowed_list:\t1\n"));
    EXPECT_ERRNO(sched_setaffinity(0, sizeof(first), &first), EINVAL);
    EXPECT_OK(sched_setaffinity(0, sizeof(first_two), &first_two));
    EXPECT_EQ(OnlyCpu(), 1);
    JOIN_OK(Fork([&] { EXPECT_EQ(OnlyCpu(), 1); }));
    CheckpointHere();
    EXPECT_EQ(OnlyCpu(), 1);
    EXPECT_STREQ(t.Read("a/cpuset.cpus"), "1\n");
    // What it asked for comes back with the processors.
    EXPECT(t.Write("a/cpuset.cpus", "0-1"));
    EXPECT_STREQ(t.Read("a/cpuset.cpus"), "0-1\n");
    EXPECT_EQ(UsableCpus(), 2);
    EXPECT_OK(sched_setaffinity(0, sizeof(second), &second));
    // Of none of what it asked for is anything left: then it is as if it had not asked.
    EXPECT(t.Write("a/cpuset.cpus", "0"));
    EXPECT_EQ(OnlyCpu(), 0);
    EXPECT(t.Write("a/cpuset.cpus", ""));
    EXPECT_EQ(OnlyCpu(), 1);
  }));
}

GUEST_TEST(Cgroups, CpusetsAreHandedDown) {
  Tree t("+cpuset");
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("a/b"), 0755));
  EXPECT(t.Write("a/cpuset.cpus", "0"));
  EXPECT_ERRNO(access(t.Path("a/b/cpuset.cpus"), F_OK), ENOENT);
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/b/cgroup.procs", "0"));
    EXPECT_EQ(OnlyCpu(), 0);
  }));
  EXPECT(t.Write("a/cgroup.subtree_control", "+cpuset"));
  EXPECT_STREQ(t.Read("a/b/cpuset.cpus"), "\n");
  EXPECT_STREQ(t.Read("a/b/cpuset.cpus.effective"), "0\n");
  EXPECT(t.Write("cgroup.subtree_control", "-cpuset") == false);
  EXPECT_EQ(errno, EBUSY);
  EXPECT(t.Write("a/cgroup.subtree_control", "-cpuset"));
  EXPECT(t.Write("cgroup.subtree_control", "-cpuset"));
  EXPECT_ERRNO(access(t.Path("a/cpuset.cpus"), F_OK), ENOENT);
}
