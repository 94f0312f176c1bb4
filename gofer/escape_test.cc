// Attempts to get outside of an attach point by changing the tree while the gofer looks at it. The changes are made on
// the host side (as another container with the same volume could) and through the gofer itself.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "gofer/test_gofer.h"

namespace amber::gofer {
namespace {

using Stop = WalkResult::Stop;

// Runs `change` again and again on a thread of its own for as long as it lives.
class Churn {
 public:
  explicit Churn(std::function<void()> change)
      : thread_([this, change = std::move(change)] {
          while (!stop_) change();
        }) {}
  ~Churn() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class EscapeTest : public testing::Test {
 protected:
  EscapeTest() {
    // Outside of the attach point, with names that inside has too.
    const char* base = getenv("TEST_TMPDIR");
    outside_ = std::string(base != nullptr ? base : "/tmp") + "/gofer_outside.XXXXXX";
    EXPECT_NE(mkdtemp(outside_.data()), nullptr);
    std::ofstream(outside_ + "/secret") << "secret";
    mkdir((outside_ + "/deep").c_str(), 0755);
    std::ofstream(outside_ + "/deep/secret") << "secret";
    struct stat st;
    EXPECT_EQ(stat((outside_ + "/secret").c_str(), &st), 0);
    secrets_[0] = st.st_ino;
    EXPECT_EQ(stat((outside_ + "/deep/secret").c_str(), &st), 0);
    secrets_[1] = st.st_ino;
    EXPECT_EQ(stat(outside_.c_str(), &st), 0);
    secrets_[2] = st.st_ino;
  }
  ~EscapeTest() override { std::filesystem::remove_all(outside_); }

  Client& client() { return gofer_.client(); }
  void ExpectInside(const WalkResult& walk) {
    for (const Node& node : walk.found) {
      for (uint64_t secret : secrets_) ASSERT_NE(node.attributes.ino, secret);
      client().Forget(node.id);
    }
    if (!walk.file.valid()) return;
    struct stat st;
    ASSERT_EQ(fstat(walk.file.get(), &st), 0);
    ASSERT_EQ(st.st_mode & S_IFMT, mode_t{S_IFREG});
    for (uint64_t secret : secrets_) ASSERT_NE(st.st_ino, secret);
  }
  // Walks and opens for a while; counts how often the whole path was there and how often a link was in its place.
  void WalkForAWhile(std::vector<std::string_view> names) {
    int done = 0, links = 0, files = 0;
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
    while (std::chrono::steady_clock::now() < end) {
      auto walk = client().Walk(gofer_.root(), names, {.open_flags = O_RDWR});
      ASSERT_TRUE(walk.ok());
      ExpectInside(*walk);
      done += walk->stop == Stop::kDone;
      links += walk->stop == Stop::kSymlink;
      files += walk->file.valid();
    }
    // The race was really run.
    EXPECT_GT(done, 0);
    EXPECT_GT(links, 0);
    EXPECT_GT(files, 0);
  }

  TestGofer gofer_;
  std::string outside_;
  uint64_t secrets_[3] = {};
};

TEST_F(EscapeTest, DirectoryExchangedWithSymlink) {
  ASSERT_EQ(mkdir(gofer_.Path("deep").c_str(), 0755), 0);
  std::ofstream(gofer_.Path("deep/secret")) << "inside";
  ASSERT_EQ(symlink((outside_ + "/deep").c_str(), gofer_.Path("link").c_str()), 0);
  Churn churn([&] { renameat2(AT_FDCWD, gofer_.Path("deep").c_str(), AT_FDCWD, gofer_.Path("link").c_str(), RENAME_EXCHANGE); });
  WalkForAWhile({"deep", "secret"});
}

TEST_F(EscapeTest, FileExchangedWithSymlink) {
  std::ofstream(gofer_.Path("secret")) << "inside";
  ASSERT_EQ(symlink((outside_ + "/secret").c_str(), gofer_.Path("link").c_str()), 0);
  Churn churn([&] { renameat2(AT_FDCWD, gofer_.Path("secret").c_str(), AT_FDCWD, gofer_.Path("link").c_str(), RENAME_EXCHANGE); });
  WalkForAWhile({"secret"});
}

TEST_F(EscapeTest, ExchangedThroughTheGoferItself) {
  std::ofstream(gofer_.Path("secret")) << "inside";
  ASSERT_TRUE(client().Symlink(gofer_.root(), "link", outside_ + "/secret", getuid(), getgid()).ok());
  Churn churn([&] { (void)client().Rename(gofer_.root(), "secret", gofer_.root(), "link", RENAME_EXCHANGE).ok(); });
  WalkForAWhile({"secret"});
}

// Openers of nodes race with the node's name being replaced: a node is its inode.
TEST_F(EscapeTest, NodesDoNotFollowTheirNames) {
  std::ofstream(gofer_.Path("file")) << "inside";
  NodeId node = client().Walk(gofer_.root(), {{"file"}}).value().found[0].id;
  uint64_t ino = client().GetAttr(node)->ino;
  ASSERT_EQ(symlink((outside_ + "/secret").c_str(), gofer_.Path("link").c_str()), 0);
  Churn churn([&] { renameat2(AT_FDCWD, gofer_.Path("file").c_str(), AT_FDCWD, gofer_.Path("link").c_str(), RENAME_EXCHANGE); });
  for (int i = 0; i < 3000; ++i) {
    UniqueFd file = client().Open(node, O_RDWR).value();
    struct stat st;
    ASSERT_EQ(fstat(file.get(), &st), 0);
    ASSERT_EQ(st.st_ino, ino);
    ASSERT_TRUE(client().SetAttr(node, {.mode = 0600}).ok());
  }
  struct stat st;
  ASSERT_EQ(stat((outside_ + "/secret").c_str(), &st), 0);
  EXPECT_NE(st.st_mode & 07777, mode_t{0600});
}

// Making things under a name that is a link to the outside half of the time.
TEST_F(EscapeTest, NothingIsMadeOutside) {
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0755), 0);
  ASSERT_EQ(symlink(outside_.c_str(), gofer_.Path("link").c_str()), 0);
  Churn churn([&] { renameat2(AT_FDCWD, gofer_.Path("dir").c_str(), AT_FDCWD, gofer_.Path("link").c_str(), RENAME_EXCHANGE); });
  int made = 0;
  for (int i = 0; i < 2000; ++i) {
    WalkResult walk = client().Walk(gofer_.root(), {{"dir"}}).value();
    ASSERT_EQ(walk.found.size(), 1u);
    NodeId node = walk.found[0].id;
    std::string name = "new" + std::to_string(i);
    bool directory = (walk.found[0].attributes.mode & S_IFMT) == S_IFDIR;
    auto created = client().Create(node, name, O_RDWR, {0644, getuid(), getgid()});
    auto removed = client().Unlink(node, "secret");
    if (directory) {
      ASSERT_TRUE(created.ok());
      client().Forget(created->node.id);
      ++made;
      ASSERT_TRUE(removed.Is(ENOENT));
    } else {
      ASSERT_TRUE(created.Is(ENOTDIR));
      ASSERT_TRUE(removed.Is(ENOTDIR));
      ASSERT_TRUE(client().MkDir(node, name, {0755, getuid(), getgid()}).Is(ENOTDIR));
      ASSERT_TRUE(client().ReadDir(node).Is(ENOTDIR));
    }
    client().Forget(node);
  }
  EXPECT_GT(made, 0);
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(outside_)) {
    (void)entry;
    ++entries;
  }
  EXPECT_EQ(entries, 2);
}

// A directory moves up and down in the tree while names below it are looked up.
TEST_F(EscapeTest, DirectoriesThatMove) {
  std::filesystem::create_directories(gofer_.Path("a/b/c/deep"));
  std::ofstream(gofer_.Path("a/b/c/deep/secret")) << "inside";
  Churn churn([&] {
    rename(gofer_.Path("a/b/c").c_str(), gofer_.Path("c").c_str());
    rename(gofer_.Path("c").c_str(), gofer_.Path("a/b/c").c_str());
  });
  int done = 0;
  for (int i = 0; i < 5000; ++i) {
    auto walk = client().Walk(gofer_.root(), {{"a", "b", "c", "deep", "secret"}}, {.open_flags = O_RDONLY});
    ASSERT_TRUE(walk.ok());
    ExpectInside(*walk);
    done += walk->stop == Stop::kDone;
  }
  EXPECT_GT(done, 0);
}

// The peer cannot bring in proc, and thereby magic links, by a name.
TEST_F(EscapeTest, KernelInterfacesAreNotEntered) {
  int root = open("/", O_PATH | O_CLOEXEC);
  ASSERT_GE(root, 0);
  AttachPoint point;
  point.name = "host";
  point.root.reset(root);
  std::vector<AttachPoint> points;
  points.push_back(std::move(point));
  Server server(std::move(points), OpenProcSelfFd().value(), 64);
  ChannelPair pair = MakeChannel().value();
  std::thread thread([&] {
    ASSERT_TRUE(server.PrepareThread().ok());
    server.Serve(pair.server.get());
  });
  {
    std::vector<UniqueFd> ends;
    ends.push_back(std::move(pair.client));
    Client host(std::move(ends));
    NodeId node = host.Attach("host").value().root.id;
    WalkResult walk = host.Walk(node, {{"proc", "self", "root"}}).value();
    EXPECT_EQ(walk.stop, Stop::kError);
    EXPECT_EQ(walk.error.number(), EACCES);
    EXPECT_EQ(host.Walk(node, {{"sys", "kernel"}}).value().error.number(), EACCES);
  }
  thread.join();
}

}  // namespace
}  // namespace amber::gofer
