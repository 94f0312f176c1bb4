#include "runsc-cli/state.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string TemporaryRoot() {
  std::string path = ::testing::TempDir() + "/state-XXXXXX";
  return std::string(mkdtemp(path.data())) + "/a/b";
}

State Sample(const std::string& id) {
  State state;
  state.id = id;
  state.status = "running";
  state.bundle = "/b";
  state.annotations["k"] = "v\xff";
  state.waiter = ProcessRef::Of(getpid());
  state.sentry = ProcessRef::Of(getpid());
  state.host_sockets = true;
  state.cgroups = {"/sys/fs/cgroup/x"};
  state.poststop.push_back({.path = "/bin/true", .args = {"true"}, .env = {}, .timeout_s = 2});
  return state;
}

TEST(Ids, OnlySafeOnes) {
  for (const char* good : {"a", "A-b_c.d+e", "0123", "..."}) EXPECT_TRUE(CheckId(good).ok()) << good;
  for (const char* bad : {"", ".", "..", "a/b", "/", "a b", "a\n", "\xc3\xa4", "a:b"}) EXPECT_FALSE(CheckId(bad).ok()) << bad;
  EXPECT_FALSE(CheckId(std::string(256, 'a')).ok());
  EXPECT_FALSE(CheckId(std::string_view("a\0b", 3)).ok());
}

TEST(StateDir, SavesAndLoads) {
  std::string root = TemporaryRoot();
  {
    absl::StatusOr<StateDir> dir = StateDir::Create(root, "c1", false);
    ASSERT_TRUE(dir.ok()) << dir.status();
    ASSERT_TRUE(dir->Save(Sample("c1")).ok());
  }
  absl::StatusOr<State> state = StateDir::Read(root, "c1");
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->Status(), "running");
  EXPECT_EQ(state->poststop[0].timeout_s, 2);
  EXPECT_TRUE(state->host_sockets);
  EXPECT_EQ(state->waiter.start, ProcessRef::Of(getpid()).start);
  EXPECT_THAT(*StateDir::List(root), ElementsAre("c1"));
  EXPECT_THAT(std::string(StateDir::Create(root, "c1", true).status().message()), HasSubstr("exists already"));
  absl::StatusOr<StateDir> again = StateDir::OpenLocked(root, "c1");
  ASSERT_TRUE(again.ok());
  ASSERT_TRUE(again->Remove().ok());
  EXPECT_THAT(std::string(StateDir::Read(root, "c1").status().message()), HasSubstr("does not exist"));
  EXPECT_THAT(std::string(StateDir::OpenLocked(root, "c1").status().message()), HasSubstr("does not exist"));
}

TEST(StateDir, StaleOnesAreTakenOver) {
  std::string root = TemporaryRoot();
  ASSERT_TRUE(MakeDirectories(root + "/dead", 0700).ok());
  EXPECT_TRUE(StateDir::Create(root, "dead", false).ok());
  // A stopped container stays until it is deleted, unless a restore replaces it.
  State stopped = Sample("old");
  stopped.sentry = {1 << 22, 1};
  {
    absl::StatusOr<StateDir> dir = StateDir::Create(root, "old", false);
    ASSERT_TRUE(dir.ok() && dir->Save(stopped).ok());
  }
  EXPECT_EQ(StateDir::Read(root, "old")->Status(), "stopped");
  EXPECT_FALSE(StateDir::Create(root, "old", false).ok());
  EXPECT_TRUE(StateDir::Create(root, "old", true).ok());
}

TEST(StateDir, BrokenFilesAreErrors) {
  EXPECT_FALSE(ParseState("").ok());
  EXPECT_FALSE(ParseState("{}").ok());
  EXPECT_FALSE(ParseState(R"({"version":2})").ok());
  EXPECT_FALSE(ParseState(R"({"version":1,"id":7})").ok());
  EXPECT_TRUE(ParseState(R"({"version":1,"future":true})").ok());
}

TEST(ProcessRef, TellsZombiesAndReuse) {
  ProcessRef self = ProcessRef::Of(getpid());
  EXPECT_TRUE(self.Alive());
  self.start += 1;
  EXPECT_FALSE(self.Alive());
  pid_t child = fork();
  if (child == 0) _exit(0);
  ProcessRef ref = ProcessRef::Of(child);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  EXPECT_FALSE(ref.Alive());
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(ref.Alive());
}

}  // namespace
}  // namespace amber::cli
