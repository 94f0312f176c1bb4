// A tree of the host behind a gofer: how many calls its use costs (a change of these numbers is a change of speed), and what is seen of
// changes that are made on the host.
#include "sentry/fs/gofer/gofer_fs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "gofer/test_gofer.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/test_tree.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

class GoferTree {
 public:
  explicit GoferTree(bool exclusive, bool look = true) : gofer_({.allow_directories = look}), exclusive_(exclusive) {}

  void Begin() {
    // The client outlives the file system.
    std::shared_ptr<gofer::Client> client(&gofer_.client(), [](gofer::Client*) {});
    auto fs = GoferFileSystem::Make(std::move(client), {.container = "c", .attach = "root", .exclusive = exclusive_});
    ASSERT_TRUE(fs.ok());
    fs_ = *fs;
    tree_.emplace(RefPtr<FileSystem>(std::move(*fs)));
    last_ = gofer_.client().calls();
  }
  ~GoferTree() {
    tree_.reset();
    fs_.reset();
  }
  TestTree& operator*() { return *tree_; }
  TestTree* operator->() { return &*tree_; }
  void HostWrite(const std::string& name, const std::string& bytes) { std::ofstream(gofer_.Path(name)) << bytes; }
  void HostMkDir(const std::string& name) { ASSERT_EQ(mkdir(gofer_.Path(name).c_str(), 0755), 0); }
  std::string Path(const std::string& name) { return gofer_.Path(name); }
  struct stat Stat(std::string_view path) {
    struct stat st{};
    auto place = tree_->Find(path, 0);
    EXPECT_TRUE(place.ok()) << path;
    if (place.ok()) EXPECT_TRUE(StatInode(*place->inode(), &st).ok());
    return st;
  }
  // Calls since the last question.
  uint64_t Calls() {
    uint64_t now = gofer_.client().calls();
    return now - std::exchange(last_, now);
  }
  void Evict() { fs_->Shrink(0); }

 private:
  gofer::TestGofer gofer_;
  bool exclusive_;
  RefPtr<GoferFileSystem> fs_;
  std::optional<TestTree> tree_;
  uint64_t last_ = 0;
};

// dir with 20 files and dir/sub with 3, and a link.
void Populate(GoferTree& t) {
  t.HostMkDir("dir");
  t.HostMkDir("dir/sub");
  for (int i = 0; i < 20; ++i) t.HostWrite("dir/f" + std::to_string(i), "abc");
  for (int i = 0; i < 3; ++i) t.HostWrite("dir/sub/g" + std::to_string(i), "abcd");
  ASSERT_EQ(symlink("g1", t.Path("dir/sub/link").c_str()), 0);
}

TEST(GoferCalls, StatAndOpenOfAnExclusiveTree) {
  GoferTree t(true);
  Populate(t);
  t.Begin();
  EXPECT_EQ(t.Stat("/dir/sub/g0").st_size, 4);
  EXPECT_EQ(t.Calls(), 1u);
  EXPECT_EQ(t.Stat("/dir/sub/g0").st_size, 4);
  EXPECT_EQ(t.Calls(), 0u);
  EXPECT_EQ(t->Read("/dir/sub/g1"), "abcd");  // looked up and opened at once
  EXPECT_EQ(t.Calls(), 1u);
  EXPECT_EQ(t->Read("/dir/sub/g1"), "abcd");
  EXPECT_EQ(t.Calls(), 0u);
  EXPECT_EQ(t->Lookup("/dir/missing"), ENOENT);
  EXPECT_EQ(t.Calls(), 1u);
  EXPECT_EQ(t->Lookup("/dir/missing"), ENOENT);
  EXPECT_EQ(t.Calls(), 0u);
}

// What a database does for each transaction with a journal.
TEST(GoferCalls, TransactionsInASharedTree) {
  GoferTree t(false);
  Populate(t);
  t.Begin();
  ASSERT_EQ(t->Write("/dir/db", "first"), 0);
  auto db = t->Open("/dir/db", O_RDWR);
  ASSERT_TRUE(db.ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(t->Lookup("/dir/db-journal"), ENOENT);
  uint64_t most = 0, least = UINT64_MAX;
  for (int i = 0; i < 20; ++i) {
    t.Calls();
    EXPECT_EQ(t->Lookup("/dir/db-journal"), ENOENT);
    EXPECT_EQ(t->Lookup("/dir/db-wal"), ENOENT);
    EXPECT_GT(t.Stat("/dir/db").st_size, 0);
    EXPECT_EQ(t->Write("/dir/db-journal", "before"), 0);
    EXPECT_EQ(t->Write("/dir/db", "transaction " + std::to_string(i)), 0);
    EXPECT_EQ(t.Stat("/dir/db").st_size, i < 10 ? 13 : 14);
    EXPECT_EQ(t->Unlink("/dir/db-journal"), 0);
    uint64_t calls = t.Calls();
    most = std::max(most, calls);
    least = std::min(least, calls);
  }
  EXPECT_EQ(least, 2u);  // make, remove
  EXPECT_LE(most, 6u);   // the owners once more, on a slow machine each time
}

// In a directory that the sentry cannot look at by itself.
TEST(GoferCalls, NewNamesAreNotLookedUpFirst) {
  GoferTree t(false, /*look=*/false);
  Populate(t);
  ASSERT_EQ(chmod(t.Path("").c_str(), 0755), 0);
  t.Begin();
  // The second search asks for a descriptor, in vain.
  for (int i = 0; i < 2; ++i) (void)t->Lookup("/dir/sub");
  t.Calls();
  EXPECT_EQ(t->MkDir("/dir/made"), 0);
  // The walk, the directory's attributes if that was more than 100 us ago, and making it.
  EXPECT_LE(t.Calls(), 3u);
  EXPECT_TRUE(t->Open("/dir/sub/new", O_RDWR | O_CREAT | O_EXCL).ok());
  EXPECT_LE(t.Calls(), 3u);
  // Of a directory that we change the attributes are asked for; then the file is made.
  auto sub = t->Find("/dir/sub");
  ASSERT_TRUE(sub.ok());
  t->context->set_cwd(*sub);
  t.Calls();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(t->Open("new" + std::to_string(i), O_RDWR | O_CREAT | O_EXCL).ok());
  EXPECT_LE(t.Calls(), 20u);
  // What is there is found, whatever else is wrong.
  EXPECT_EQ(t->MkDir("/dir/sub"), EEXIST);
  EXPECT_EQ(t->Symlink("x", "/dir/f1"), EEXIST);
  EXPECT_TRUE(t->Open("/dir/f2", O_RDWR | O_CREAT | O_EXCL).Is(EEXIST));
  t.HostMkDir("dir/theirs");
  EXPECT_EQ(t->MkDir("/dir/theirs"), EEXIST);
  EXPECT_EQ(t.Stat("/dir/theirs").st_mode, S_IFDIR | 0755u);
  t->Become(1000);
  EXPECT_EQ(t->MkDir("/dir/sub"), EEXIST);
  EXPECT_EQ(t->Symlink("x", "/dir/sub/"), EEXIST);
  EXPECT_TRUE(t->Open("/dir/f2", O_RDWR | O_CREAT | O_EXCL).Is(EEXIST));
  EXPECT_EQ(t->MkDir("/dir/other"), EACCES);
  EXPECT_TRUE(t->Open("/dir/other", O_RDWR | O_CREAT | O_EXCL).Is(EACCES));
}

TEST(GoferCalls, ChangesOfAnExclusiveTree) {
  GoferTree t(true);
  Populate(t);
  t.Begin();
  ASSERT_EQ(t->Lookup("/dir"), 0);
  t.Calls();
  EXPECT_EQ(t->Write("/dir/new", "1"), 0);
  EXPECT_EQ(t.Calls(), 2u);  // that there is none; make
  EXPECT_EQ(t->Unlink("/dir/new"), 0);
  EXPECT_EQ(t.Calls(), 1u);
  EXPECT_EQ(t->MkDir("/dir/newdir"), 0);
  EXPECT_EQ(t.Calls(), 2u);
  EXPECT_EQ(t->Rmdir("/dir/newdir"), 0);
  EXPECT_EQ(t.Calls(), 1u);
}

TEST(GoferShared, OwnChangesAreSeenAtOnce) {
  GoferTree t(false);
  Populate(t);
  t.Begin();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(t->Lookup("/dir/none"), ENOENT);
  auto expect_same = [&](const std::string& name) {
    struct stat host{};
    ASSERT_EQ(lstat(t.Path(name).c_str(), &host), 0);
    struct stat ours = t.Stat("/" + name);
    EXPECT_EQ(ours.st_nlink, host.st_nlink) << name;
    EXPECT_EQ(ours.st_size, host.st_size) << name;
    EXPECT_EQ(ours.st_mtim.tv_nsec, host.st_mtim.tv_nsec) << name;
    EXPECT_EQ(ours.st_ctim.tv_nsec, host.st_ctim.tv_nsec) << name;
  };
  for (int i = 0; i < 5; ++i) {
    std::string file = "dir/file" + std::to_string(i), dir = "dir/dir" + std::to_string(i);
    EXPECT_EQ(t->Write("/" + file, std::string(i + 1, 'x')), 0);
    expect_same(file);
    expect_same("dir");
    EXPECT_EQ(t->MkDir("/" + dir), 0);
    expect_same("dir");
    EXPECT_EQ(t->Write("/" + file, "longer than it was"), 0);
    expect_same(file);
    EXPECT_EQ(t->Link("/" + file, "/" + dir + "/link"), 0);
    expect_same(file);
    EXPECT_EQ(t->Unlink("/" + file), 0);
    expect_same(dir + "/link");
    expect_same("dir");
  }
}

TEST(GoferShared, AnotherOwnerIsSeenWhileWeWrite) {
  GoferTree t(false);
  Populate(t);
  t.Begin();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(t->Write("/dir/f1", "ours"), 0);
  EXPECT_EQ(t.Stat("/dir/f1").st_uid, 0u);
  // The build's own sandbox knows one user; test/e2e has the same with a whole sandbox.
  if (chown(t.Path("dir/f1").c_str(), 1234, 1234) != 0) GTEST_SKIP() << "files cannot be given away here";
  // Each write gives the file another ctime of our own making.
  bool seen = false;
  for (int i = 0; i < 400 && !seen; ++i) {
    EXPECT_EQ(t->Write("/dir/f1", "ours"), 0);
    seen = t.Stat("/dir/f1").st_uid == 1234;
    usleep(1000);
  }
  EXPECT_TRUE(seen);
}

TEST(GoferShared, HostChangesAreSeen) {
  for (bool look : {true, false}) {
    GoferTree t(false, look);
    Populate(t);
    t.Begin();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(t.Stat("/dir/f1").st_size, 3);
    EXPECT_EQ(t->List("/dir").size(), 21u);
    usleep(1000);  // an answer counts as current for 100 µs
    t.HostWrite("dir/f1", "from outside");
    EXPECT_EQ(t.Stat("/dir/f1").st_size, 12);
    EXPECT_EQ(t->Read("/dir/f1"), "from outside");
    EXPECT_EQ(t->Lookup("/dir/late"), ENOENT);
    t.HostWrite("dir/late", "x");
    EXPECT_EQ(t.Stat("/dir/late").st_size, 1);
    EXPECT_EQ(t->List("/dir").size(), 22u);
    ASSERT_EQ(unlink(t.Path("dir/late").c_str()), 0);
    EXPECT_EQ(t->Lookup("/dir/late"), ENOENT);
    EXPECT_EQ(t->List("/dir").size(), 21u);
    EXPECT_EQ(t->Read("/dir/sub/g0"), "abcd");
    usleep(1000);  // so does what a directory on the way is called
    ASSERT_EQ(rename(t.Path("dir/sub").c_str(), t.Path("dir/moved").c_str()), 0);
    EXPECT_EQ(t->Lookup("/dir/sub/g0"), ENOENT);
    EXPECT_EQ(t->Read("/dir/moved/g0"), "abcd");
  }
}

// Handles lead to files whatever the cache holds, where we have moved them, and to nothing else.
TEST(GoferHandles, FollowFiles) {
  for (bool exclusive : {true, false}) {
    GoferTree t(exclusive);
    Populate(t);
    t.Begin();
    auto handle_of = [&](std::string_view path) { return HandleFor(*t->Find(path)->inode()); };
    auto leads_to = [&](const FileHandle& handle) {
      auto place = OpenHandle(t->ctx(), t->ns->root().mount, handle);
      return place.ok() ? PathName(*place, t->ns->root()) : "errno " + std::to_string(place.error().number());
    };
    const std::string stale = "errno " + std::to_string(ESTALE);
    FileHandle root = handle_of("/"), file = handle_of("/dir/sub/g0"), dir = handle_of("/dir/sub");
    t.Evict();
    EXPECT_EQ(leads_to(root), "/");
    EXPECT_EQ(leads_to(file), "/dir/sub/g0");
    EXPECT_EQ(leads_to(dir), "/dir/sub");
    EXPECT_EQ(handle_of("/dir/sub/g0"), file);
    EXPECT_EQ(t->Rename("/dir/sub", "/moved"), 0);
    t.Evict();
    EXPECT_EQ(leads_to(file), "/moved/g0");
    EXPECT_EQ(t->Rename("/moved/g0", "/dir/g0"), 0);
    EXPECT_EQ(leads_to(file), "/dir/g0");
    // Another file of the name is another file.
    EXPECT_EQ(t->Unlink("/dir/g0"), 0);
    EXPECT_EQ(t->Write("/dir/g0", "new"), 0);
    EXPECT_EQ(leads_to(file), stale);
    EXPECT_NE(handle_of("/dir/g0"), file);
    FileHandle wrong = dir;
    wrong.bytes[8] ^= 1;
    EXPECT_EQ(leads_to(wrong), stale);
    wrong = dir;
    wrong.bytes.resize(8);
    EXPECT_EQ(leads_to(wrong), stale);
  }
}

}  // namespace
}  // namespace amber
