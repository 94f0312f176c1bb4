#include "runsc-cli/waiter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace amber::cli {
namespace {

struct Started {
  UniqueFd sentry;
  pid_t pid;
};

Started Start(WaiterOptions options = {}) {
  absl::StatusOr<WaiterStream> stream = MakeWaiterStream();
  EXPECT_TRUE(stream.ok());
  options.stream = stream->waiter.get();
  absl::StatusOr<pid_t> pid = StartWaiter(options);
  EXPECT_TRUE(pid.ok()) << pid.status();
  return {std::move(stream->sentry), pid.value_or(-1)};
}

int Reap(pid_t pid) {
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

void Send(const Started& waiter, int32_t status) { EXPECT_EQ(send(waiter.sentry.get(), &status, sizeof(status), 0), 4); }

TEST(Waiter, MirrorsExitCodes) {
  for (int code : {0, 1, 42, 255}) {
    Started waiter = Start();
    Send(waiter, code << 8);
    int status = Reap(waiter.pid);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), code);
  }
}

TEST(Waiter, DiesOfTheSameSignal) {
  for (int signal : {SIGKILL, SIGTERM, SIGSEGV, SIGABRT, SIGSYS, 40}) {
    Started waiter = Start();
    Send(waiter, signal | 0x80);  // with a core dump
    int status = Reap(waiter.pid);
    EXPECT_TRUE(WIFSIGNALED(status)) << signal;
    EXPECT_EQ(WTERMSIG(status), signal);
    EXPECT_FALSE(WCOREDUMP(status));
  }
}

TEST(Waiter, EndsWithTheSentry) {
  Started waiter = Start();
  waiter.sentry.reset();
  int status = Reap(waiter.pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(Waiter, ForwardsSignalsAndItsOwnDeath) {
  Started waiter = Start();
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE, 50}) {
    kill(waiter.pid, signal);
    int32_t message = 0;
    ASSERT_EQ(recv(waiter.sentry.get(), &message, sizeof(message), 0), 4);
    EXPECT_EQ(message, signal);
  }
  kill(waiter.pid, SIGWINCH);
  int32_t message = 0;
  ASSERT_EQ(recv(waiter.sentry.get(), &message, sizeof(message), 0), 4);
  EXPECT_EQ(message, 1001);
  kill(waiter.pid, SIGKILL);
  EXPECT_EQ(recv(waiter.sentry.get(), &message, sizeof(message), 0), 0);
  Reap(waiter.pid);
}

TEST(Waiter, IsTiny) {
  // Whatever the parent holds in memory.
  std::vector<char> ballast(64 << 20, 'x');
  Started waiter = Start();
  kill(waiter.pid, SIGUSR1);
  int32_t message;
  ASSERT_EQ(recv(waiter.sentry.get(), &message, sizeof(message), 0), 4);
  std::ifstream file(absl::StrCat("/proc/", waiter.pid, "/smaps_rollup"));
  std::string line;
  long kilobytes = -1;
  while (std::getline(file, line)) {
    if (line.starts_with("Private_Dirty:")) kilobytes = atol(line.c_str() + 14);
  }
  EXPECT_GE(kilobytes, 0);
  EXPECT_LE(kilobytes, 64);
  Send(waiter, 0);
  Reap(waiter.pid);
}

TEST(Waiter, CleansUpAfterItsOwner) {
  std::string directory = ::testing::TempDir() + "/waiter-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  std::string file = directory + "/state.json";
  close(open(file.c_str(), O_CREAT | O_WRONLY, 0600));
  pid_t owner = fork();
  if (owner == 0) {
    pause();
    _exit(0);
  }
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, owner, 0)));
  WaiterOptions options;
  options.owner = pidfd.get();
  options.cleanup = {{CleanupStep::Kind::kUnlink, file}, {CleanupStep::Kind::kRemoveDirectory, directory}};
  Started waiter = Start(options);
  kill(owner, SIGKILL);
  Reap(owner);
  int32_t message;
  EXPECT_EQ(recv(waiter.sentry.get(), &message, sizeof(message), 0), 0);
  int status = Reap(waiter.pid);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_NE(access(directory.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace amber::cli
