// Listings with attributes: what they spare, and that nothing is believed that is not so any more.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <fstream>

#include "gofer/test_gofer.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/credentials.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

class Listed : public testing::TestWithParam<bool> {
 protected:
  Listed() : gofer_({.allow_directories = true}) {
    for (int i = 0; i < kFiles; ++i) Put(Name(i), "text");
    mkdir(Host("d").c_str(), 0755);
    // Until the clock of file times has moved on nothing is believed of a shared tree.
    timespec nap{0, 120'000'000};
    nanosleep(&nap, nullptr);
    std::shared_ptr<gofer::Client> client(&gofer_.client(), [](gofer::Client*) {});
    auto fs = GoferFileSystem::Make(client, {.attach = "root", .exclusive = exclusive()});
    EXPECT_TRUE(fs.ok());
    fs_ = *fs;
    tree_.emplace(fs_);
    // Directories are worth a descriptor from the second search on.
    (void)tree_->Lookup("/none");
    (void)tree_->Lookup("/none2");
  }

  static constexpr int kFiles = 40;
  static bool exclusive() { return GetParam(); }
  static std::string Name(int i) { return "f" + std::to_string(i); }
  std::string Host(const std::string& name) const { return gofer_.Path(name); }
  void Put(const std::string& name, const std::string& text) const { std::ofstream(Host(name)) << text; }
  uint64_t calls() { return gofer_.client().calls() - late_; }
  // Attributes as the guest's stat has them.
  Attr Stat(const std::string& name) {
    int64_t began = HostNow();
    auto place = tree_->Find("/" + name);
    if (!place.ok()) return {};
    uint64_t before = gofer_.client().calls();
    if (!place->inode()->Refresh().ok()) return {};
    // Somebody else had the CPU in between: what was found out on the way is no longer fresh enough, and was asked for again.
    if (HostNow() - began > kFreshNs) late_ += gofer_.client().calls() - before;
    return place->inode()->attr();
  }
  void ExpectTrue(const std::string& name) {
    struct stat st;
    ASSERT_EQ(lstat(Host(name).c_str(), &st), 0) << name;
    Attr a = Stat(name);
    EXPECT_EQ(a.mode, st.st_mode) << name;
    EXPECT_EQ(a.size, static_cast<uint64_t>(st.st_size)) << name;
    EXPECT_EQ(a.uid, st.st_uid) << name;
    EXPECT_EQ(a.nlink, st.st_nlink) << name;
    EXPECT_EQ(a.mtime.tv_nsec, st.st_mtim.tv_nsec) << name;
    EXPECT_EQ(a.ctime.tv_nsec, st.st_ctim.tv_nsec) << name;
  }
  // What is cached by name goes; the listing stays.
  void Shrink() { fs_->Shrink(0); }
  void ListAndLook() {
    EXPECT_EQ(tree_->List("/").size(), kFiles + 1u);
    ExpectTrue(Name(0));
  }

  gofer::TestGofer gofer_;
  uint64_t late_ = 0;  // calls that only a busy machine makes
  RefPtr<GoferFileSystem> fs_;
  std::optional<TestTree> tree_;
};

INSTANTIATE_TEST_SUITE_P(Trees, Listed, testing::Bool(), [](const auto& info) { return info.param ? "Exclusive" : "Shared"; });

// A list that cannot be read may deny what the mode grants: nobody but the owner gets anything.
TEST_P(Listed, UnreadableAccessListsGrantNothing) {
  ListAndLook();
  auto place = tree_->Find("/" + Name(1));
  ASSERT_TRUE(place.ok());
  ASSERT_TRUE(place->inode()->SetAttr({}, {.mode = 0664}).ok());
  EXPECT_EQ(place->inode()->acl(), nullptr);
  place = tree_->Find("/" + Name(2));
  ASSERT_TRUE(place.ok());
  unlink(Host(Name(2)).c_str());
  const Acl* list = place->inode()->acl();
  if (list == nullptr) GTEST_SKIP() << "the node is there: its list can be read";
  Credentials somebody;
  somebody.fsuid = 1000;
  for (int may : {1, 2, 4}) EXPECT_FALSE(list->Permits(somebody, 0, 0, may));
}

TEST_P(Listed, LooksCostNoCalls) {
  ListAndLook();
  uint64_t before = calls();
  for (int i = 1; i < kFiles; ++i) ExpectTrue(Name(i));
  EXPECT_EQ(calls() - before, 0u);
  EXPECT_EQ(tree_->Lookup("/missing"), ENOENT);
  EXPECT_EQ(calls() - before, 0u);
}

TEST_P(Listed, FilesOpenAndRead) {
  ListAndLook();
  uint64_t before = calls();
  EXPECT_EQ(tree_->Read("/f7"), "text");
  EXPECT_LE(calls() - before, 1u);
  // One that was looked at before has no node yet.
  ExpectTrue("f8");
  EXPECT_EQ(tree_->Read("/f8"), "text");
  EXPECT_EQ(tree_->Lookup("/d/none"), ENOENT);
}

// Directories that are listed one after the other: most have been by then.
class ListedAhead : public Listed {
 protected:
  static constexpr int kDirectories = 40;
  ListedAhead() {
    for (int i = 0; i < kDirectories; ++i) {
      mkdir(Host(Directory(i)).c_str(), 0755);
      for (int k = 0; k < 3; ++k) Put(Directory(i) + "/" + Name(k), "text");
    }
    timespec nap{0, 120'000'000};
    nanosleep(&nap, nullptr);
  }
  static std::string Directory(int i) { return "d/g" + std::to_string(i); }
  // In the order in which the host tells them.
  std::vector<std::string> Directories() {
    std::vector<std::string> names;
    auto dir = tree_->Find("/d");
    auto list = dir.ok() ? dir->inode()->List(tree_->ctx()) : Errno(ENOENT);
    EXPECT_TRUE(list.ok());
    if (!list.ok()) return names;
    for (const DirEnt& e : *list) names.push_back("d/" + e.name);
    return names;
  }
  void Walk(const std::string& name) {
    ExpectTrue(name);
    EXPECT_EQ(tree_->List("/" + name).size(), 3u) << name;
    for (int k = 0; k < 3; ++k) ExpectTrue(name + "/" + Name(k));
  }
};

INSTANTIATE_TEST_SUITE_P(Trees, ListedAhead, testing::Bool(), [](const auto& info) { return info.param ? "Exclusive" : "Shared"; });

TEST_P(ListedAhead, AWalkCostsFewCalls) {
  ListAndLook();
  uint64_t before = calls();
  std::vector<std::string> names = Directories();
  ASSERT_EQ(names.size(), size_t{kDirectories});
  for (const std::string& name : names) Walk(name);
  EXPECT_LE(calls() - before, 12u);
  // All of it is still known.
  before = calls();
  for (const std::string& name : names) Walk(name);
  EXPECT_EQ(calls() - before, 0u);
}

TEST_P(ListedAhead, ChangesAreSeen) {
  ListAndLook();
  std::vector<std::string> names = Directories();
  ASSERT_EQ(names.size(), size_t{kDirectories});
  for (int i = 0; i < 4; ++i) Walk(names[i]);
  // By the sandbox, or by the host, in directories that have been listed ahead and in others.
  for (int i = 4; i < kDirectories; i += 3) {
    std::string name = names[i] + "/" + Name(0), fresh = names[i] + "/fresh";
    if (exclusive()) {
      EXPECT_EQ(tree_->Unlink("/" + name), 0);
      EXPECT_EQ(tree_->Write("/" + fresh, "more text"), 0);
    } else {
      ASSERT_EQ(unlink(Host(name).c_str()), 0);
      Put(fresh, "more text");
    }
  }
  ASSERT_EQ(rename(Host(names[6]).c_str(), Host("d/moved").c_str()), 0);
  if (exclusive()) ASSERT_EQ(rename(Host("d/moved").c_str(), Host(names[6]).c_str()), 0);
  for (int i = 4; i < kDirectories; ++i) {
    std::string name = names[i];
    if (i == 6 && !exclusive()) {
      EXPECT_EQ(tree_->Lookup("/" + name), ENOENT);
      name = "d/moved";
    }
    if (i % 3 != 1) {
      Walk(name);
      continue;
    }
    EXPECT_EQ(tree_->List("/" + name), (std::vector<std::string>{Name(1), Name(2), "fresh"}));
    EXPECT_EQ(tree_->Lookup("/" + name + "/" + Name(0)), ENOENT);
    ExpectTrue(name + "/fresh");
  }
}

// Files opened in the order of the list: most are open already when they are asked for.
TEST_P(Listed, FilesOpenAhead) {
  ListAndLook();
  auto dir = tree_->Find("/");
  ASSERT_TRUE(dir.ok());
  auto list = dir->inode()->List(tree_->ctx());
  ASSERT_TRUE(list.ok());
  uint64_t before = calls();
  for (const DirEnt& e : *list) {
    if (e.type != DT_REG) continue;
    if (exclusive()) ExpectTrue(e.name);
    EXPECT_EQ(tree_->Read("/" + e.name), "text") << e.name;
  }
  EXPECT_LE(calls() - before, 6u);
}

// What is opened ahead and changed before it is wanted.
TEST_P(Listed, ChangesOfFilesOpenedAheadAreSeen) {
  ListAndLook();
  auto dir = tree_->Find("/");
  ASSERT_TRUE(dir.ok());
  auto list = dir->inode()->List(tree_->ctx());
  ASSERT_TRUE(list.ok());
  std::vector<std::string> files;
  for (const DirEnt& e : *list) {
    if (e.type == DT_REG) files.push_back(e.name);
  }
  EXPECT_EQ(tree_->Read("/" + files[0]), "text");
  EXPECT_EQ(tree_->Read("/" + files[1]), "text");  // with the next ones
  if (exclusive()) {
    EXPECT_EQ(tree_->Unlink("/" + files[2]), 0);
    EXPECT_EQ(tree_->Write("/" + files[2], "ours"), 0);
    EXPECT_EQ(tree_->Rename("/" + files[0], "/" + files[3]), 0);
    EXPECT_EQ(tree_->Write("/" + files[4], "TEXT"), 0);
  } else {
    ASSERT_EQ(unlink(Host(files[2]).c_str()), 0);
    Put(files[2], "ours");
    ASSERT_EQ(rename(Host(files[0]).c_str(), Host(files[3]).c_str()), 0);
    Put(files[4], "TEXT");
    // Contents that another name of the file gets.
    ASSERT_EQ(link(Host(files[5]).c_str(), Host("d/other").c_str()), 0);
    Put("d/other", "by the other name");
  }
  EXPECT_EQ(tree_->Read("/" + files[2]), "ours");
  EXPECT_EQ(tree_->Read("/" + files[3]), "text");
  EXPECT_EQ(tree_->Lookup("/" + files[0]), ENOENT);
  EXPECT_EQ(tree_->Read("/" + files[4]), "TEXT");
  EXPECT_EQ(tree_->Read("/" + files[5]), exclusive() ? "text" : "by the other name");
  for (size_t i = 2; i < 6; ++i) ExpectTrue(files[i]);
}

TEST_P(Listed, OwnChangesAreSeen) {
  ListAndLook();
  EXPECT_EQ(tree_->Write("/f1", "longer text"), 0);
  EXPECT_EQ(tree_->Unlink("/f2"), 0);
  EXPECT_EQ(tree_->Rename("/f3", "/g3"), 0);
  EXPECT_EQ(tree_->Rename("/f4", "/f5"), 0);
  EXPECT_EQ(tree_->Make("/new", {.mode = S_IFREG | 0600}), 0);
  EXPECT_EQ(tree_->Link("/f6", "/d/link"), 0);
  EXPECT_EQ(tree_->MkDir("/d/e"), 0);
  auto f8 = tree_->Find("/f8");
  ASSERT_TRUE(f8.ok());
  ASSERT_TRUE(f8->inode()->SetAttr(tree_->ctx(), {.mode = 0400}).ok());
  f8 = Errno(ENOENT);
  for (int round = 0; round < 2; ++round) {
    for (const char* name : {"f1", "g3", "f5", "new", "f6", "d/link", "d", "d/e", "f8", "f9"}) ExpectTrue(name);
    for (const char* name : {"/f2", "/f3", "/f4"}) EXPECT_EQ(tree_->Lookup(name), ENOENT) << name;
    EXPECT_EQ(tree_->Read("/f1"), "longer text");
    Shrink();
  }
}

TEST_P(Listed, ChangesByAnotherNameAreSeen) {
  ASSERT_EQ(link(Host("f1").c_str(), Host("d/other").c_str()), 0);
  timespec nap{0, 120'000'000};
  nanosleep(&nap, nullptr);
  ListAndLook();
  EXPECT_EQ(tree_->Write("/d/other", "by the other name"), 0);
  Shrink();
  ExpectTrue("f1");
  EXPECT_EQ(tree_->Unlink("/f1"), 0);
  Shrink();
  ExpectTrue("d/other");
  EXPECT_EQ(tree_->Lookup("/f1"), ENOENT);
}

TEST_P(Listed, OpenFilesOutliveTheirNames) {
  ListAndLook();
  ExpectTrue("f1");
  auto file = tree_->Open("/f1", O_RDONLY);
  ASSERT_TRUE(file.ok());
  auto dir = tree_->Open("/d", O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(dir.ok());
  EXPECT_EQ(tree_->Unlink("/f1"), 0);
  EXPECT_EQ(tree_->Rmdir("/d"), 0);
  EXPECT_EQ(TestTree::ReadInode(**(*file)->path()->inode()->DataInode(tree_->ctx(), false)), "text");
  EXPECT_TRUE((*dir)->path()->inode()->Refresh().ok());
}

// A file that changes all the time, looked at in between.
TEST_P(Listed, EveryChangeOfTheHostIsSeen) {
  if (exclusive()) GTEST_SKIP() << "nobody else changes an exclusive tree";
  ListAndLook();
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(chmod(Host("f1").c_str(), i % 2 == 0 ? 0600 : 0640), 0);
    usleep(110);  // an answer counts as current for 100 µs
    ASSERT_EQ(Stat("f1").mode & 07777, i % 2 == 0 ? 0600u : 0640u) << i;
    Put("f2", std::string(i % 7, 'x'));
    usleep(110);
    ASSERT_EQ(Stat("f2").size, static_cast<uint64_t>(i % 7)) << i;
    if (i % 50 == 0) Put("made" + std::to_string(i), "");
    usleep(110);
    ASSERT_EQ(tree_->List("/").size(), static_cast<size_t>(kFiles + 2 + i / 50)) << i;
  }
}

TEST_P(Listed, TheHostsChangesAreSeen) {
  if (exclusive()) GTEST_SKIP() << "nobody else changes an exclusive tree";
  ListAndLook();
  ASSERT_EQ(chmod(Host("f1").c_str(), 0400), 0);
  ASSERT_EQ(chmod(Host("f2").c_str(), 0777), 0);
  ASSERT_EQ(unlink(Host("f3").c_str()), 0);
  ASSERT_EQ(rename(Host("f4").c_str(), Host("f5").c_str()), 0);
  Put("f6", "changed by the host");
  Put("fresh", "fresh");
  ASSERT_EQ(unlink(Host("f7").c_str()), 0);
  ASSERT_EQ(mkdir(Host("f7").c_str(), 0700), 0);
  // The same number again, perhaps, and a file that is not the one that was listed.
  ASSERT_EQ(unlink(Host("f8").c_str()), 0);
  Put("f8", "another");
  for (int round = 0; round < 2; ++round) {
    for (const char* name : {"f1", "f2", "f5", "f6", "fresh", "f7", "f8", "f9"}) ExpectTrue(name);
    EXPECT_EQ(tree_->Lookup("/f3"), ENOENT);
    EXPECT_EQ(tree_->Read("/f8"), "another");
    Shrink();
  }
}

TEST_P(Listed, ListingsThatAreFollowedByLooksComeWithAttributes) {
  for (int d = 0; d < 8; ++d) {
    std::string dir = "d" + std::to_string(d);
    mkdir(Host(dir).c_str(), 0755);
    Put(dir + "/a", "a");
    Put(dir + "/b", "b");
  }
  timespec nap{0, 120'000'000};
  nanosleep(&nap, nullptr);
  EXPECT_EQ(tree_->List("/").size(), kFiles + 9u);
  uint64_t first = 0, last = 0;
  for (int d = 0; d < 8; ++d) {
    std::string dir = "d" + std::to_string(d);
    uint64_t before = calls();
    EXPECT_EQ(tree_->List("/" + dir).size(), 2u);
    // A shared directory is compared with the host by a descriptor only from its second search on.
    EXPECT_EQ(tree_->Lookup("/" + dir + "/none"), ENOENT);
    ExpectTrue(dir + "/a");
    ExpectTrue(dir + "/b");
    (d == 0 ? first : last) = calls() - before;
  }
  EXPECT_LT(last, first);
  EXPECT_LE(last, exclusive() ? 1u : 2u) << first;
}

}  // namespace
}  // namespace amber
