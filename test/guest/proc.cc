// /proc as programs read it.
#include <dirent.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

char text[1 << 18];

const char* Read(const char* path) {
  ReadFile(path, text, sizeof(text));
  return text;
}

// The n-th field of /proc/PID/stat, from 1, for those after the name.
long StatField(pid_t pid, int wanted) {
  const char* at = strrchr(Read(Str("/proc/%d/stat", pid)), ')') + 2;
  for (int field = 3; field < wanted; ++field) at = strchr(at, ' ') + 1;
  return strtol(at, nullptr, 10);
}

bool Listed(const char* folder, const char* name) {
  DIR* stream = opendir(folder);
  ASSERT_NE(stream, nullptr);
  bool found = false;
  while (const dirent* entry = readdir(stream)) found = found || strcmp(entry->d_name, name) == 0;
  closedir(stream);
  return found;
}

int Count(const char* folder) {
  DIR* stream = opendir(folder);
  ASSERT_NE(stream, nullptr);
  int count = 0;
  while (const dirent* entry = readdir(stream)) count += entry->d_name[0] != '.';
  closedir(stream);
  return count;
}

}  // namespace

GUEST_TEST(Proc, SelfIsMe) {
  char link[32] = {};
  MUST(readlink("/proc/self", link, sizeof(link) - 1));
  EXPECT_EQ(atoi(link), getpid());
  JOIN_OK(Fork([] {
    char own[32] = {};
    MUST(readlink("/proc/self", own, sizeof(own) - 1));
    EXPECT_EQ(atoi(own), getpid());
  }));
}

GUEST_TEST(Proc, ThreadSelf) {
  Thread other([] {
    char link[64] = {};
    MUST(readlink("/proc/thread-self", link, sizeof(link) - 1));
    EXPECT_STREQ(link, Str("%d/task/%ld", getpid(), syscall(SYS_gettid)));
  });
}

GUEST_TEST(Proc, StatFields) {
  EXPECT_EQ(atoi(Read("/proc/self/stat")), getpid());
  EXPECT_EQ(StatField(getpid(), 4), getppid());
  EXPECT_EQ(StatField(getpid(), 5), getpgrp());
  EXPECT_EQ(StatField(getpid(), 6), getsid(0));
  EXPECT_EQ(StatField(getpid(), 20), 1);  // Threads.
  CheckpointHere();
  EXPECT_EQ(StatField(getpid(), 4), getppid());
  EXPECT_GT(StatField(getpid(), 22), 0);  // Start time.
  EXPECT_GT(StatField(getpid(), 23), 0);  // Memory size.
  EXPECT_EQ(*(strrchr(text, ')') + 2), 'R');
}

GUEST_TEST(Proc, StatNameWithBrackets) {
  MUST(prctl(PR_SET_NAME, "a) b (c"));
  EXPECT_NE(strstr(Read("/proc/self/stat"), " (a) b (c) R "), nullptr);
  EXPECT_NE(strstr(Read("/proc/self/status"), "Name:\ta) b (c\n"), nullptr);
}

GUEST_TEST(Proc, StartTimeGrowsWithThePid) {
  const long mine = StatField(getpid(), 22);
  SleepMs(30);
  const pid_t pid = Fork([] { pause(); });
  EXPECT_GT(StatField(pid, 22), mine);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(Proc, StatusFields) {
  EXPECT_EQ(ProcField("/proc/self/status", "Pid"), getpid());
  EXPECT_EQ(ProcField("/proc/self/status", "Tgid"), getpid());
  EXPECT_EQ(ProcField("/proc/self/status", "PPid"), getppid());
  EXPECT_EQ(ProcField("/proc/self/status", "Threads"), 1);
  EXPECT_EQ(ProcField("/proc/self/status", "TracerPid"), 0);
  EXPECT_GT(ProcField("/proc/self/status", "VmRSS"), 0);
  EXPECT_GE(ProcField("/proc/self/status", "VmPeak"), ProcField("/proc/self/status", "VmSize"));
}

GUEST_TEST(Proc, StatusSignalMasks) {
  Block({SIGUSR1});
  raise(SIGUSR1);
  signal(SIGUSR2, SIG_IGN);
  CountSignals(SIGTERM);
  CheckpointHere();
  auto bit = [](int number) { return 1LL << (number - 1); };
  EXPECT(ProcField("/proc/self/status", "SigBlk", 16) & bit(SIGUSR1));
  EXPECT((ProcField("/proc/self/status", "SigPnd", 16) | ProcField("/proc/self/status", "ShdPnd", 16)) & bit(SIGUSR1));
  EXPECT(ProcField("/proc/self/status", "SigIgn", 16) & bit(SIGUSR2));
  EXPECT(ProcField("/proc/self/status", "SigCgt", 16) & bit(SIGTERM));
}

GUEST_TEST(Proc, StatmAgrees) {
  long size = 0, resident = 0;
  EXPECT_EQ(sscanf(Read("/proc/self/statm"), "%ld %ld", &size, &resident), 2);
  EXPECT_EQ(size * 4, ProcField("/proc/self/status", "VmSize"));
  EXPECT_LE(resident, size);
}

GUEST_TEST(Proc, CommandLine) {
  const size_t length = ReadFile("/proc/self/cmdline", text, sizeof(text));
  EXPECT_GT(length, strlen(SelfPath()));
  EXPECT_STREQ(text, SelfPath());
  EXPECT_EQ(text[length - 1], '\0');
  const pid_t pid = Fork([] {});
  AwaitState(pid, pid, 'Z');
  EXPECT_EQ(ReadFile(Str("/proc/%d/cmdline", pid), text, sizeof(text)),
            0);  // A zombie has no memory.
  WaitStatus(pid);
}

GUEST_TEST(Proc, CommCanBeWritten) {
  const int fd = MUST(open("/proc/self/comm", O_WRONLY));
  EXPECT_EQ(write(fd, "renamed", 7), 7);
  EXPECT_STREQ(Read("/proc/self/comm"), "renamed\n");
  char name[16] = {};
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_STREQ(name, "renamed");
}

GUEST_TEST(Proc, FdFolder) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  const int fd = MUST(open(dir / "f", O_RDWR));
  MUST(dup2(fd, 55));
  char link[256] = {};
  CheckpointHere();
  MUST(readlink("/proc/self/fd/55", link, sizeof(link) - 1));
  EXPECT_STREQ(link, dir / "f");
  EXPECT(Listed("/proc/self/fd", "55"));
  close(55);
  EXPECT(!Listed("/proc/self/fd", "55"));
  EXPECT_ERRNO(readlink("/proc/self/fd/55", link, sizeof(link)), ENOENT);
  struct stat status = {};
  MUST(lstat(Str("/proc/self/fd/%d", fd), &status));
  EXPECT(S_ISLNK(status.st_mode));
}

GUEST_TEST(Proc, FdinfoTellsOffsetAndFlags) {
  const int fd = TempFile("0123456789");
  MUST(lseek(fd, 4, SEEK_SET));
  CheckpointHere();
  const Str path("/proc/self/fdinfo/%d", fd);
  EXPECT_EQ(ProcField(path, "pos"), 4);
  EXPECT_EQ(ProcField(path, "flags", 8) & O_ACCMODE, O_RDWR);
}

GUEST_TEST(Proc, CwdAndRoot) {
  TempDir dir;
  MUST(chdir(dir.path()));
  char link[256] = {};
  MUST(readlink("/proc/self/cwd", link, sizeof(link) - 1));
  EXPECT_STREQ(link, dir.path());
  memset(link, 0, sizeof(link));
  MUST(readlink("/proc/self/root", link, sizeof(link) - 1));
  EXPECT_STREQ(link, "/");
  WriteFile("f", "x");
  EXPECT_OK(access("/proc/self/cwd/f", F_OK));
}

GUEST_TEST(Proc, TaskFolder) {
  EXPECT_EQ(Count("/proc/self/task"), 1);
  Gate go;
  Thread other([&] { go.Await(); });
  other.AwaitAsleep();
  CheckpointHere();
  EXPECT_EQ(Count("/proc/self/task"), 2);
  EXPECT(Listed("/proc/self/task", Str("%d", other.tid())));
  EXPECT_EQ(ProcField(Str("/proc/self/task/%d/status", other.tid()), "Pid"), other.tid());
  EXPECT_EQ(ProcField(Str("/proc/self/task/%d/status", other.tid()), "Tgid"), getpid());
  go.Open();
  other.Join();
  for (int i = 0; i < 2000 && Count("/proc/self/task") != 1; ++i) SleepMs(1);
  EXPECT_EQ(Count("/proc/self/task"), 1);
}

// Chromium's zygotes take a number of links other than 3 for a second thread.
GUEST_TEST(Proc, TaskFolderHasALinkForEachThread) {
  struct stat st = {};
  MUST(stat("/proc/self/task", &st));
  EXPECT_EQ(st.st_nlink, 3u);
  Gate go;
  Thread other([&] { go.Await(); });
  other.AwaitAsleep();
  CheckpointHere();
  MUST(stat("/proc/self/task", &st));
  EXPECT_EQ(st.st_nlink, 4u);
  go.Open();
}

GUEST_TEST(Proc, DescriptorFolderHasItsNumberAsSize) {
  struct stat before = {}, after = {};
  MUST(stat("/proc/self/fd", &before));
  if (before.st_size == 0) Skip("Linux has it since 6.2");
  MUST(dup(0));
  MUST(stat("/proc/self/fd", &after));
  EXPECT_EQ(after.st_size, before.st_size + 1);
}

GUEST_TEST(Proc, ProcessesComeAndGo) {
  const pid_t pid = Fork([] { pause(); });
  EXPECT(Listed("/proc", Str("%d", pid)));
  kill(pid, SIGKILL);
  WaitStatus(pid);
  EXPECT(!Listed("/proc", Str("%d", pid)));
  EXPECT_ERRNO(open(Str("/proc/%d/stat", pid), O_RDONLY), ENOENT);
}

GUEST_TEST(Proc, OpenFileOfAGoneProcess) {
  const pid_t pid = Fork([] { pause(); });
  const int fd = MUST(open(Str("/proc/%d/stat", pid), O_RDONLY));
  const int folder = MUST(open(Str("/proc/%d", pid), O_RDONLY));
  kill(pid, SIGKILL);
  WaitStatus(pid);
  char byte;
  EXPECT_ERRNO(read(fd, &byte, 1), ESRCH);
  EXPECT_ERRNO(openat(folder, "stat", O_RDONLY), ESRCH);
}

GUEST_TEST(Proc, ChildrenOfAThread) {
  const Str path("/proc/self/task/%d/children", getpid());
  if (access(path, R_OK) != 0) Skip("the kernel has no children file");
  EXPECT_STREQ(Read(path), "");
  const pid_t a = Fork([] { pause(); }), b = Fork([] { pause(); });
  EXPECT_STREQ(Read(path), Str("%d %d ", a, b));
  Thread other([&] {
    // A thread's own children are not the first one's.
    const pid_t c = Fork([] { pause(); });
    EXPECT_STREQ(Read(Str("/proc/self/task/%ld/children", syscall(SYS_gettid))), Str("%d ", c));
    kill(c, SIGKILL);
    WaitStatus(c);
  });
  other.Join();
  EXPECT_ERRNO(access("/proc/self/children", F_OK), ENOENT);
  EXPECT_STREQ(Read(path), Str("%d %d ", a, b));
  kill(a, SIGKILL);
  kill(b, SIGKILL);
  WaitStatus(a);
  WaitStatus(b);
}

GUEST_TEST(Proc, Meminfo) {
  const int64_t total = ProcField("/proc/meminfo", "MemTotal");
  EXPECT_GT(total, 0);
  EXPECT_LE(ProcField("/proc/meminfo", "MemFree"), total);
  EXPECT_LE(ProcField("/proc/meminfo", "MemAvailable"), total);
  EXPECT_GE(ProcField("/proc/meminfo", "SwapTotal"), 0);
  struct sysinfo info = {};
  MUST(sysinfo(&info));
  EXPECT_EQ(static_cast<int64_t>(info.totalram * info.mem_unit / 1024), total);
}

GUEST_TEST(Proc, Cpuinfo) {
  int processors = 0;
  Read("/proc/cpuinfo");
  for (const char* at = text; (at = strstr(at, "processor\t:")) != nullptr; ++at) ++processors;
  EXPECT_EQ(processors, sysconf(_SC_NPROCESSORS_ONLN));
  EXPECT_NE(strstr(text, "flags\t\t: "), nullptr);
  EXPECT_NE(strstr(text, "model name\t: "), nullptr);
}

GUEST_TEST(Proc, UptimeAndLoad) {
  double first = 0, second = 0;
  EXPECT_EQ(sscanf(Read("/proc/uptime"), "%lf", &first), 1);
  SleepMs(50);
  EXPECT_EQ(sscanf(Read("/proc/uptime"), "%lf", &second), 1);
  EXPECT_GE(second - first, 0.03);
  double load = -1;
  int running = 0, all = 0;
  EXPECT_EQ(sscanf(Read("/proc/loadavg"), "%lf %*f %*f %d/%d", &load, &running, &all), 3);
  EXPECT_GE(load, 0.0);
  EXPECT_GE(running, 1);
  EXPECT_GE(all, running);
}

GUEST_TEST(Proc, StatOfTheMachine) {
  Read("/proc/stat");
  EXPECT_EQ(strncmp(text, "cpu  ", 5), 0);
  EXPECT_NE(strstr(text, "\ncpu0 "), nullptr);
  const char* boot = strstr(text, "\nbtime ");
  ASSERT_NE(boot, nullptr);
  EXPECT_LE(atol(boot + 7), time(nullptr));
  EXPECT_NE(strstr(text, "\nprocesses "), nullptr);
}

GUEST_TEST(Proc, Mounts) {
  Read("/proc/mounts");
  EXPECT_NE(strstr(text, " / "), nullptr);
  EXPECT_NE(strstr(text, " /proc proc "), nullptr);
  Read("/proc/self/mountinfo");
  EXPECT_NE(strstr(text, " - proc "), nullptr);
  Read("/proc/filesystems");
  EXPECT_NE(strstr(text, "nodev\tproc\n"), nullptr);
  EXPECT_NE(strstr(text, "nodev\ttmpfs\n"), nullptr);
}

GUEST_TEST(Proc, VersionNamesLinux) { EXPECT_EQ(strncmp(Read("/proc/version"), "Linux version ", 14), 0); }

GUEST_TEST(Proc, Sysctl) {
  EXPECT_GT(atoi(Read("/proc/sys/kernel/pid_max")), 300);
  EXPECT_EQ(strncmp(Read("/proc/sys/kernel/ostype"), "Linux", 5), 0);
  EXPECT_GT(atol(Read("/proc/sys/fs/nr_open")), 1000);
  EXPECT_GE(atoi(Read("/proc/sys/vm/overcommit_memory")), 0);
  char id[64];
  EXPECT_EQ(ReadFile("/proc/sys/kernel/random/boot_id", id, sizeof(id)), 37);
  EXPECT_EQ(ReadFile("/proc/sys/kernel/random/uuid", id, sizeof(id)), 37);
  EXPECT_NE(strcmp(id, Read("/proc/sys/kernel/random/uuid")), 0);
}

GUEST_TEST(Proc, PartialReads) {
  const int fd = MUST(open("/proc/self/status", O_RDONLY));
  char whole[4096] = {}, pieces[4096] = {};
  const ssize_t length = MUST(pread(fd, whole, sizeof(whole), 0));
  ssize_t done = 0;
  for (ssize_t n = 0; (n = read(fd, pieces + done, 7)) > 0;) done += n;
  EXPECT_EQ(done, length);
  EXPECT_EQ(strncmp(pieces, whole, 40), 0);
  EXPECT_EQ(pread(fd, pieces, 10, 1 << 20), 0);
  EXPECT_EQ(lseek(fd, 5, SEEK_SET), 5);
  EXPECT_EQ(read(fd, pieces, 5), 5);
  EXPECT_EQ(memcmp(pieces, whole + 5, 5), 0);
}

GUEST_TEST(Proc, FilesCannotBeMade) {
  EXPECT_ERRNO(open("/proc/new", O_CREAT | O_WRONLY, 0600), ENOENT);
  EXPECT_ERRNO(mkdir("/proc/new", 0700), ENOENT);
  EXPECT_ERRNO(unlink("/proc/meminfo"), geteuid() == 0 ? EPERM : EACCES);
  struct stat status = {};
  MUST(stat("/proc/self/stat", &status));
  EXPECT_EQ(status.st_size, 0);
  EXPECT(S_ISREG(status.st_mode));
}

GUEST_TEST(Proc, OomScore) {
  EXPECT_EQ(atoi(Read("/proc/self/oom_score_adj")), atoi(Read(Str("/proc/%d/oom_score_adj", getppid()))));
  const int fd = MUST(open("/proc/self/oom_score_adj", O_WRONLY));
  MUST(write(fd, "500", 3));
  CheckpointHere();
  EXPECT_STREQ(Read("/proc/self/oom_score_adj"), "500\n");
  EXPECT_ERRNO(write(fd, "1001", 4), EINVAL);
  JOIN_OK(Fork([] { EXPECT_STREQ(Read("/proc/self/oom_score_adj"), "500\n"); }));
}

GUEST_TEST(Proc, NamespaceLinks) {
  char mine[64] = {}, theirs[64] = {};
  for (const char* name : {"pid", "mnt", "uts", "ipc", "net", "user"}) {
    memset(mine, 0, sizeof(mine));
    MUST(readlink(Str("/proc/self/ns/%s", name), mine, sizeof(mine) - 1));
    EXPECT_EQ(strncmp(mine, name, strlen(name)), 0);
    EXPECT_EQ(mine[strlen(name)], ':');
  }
  memset(mine, 0, sizeof(mine));
  MUST(readlink("/proc/self/ns/pid", mine, sizeof(mine) - 1));
  const pid_t pid = Fork([] { pause(); });
  MUST(readlink(Str("/proc/%d/ns/pid", pid), theirs, sizeof(theirs) - 1));
  EXPECT_STREQ(theirs, mine);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(Proc, Smaps) {
  char* memory = Pages(16);
  memset(memory, 1, 8 * kPage);
  Read("/proc/self/smaps");
  const char* line = strstr(text, Str("%lx-", reinterpret_cast<unsigned long>(memory)));
  if (line == nullptr) Skip("the mapping was merged with a neighbour");
  const char* rss = strstr(line, "Rss:");
  ASSERT_NE(rss, nullptr);
  EXPECT_GE(atoi(rss + 4), 32);
}

namespace {

// What /proc/self/pagemap says of the page at `at`.
uint64_t PageWord(int pagemap, const void* at) {
  uint64_t word = 0;
  EXPECT_EQ(pread(pagemap, &word, 8, static_cast<off_t>(reinterpret_cast<uintptr_t>(at) / kPage * 8)), 8);
  return word;
}

}  // namespace

GUEST_TEST(ProcPagemap, TellsWhatPagesAre) {
  constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62, kFile = uint64_t{1} << 61;
  constexpr uint64_t kKinds = kPresent | kSwapped | kFile;
  const int pagemap = MUST(open("/proc/self/pagemap", O_RDONLY));
  auto map = [](int flags, int fd) { return static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, flags, fd, 0)); };
  char* own = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  char* shared = map(MAP_SHARED | MAP_ANONYMOUS, -1);
  own[0] = shared[0] = 'x';
  CheckpointHere();
  EXPECT_EQ(own[0] + shared[0], 2 * 'x');
  EXPECT_EQ(PageWord(pagemap, own) & kKinds, kPresent);
  EXPECT_EQ(PageWord(pagemap, own + kPage), 0u);
  EXPECT_EQ(PageWord(pagemap, shared) & kKinds, kPresent | kFile);
  uint64_t both[2];
  EXPECT_EQ(pread(pagemap, both, 16, static_cast<off_t>(reinterpret_cast<uintptr_t>(own) / kPage * 8)), 16);
  EXPECT_EQ(both[0] & kKinds, kPresent);
  EXPECT_EQ(both[1], 0u);
  MUST(madvise(own, kPage, MADV_DONTNEED));
  EXPECT_EQ(PageWord(pagemap, own), 0u);
  MUST(munmap(shared, 2 * kPage));
  EXPECT_EQ(PageWord(pagemap, shared), 0u);
  EXPECT_ERRNO(pread(pagemap, both, 8, 1), EINVAL);
  EXPECT_ERRNO(pread(pagemap, both, 7, 0), EINVAL);
  EXPECT_EQ(pread(pagemap, both, 8, static_cast<off_t>((uint64_t{1} << 47) / kPage * 8)), 0);
}
