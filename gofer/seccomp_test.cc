#include "gofer/seccomp.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <sstream>

namespace amber::gofer {
namespace {

// Runs `body` in a child under the filter; returns the signal that ended it, or 0.
int SignalOf(const std::function<void()>& body, bool sockets = false) {
  pid_t child = fork();
  if (child == 0) {
    if (!InstallSeccompFilter(sockets).ok()) _exit(3);
    body();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  if (WIFEXITED(status)) EXPECT_EQ(WEXITSTATUS(status), 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(Seccomp, MatchesTheReviewedList) {
  std::ifstream file("gofer/testdata/seccomp.golden");
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(golden.str(), DescribeSeccompFilter()) << "If the change is intended, replace gofer/testdata/seccomp.golden by this output.";
}

TEST(Seccomp, AllowsWhatTheServerDoes) {
  EXPECT_EQ(SignalOf([] {
              int fd = open("/", O_PATH);
              close(fcntl(fd, F_DUPFD_CLOEXEC, 0));
              free(malloc(1 << 22));
            }),
            0);
}

TEST(Seccomp, EndsTheProcessForEverythingElse) {
  EXPECT_EQ(SignalOf([] { socket(AF_INET, SOCK_STREAM, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { execl("/bin/true", "true", nullptr); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { fork(); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { kill(1, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { open("/tmp/gofer_seccomp_test", O_CREAT | O_RDWR, 0600); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { fcntl(0, F_SETFL, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { (void)!write(1, "x", 1); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { syscall(SYS_getpid | 0x40000000); }), SIGSYS);  // the x32 numbers
  EXPECT_EQ(SignalOf([] { asm volatile("int $0x80" ::"a"(20) : "memory"); }), SIGSYS);
}

TEST(Seccomp, UnixSocketsAreMadeWithTheOptionOnly) {
  EXPECT_EQ(SignalOf([] { socket(AF_UNIX, SOCK_STREAM, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { close(socket(AF_UNIX, SOCK_STREAM, 0)); }, true), 0);
  EXPECT_EQ(SignalOf([] { socket(AF_INET, SOCK_STREAM, 0); }, true), SIGSYS);
  EXPECT_EQ(SignalOf([] { connect(0, nullptr, 0); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { listen(0, 1); }, true), SIGSYS);
  EXPECT_EQ(SignalOf([] { syscall(SYS_setresuid, -1, -1, -1); }, true), 0);
  EXPECT_EQ(SignalOf([] { syscall(SYS_setresuid, 0, -1, -1); }, true), SIGSYS);
  EXPECT_EQ(SignalOf([] { syscall(SYS_setresuid, -1, 0, -1); }), SIGSYS);
  EXPECT_EQ(SignalOf([] { syscall(SYS_setgroups, 0, nullptr); }), SIGSYS);
}

}  // namespace
}  // namespace amber::gofer
