// The gofer as a process, with all of its confinement where the machine lets the test have it.
#include "gofer/main.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gofer/client.h"

namespace amber::gofer {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// True if a child of ours may have namespaces of its own and mount in them.
bool MayConfine() {
  pid_t child = fork();
  if (child == 0) {
    bool may = unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               mount("t", "/proc", "tmpfs", 0, nullptr) == 0;
    _exit(may ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0;
}

class MainTest : public testing::Test {
 protected:
  MainTest() {
    const char* base = getenv("TEST_TMPDIR");
    directory_ = std::string(base != nullptr ? base : "/tmp") + "/gofer_main.XXXXXX";
    EXPECT_NE(mkdtemp(directory_.data()), nullptr);
    std::ofstream(directory_ + "/file") << "content";
  }
  ~MainTest() override {
    Stop();
    std::filesystem::remove_all(directory_);
  }

  void Start(GoferConfig config, int channels = 2) {
    std::vector<UniqueFd> ends;
    for (int i = 0; i < channels; ++i) {
      ChannelPair pair = MakeChannel().value();
      ends.push_back(std::move(pair.client));
      config.channels.push_back(std::move(pair.server));
    }
    auto pid = StartGofer(std::move(config));
    ASSERT_TRUE(pid.ok()) << pid.status();
    pid_ = *pid;
    client_ = std::make_unique<Client>(std::move(ends));
  }
  // Closes the channels and returns the gofer's wait status.
  int Stop() {
    client_.reset();
    int status = 0;
    if (pid_ > 0) EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return status;
  }
  MountConfig Mount(const std::string& name, const std::string& path, bool read_only = false) {
    MountConfig mount;
    mount.name = name;
    mount.path = path;
    mount.read_only = read_only;
    return mount;
  }

  std::string directory_;
  std::unique_ptr<Client> client_;
  pid_t pid_ = 0;
};

TEST_F(MainTest, ServesWithoutPrivileges) {
  GoferConfig config;
  config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = false;
  config.mounts.push_back(Mount("root", directory_));
  Start(std::move(config));
  auto root = client_->Attach("root");
  ASSERT_TRUE(root.ok());
  auto walk = client_->Walk(root->root.id, {{"file"}}, {.open_flags = O_RDONLY});
  ASSERT_TRUE(walk.ok());
  EXPECT_TRUE(walk->file.valid());
  EXPECT_EQ(Stop(), 0);
}

TEST_F(MainTest, ConfinesItself) {
  if (!MayConfine()) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
  GoferConfig config;
  config.mounts.push_back(Mount("root", directory_));
  config.mounts.push_back(Mount("host", "/", true));
  config.mounts.push_back(Mount("single", directory_ + "/file", true));
  Start(std::move(config));
  NodeId root = client_->Attach("root").value().root.id;
  EXPECT_TRUE(client_->Create(root, "new", O_RDWR, {0644, 0, 0}).ok());
  auto single = client_->Attach("single").value();
  EXPECT_EQ(single.root.attributes.size, 7u);
  EXPECT_TRUE(client_->Open(single.root.id, O_RDONLY).ok());

  std::string proc = "/proc/" + std::to_string(pid_);
  std::string status = ReadFile(proc + "/status");
  EXPECT_NE(status.find("CapEff:\t000000000000001f\n"), std::string::npos) << status;
  EXPECT_NE(status.find("CapBnd:\t000000000000001f\n"), std::string::npos) << status;
  EXPECT_NE(status.find("NoNewPrivs:\t1\n"), std::string::npos);
  EXPECT_NE(status.find("Seccomp:\t2\n"), std::string::npos);
  for (const char* ns : {"mnt", "pid", "net", "ipc", "uts"}) {
    EXPECT_NE(std::filesystem::read_symlink(proc + "/ns/" + ns), std::filesystem::read_symlink(std::string("/proc/self/ns/") + ns));
  }
  // Nothing but the attach points is in its root.
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(proc + "/root")) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"0", "1", "2"}));
  EXPECT_EQ(Stop(), 0);
}

TEST_F(MainTest, HostRootIsReadOnlyWithoutKernelInterfaces) {
  if (!MayConfine()) GTEST_SKIP() << "needs CAP_SYS_ADMIN";
  ASSERT_TRUE(std::filesystem::exists("/proc/self"));
  GoferConfig config;
  config.mounts.push_back(Mount("host", "/", true));
  Start(std::move(config));
  NodeId root = client_->Attach("host").value().root.id;
  for (const char* name : {"proc", "sys"}) {
    auto walk = client_->Walk(root, {{std::string_view(name)}}).value();
    if (walk.stop == WalkResult::Stop::kError) {  // could not be unmounted, but is not entered either
      EXPECT_EQ(walk.error.number(), EACCES);
      continue;
    }
    ASSERT_EQ(walk.found.size(), 1u) << name;
    EXPECT_EQ(client_->ReadDir(walk.found[0].id).value().size(), 0u) << name;
  }
  auto etc = client_->Walk(root, {{"etc", "passwd"}}, {.open_flags = O_RDONLY}).value();
  ASSERT_TRUE(etc.file.valid());
  // Read-only by the mount as well: a descriptor cannot be opened again for writing.
  std::string again = "/proc/self/fd/" + std::to_string(etc.file.get());
  EXPECT_EQ(open(again.c_str(), O_WRONLY), -1);
  EXPECT_EQ(errno, EROFS);
  Stop();
  // What was unmounted there is still mounted here.
  EXPECT_TRUE(std::filesystem::exists("/proc/self"));
  EXPECT_FALSE(std::filesystem::is_empty("/sys"));
}

TEST_F(MainTest, TellsWhatIsWrong) {
  GoferConfig config;
  config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = false;
  config.mounts.push_back(Mount("root", directory_ + "/missing"));
  Start(std::move(config));
  EXPECT_TRUE(client_->Attach("root").Is(EIO));
  EXPECT_EQ(WEXITSTATUS(Stop()), 1);
}

TEST_F(MainTest, AKilledGoferIsAnError) {
  GoferConfig config;
  config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = false;
  config.mounts.push_back(Mount("root", directory_));
  Start(std::move(config));
  NodeId root = client_->Attach("root").value().root.id;
  std::thread caller([&] {
    while (client_->GetAttr(root).ok()) {
    }
  });
  ASSERT_EQ(kill(pid_, SIGKILL), 0);
  caller.join();  // the call under way fails, and no later one hangs
  EXPECT_TRUE(client_->GetAttr(root).Is(EIO));
  EXPECT_TRUE(client_->Walk(root, {{"file"}}).Is(EIO));
  EXPECT_TRUE(WIFSIGNALED(Stop()));
}

TEST_F(MainTest, ManyChannelsEndTogether) {
  GoferConfig config;
  config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = false;
  config.mounts.push_back(Mount("root", directory_));
  Start(std::move(config), 8);
  NodeId root = client_->Attach("root").value().root.id;
  std::vector<std::thread> threads;
  for (int i = 0; i < 12; ++i) {
    threads.emplace_back([this, root] {
      for (int round = 0; round < 500; ++round) {
        auto walk = client_->Walk(root, {{"file"}}, {.open_flags = O_RDONLY});
        ASSERT_TRUE(walk.ok());
        ASSERT_TRUE(walk->file.valid());
        client_->Forget(walk->found[0].id);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(Stop(), 0);
}

}  // namespace
}  // namespace amber::gofer
