// Mount options of proc(5) and tmpfs(5), and files of /proc/PID that few programs read or write.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A folder of its own, in a mount namespace of its own.
struct OwnMounts {
  char folder[32] = "/tmp/mounts-XXXXXX";
  OwnMounts() {
    if (geteuid() != 0) Skip("needs root");
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    MUST(mkdtemp(folder) != nullptr ? 0 : -1);
    MUST(chmod(folder, 0755));
    MUST(chdir(folder));
    MUST(mkdir("p", 0755));
  }
};

// The options of the file system that is mounted at "p", as /proc/self/mountinfo shows them.
void Options(const char* folder, char* out, size_t size) {
  static char text[1 << 16];
  memset(text, 0, sizeof(text));
  ReadFile("/proc/self/mountinfo", text, sizeof(text) - 1);
  out[0] = 0;
  for (char* line = strtok(text, "\n"); line != nullptr; line = strtok(nullptr, "\n")) {
    char* at = strstr(line, folder);
    char* dash = strstr(line, " - ");
    if (at == nullptr || dash == nullptr) continue;
    char* last = strrchr(dash, ' ');
    snprintf(out, size, "%s", last + 1);
  }
}

bool Shown(const char* options, const char* wanted) { return strstr(options, wanted) != nullptr; }

bool Lists(const char* folder, const char* name) {
  DIR* dir = opendir(folder);
  if (dir == nullptr) return false;
  bool found = false;
  while (dirent* entry = readdir(dir)) found |= strcmp(entry->d_name, name) == 0;
  closedir(dir);
  return found;
}

long WriteText(const char* file, const char* text) {
  int fd = open(file, O_WRONLY);
  if (fd < 0) return -1;
  long n = write(fd, text, strlen(text));
  int error = errno;
  close(fd);
  errno = error;
  return n;
}

}  // namespace

GUEST_TEST(ProcHiding, ProcessesOfOthers) {
  OwnMounts own;
  char options[256], other[32];
  snprintf(other, sizeof(other), "p/%d", getpid());
  char status[64];
  snprintf(status, sizeof(status), "%s/status", other);
  for (const char* how : {"hidepid=1", "hidepid=invisible", "hidepid=4"}) {
    EXPECT_EQ(mount("s", "p", "proc", 0, how), 0);
    Options(own.folder, options, sizeof(options));
    EXPECT(Shown(options, how[8] == '1' ? "hidepid=noaccess" : how[8] == '4' ? "hidepid=ptraceable" : "hidepid=invisible"));
    EXPECT_EQ(access(status, R_OK), 0);
    CheckpointHere();
    JOIN_OK(Fork([&] {
      MUST(setresgid(1000, 1000, 1000));
      MUST(setresuid(1000, 1000, 1000));
      struct stat st;
      bool there = how[8] == '1';
      if (how[8] != '4') EXPECT_EQ(stat(other, &st), there ? 0 : -1);
      EXPECT_EQ(open(status, O_RDONLY), -1);
      // With "ptraceable" Linux says the one or the other, by what it has in its cache.
      EXPECT(errno == (there ? EPERM : ENOENT) || (how[8] == '4' && errno == EPERM));
      EXPECT_EQ(Lists("p", other + 2), there);
      EXPECT_EQ(access("p/self/status", R_OK), 0);
      EXPECT_EQ(access("p/version", R_OK), 0);
    }));
    EXPECT_EQ(umount("p"), 0);
  }
}

GUEST_TEST(ProcHiding, AGroupThatSees) {
  OwnMounts own;
  EXPECT_EQ(mount("s", "p", "proc", 0, "hidepid=2,gid=1234"), 0);
  char status[64];
  snprintf(status, sizeof(status), "p/%d/status", getpid());
  JOIN_OK(Fork([&] {
    MUST(setresgid(1234, 1234, 1234));
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_EQ(access(status, R_OK), 0);
  }));
}

GUEST_TEST(ProcHiding, ProcessesAlone) {
  OwnMounts own;
  EXPECT_EQ(mount("s", "p", "proc", 0, "subset=pid"), 0);
  CheckpointHere();
  char options[256];
  Options(own.folder, options, sizeof(options));
  EXPECT(Shown(options, "subset=pid"));
  EXPECT_EQ(access("p/self/status", F_OK), 0);
  EXPECT_ERRNO(access("p/version", F_OK), ENOENT);
  EXPECT_ERRNO(access("p/sys", F_OK), ENOENT);
  EXPECT(!Lists("p", "meminfo"));
  EXPECT(Lists("p", "self"));
}

GUEST_TEST(ProcHiding, OptionsThatMakeNoSense) {
  OwnMounts own;
  for (const char* bad : {"hidepid=3", "hidepid=5", "hidepid=x", "gid=-1", "subset=x", "subset=", "bogus"}) {
    EXPECT_ERRNO(mount("s", "p", "proc", 0, bad), EINVAL);
  }
  EXPECT_EQ(mount("s", "p", "proc", 0, nullptr), 0);
  EXPECT_EQ(mount(nullptr, "p", nullptr, MS_REMOUNT, "hidepid=2"), 0);
  char options[256];
  Options(own.folder, options, sizeof(options));
  EXPECT(Shown(options, "hidepid=invisible"));
  EXPECT_ERRNO(mount(nullptr, "p", nullptr, MS_REMOUNT, "bogus"), EINVAL);
}

GUEST_TEST(ProcHiding, TmpfsOfAnotherSize) {
  OwnMounts own;
  EXPECT_EQ(mount("s", "p", "tmpfs", 0, "size=1m,ro"), 0);
  EXPECT_ERRNO(open("p/f", O_CREAT | O_RDWR, 0600), EROFS);
  EXPECT_EQ(mount(nullptr, "p", nullptr, MS_REMOUNT, "size=2m"), 0);
  struct statfs stats;
  EXPECT_EQ(statfs("p", &stats), 0);
  EXPECT_EQ(stats.f_blocks, 512u);
  int fd = MUST(open("p/f", O_CREAT | O_RDWR, 0600));
  static char bytes[1 << 20];
  memset(bytes, 'x', sizeof(bytes));
  EXPECT_EQ(write(fd, bytes, sizeof(bytes)), 1 << 20);
  CheckpointHere();
  // Not below what is there.
  EXPECT_ERRNO(mount(nullptr, "p", nullptr, MS_REMOUNT, "size=64k"), EINVAL);
  EXPECT_ERRNO(mount(nullptr, "p", nullptr, MS_REMOUNT, "bogus=1"), EINVAL);
  EXPECT_EQ(statfs("p", &stats), 0);
  EXPECT_EQ(stats.f_blocks, 512u);
}

GUEST_TEST(ProcHiding, MountArguments) {
  OwnMounts own;
  EXPECT_ERRNO(mount(nullptr, "p", nullptr, MS_BIND, nullptr), EINVAL);
  EXPECT_ERRNO(mount("", "p", nullptr, MS_BIND, nullptr), EINVAL);
  EXPECT_ERRNO(mount(nullptr, "p", nullptr, MS_MOVE, nullptr), EINVAL);
  EXPECT_ERRNO(umount2("nx", MNT_EXPIRE | MNT_FORCE), ENOENT);
  EXPECT_ERRNO(umount2("nx", 64), EINVAL);
}

GUEST_TEST(ProcHiding, NumbersThatAreWritten) {
  const char* score = "/proc/self/oom_score_adj";
  EXPECT_EQ(WriteText(score, " 5 "), 3);
  EXPECT_EQ(WriteText(score, "0x10"), 4);
  EXPECT_EQ(WriteText(score, "+17"), 3);
  EXPECT_ERRNO(WriteText(score, "1001"), EINVAL);
  EXPECT_ERRNO(WriteText(score, "- 5"), EINVAL);
  EXPECT_ERRNO(WriteText(score, "999999999999"), ERANGE);
  EXPECT_ERRNO(WriteText("/proc/self/clear_refs", "0"), EINVAL);
  EXPECT_ERRNO(WriteText("/proc/self/clear_refs", "16"), EINVAL);
  EXPECT_EQ(WriteText("/proc/self/clear_refs", "1\n"), 2);
  EXPECT_EQ(WriteText("/proc/self/coredump_filter", "+5"), 2);
  // Files that take nothing.
  int fd = MUST(open("/proc/self/comm", O_RDONLY));
  EXPECT_ERRNO(lseek(fd, 0, SEEK_END), EINVAL);
  EXPECT_EQ(lseek(MUST(open("/proc/self/cmdline", O_RDONLY)), 0, SEEK_END), 0);
  if (geteuid() == 0) EXPECT_ERRNO(WriteText("/proc/self/status", "x"), EINVAL);
}

GUEST_TEST(ProcHiding, WhoLoggedIn) {
  if (geteuid() != 0) Skip("needs root");
  char before[32] = {}, after[32] = {};
  ReadFile("/proc/self/loginuid", before, sizeof(before));
  if (strcmp(before, "4294967295") != 0) Skip("somebody is logged in");
  JOIN_OK(Fork([&] {
    EXPECT_ERRNO(WriteText("/proc/self/loginuid", "x"), EINVAL);
    EXPECT_ERRNO(WriteText("/proc/self/loginuid", "99999999999"), ERANGE);
    EXPECT_EQ(WriteText("/proc/self/loginuid", "1000"), 4);
    CheckpointHere();
    ReadFile("/proc/self/loginuid", after, sizeof(after));
    EXPECT_EQ(strcmp(after, "1000"), 0);
    JOIN_OK(Fork([&] {
      ReadFile("/proc/self/loginuid", after, sizeof(after));
      EXPECT_EQ(strcmp(after, "1000"), 0);
      char session[32] = {};
      ReadFile("/proc/self/sessionid", session, sizeof(session));
      EXPECT(strcmp(session, "4294967295") != 0);
    }));
  }));
}

GUEST_TEST(ProcHiding, TimersAreShown) {
  char text[512] = {};
  struct sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  timer_t timer;
  MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
  CheckpointHere();
  ReadFile("/proc/self/timers", text, sizeof(text) - 1);
  char wanted[64];
  snprintf(wanted, sizeof(wanted), "signal: %d/", SIGUSR1);
  EXPECT(strstr(text, wanted) != nullptr);
  snprintf(wanted, sizeof(wanted), "notify: signal/pid.%d\nClockID: 1\n", getpid());
  EXPECT(strstr(text, wanted) != nullptr);
}
