// /proc/PID: the form of each file, what changes in it, who may look.
#include <dirent.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A file of /proc as text.
struct Text {
  explicit Text(const char* path) { ReadFile(path, text, sizeof(text)); }
  bool Has(const char* part) const { return strstr(text, part) != nullptr; }
  char text[16384];
};

// The nth field of /proc/PID/stat, from 1; those after the name are counted from its closing bracket.
long long StatField(pid_t pid, int field) {
  const Text stat(Str("/proc/%d/stat", pid));
  const char* at = strrchr(stat.text, ')');
  ASSERT(at != nullptr);
  for (int i = 2; i < field && at != nullptr; ++i) at = strchr(at + 1, ' ');
  return at != nullptr ? atoll(at + 1) : -1;
}

}  // namespace

GUEST_TEST(ProcStat, FieldsOfTheProcess) {
  EXPECT_EQ(StatField(getpid(), 4), getppid());
  EXPECT_EQ(StatField(getpid(), 5), getpgrp());
  EXPECT_EQ(StatField(getpid(), 6), getsid(0));
  MUST(setpriority(PRIO_PROCESS, 0, 7));
  EXPECT_EQ(StatField(getpid(), 19), 7);
  EXPECT_EQ(StatField(getpid(), 18), 27);
  EXPECT_EQ(StatField(getpid(), 20), 1);
  Pipe p;
  Thread other([&] {
    char byte;
    read(p.r, &byte, 1);
  });
  other.AwaitAsleep();
  CheckpointHere();
  EXPECT_EQ(StatField(getpid(), 20), 2);
  MUST(write(p.w, "x", 1));
}

GUEST_TEST(ProcStat, ZombieIsToldSo) {
  const pid_t pid = Fork([] { _exit(3); });
  AwaitState(pid, pid, 'Z');
  EXPECT_EQ(StatField(pid, 4), getpid());
  char link[8];
  EXPECT_ERRNO(readlink(Str("/proc/%d/exe", pid), link, sizeof(link)), ENOENT);
  EXPECT_ERRNO(readlink(Str("/proc/%d/cwd", pid), link, sizeof(link)), ENOENT);
  const Text command(Str("/proc/%d/cmdline", pid)), maps(Str("/proc/%d/maps", pid)), status(Str("/proc/%d/status", pid));
  EXPECT_EQ(command.text[0], 0);
  EXPECT_EQ(maps.text[0], 0);
  EXPECT(status.Has("State:\tZ (zombie)"));
  EXPECT(!status.Has("VmSize"));
  EXPECT_EXITED(WaitStatus(pid), 3);
}

GUEST_TEST(ProcStat, StoppedIsToldSo) {
  const pid_t pid = Fork([] { pause(); });
  kill(pid, SIGSTOP);
  int status;
  MUST(waitpid(pid, &status, WUNTRACED));
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'T');
  const Text text(Str("/proc/%d/status", pid));
  EXPECT(text.Has("State:\tT (stopped)"));
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(ProcStatus, CredentialsAndGroups) {
  const gid_t groups[2] = {11, 22};
  MUST(setgroups(2, groups));
  MUST(setresgid(1, 2, 3));
  MUST(setresuid(4, 0, 6));
  const Text text("/proc/self/status");
  EXPECT(text.Has("Uid:\t4\t0\t6\t0\n"));
  EXPECT(text.Has("Gid:\t1\t2\t3\t2\n"));
  EXPECT(text.Has("Groups:\t11 22 \n"));
  EXPECT(text.Has("NoNewPrivs:\t0\n"));
  EXPECT(text.Has("Seccomp:\t0\n"));
  EXPECT(text.Has("Umask:\t0022\n"));
}

GUEST_TEST(ProcStatus, SignalsInHexadecimal) {
  Block({SIGUSR1});
  signal(SIGUSR2, SIG_IGN);
  CountSignals(SIGHUP);
  raise(SIGUSR1);
  CheckpointHere();
  EXPECT_EQ(ProcField("/proc/self/status", "SigBlk", 16), 1 << (SIGUSR1 - 1));
  EXPECT_EQ(ProcField("/proc/self/status", "SigIgn", 16) & (1 << (SIGUSR2 - 1)), 1 << (SIGUSR2 - 1));
  EXPECT_EQ(ProcField("/proc/self/status", "SigCgt", 16) & 1, 1);
  EXPECT_EQ(ProcField("/proc/self/status", "SigPnd", 16) | ProcField("/proc/self/status", "ShdPnd", 16), 1 << (SIGUSR1 - 1));
}

GUEST_TEST(ProcStatus, CapabilitiesFollow) {
  MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0));
  EXPECT_EQ(ProcField("/proc/self/status", "CapBnd", 16) & (1ll << CAP_SYS_TIME), 0);
  MUST(setresuid(-1, 1000, -1));
  EXPECT_EQ(ProcField("/proc/self/status", "CapEff", 16), 0);
  EXPECT_NE(ProcField("/proc/self/status", "CapPrm", 16), 0);
}

GUEST_TEST(ProcCmdline, ArgumentsCanBeOverwritten) {
  const Text before("/proc/self/cmdline");
  EXPECT_EQ(strcmp(before.text, SelfPath()) == 0 || before.text[0] != 0, true);
  const pid_t pid = Fork([] { execl(SelfPath(), "chosen name", "@ShowCommandLine", "second", nullptr); });
  EXPECT_EXITED(WaitStatus(pid), 0);
}
GUEST_HELPER(ShowCommandLine) {
  char text[256] = {};
  const size_t length = ReadFile("/proc/self/cmdline", text, sizeof(text));
  if (length != sizeof("chosen name") + sizeof("@ShowCommandLine") + sizeof("second")) return 1;
  if (strcmp(text, "chosen name") != 0) return 2;
  argv[0][0] = 'C';  // Read from the process's own memory.
  ReadFile("/proc/self/cmdline", text, sizeof(text));
  return text[0] == 'C' ? 0 : 3;
}

GUEST_TEST(ProcEnviron, IsThatOfTheStart) {
  char* const environment[] = {const_cast<char*>("ONE=1"), const_cast<char*>("TWO=2"), nullptr};
  char* const arguments[] = {const_cast<char*>(SelfPath()), const_cast<char*>("@ShowEnvironment"), nullptr};
  const pid_t pid = Fork([&] { execve(SelfPath(), arguments, environment); });
  EXPECT_EXITED(WaitStatus(pid), 0);
}
GUEST_HELPER(ShowEnvironment) {
  setenv("THREE", "3", 1);
  char text[256] = {};
  const size_t length = ReadFile("/proc/self/environ", text, sizeof(text));
  return length == 12 && memcmp(text, "ONE=1\0TWO=2\0", 12) == 0 ? 0 : 1;
}

GUEST_TEST(ProcLinks, DeletedThingsAreMarked) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const int fd = MUST(open(dir / "f", O_RDONLY));
  MUST(unlink(dir / "f"));
  char link[256] = {};
  CheckpointHere();
  MUST(readlink(Str("/proc/self/fd/%d", fd), link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("%s/f (deleted)", dir.path()));
  MUST(mkdir(dir / "d", 0755));
  MUST(chdir(dir / "d"));
  MUST(rmdir(dir / "d"));
  memset(link, 0, sizeof(link));
  MUST(readlink("/proc/self/cwd", link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("%s/d (deleted)", dir.path()));
}

GUEST_TEST(ProcLinks, NamesOfAnonymousFiles) {
  struct {
    int fd;
    const char* name;
  } const kinds[] = {{MUST(eventfd(0, 0)), "anon_inode:[eventfd]"},
                     {MUST(timerfd_create(CLOCK_MONOTONIC, 0)), "anon_inode:[timerfd]"},
                     {static_cast<int>(MUST(syscall(SYS_memfd_create, "name", 0))), "/memfd:name (deleted)"}};
  for (const auto& kind : kinds) {
    char link[64] = {};
    MUST(readlink(Str("/proc/self/fd/%d", kind.fd), link, sizeof(link) - 1));
    EXPECT_STREQ(link, kind.name);
  }
}

GUEST_TEST(ProcFd, ModesOfTheLinks) {
  const int reader = MUST(open("/dev/null", O_RDONLY)), writer = MUST(open("/dev/null", O_WRONLY));
  struct stat status = {};
  MUST(lstat(Str("/proc/self/fd/%d", reader), &status));
  EXPECT_EQ(status.st_mode, S_IFLNK | 0500);
  MUST(lstat(Str("/proc/self/fd/%d", writer), &status));
  EXPECT_EQ(status.st_mode, S_IFLNK | 0300);
  EXPECT_ERRNO(lstat("/proc/self/fd/999", &status), ENOENT);
  EXPECT_ERRNO(lstat("/proc/self/fd/01", &status), ENOENT);
  EXPECT_ERRNO(open("/proc/self/fd/new", O_CREAT | O_WRONLY, 0600), ENOENT);
  MUST(stat("/proc/self/fd", &status));
  EXPECT_EQ(status.st_mode, S_IFDIR | 0500);
}

GUEST_TEST(ProcFdinfo, FlagsAreOctal) {
  const int fd = MUST(open("/dev/null", O_WRONLY | O_APPEND | O_CLOEXEC));
  const Text text(Str("/proc/self/fdinfo/%d", fd));
  EXPECT(text.Has("pos:\t0\n"));
  EXPECT(text.Has("flags:\t02102001\n"));
  EXPECT(text.Has("mnt_id:\t"));
}

GUEST_TEST(ProcFdinfo, TimerTellsItsState) {
  const int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  const itimerspec spec = {.it_interval = {3, 0}, .it_value = {100'000, 0}};
  MUST(timerfd_settime(fd, 0, &spec, nullptr));
  CheckpointHere();
  const Text text(Str("/proc/self/fdinfo/%d", fd));
  EXPECT(text.Has("clockid: 1\n"));
  EXPECT(text.Has("ticks: 0\n"));
  EXPECT(text.Has("it_interval: (3, 0)\n"));
}

GUEST_TEST(ProcAccess, ForeignProcessesAreClosed) {
  AS_USER([] {
    EXPECT_ERRNO(open("/proc/1/environ", O_RDONLY), EACCES);
    EXPECT_ERRNO(open("/proc/1/maps", O_RDONLY), EACCES);
    EXPECT_ERRNO(open("/proc/1/fd", O_RDONLY), EACCES);
    EXPECT_ERRNO(open("/proc/1/mem", O_RDWR), EACCES);
    char link[8];
    EXPECT_ERRNO(readlink("/proc/1/exe", link, sizeof(link)), EACCES);
    EXPECT_OK(open("/proc/1/stat", O_RDONLY));
    EXPECT_OK(open("/proc/1/status", O_RDONLY));
    EXPECT_OK(open("/proc/1/cmdline", O_RDONLY));
  });
}

GUEST_TEST(ProcAccess, OwnerIsTheProcesssUser) {
  const pid_t pid = Fork([] {
    BecomeUser();
    MUST(prctl(PR_SET_DUMPABLE, 1));
    pause();
  });
  AwaitAsleep(pid);
  struct stat status = {};
  MUST(stat(Str("/proc/%d", pid), &status));
  EXPECT_EQ(status.st_uid, 1000);
  EXPECT_EQ(status.st_mode, S_IFDIR | 0555);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(ProcLimits, FormOfTheTable) {
  rlimit limit = {12, 34};
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  const Text text("/proc/self/limits");
  EXPECT(text.Has("Limit                     Soft Limit           Hard Limit           Units     \n"));
  EXPECT(text.Has("Max open files            12                   34                   files     \n"));
}

GUEST_TEST(ProcOom, ScoreAdjustment) {
  EXPECT_EQ(atoi(Text("/proc/self/oom_score_adj").text), 0);
  const int fd = MUST(open("/proc/self/oom_score_adj", O_RDWR));
  EXPECT_EQ(write(fd, "500\n", 4), 4);
  EXPECT_ERRNO(pwrite(fd, "1001", 4, 0), EINVAL);
  EXPECT_ERRNO(pwrite(fd, "word", 4, 0), EINVAL);
  CheckpointHere();
  EXPECT_EQ(atoi(Text("/proc/self/oom_score_adj").text), 500);
  JOIN_OK(Fork([] { EXPECT_EQ(atoi(Text("/proc/self/oom_score_adj").text), 500); }));
}

GUEST_TEST(ProcComm, RulesOfWriting) {
  const int fd = MUST(open("/proc/self/comm", O_RDWR));
  EXPECT_EQ(write(fd, "this name is cut here", 21), 21);
  char name[32] = {};
  EXPECT_EQ(pread(fd, name, sizeof(name), 0), 16);
  EXPECT_STREQ(name, "this name is cu\n");
  Thread other([] {
    const int thread = MUST(open("/proc/thread-self/comm", O_WRONLY));
    MUST(write(thread, "thread", 6));
  });
  other.Join();
  memset(name, 0, sizeof(name));
  EXPECT_EQ(pread(fd, name, sizeof(name), 0), 16);  // Not that of the others.
}

GUEST_TEST(ProcMem, ReadsAndWritesAtAddresses) {
  static char text[] = "before";
  const int fd = MUST(open("/proc/self/mem", O_RDWR));
  EXPECT_EQ(pwrite(fd, "after!", 6, reinterpret_cast<off_t>(text)), 6);
  EXPECT_STREQ(text, "after!");
  char byte;
  EXPECT_ERRNO(pread(fd, &byte, 1, 0), EIO);
  char* readonly = Pages(1, PROT_READ);
  EXPECT_EQ(pwrite(fd, "x", 1, reinterpret_cast<off_t>(readonly)), 1);  // As a debugger may.
  EXPECT_EQ(readonly[0], 'x');
}

GUEST_TEST(ProcDirectory, NumbersAndNothingElse) {
  struct stat status = {};
  EXPECT_ERRNO(stat("/proc/0", &status), ENOENT);
  EXPECT_ERRNO(stat("/proc/-1", &status), ENOENT);
  EXPECT_ERRNO(stat("/proc/4000000", &status), ENOENT);
  EXPECT_ERRNO(stat(Str("/proc/0%d", getpid()), &status), ENOENT);
  EXPECT_ERRNO(mkdir("/proc/new", 0755), ENOENT);
  EXPECT_ERRNO(unlink("/proc/self"), EPERM);
  EXPECT_ERRNO(rmdir(Str("/proc/%d", getpid())), EPERM);
  EXPECT_OK(stat(Str("/proc/%d/task/%d", getpid(), getpid()), &status));
  EXPECT_ERRNO(stat(Str("/proc/%d/task/1", getpid()), &status), ENOENT);
}

GUEST_TEST(ProcSys, KernelsNumbers) {
  EXPECT_GT(atoi(Text("/proc/sys/kernel/pid_max").text), 300);
  EXPECT_GT(atoll(Text("/proc/sys/fs/file-max").text), 100);
  EXPECT_GE(atoi(Text("/proc/sys/vm/overcommit_memory").text), 0);
  EXPECT_GT(atoi(Text("/proc/sys/fs/pipe-max-size").text), 4096);
  char host[65] = {}, shown[65] = {};
  MUST(gethostname(host, sizeof(host)));
  ReadFile("/proc/sys/kernel/hostname", shown, sizeof(shown));
  EXPECT_EQ(strncmp(host, shown, strlen(host)), 0);
  AS_USER([] { EXPECT_ERRNO(open("/proc/sys/kernel/hostname", O_WRONLY), EACCES); });
}

GUEST_TEST(ProcIo, CountsOwnTransfers) {
  const auto read_calls = [] { return ProcField("/proc/self/io", "syscr"); };
  if (read_calls() < 0) Skip("no /proc/self/io");
  const int64_t before = read_calls();
  char byte;
  const int zero = MUST(open("/dev/zero", O_RDONLY));
  for (int i = 0; i < 10; ++i) MUST(read(zero, &byte, 1));
  EXPECT_GE(read_calls(), before + 10);
}
