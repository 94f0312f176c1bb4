// Runs the tests as a sentry runs: as pid 1 of a pid namespace of its own, in a user namespace
// without capabilities outside, with a proc of its own.
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace {

void WriteFile(const char* path, const char* format, int value) {
  FILE* file = fopen(path, "we");
  if (file == nullptr) return;
  fprintf(file, format, value);
  fclose(file);
}

}  // namespace

#if __has_feature(address_sanitizer)
// LeakSanitizer stops the process by a tracer, which it cannot start in the namespaces; the same tests run outside of them, too.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

int main(int argc, char** argv) {
  int uid = static_cast<int>(getuid()), gid = static_cast<int>(getgid());
  if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS) != 0) {
    printf("SKIPPED: this host gives no user namespaces\n");
    return 0;
  }
  WriteFile("/proc/self/setgroups", "deny", 0);
  WriteFile("/proc/self/uid_map", "0 %d 1\n", uid);
  WriteFile("/proc/self/gid_map", "0 %d 1\n", gid);
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (mount("proc", "/proc", "proc", 0, nullptr) != 0) {
      printf("SKIPPED: no proc can be mounted here\n");
      _exit(0);
    }
    testing::InitGoogleTest(&argc, argv);
    _exit(RUN_ALL_TESTS());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
