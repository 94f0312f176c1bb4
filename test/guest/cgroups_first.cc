// Control groups of the first version: trees, who is where, what each controller does. cgroups(7), Documentation/admin-guide/cgroup-v1/.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <atomic>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr long kCgroupMagic = 0x27e0eb;

// A mount of the tree that `options` name, and in it a group for this test. Skips where that cannot be.
struct Tree {
  explicit Tree(const char* options) {
    static int serial = 0;
    snprintf(place, sizeof(place), "/tmp/first-%d-%d", getpid(), ++serial);
    snprintf(options_, sizeof(options_), "%s", options);
    MUST(mkdir(place, 0755));
    if (mount("cgroup", place, "cgroup", 0, options) != 0) {
      rmdir(place);
      Skip("no such tree of the first version");
    }
    snprintf(base, sizeof(base), "%s/amber-test-%d", place, getpid());
    if (mkdir(base, 0755) != 0) {
      Done();
      Skip("groups cannot be made here");
    }
  }
  ~Tree() { Done(); }
  void Done() {
    Put(Str("%s/tasks", place), "0");
    for (const char* below : {"/a/b", "/a", "/b", ""}) {
      for (int i = 0; i < 200 && rmdir(Str("%s%s", base, below)) != 0 && errno == EBUSY; ++i) SleepMs(10);
    }
    umount2(place, MNT_DETACH);
    // A tree stays if it is let go of before its groups are gone quite: once more, later.
    for (int i = 0; i < 50 && strstr(options_, "name=amber.") != nullptr; ++i) {
      if (mount("cgroup", place, "cgroup", 0, Str("name=amber.%d", getpid())) != 0) break;
      umount2(place, MNT_DETACH);
      SleepMs(20);
    }
    rmdir(place);
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
  Str Path(const char* below) { return Str("%s/%s", base, below); }
  bool Write(const char* below, const char* text) { return Put(Path(below), text); }
  bool Write(const char* below, int number) { return Put(Path(below), Str("%d", number)); }
  // 0, or what a write gives.
  int Error(const char* below, const char* text) { return Write(below, text) ? 0 : errno; }
  const char* Read(const char* below) {
    memset(text_, 0, sizeof(text_));
    const int fd = open(Path(below), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return "(none)";
    ssize_t n = read(fd, text_, sizeof(text_) - 1);
    close(fd);
    return n >= 0 ? text_ : "(error)";
  }
  bool Has(const char* below, const char* part) { return strstr(Read(below), part) != nullptr; }
  long long Number(const char* below) { return atoll(Read(below)); }
  void Await(const char* below, const char* text) {
    for (int i = 0; i < 3000 && strcmp(Read(below), text) != 0; ++i) SleepMs(1);
    EXPECT_STREQ(Read(below), text);
  }

  char place[64];
  char base[128];

 private:
  char options_[64];
  char text_[4096];
};

// A tree without controllers of this test's own.
struct NamedTree : Tree {
  NamedTree() : Tree(Str("none,name=amber.%d", getpid())) {}
};

bool FileHas(const char* path, const char* part) {
  static char text[65536];
  memset(text, 0, sizeof(text));
  ReadFile(path, text, sizeof(text));
  return strstr(text, part) != nullptr;
}

int MountError(const char* options) {
  const Str place("/tmp/first-mount-%d", getpid());
  mkdir(place, 0755);
  const int error = mount("cgroup", place, "cgroup", 0, options) == 0 ? 0 : errno;
  if (error == 0) umount2(place, MNT_DETACH);
  rmdir(place);
  return error;
}

void Burn(int64_t ms) {
  const int64_t until = NowNs(CLOCK_PROCESS_CPUTIME_ID) + ms * kMs;
  while (NowNs(CLOCK_PROCESS_CPUTIME_ID) < until) {
  }
}

}  // namespace

GUEST_TEST(CgroupsFirst, ATreeWithAName) {
  NamedTree t;
  struct statfs fs = {};
  MUST(statfs(t.base, &fs));
  EXPECT_EQ(fs.f_type, kCgroupMagic);
  EXPECT(FileHas("/proc/self/mountinfo", Str("- cgroup cgroup rw,name=amber.%d\n", getpid())));
  EXPECT(FileHas("/proc/filesystems", "nodev\tcgroup\n"));
  EXPECT(FileHas("/proc/self/cgroup", Str(":name=amber.%d:/\n", getpid())));
  for (const char* name : {"cgroup.clone_children", "cgroup.procs", "notify_on_release", "tasks"}) MUST(access(t.Path(name), F_OK));
  EXPECT_ERRNO(access(t.Path("release_agent"), F_OK), ENOENT);
  MUST(access(Str("%s/release_agent", t.place), F_OK));
  MUST(access(Str("%s/cgroup.sane_behavior", t.place), F_OK));
  EXPECT_STREQ(t.Read("tasks"), "");

  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_ERRNO(mkdir(t.Path("a"), 0755), EEXIST);
  EXPECT_ERRNO(mkdir(t.Path("a/tasks"), 0755), EEXIST);
  EXPECT_ERRNO(mkdir(t.Path("x\ny"), 0755), EINVAL);
  EXPECT_ERRNO(rmdir(t.base), EBUSY);
  EXPECT_ERRNO(open(t.Path("file"), O_CREAT | O_WRONLY, 0644), EACCES);
  MUST(rename(t.Path("a"), t.Path("b")));
  EXPECT_ERRNO(rename(t.Path("b"), Str("%s/elsewhere", t.place)), EIO);
  EXPECT_ERRNO(rename(t.Path("b/tasks"), t.Path("b/other")), ENOTDIR);
  MUST(access(t.Path("b/tasks"), F_OK));

  for (const char* name : {"notify_on_release", "cgroup.clone_children"}) {
    EXPECT_STREQ(t.Read(name), "0\n");
    EXPECT(t.Write(name, "2"));
    EXPECT_STREQ(t.Read(name), "1\n");
    EXPECT_EQ(t.Error(name, "-1"), EINVAL);
    EXPECT_EQ(t.Error(name, "x"), EINVAL);
  }
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/notify_on_release"), "1\n");
  EXPECT_STREQ(t.Read("b/notify_on_release"), "0\n");
}

GUEST_TEST(CgroupsFirst, TheSameTreeTwice) {
  NamedTree t;
  MUST(mkdir(t.Path("a"), 0755));
  const Str again("/tmp/first-again-%d", getpid());
  MUST(mkdir(again, 0755));
  MUST(mount("cgroup", again, "cgroup", 0, Str("name=amber.%d", getpid())));
  EXPECT_OK(access(Str("%s/amber-test-%d/a/tasks", again.c_str(), getpid()), F_OK));
  CheckpointHere();
  EXPECT(Tree::Put(Str("%s/amber-test-%d/a/tasks", again.c_str(), getpid()), "0"));
  EXPECT_STREQ(t.Read("a/cgroup.procs"), Str("%d\n", getpid()));
  EXPECT(FileHas("/proc/self/cgroup", Str(":name=amber.%d:/amber-test-%d/a\n", getpid(), getpid())));
  MUST(umount(again));
  rmdir(again);
}

GUEST_TEST(CgroupsFirst, TreesGoWithTheirLastMount) {
  const Str name("none,name=amber.%d", getpid()), line(":name=amber.%d:", getpid());
  {
    NamedTree t;
    EXPECT(FileHas("/proc/self/cgroup", line));
    // With a group in it, it stays without a mount.
    MUST(umount2(t.place, MNT_DETACH));
    EXPECT(FileHas("/proc/self/cgroup", line));
    MUST(mount("cgroup", t.place, "cgroup", 0, name));
    MUST(access(t.Path("tasks"), F_OK));
    CheckpointHere();
    EXPECT(FileHas("/proc/self/cgroup", line));
  }
  for (int i = 0; i < 100 && FileHas("/proc/self/cgroup", line); ++i) {
    // (A machine whose group had not gone quite yet keeps the tree for another mount.)
    EXPECT_EQ(MountError(name), 0);
    SleepMs(20);
  }
  EXPECT(!FileHas("/proc/self/cgroup", line));
}

GUEST_TEST(CgroupsFirst, MountOptions) {
  NamedTree t;  // skips where there is no first version
  const Str named("none,name=amber.%d", getpid());
  EXPECT_EQ(MountError(named), 0);
  EXPECT_EQ(MountError("none"), EINVAL);
  EXPECT_EQ(MountError("name=no-such-tree"), EINVAL);
  EXPECT_EQ(MountError("none,name=x,cpu"), EINVAL);
  EXPECT_EQ(MountError("all,cpu"), EINVAL);
  EXPECT_EQ(MountError("bogus"), EINVAL);
  EXPECT_EQ(MountError("none,name=x,bogus"), EINVAL);
  EXPECT_EQ(MountError("none,name="), EINVAL);
  EXPECT_EQ(MountError("none,name=a b"), EINVAL);
  EXPECT_EQ(MountError("none,name=a,name=b"), EINVAL);
  EXPECT_EQ(MountError("none,name=x,release_agent="), EINVAL);
  EXPECT_EQ(MountError(Str("pids,name=amber.%d", getpid())), EBUSY);
  AS_USER([&] { EXPECT_EQ(MountError(named), EPERM); });
  // A user namespace's root rules over cgroup namespaces of its own, not over this one.
  AS_USER([&] {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return;
    EXPECT_EQ(MountError(named), EPERM);
    MUST(unshare(CLONE_NEWCGROUP));
    EXPECT_EQ(MountError(named), 0);
    EXPECT_EQ(MountError("none,name=another-tree"), EPERM);
  });
}

GUEST_TEST(CgroupsFirst, AControllerIsInOneTree) {
  Tree t("pids");
  EXPECT_EQ(MountError("pids"), 0);
  EXPECT_EQ(MountError("pids,cpu"), EBUSY);
  EXPECT_EQ(MountError("pids,name=other"), EBUSY);
  MUST(access(t.Path("pids.max"), F_OK));
  EXPECT(!FileHas("/proc/cgroups", "pids\t0\t"));
  EXPECT(FileHas("/proc/self/cgroup", ":pids:/"));
  // The second version has lost it.
  const Str unified("/tmp/first-unified-%d", getpid());
  MUST(mkdir(unified, 0755));
  MUST(mount("cgroup2", unified, "cgroup2", 0, nullptr));
  EXPECT(!FileHas(Str("%s/cgroup.controllers", unified.c_str()), "pids"));
  MUST(umount2(unified, MNT_DETACH));
  rmdir(unified);
}

GUEST_TEST(CgroupsFirst, WhoIsWhere) {
  NamedTree t;
  MUST(mkdir(t.Path("a"), 0755));
  Gate go;
  const pid_t child = Fork([&] { go.Await(); });
  EXPECT(t.Write("a/cgroup.procs", child));
  EXPECT_STREQ(t.Read("a/cgroup.procs"), Str("%d\n", child));
  EXPECT_STREQ(t.Read("a/tasks"), Str("%d\n", child));
  EXPECT(FileHas(Str("/proc/%d/cgroup", child), Str(":name=amber.%d:/amber-test-%d/a\n", getpid(), getpid())));
  EXPECT_ERRNO(rmdir(t.Path("a")), EBUSY);
  CheckpointHere();
  EXPECT_STREQ(t.Read("a/tasks"), Str("%d\n", child));
  EXPECT(t.Write("tasks", child));  // groups with groups below have members, too
  EXPECT_STREQ(t.Read("a/tasks"), "");
  EXPECT_STREQ(t.Read("tasks"), Str("%d\n", child));
  go.Open();
  JOIN_OK(child);
  EXPECT_STREQ(t.Read("tasks"), "");
  EXPECT_EQ(t.Error("tasks", Str("%d", child)), ESRCH);
  EXPECT_EQ(t.Error("tasks", "x"), EINVAL);
  EXPECT_EQ(t.Error("tasks", "-1"), EINVAL);
  EXPECT_EQ(t.Error("cgroup.procs", "1 2"), EINVAL);
  // Others move what is theirs, where the file lets them.
  MUST(chmod(t.Path("tasks"), 0666));
  const pid_t other = Fork([&] { pause(); });
  AS_USER([&] {
    EXPECT(t.Write("tasks", "0"));
    EXPECT_EQ(t.Error("tasks", Str("%d", other)), EACCES);
  });
  MUST(kill(other, SIGKILL));
  EXPECT_KILLED(WaitStatus(other), SIGKILL);
}

GUEST_TEST(CgroupsFirst, ThreadsMoveAlone) {
  NamedTree t;
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("b"), 0755));
  EXPECT(t.Write("a/cgroup.procs", "0"));
  auto* stage = Shared<std::atomic<int>>();
  auto* grandchild = Shared<std::atomic<int>>();
  Thread second([&] {
    while (*stage < 1) SleepMs(1);
    const pid_t made = Fork([] { pause(); });
    *grandchild = made;
    while (*stage < 2) SleepMs(1);
  });
  const Str both("%d\n%d\n", getpid(), second.tid());
  EXPECT_STREQ(t.Read("a/tasks"), both);
  EXPECT(t.Write("b/tasks", second.tid()));
  EXPECT_STREQ(t.Read("a/tasks"), Str("%d\n", getpid()));
  EXPECT_STREQ(t.Read("b/tasks"), Str("%d\n", second.tid()));
  EXPECT_STREQ(t.Read("b/cgroup.procs"), Str("%d\n", getpid()));
  EXPECT(FileHas(Str("/proc/self/task/%d/cgroup", second.tid()), "/b\n"));
  EXPECT(FileHas("/proc/self/cgroup", "/a\n"));
  CheckpointHere();
  EXPECT_STREQ(t.Read("b/tasks"), Str("%d\n", second.tid()));
  *stage = 1;
  while (*grandchild == 0) SleepMs(1);
  // A child begins where its maker is.
  EXPECT(t.Has("b/tasks", Str("%d\n", grandchild->load())));
  MUST(kill(*grandchild, SIGKILL));
  EXPECT_KILLED(WaitStatus(*grandchild), SIGKILL);
  // The process moves as a whole, and its threads come along.
  EXPECT(t.Write("cgroup.procs", second.tid()));
  EXPECT_STREQ(t.Read("tasks"), both);
  EXPECT_STREQ(t.Read("b/tasks"), "");
  EXPECT(t.Write("b/tasks", second.tid()));
  EXPECT(t.Write("b/tasks", getpid()));
  EXPECT_STREQ(t.Read("b/tasks"), both);
  EXPECT_STREQ(t.Read("tasks"), "");
  EXPECT(t.Write("a/tasks", second.tid()));
  *stage = 2;
  second.Join();
  t.Await("a/tasks", "");
  MUST(rmdir(t.Path("a")));
}

GUEST_TEST(CgroupsFirst, Pids) {
  Tree t("pids");
  EXPECT_ERRNO(access(Str("%s/pids.max", t.place), F_OK), ENOENT);
  EXPECT_STREQ(t.Read("pids.max"), "max\n");
  EXPECT_EQ(t.Error("pids.max", "-1"), EINVAL);
  EXPECT_EQ(t.Error("pids.max", "4194305"), EINVAL);
  EXPECT(t.Write("pids.max", "3"));
  CheckpointHere();
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("tasks", "0"));
    Gate go;
    const pid_t second = Fork([&] { go.Await(); });
    Thread third([] { SleepMs(100); });
    EXPECT_STREQ(t.Read("pids.current"), "3\n");
    EXPECT_ERRNO(fork(), EAGAIN);
    third.Join();
    go.Open();
    JOIN_OK(second);
    JOIN_OK(Fork([] {}));
  }));
  t.Await("pids.current", "0\n");
  EXPECT_STREQ(t.Read("pids.peak"), "3\n");
  EXPECT(t.Has("pids.events", "max 1\n"));
}

GUEST_TEST(CgroupsFirst, Freezer) {
  Tree t("freezer");
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("freezer.state"), "THAWED\n");
  EXPECT_EQ(t.Error("freezer.state", "FREEZING"), EINVAL);
  EXPECT_EQ(t.Error("freezer.state", "frozen"), EINVAL);
  auto* count = Shared<std::atomic<uint64_t>>();
  const pid_t child = Fork([&] {
    for (;;) ++*count;
  });
  EXPECT(t.Write("a/tasks", child));
  while (*count < 1000) SleepMs(1);
  EXPECT(t.Write("freezer.state", "FROZEN"));
  t.Await("a/freezer.state", "FROZEN\n");
  EXPECT_STREQ(t.Read("a/freezer.self_freezing"), "0\n");
  EXPECT_STREQ(t.Read("a/freezer.parent_freezing"), "1\n");
  EXPECT_STREQ(t.Read("freezer.self_freezing"), "1\n");
  CheckpointHere();
  t.Await("a/freezer.state", "FROZEN\n");
  const uint64_t before = *count;
  SleepMs(50);
  EXPECT_EQ(count->load(), before);
  EXPECT(t.Write("freezer.state", "THAWED"));
  for (int i = 0; i < 2000 && *count == before; ++i) SleepMs(1);
  EXPECT_GT(count->load(), before);
  EXPECT_STREQ(t.Read("a/freezer.state"), "THAWED\n");
  MUST(kill(child, SIGKILL));
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
}

GUEST_TEST(CgroupsFirst, MemoryLimit) {
  Tree t("memory");
  const char* no_limit = "9223372036854771712\n";
  EXPECT_STREQ(t.Read("memory.limit_in_bytes"), no_limit);
  EXPECT(t.Write("memory.limit_in_bytes", "5000"));
  EXPECT_STREQ(t.Read("memory.limit_in_bytes"), "4096\n");
  EXPECT_EQ(t.Error("memory.limit_in_bytes", "max"), EINVAL);
  EXPECT(t.Write("memory.limit_in_bytes", "-1"));
  EXPECT_STREQ(t.Read("memory.limit_in_bytes"), no_limit);
  EXPECT(t.Write("memory.limit_in_bytes", "32M"));
  EXPECT_STREQ(t.Read("memory.limit_in_bytes"), "33554432\n");
  EXPECT_EQ(t.Error("memory.use_hierarchy", "0"), EINVAL);
  EXPECT_EQ(t.Error("memory.swappiness", "201"), EINVAL);
  EXPECT(t.Has("memory.stat", "hierarchical_memory_limit 33554432\n"));
  CheckpointHere();
  const pid_t child = Fork([&] {
    EXPECT(t.Write("tasks", "0"));
    constexpr size_t kBytes = 128 << 20;
    char* memory = static_cast<char*>(MUST(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    for (;;) {
      for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
    }
  });
  EXPECT_KILLED(WaitStatus(child), SIGKILL);
  EXPECT_GT(t.Number("memory.failcnt"), 0);
  EXPECT_GT(t.Number("memory.max_usage_in_bytes"), 30 << 20);
  EXPECT(t.Has("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"));
  EXPECT(t.Write("memory.failcnt", "0"));
  EXPECT_STREQ(t.Read("memory.failcnt"), "0\n");
}

GUEST_TEST(CgroupsFirst, MemoryLimitWithoutKilling) {
  Tree t("memory");
  EXPECT(t.Write("memory.limit_in_bytes", "16M"));
  EXPECT_EQ(t.Error("memory.oom_control", "2"), EINVAL);
  EXPECT(t.Write("memory.oom_control", "1"));
  auto* done = Shared<std::atomic<int>>();
  const pid_t child = Fork([&] {
    EXPECT(t.Write("tasks", "0"));
    constexpr size_t kBytes = 48 << 20;
    char* memory = static_cast<char*>(MUST(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    for (size_t at = 0; at < kBytes; at += 4096) memory[at] = 1;
    SleepMs(200);
    *done = 1;
  });
  for (int i = 0; i < 3000 && !t.Has("memory.oom_control", "under_oom 1\n"); ++i) SleepMs(1);
  EXPECT(t.Has("memory.oom_control", "under_oom 1\n"));
  SleepMs(400);
  EXPECT_EQ(done->load(), 0);
  EXPECT(t.Write("memory.limit_in_bytes", "256M"));
  JOIN_OK(child);
  EXPECT_EQ(done->load(), 1);
}

GUEST_TEST(CgroupsFirst, CpuQuota) {
  Tree t("cpu");
  EXPECT_STREQ(t.Read("cpu.cfs_quota_us"), "-1\n");
  EXPECT_STREQ(t.Read("cpu.cfs_period_us"), "100000\n");
  EXPECT_EQ(t.Error("cpu.cfs_quota_us", "999"), EINVAL);
  EXPECT_EQ(t.Error("cpu.cfs_period_us", "1000001"), EINVAL);
  EXPECT(t.Write("cpu.cfs_quota_us", "20000"));
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_EQ(t.Error("a/cpu.cfs_quota_us", "30000"), EINVAL);
  EXPECT(t.Write("a/cpu.cfs_quota_us", "10000"));
  EXPECT_EQ(t.Error("cpu.cfs_quota_us", "5000"), EINVAL);
  EXPECT(t.Write("a/cpu.cfs_quota_us", "-1"));
  EXPECT_EQ(t.Error("cpu.cfs_burst_us", "20001"), EINVAL);
  CheckpointHere();
  EXPECT_STREQ(t.Read("cpu.cfs_quota_us"), "20000\n");
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/tasks", "0"));
    const int64_t until = NowNs() + 1'500 * kMs;
    while (NowNs() < until) {
    }
    // A fifth of a processor: no machine gives twice as much.
    EXPECT_LT(NowNs(CLOCK_PROCESS_CPUTIME_ID), 750 * kMs);
  }));
  const char* at = strstr(t.Read("cpu.stat"), "nr_throttled ");
  EXPECT(at != nullptr && atoi(at + 13) > 1);
}

GUEST_TEST(CgroupsFirst, CpuShares) {
  Tree t("cpu");
  const struct {
    const char *written, *read;
  } kCases[] = {{"0", "2\n"}, {"3", "3\n"}, {"262145", "262144\n"}, {"0x100", "256\n"}};
  for (const auto& c : kCases) {
    EXPECT(t.Write("cpu.shares", c.written));
    EXPECT_STREQ(t.Read("cpu.shares"), c.read);
  }
  EXPECT_EQ(t.Error("cpu.shares", "-1"), EINVAL);
  EXPECT(t.Write("cpu.idle", "1"));
  EXPECT_STREQ(t.Read("cpu.shares"), "3\n");
  EXPECT_EQ(t.Error("cpu.shares", "100"), EINVAL);
  EXPECT(t.Write("cpu.idle", "0"));
  EXPECT_STREQ(t.Read("cpu.shares"), "1024\n");
}

// One processor, two that want it, 1 to 3.
GUEST_TEST(CgroupsFirst, CpuSharesAreKept) {
  Tree t("cpu");
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  if (sched_setaffinity(0, sizeof(one), &one) != 0) Skip("needs processor 0");
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("b"), 0755));
  EXPECT(t.Write("a/cpu.shares", "1024"));
  EXPECT(t.Write("b/cpu.shares", "3072"));
  pid_t children[2];
  for (int i = 0; i < 2; ++i) {
    children[i] = Fork([&] {
      EXPECT(t.Write(i == 0 ? "a/tasks" : "b/tasks", "0"));
      for (;;) {
      }
    });
  }
  SleepMs(300);
  CheckpointHere();
  clockid_t clocks[2];
  int64_t before[2], used[2];
  for (int i = 0; i < 2; ++i) {
    MUST(clock_getcpuclockid(children[i], &clocks[i]));
    before[i] = NowNs(clocks[i]);
  }
  SleepMs(2'500);
  for (int i = 0; i < 2; ++i) used[i] = NowNs(clocks[i]) - before[i];
  for (pid_t child : children) {
    MUST(kill(child, SIGKILL));
    EXPECT_KILLED(WaitStatus(child), SIGKILL);
  }
  EXPECT_GT(used[0], 0);
  EXPECT_GT(used[1] * 10, used[0] * 18);
  EXPECT_LT(used[1], used[0] * 5);
}

GUEST_TEST(CgroupsFirst, CpuAccounting) {
  Tree t("cpuacct");
  EXPECT_STREQ(t.Read("cpuacct.usage"), "0\n");
  EXPECT_STREQ(t.Read("cpuacct.stat"), "user 0\nsystem 0\n");
  MUST(mkdir(t.Path("a"), 0755));
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/tasks", "0"));
    Burn(60);
    EXPECT_GE(t.Number("a/cpuacct.usage"), 50 * kMs);
    CheckpointHere();
    Burn(60);
    // What is used elsewhere does not count, nor what a thread uses that is.
    EXPECT(t.Write("tasks", "0"));
    Burn(100);
  }));
  const long long in_a = t.Number("a/cpuacct.usage");
  EXPECT_GE(in_a, 100 * kMs);
  EXPECT_LT(in_a, 190 * kMs);
  EXPECT_GE(t.Number("cpuacct.usage"), 200 * kMs);
  MUST(rmdir(t.Path("a")));
  EXPECT_GE(t.Number("cpuacct.usage"), 200 * kMs);
  EXPECT_EQ(t.Error("cpuacct.usage", "1"), EINVAL);
  EXPECT(t.Write("cpuacct.usage", "0"));
  EXPECT_LT(t.Number("cpuacct.usage"), 10 * kMs);
}

GUEST_TEST(CgroupsFirst, CpuAccountingOfThreads) {
  Tree t("cpuacct");
  MUST(mkdir(t.Path("a"), 0755));
  MUST(mkdir(t.Path("b"), 0755));
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/cgroup.procs", "0"));
    Thread second([&] {
      EXPECT(t.Write("b/tasks", static_cast<int>(syscall(SYS_gettid))));
      const int64_t until = NowNs(CLOCK_THREAD_CPUTIME_ID) + 120 * kMs;
      while (NowNs(CLOCK_THREAD_CPUTIME_ID) < until) {
      }
    });
    second.Join();
  }));
  EXPECT_GE(t.Number("b/cpuacct.usage"), 100 * kMs);
  EXPECT_LT(t.Number("a/cpuacct.usage"), 80 * kMs);
}

GUEST_TEST(CgroupsFirst, Cpusets) {
  cpu_set_t two;
  if (sched_getaffinity(0, sizeof(two), &two) != 0 || !CPU_ISSET(0, &two) || !CPU_ISSET(1, &two)) Skip("needs processors 0 and 1");
  Tree t("cpuset");
  EXPECT_STREQ(t.Read("cpuset.cpus"), "\n");
  EXPECT_EQ(t.Error("tasks", "0"), ENOSPC);
  EXPECT_EQ(t.Error("cpuset.cpus", "4000"), ERANGE);
  EXPECT_EQ(t.Error("cpuset.mems", "1"), EINVAL);
  EXPECT(t.Write("cpuset.cpus", "0-1"));
  EXPECT_EQ(t.Error("tasks", "0"), ENOSPC);
  EXPECT(t.Write("cpuset.mems", "0"));
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT_STREQ(t.Read("a/cpuset.cpus"), "\n");
  EXPECT(t.Write("a/cpuset.cpus", "1"));
  EXPECT(t.Write("a/cpuset.mems", "0"));
  EXPECT_EQ(t.Error("cpuset.cpus", "0"), EBUSY);
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/tasks", "0"));
    cpu_set_t set;
    MUST(sched_getaffinity(0, sizeof(set), &set));
    EXPECT_EQ(CPU_COUNT(&set), 1);
    EXPECT(CPU_ISSET(1, &set));
    CheckpointHere();
    MUST(sched_getaffinity(0, sizeof(set), &set));
    EXPECT_EQ(CPU_COUNT(&set), 1);
    EXPECT_STREQ(t.Read("a/cpuset.effective_cpus"), "1\n");
    EXPECT(FileHas("/proc/self/cpuset", "/a\n"));
  }));
  EXPECT(t.Write("cgroup.clone_children", "1"));
  MUST(mkdir(t.Path("b"), 0755));
  EXPECT_STREQ(t.Read("b/cpuset.cpus"), "0-1\n");
  EXPECT_STREQ(t.Read("b/cpuset.mems"), "0\n");
  EXPECT(t.Write("b/cpuset.cpus", "0"));
  EXPECT(t.Write("cpuset.cpus", "0-1"));
  EXPECT_EQ(t.Error("cpuset.sched_relax_domain_level", "-2"), EINVAL);
}

GUEST_TEST(CgroupsFirst, Devices) {
  Tree t("devices");
  EXPECT_STREQ(t.Read("devices.list"), "a *:* rwm\n");
  EXPECT_EQ(t.Error("devices.deny", "x"), EINVAL);
  EXPECT_EQ(t.Error("devices.deny", "c 1:3"), EINVAL);
  EXPECT_EQ(t.Error("devices.deny", "c 1:3 z"), EINVAL);
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("tasks", "0"));
    const int open_before = MUST(open("/dev/null", O_RDWR));
    EXPECT(t.Write("devices.deny", "c 1:3 w"));
    EXPECT_STREQ(t.Read("devices.list"), "a *:* rwm\n");
    CheckpointHere();
    EXPECT_ERRNO(open("/dev/null", O_WRONLY), EPERM);
    EXPECT_OK(open("/dev/null", O_RDONLY));
    EXPECT_EQ(write(open_before, "x", 1), 1);
    EXPECT(t.Write("devices.allow", "c 1:3 w"));
    EXPECT_OK(open("/dev/null", O_WRONLY));

    EXPECT(t.Write("devices.deny", "a"));
    EXPECT_STREQ(t.Read("devices.list"), "");
    EXPECT_ERRNO(open("/dev/zero", O_RDONLY), EPERM);
    EXPECT(t.Write("devices.allow", "c 1:* r"));
    EXPECT(t.Write("devices.allow", "c 1:5 m"));
    EXPECT(t.Has("devices.list", "c 1:* r\n"));
    EXPECT_OK(open("/dev/zero", O_RDONLY));
    EXPECT_ERRNO(open("/dev/zero", O_RDWR), EPERM);
    const Str node("/tmp/first-node-%d", getpid());
    EXPECT_ERRNO(mknod(node, S_IFCHR | 0600, makedev(1, 3)), EPERM);
    if (mknod(node, S_IFCHR | 0600, makedev(1, 5)) == 0) {
      unlink(node);
    } else {
      EXPECT_EQ(errno, ENOENT + 100);  // it is allowed
    }
    // Those below have no more.
    MUST(mkdir(t.Path("a"), 0755));
    EXPECT(t.Has("a/devices.list", "c 1:* r\n"));
    EXPECT_EQ(t.Error("a/devices.allow", "c 1:3 w"), EPERM);
    EXPECT_EQ(t.Error("a/devices.allow", "a"), EPERM);
    EXPECT_EQ(t.Error("devices.allow", "a"), EINVAL);
    EXPECT(t.Write("devices.deny", "c 1:* r"));
    EXPECT(!t.Has("a/devices.list", "c 1:* r\n"));
    MUST(rmdir(t.Path("a")));
    // (A machine takes a moment to forget it.)
    for (int i = 0; i < 3000 && !t.Write("devices.allow", "a"); ++i) SleepMs(1);
    EXPECT_OK(open("/dev/zero", O_RDWR));
  }));
}

GUEST_TEST(CgroupsFirst, ReleaseAgents) {
  NamedTree t;
  const Str agent("%s/release_agent", t.place), script("/tmp/first-agent-%d", getpid()), told("/tmp/first-told-%d", getpid());
  WriteFile(script, Str("#!/bin/sh\necho \"$# $1\" >> %s.new\nmv %s.new %s\n", told.c_str(), told.c_str(), told.c_str()), 0755);
  EXPECT(Tree::Put(agent, script));
  EXPECT(FileHas(agent, Str("%s\n", script.c_str())));
  EXPECT(FileHas("/proc/self/mountinfo", Str("release_agent=%s", script.c_str())));
  MUST(mkdir(t.Path("a"), 0755));
  EXPECT(t.Write("a/notify_on_release", "1"));
  CheckpointHere();
  JOIN_OK(Fork([&] { EXPECT(t.Write("a/tasks", "0")); }));
  for (int i = 0; i < 500 && access(told, F_OK) != 0; ++i) SleepMs(10);
  const bool ran = access(told, F_OK) == 0;
  const bool right = ran && FileHas(told, Str("1 /amber-test-%d/a\n", getpid()));
  unlink(told);
  unlink(script);
  // A machine runs it among its own files, which may not be these.
  if (!ran && !FileHas("/proc/version", "amber")) Skip("the agent ran elsewhere");
  EXPECT(right);
}

GUEST_TEST(CgroupsFirst, NamespacesHideWhatIsAbove) {
  NamedTree t;
  MUST(mkdir(t.Path("a"), 0755));
  JOIN_OK(Fork([&] {
    EXPECT(t.Write("a/tasks", "0"));
    MUST(unshare(CLONE_NEWCGROUP | CLONE_NEWNS));
    EXPECT(FileHas("/proc/self/cgroup", Str(":name=amber.%d:/\n", getppid())));
    CheckpointHere();
    EXPECT(FileHas("/proc/self/cgroup", Str(":name=amber.%d:/\n", getppid())));
    EXPECT_EQ(MountError("none,name=another-tree"), EPERM);
    const Str place("/tmp/first-inside-%d", getpid());
    MUST(mkdir(place, 0755));
    MUST(mount("cgroup", place, "cgroup", 0, Str("name=amber.%d", getppid())));
    EXPECT(FileHas(Str("%s/tasks", place.c_str()), Str("%d\n", getpid())));
    MUST(umount2(place, MNT_DETACH));
    rmdir(place);
  }));
}
