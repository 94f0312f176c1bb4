// Every call of the client against a server in the same process, on a real directory.
#include "gofer/client.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>

#include "gofer/act_as.h"
#include "gofer/protocol.h"
#include "gofer/test_gofer.h"
#include "sentry/base/brief_wait.h"

namespace amber::gofer {
namespace {

using Stop = WalkResult::Stop;

void WriteFile(const std::string& path, std::string_view content) { std::ofstream(path) << content; }

std::string ReadAll(int fd) {
  std::string content(4096, '\0');
  ssize_t n = pread(fd, content.data(), content.size(), 0);
  content.resize(n < 0 ? 0 : n);
  return content;
}

class ClientTest : public testing::Test {
 protected:
  WalkResult Walk(std::vector<std::string_view> names, WalkOptions options = {}) { return client().Walk(gofer_.root(), names, options).value(); }
  NodeId Find(std::string_view name) {
    WalkResult walk = Walk({name});
    return walk.found.size() == 1 ? walk.found[0].id : kNoNode;
  }
  Client& client() { return gofer_.client(); }
  // False without privileges, and in a user namespace that has only one user.
  bool MayChown() {
    WriteFile(gofer_.Path("probe"), "");
    bool may = chown(gofer_.Path("probe").c_str(), 1000, 1001) == 0;
    unlink(gofer_.Path("probe").c_str());
    return may;
  }

  TestGofer gofer_;
  const uint32_t uid_ = getuid();
  const uint32_t gid_ = getgid();
};

TEST_F(ClientTest, AttachDescribesTheRoot) {
  AttachedRoot root = client().Attach("root").value();
  EXPECT_EQ(root.root.attributes.mode & S_IFMT, uint32_t{S_IFDIR});
  EXPECT_FALSE(root.read_only);
  EXPECT_TRUE(client().Attach("frozen").value().read_only);
  EXPECT_TRUE(client().Attach("nothing").Is(ENOENT));
}

TEST_F(ClientTest, WhoMaySpinIsToldOfEachWait) {
  struct Counting : BriefWaiter {
    void BeginWait() override { EXPECT_EQ(begun++, ended); }
    void EndWait() override { EXPECT_EQ(++ended, begun); }
    int begun = 0, ended = 0;
  } counting;
  WriteFile(gofer_.Path("file"), "text");
  BriefWaiter::SetCurrent(&counting);
  for (int i = 0; i < 100; i++) EXPECT_NE(Find("file"), kNoNode);
  EXPECT_EQ(Walk({"missing"}).stop, Stop::kMissing);
  BriefWaiter::SetCurrent(nullptr);
  EXPECT_EQ(counting.begun, 101);
  EXPECT_EQ(counting.ended, 101);
  EXPECT_NE(Find("file"), kNoNode);
  EXPECT_EQ(counting.begun, 101);
}

TEST_F(ClientTest, WalkReturnsAWholePath) {
  ASSERT_EQ(mkdir(gofer_.Path("a").c_str(), 0750), 0);
  ASSERT_EQ(mkdir(gofer_.Path("a/b").c_str(), 0755), 0);
  WriteFile(gofer_.Path("a/b/c"), "hello");
  WalkResult walk = Walk({"a", "b", "c"});
  ASSERT_EQ(walk.stop, Stop::kDone);
  ASSERT_EQ(walk.found.size(), 3u);
  struct stat st;
  ASSERT_EQ(stat(gofer_.Path("a/b/c").c_str(), &st), 0);
  const Attributes& a = walk.found[2].attributes;
  EXPECT_EQ(a.dev, st.st_dev);
  EXPECT_EQ(a.ino, st.st_ino);
  EXPECT_EQ(a.mode, st.st_mode);
  EXPECT_EQ(a.nlink, st.st_nlink);
  EXPECT_EQ(a.uid, st.st_uid);
  EXPECT_EQ(a.gid, st.st_gid);
  EXPECT_EQ(a.size, 5u);
  EXPECT_EQ(a.blocks, static_cast<uint64_t>(st.st_blocks));
  EXPECT_EQ(a.blksize, static_cast<uint32_t>(st.st_blksize));
  EXPECT_EQ(a.mtime, (Time{st.st_mtim.tv_sec, static_cast<uint32_t>(st.st_mtim.tv_nsec)}));
  EXPECT_EQ(a.ctime, (Time{st.st_ctim.tv_sec, static_cast<uint32_t>(st.st_ctim.tv_nsec)}));
  EXPECT_EQ(walk.found[0].attributes.mode, uint32_t{S_IFDIR | 0750});
  EXPECT_EQ(client().calls(), 3u);  // two attaches and this
}

TEST_F(ClientTest, WalkStopsAtWhatIsMissing) {
  ASSERT_EQ(mkdir(gofer_.Path("a").c_str(), 0755), 0);
  WalkResult walk = Walk({"a", "none", "c"});
  EXPECT_EQ(walk.stop, Stop::kMissing);
  EXPECT_EQ(walk.found.size(), 1u);
}

TEST_F(ClientTest, WalkStopsAtASymlink) {
  ASSERT_EQ(symlink("/etc", gofer_.Path("link").c_str()), 0);
  for (auto names : {std::vector<std::string_view>{"link", "passwd"}, {"link"}}) {
    WalkResult walk = Walk(names);
    EXPECT_EQ(walk.stop, Stop::kSymlink);
    ASSERT_EQ(walk.found.size(), 1u);
    EXPECT_EQ(walk.found[0].target, "/etc");
    EXPECT_EQ(client().ReadLink(walk.found[0].id).value(), "/etc");
    EXPECT_TRUE(client().Open(walk.found[0].id, O_RDONLY).Is(ELOOP));
    EXPECT_TRUE(client().ReadDir(walk.found[0].id).Is(ENOTDIR));
  }
}

TEST_F(ClientTest, WalkThroughAFileSaysNotADirectory) {
  WriteFile(gofer_.Path("file"), "");
  WalkResult walk = Walk({"file", "x"});
  EXPECT_EQ(walk.stop, Stop::kError);
  EXPECT_EQ(walk.error.number(), ENOTDIR);
  EXPECT_EQ(walk.found.size(), 1u);
}

TEST_F(ClientTest, NamesThatLeadElsewhereAreRefused) {
  for (auto name : std::initializer_list<std::string_view>{"", ".", "..", "a/b", "/", "/etc", std::string_view("a\0b", 3)}) {
    EXPECT_TRUE(client().Walk(gofer_.root(), {{name}}).Is(EINVAL)) << name;
    EXPECT_TRUE(client().MkDir(gofer_.root(), name, {0755, uid_, gid_}).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Create(gofer_.root(), name, O_RDWR, {0644, uid_, gid_}).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Unlink(gofer_.root(), name).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Unlink(gofer_.root(), name, AT_REMOVEDIR).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Rename(gofer_.root(), "x", gofer_.root(), name).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Rename(gofer_.root(), name, gofer_.root(), "x").Is(EINVAL)) << name;
    EXPECT_TRUE(client().Link(gofer_.root(), gofer_.root(), name).Is(EINVAL)) << name;
    EXPECT_TRUE(client().Symlink(gofer_.root(), name, "t", uid_, gid_).Is(EINVAL)) << name;
    EXPECT_TRUE(client().MkNod(gofer_.root(), name, S_IFIFO, 0, {0644, uid_, gid_}).Is(EINVAL)) << name;
  }
  std::string longest(256, 'x');
  EXPECT_TRUE(client().Walk(gofer_.root(), {{std::string_view(longest)}}).Is(ENAMETOOLONG));
  std::vector<std::string_view> many(257, "x");
  EXPECT_TRUE(client().Walk(gofer_.root(), many).Is(ENAMETOOLONG));
  longest.pop_back();
  EXPECT_EQ(Walk({std::string_view(longest)}).stop, Stop::kMissing);
}

TEST_F(ClientTest, WalkCanOpenAndCanKeepNothing) {
  WriteFile(gofer_.Path("file"), "bytes");
  WalkResult walk = Walk({"file"}, {.open_flags = O_RDONLY});
  ASSERT_TRUE(walk.file.valid());
  EXPECT_EQ(ReadAll(walk.file.get()), "bytes");
  size_t nodes = gofer_.server().nodes().size();
  walk = Walk({"file"}, {.attributes_only = true});
  ASSERT_EQ(walk.found.size(), 1u);
  EXPECT_EQ(walk.found[0].id, kNoNode);
  EXPECT_EQ(walk.found[0].attributes.size, 5u);
  EXPECT_EQ(gofer_.server().nodes().size(), nodes);
  EXPECT_TRUE(client().Walk(gofer_.root(), {{"file"}}, {.open_flags = O_PATH}).Is(EINVAL));
  walk = client().Walk(gofer_.frozen(), {{"file"}}, {.open_flags = O_RDWR}).value();
  EXPECT_FALSE(walk.file.valid());
  EXPECT_EQ(walk.open_error.number(), EROFS);
}

TEST_F(ClientTest, ForgottenNodesAreGone) {
  WriteFile(gofer_.Path("file"), "");
  NodeId node = Find("file");
  EXPECT_TRUE(client().GetAttr(node).ok());
  client().Forget(node);
  client().FlushForgets();
  EXPECT_TRUE(client().GetAttr(node).Is(EBADF));
  EXPECT_NE(Find("file"), node);
  EXPECT_TRUE(client().GetAttr(node).Is(EBADF));
  for (NodeId forged : {NodeId{0}, NodeId{12345}, ~NodeId{0}, NodeId{1} << 32}) {
    EXPECT_TRUE(client().GetAttr(forged).Is(EBADF));
  }
}

TEST_F(ClientTest, NodesAreBounded) {
  WriteFile(gofer_.Path("file"), "");
  std::vector<NodeId> nodes;
  for (;;) {
    WalkResult walk = Walk({"file"});
    if (walk.stop == Stop::kError) {
      EXPECT_EQ(walk.error.number(), ENFILE);
      break;
    }
    nodes.push_back(walk.found[0].id);
    ASSERT_LT(nodes.size(), 1000u);
  }
  EXPECT_EQ(nodes.size(), 510u);
  EXPECT_TRUE(client().MkDir(gofer_.root(), "d", {0755, uid_, gid_}).Is(ENFILE));
  EXPECT_NE(access(gofer_.Path("d").c_str(), F_OK), 0);
  client().Forget(nodes);
  EXPECT_TRUE(client().MkDir(gofer_.root(), "d", {0755, uid_, gid_}).ok());
  EXPECT_EQ(gofer_.server().nodes().size(), 3u);
}

TEST_F(ClientTest, OpenGivesRegularFilesOnly) {
  WriteFile(gofer_.Path("file"), "content");
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0755), 0);
  ASSERT_EQ(mkfifo(gofer_.Path("fifo").c_str(), 0644), 0);
  UniqueFd fd = client().Open(Find("file"), O_RDONLY).value();
  EXPECT_EQ(ReadAll(fd.get()), "content");
  EXPECT_EQ(fcntl(fd.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_LT(write(fd.get(), "x", 1), 0);
  EXPECT_EQ(openat(fd.get(), ".", O_PATH), -1);
  EXPECT_TRUE(client().Open(Find("dir"), O_RDONLY).Is(EISDIR));
  EXPECT_TRUE(client().Open(Find("fifo"), O_RDONLY).Is(EACCES));
  for (int flags : {O_PATH, O_DIRECTORY, O_CREAT, O_TMPFILE | O_RDWR, 3, int{O_NOCTTY}}) {
    EXPECT_TRUE(client().Open(Find("file"), flags).Is(EINVAL)) << flags;
  }
  fd = client().Open(Find("file"), O_RDWR | O_TRUNC).value();
  EXPECT_EQ(ReadAll(fd.get()), "");
}

TEST_F(ClientTest, DirectoriesLeaveOnlyWhereAllowed) {
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0755), 0);
  EXPECT_TRUE(client().OpenDirectory(Find("dir")).Is(EACCES));
}

TEST(ClientOptions, DirectoriesForLooking) {
  TestGofer gofer({.allow_directories = true});
  WriteFile(gofer.Path("file"), "content");
  UniqueFd fd = gofer.client().OpenDirectory(gofer.root()).value();
  EXPECT_NE(fcntl(fd.get(), F_GETFL) & O_PATH, 0);
  struct stat st;
  ASSERT_EQ(fstatat(fd.get(), "file", &st, AT_SYMLINK_NOFOLLOW), 0);
  EXPECT_EQ(st.st_size, 7);
  auto walked = gofer.client().Walk(gofer.root(), {{"file"}}).value();
  EXPECT_TRUE(gofer.client().OpenDirectory(walked.found[0].id).Is(ENOTDIR));
}

TEST(ClientOptions, DirectoriesForLookingComeWithTheirNames) {
  TestGofer gofer({.allow_directories = true});
  ASSERT_EQ(mkdir(gofer.Path("dir").c_str(), 0755), 0);
  WriteFile(gofer.Path("dir/file"), "content");
  auto listed = gofer.client().ReadDirAt(gofer.root(), "dir", false, true);
  ASSERT_TRUE(listed.ok());
  struct stat st;
  ASSERT_EQ(fstatat(listed->look.get(), "file", &st, 0), 0);
  EXPECT_EQ(st.st_size, 7);
  EXPECT_NE(fcntl(listed->look.get(), F_GETFL) & O_PATH, 0);
}

TEST_F(ClientTest, OpenFollowsTheInodeNotTheName) {
  WriteFile(gofer_.Path("file"), "old");
  NodeId node = Find("file");
  ASSERT_EQ(unlink(gofer_.Path("file").c_str()), 0);
  WriteFile(gofer_.Path("file"), "new");
  EXPECT_EQ(ReadAll(client().Open(node, O_RDONLY).value().get()), "old");
  EXPECT_EQ(client().GetAttr(node).value().nlink, 0u);
}

TEST_F(ClientTest, FifosOpenOnlyWhereAllowed) {
  TestGofer gofer({.allow_fifos = true});
  ASSERT_EQ(mkfifo(gofer.Path("fifo").c_str(), 0644), 0);
  WalkResult walk = gofer.client().Walk(gofer.root(), {{"fifo"}}).value();
  EXPECT_TRUE(gofer.client().Open(walk.found[0].id, O_WRONLY).Is(ENXIO));  // no reader, and no waiting
  EXPECT_TRUE(gofer.client().Open(walk.found[0].id, O_RDONLY).ok());
}

TEST_F(ClientTest, SocketsConnectOnlyWhereAllowed) {
  TestGofer gofer({.allow_sockets = true});
  NewInode inode{.mode = 0777, .uid = getuid(), .gid = getgid(), .umask = 022};
  const User user = User::Self();
  const Identity self{user.uid, user.gid, user.groups};
  CreatedFile bound = gofer.client().BindSocket(gofer.root(), "socket", SOCK_STREAM, inode).value();
  EXPECT_EQ(bound.node.attributes.mode, uint32_t{S_IFSOCK | 0755});
  EXPECT_TRUE(gofer.client().BindSocket(gofer.root(), "socket", SOCK_STREAM, inode).Is(EEXIST));
  EXPECT_TRUE(gofer.client().BindSocket(gofer.root(), "other", SOCK_RAW, inode).Is(EINVAL));
  EXPECT_TRUE(gofer.client().BindSocket(gofer.root(), std::string(120, 'n'), SOCK_STREAM, inode).Is(ENAMETOOLONG));
  EXPECT_TRUE(gofer.client().BindSocket(gofer.frozen(), "other", SOCK_STREAM, inode).Is(EROFS));
  EXPECT_TRUE(gofer.client().Connect(bound.node.id, SOCK_STREAM, self).Is(ECONNREFUSED));  // does not listen
  ASSERT_EQ(listen(bound.file.get(), 0), 0);
  EXPECT_TRUE(gofer.client().Connect(bound.node.id, SOCK_DGRAM, self).Is(EPROTOTYPE));
  UniqueFd connected = gofer.client().Connect(bound.node.id, SOCK_STREAM, self).value();
  EXPECT_TRUE(gofer.client().Connect(bound.node.id, SOCK_STREAM, self).Is(EAGAIN));  // and does not wait for room
  EXPECT_TRUE(gofer.client().Connect(gofer.root(), SOCK_STREAM, self).Is(ECONNREFUSED));
  UniqueFd accepted(accept(bound.file.get(), nullptr, nullptr));
  ASSERT_EQ(write(connected.get(), "x", 1), 1);
  char c = 0;
  EXPECT_EQ(read(accepted.get(), &c, 1), 1);
  EXPECT_EQ(c, 'x');

  NodeId made = client().MkNod(gofer_.root(), "socket", S_IFSOCK, 0, inode).value().id;
  EXPECT_TRUE(client().Connect(made, SOCK_STREAM, self).Is(EOPNOTSUPP));
  EXPECT_TRUE(client().BindSocket(gofer_.root(), "other", SOCK_STREAM, inode).Is(EOPNOTSUPP));
}

TEST_F(ClientTest, SocketsConnectAsTheGuestsUser) {
  const User self = User::Self();
  TestGofer gofer({.channels = 1, .allow_sockets = true});
  NewInode inode{.mode = 0777, .uid = getuid(), .gid = getgid(), .umask = 0};
  CreatedFile bound = gofer.client().BindSocket(gofer.root(), "socket", SOCK_STREAM, inode).value();
  ASSERT_EQ(listen(bound.file.get(), 10), 0);
  auto connect = [&](const Identity& who) { return gofer.client().Connect(bound.node.id, SOCK_STREAM, who); };
  const std::vector<gid_t> groups = {2000, 2001};
  // Neither is an id; the host's calls would take them for "as it is".
  EXPECT_TRUE(connect({static_cast<uid_t>(-1), 1001, groups}).Is(EPERM));
  EXPECT_TRUE(connect({1000, static_cast<gid_t>(-1), groups}).Is(EPERM));
  EXPECT_TRUE(connect({1000, 1001, std::vector<gid_t>(5000)}).Is(EPERM));
  if (geteuid() != 0 || setgroups(self.groups.size(), self.groups.data()) != 0) {
    EXPECT_TRUE(connect({self.uid + 1, self.gid, self.groups}).Is(EPERM));
    GTEST_SKIP() << "needs CAP_SETUID and CAP_SETGID";
  }
  for (const User& who : {User{1000, 1001, groups}, User{0, 0, {}}, self}) {
    ASSERT_TRUE(connect({who.uid, who.gid, who.groups}).ok());
    UniqueFd peer(accept(bound.file.get(), nullptr, nullptr));
    ucred seen{};
    socklen_t size = sizeof(seen);
    ASSERT_EQ(getsockopt(peer.get(), SOL_SOCKET, SO_PEERCRED, &seen, &size), 0);
    EXPECT_EQ(seen.uid, who.uid);
    EXPECT_EQ(seen.gid, who.gid);
    std::vector<gid_t> list(100);
    size = static_cast<socklen_t>(list.size() * sizeof(gid_t));
    ASSERT_EQ(getsockopt(peer.get(), SOL_SOCKET, SO_PEERGROUPS, list.data(), &size), 0);
    list.resize(size / sizeof(gid_t));
    EXPECT_EQ(list, who.groups);
  }
  ASSERT_EQ(chmod(gofer.Path("socket").c_str(), 0700), 0);
  EXPECT_TRUE(connect({1000, 1001, groups}).Is(EACCES));
  // The thread is itself again after either.
  ASSERT_EQ(chown(gofer.Path("socket").c_str(), 1234, 1234), 0);
  EXPECT_TRUE(connect({self.uid, self.gid, self.groups}).ok());
  EXPECT_EQ(gofer.client().Create(gofer.root(), "file", O_RDWR, inode).value().node.attributes.uid, self.uid);
  EXPECT_EQ(User::Self(), self);
}

TEST_F(ClientTest, ReadDirListsEverything) {
  // Several chunks, of short names (whose encoding grows most) and of long ones.
  std::set<std::string> expected;
  for (int i = 0; i < 1400; ++i) expected.insert(std::to_string(i));
  for (int i = 0; i < 80; ++i) expected.insert(std::string(250, 'n') + std::to_string(i));
  for (const std::string& name : expected) WriteFile(gofer_.Path(name), "");
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0755), 0);
  expected.insert("dir");
  for (bool plus : {false, true}) {
    std::set<std::string> names;
    for (const DirEntry& entry : client().ReadDir(gofer_.root(), plus).value()) {
      names.insert(entry.name);
      EXPECT_EQ(entry.type, entry.name == "dir" ? DT_DIR : DT_REG);
      EXPECT_EQ(entry.attributes.has_value(), plus);
      if (plus) EXPECT_EQ(entry.attributes->ino, entry.ino);
    }
    EXPECT_EQ(names, expected);
  }
}

TEST_F(ClientTest, OpenSeveralLeavesOutWhatCannotBeOpened) {
  WriteFile(gofer_.Path("a"), "A");
  WriteFile(gofer_.Path("b"), "B");
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0755), 0);
  ASSERT_EQ(symlink("a", gofer_.Path("link").c_str()), 0);
  std::vector<std::string_view> names = {"none", "b", "dir", "link", "a"};
  auto opened = client().OpenSeveral(gofer_.root(), names);
  ASSERT_TRUE(opened.ok());
  ASSERT_EQ(opened->size(), 2u);
  EXPECT_EQ((*opened)[0].index, 1u);
  EXPECT_EQ((*opened)[1].index, 4u);
  for (const OpenedFile& o : *opened) {
    char c = 0;
    EXPECT_EQ(read(o.file.get(), &c, 1), 1);
    EXPECT_EQ(c, o.index == 1 ? 'B' : 'A');
    EXPECT_EQ(write(o.file.get(), &c, 1), -1);
    EXPECT_EQ(client().GetAttr(o.node.id)->ino, o.node.attributes.ino);
  }
  names = {"a", "../a"};
  EXPECT_EQ(client().OpenSeveral(gofer_.root(), names).error().number(), EINVAL);
  names.assign(kMaxDescriptors + 1, "a");
  EXPECT_EQ(client().OpenSeveral(gofer_.root(), names).error().number(), EINVAL);
  EXPECT_EQ(client().OpenSeveral((*opened)[0].node.id, {}).error().number(), ENOTDIR);
}

TEST_F(ClientTest, ReadDirAtLooksUpAndReads) {
  ASSERT_EQ(mkdir(gofer_.Path("dir").c_str(), 0750), 0);
  for (int i = 0; i < 2000; ++i) WriteFile(gofer_.Path("dir/" + std::string(100, 'x') + std::to_string(i)), "");
  auto listed = client().ReadDirAt(gofer_.root(), "dir", true, true);
  ASSERT_TRUE(listed.ok());
  EXPECT_EQ(listed->entries.size(), 2000u);
  EXPECT_EQ(listed->node.attributes.mode, S_IFDIR | 0750u);
  EXPECT_FALSE(listed->look.valid());  // this gofer gives no directories
  EXPECT_EQ(client().ReadDir(listed->node.id)->size(), 2000u);
  WriteFile(gofer_.Path("file"), "");
  EXPECT_EQ(client().ReadDirAt(gofer_.root(), "file", false, false).error().number(), ENOTDIR);
  EXPECT_EQ(client().ReadDirAt(gofer_.root(), "none", false, false).error().number(), ENOENT);
  EXPECT_EQ(client().ReadDirAt(gofer_.root(), "..", false, false).error().number(), EINVAL);
}

TEST_F(ClientTest, ReadDirAtListsOthersThatFit) {
  for (const char* name : {"a", "b", "c", "big"}) ASSERT_EQ(mkdir(gofer_.Path(name).c_str(), 0750), 0);
  for (const char* name : {"b/x", "c/x", "c/y", "file"}) WriteFile(gofer_.Path(name), "");
  for (int i = 0; i < 500; ++i) WriteFile(gofer_.Path("big/" + std::string(100, 'x') + std::to_string(i)), "");
  std::vector<std::string_view> others = {"b", "file", "none", "c"};
  auto listed = client().ReadDirAt(gofer_.root(), "a", true, true, others);
  ASSERT_TRUE(listed.ok());
  EXPECT_TRUE(listed->entries.empty());
  ASSERT_EQ(listed->others.size(), 2u);
  EXPECT_EQ(listed->others[0].index, 0u);
  EXPECT_EQ(listed->others[1].index, 3u);
  EXPECT_EQ(listed->others[1].node.attributes.mode, S_IFDIR | 0750u);
  ASSERT_EQ(listed->others[1].entries.size(), 2u);
  EXPECT_TRUE(listed->others[1].entries[0].attributes);
  EXPECT_EQ(client().ReadDir(listed->others[1].node.id)->size(), 2u);
  // Whole ones only; and none beside one that takes several answers.
  others = {"big", "c"};
  EXPECT_TRUE(client().ReadDirAt(gofer_.root(), "a", true, true, others)->others.empty());
  others = {"a", "c"};
  listed = client().ReadDirAt(gofer_.root(), "big", true, true, others);
  ASSERT_TRUE(listed.ok());
  EXPECT_EQ(listed->entries.size(), 500u);
  EXPECT_TRUE(listed->others.empty());
  others = {"c", "../a"};
  EXPECT_EQ(client().ReadDirAt(gofer_.root(), "a", true, true, others).error().number(), EINVAL);
  others.assign(kMaxListings + 1, "c");
  EXPECT_EQ(client().ReadDirAt(gofer_.root(), "a", true, true, others).error().number(), EINVAL);
}

TEST_F(ClientTest, CreateMakesAndOpens) {
  CreatedFile created = client().Create(gofer_.root(), "new", O_RDWR, {0666, uid_, gid_}).value();
  EXPECT_EQ(created.node.attributes.mode, uint32_t{S_IFREG | 0666});  // no umask of the gofer's
  EXPECT_EQ(write(created.file.get(), "x", 1), 1);
  EXPECT_EQ(client().GetAttr(created.node.id).value().size, 1u);
  EXPECT_TRUE(client().Create(gofer_.root(), "new", O_RDWR, {0666, uid_, gid_}).Is(EEXIST));
  ASSERT_EQ(symlink("target", gofer_.Path("dangling").c_str()), 0);
  EXPECT_TRUE(client().Create(gofer_.root(), "dangling", O_RDWR, {0666, uid_, gid_}).Is(EEXIST));
  EXPECT_TRUE(client().Create(gofer_.root(), "odd", O_RDWR, {010666, uid_, gid_}).Is(EINVAL));
  // A mode without permissions does not stand in the way of the creator.
  EXPECT_TRUE(client().Create(gofer_.root(), "closed", O_RDWR, {0, uid_, gid_}).ok());
}

TEST_F(ClientTest, NewInodesGetOwnerAndSpecialBits) {
  if (!MayChown()) GTEST_SKIP() << "needs CAP_CHOWN over other users";
  CreatedFile file = client().Create(gofer_.root(), "f", O_RDWR, {04755, 1000, 1001}).value();
  EXPECT_EQ(file.node.attributes.mode, uint32_t{S_IFREG | 04755});
  EXPECT_EQ(file.node.attributes.uid, 1000u);
  EXPECT_EQ(file.node.attributes.gid, 1001u);
  Node dir = client().MkDir(gofer_.root(), "d", {01777, 1000, 1001}).value();
  EXPECT_EQ(dir.attributes.mode, uint32_t{S_IFDIR | 01777});
  ASSERT_EQ(chmod(gofer_.Path("d").c_str(), 02755), 0);
  Node child = client().MkDir(dir.id, "c", {0755, 5, 6}).value();
  EXPECT_EQ(child.attributes.mode, uint32_t{S_IFDIR | 0755});  // set-gid only if the sentry says so
  EXPECT_EQ(child.attributes.gid, 6u);
  Node link = client().Symlink(gofer_.root(), "l", "nowhere", 7, 8).value();
  EXPECT_EQ(link.attributes.uid, 7u);
  EXPECT_EQ(link.attributes.gid, 8u);
}

TEST_F(ClientTest, TmpFileCanBeLinked) {
  auto tmp = client().TmpFile(gofer_.root(), O_RDWR, {0600, uid_, gid_});
  if (tmp.Is(EOPNOTSUPP)) GTEST_SKIP() << "no O_TMPFILE here";
  EXPECT_EQ(tmp->node.attributes.nlink, 0u);
  EXPECT_EQ(write(tmp->file.get(), "abc", 3), 3);
  EXPECT_EQ(client().Link(tmp->node.id, gofer_.root(), "named").value().nlink, 1u);
  EXPECT_EQ(ReadAll(client().Open(Find("named"), O_RDONLY).value().get()), "abc");
  auto exclusive = client().TmpFile(gofer_.root(), O_RDWR, {0600, uid_, gid_}, true);
  EXPECT_TRUE(client().Link(exclusive->node.id, gofer_.root(), "other").Is(ENOENT));
  EXPECT_TRUE(client().TmpFile(gofer_.root(), O_RDONLY, {0600, uid_, gid_}).Is(EINVAL));
}

TEST_F(ClientTest, SymlinkAndLink) {
  Node link = client().Symlink(gofer_.root(), "l", "../somewhere", uid_, gid_).value();
  EXPECT_EQ(link.target, "../somewhere");
  EXPECT_EQ(client().ReadLink(link.id).value(), "../somewhere");
  EXPECT_TRUE(client().Symlink(gofer_.root(), "m", "", uid_, gid_).Is(ENOENT));
  std::string longest(4095, 't');
  EXPECT_EQ(client().Symlink(gofer_.root(), "long", longest, uid_, gid_).value().target, longest);
  EXPECT_TRUE(client().Symlink(gofer_.root(), "n", longest + "t", uid_, gid_).Is(ENAMETOOLONG));
  // A hard link to a symbolic link links that, not what it leads to.
  EXPECT_EQ(client().Link(link.id, gofer_.root(), "l2").value().nlink, 2u);
  EXPECT_EQ(Walk({"l2"}).found[0].target, "../somewhere");
  EXPECT_TRUE(client().Link(gofer_.root(), gofer_.root(), "d").Is(EPERM));
}

TEST_F(ClientTest, MkNodKinds) {
  for (uint32_t type : {S_IFREG, S_IFIFO, S_IFSOCK}) {
    std::string name = "n" + std::to_string(type);
    Node node = client().MkNod(gofer_.root(), name, type, makedev(1, 3), {0640, uid_, gid_}).value();
    EXPECT_EQ(node.attributes.mode, type | 0640);
    EXPECT_EQ(node.attributes.rdev, 0u);
  }
  EXPECT_TRUE(client().MkNod(gofer_.root(), "c", S_IFCHR, makedev(1, 3), {0640, uid_, gid_}).Is(EPERM));
  EXPECT_TRUE(client().MkNod(gofer_.root(), "b", S_IFBLK, 0, {0640, uid_, gid_}).Is(EPERM));
  EXPECT_TRUE(client().MkNod(gofer_.root(), "d", S_IFDIR, 0, {0640, uid_, gid_}).Is(EINVAL));
  EXPECT_TRUE(client().MkNod(gofer_.root(), "w", S_IFCHR, 0, {0, uid_, gid_}).ok());
}

TEST_F(ClientTest, RenameAndUnlink) {
  WriteFile(gofer_.Path("a"), "A");
  WriteFile(gofer_.Path("b"), "B");
  NodeId root = gofer_.root();
  EXPECT_TRUE(client().Rename(root, "a", root, "b", RENAME_NOREPLACE).Is(EEXIST));
  EXPECT_TRUE(client().Rename(root, "a", root, "b", RENAME_EXCHANGE).ok());
  EXPECT_EQ(ReadAll(client().Open(Find("a"), O_RDONLY).value().get()), "B");
  EXPECT_TRUE(client().Rename(root, "a", root, "b", RENAME_WHITEOUT).Is(EINVAL));
  EXPECT_TRUE(client().Rename(root, "a", root, "b").ok());
  EXPECT_TRUE(client().Rename(root, "a", root, "c").Is(ENOENT));
  EXPECT_TRUE(client().Rename(root, "b", gofer_.frozen(), "c").Is(EROFS));
  Node dir = client().MkDir(root, "d", {0755, uid_, gid_}).value();
  EXPECT_TRUE(client().Rename(root, "b", dir.id, "c").ok());
  EXPECT_TRUE(client().Unlink(root, "d").Is(EISDIR));
  EXPECT_TRUE(client().Unlink(root, "d", AT_REMOVEDIR).Is(ENOTEMPTY));
  EXPECT_TRUE(client().Unlink(dir.id, "c", AT_REMOVEDIR).Is(ENOTDIR));
  EXPECT_TRUE(client().Unlink(dir.id, "c").ok());
  EXPECT_TRUE(client().Unlink(root, "d", AT_REMOVEDIR).ok());
  EXPECT_TRUE(client().Unlink(root, "d", AT_SYMLINK_NOFOLLOW).Is(EINVAL));
}

TEST_F(ClientTest, SetAttrChangesWhatIsAsked) {
  WriteFile(gofer_.Path("f"), "0123456789");
  NodeId node = Find("f");
  Attributes before = client().GetAttr(node).value();
  Attributes a = client().SetAttr(node, {.size = 4, .mode = 0600}).value();
  EXPECT_EQ(a.size, 4u);
  EXPECT_EQ(a.mode, uint32_t{S_IFREG | 0600});
  AttributeChange times;
  times.atime = {.time = {100, 5}};
  a = client().SetAttr(node, times).value();
  EXPECT_EQ(a.atime, (Time{100, 5}));
  EXPECT_NE(a.mtime.seconds, 100);
  times = {};
  times.mtime = {.time = {-7, 999999999}};
  a = client().SetAttr(node, times).value();
  EXPECT_EQ(a.mtime, (Time{-7, 999999999}));
  EXPECT_EQ(a.atime, (Time{100, 5}));
  times.mtime = {.now = true};
  a = client().SetAttr(node, times).value();
  EXPECT_GE(a.mtime.seconds, before.mtime.seconds);
  times.mtime = {.time = {0, 1000000000}};
  EXPECT_TRUE(client().SetAttr(node, times).Is(EINVAL));
  EXPECT_TRUE(client().SetAttr(node, {.mode = 010000}).Is(EINVAL));
  EXPECT_TRUE(client().SetAttr(gofer_.root(), {.size = 0}).Is(EISDIR));
  EXPECT_TRUE(client().SetAttr(node, {.size = ~uint64_t{0}}).Is(EINVAL));
}

TEST_F(ClientTest, AChangeRidesAlongWithTheNextCall) {
  WriteFile(gofer_.Path("f"), "text");
  std::vector<std::string_view> names = {"f"};
  Node f = client().Walk(gofer_.root(), names).value().found[0];
  std::optional<ErrnoOr<Attributes>> result;
  auto done = [&](ErrnoOr<Attributes> r) { result = r; };
  uint64_t before = client().calls();
  client().SetAttrLater(f.id, {.mode = 0600}, done);
  EXPECT_FALSE(result.has_value());
  // Before the call, and whatever comes of that.
  EXPECT_EQ(client().GetAttr(f.id)->mode, S_IFREG | 0600u);
  EXPECT_EQ(client().calls() - before, 1u);
  ASSERT_TRUE(result.has_value() && result->ok());
  EXPECT_EQ((*result)->mode, S_IFREG | 0600u);
  result.reset();
  client().SetAttrLater(f.id, {.mode = 0640}, done);
  EXPECT_EQ(client().Unlink(gofer_.root(), "none").error().number(), ENOENT);
  ASSERT_TRUE(result.has_value() && result->ok());
  EXPECT_EQ((*result)->mode, S_IFREG | 0640u);
  result.reset();
  client().SetAttrLater(f.id, {.mode = 0400}, done);
  client().FlushChange();
  ASSERT_TRUE(result.has_value() && result->ok());
  before = client().calls();
  client().FlushChange();
  EXPECT_EQ(client().calls() - before, 0u);
  // It may fail by itself, and read-only is read-only.
  result.reset();
  client().SetAttrLater(f.id + 77, {.mode = 0400}, done);
  EXPECT_TRUE(client().GetAttr(f.id).ok());
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->error().number(), EBADF);
  result.reset();
  Node frozen = client().Walk(gofer_.frozen(), names).value().found[0];
  client().SetAttrLater(frozen.id, {.mode = 0777}, done);
  EXPECT_EQ(client().GetAttr(f.id)->mode, S_IFREG | 0400u);
  EXPECT_EQ(result->error().number(), EROFS);
}

TEST_F(ClientTest, SetAttrOfASymlinkLeavesItsTargetAlone) {
  WriteFile(gofer_.Path("target"), "");
  ASSERT_EQ(symlink("target", gofer_.Path("link").c_str()), 0);
  Attributes target = client().GetAttr(Find("target")).value();
  NodeId link = Find("link");
  AttributeChange times;
  times.mtime = {.time = {1, 2}};
  EXPECT_EQ(client().SetAttr(link, times).value().mtime, (Time{1, 2}));
  EXPECT_TRUE(client().SetAttr(link, {.mode = 0600}).Is(EOPNOTSUPP));
  EXPECT_TRUE(client().SetAttr(link, {.size = 0}).Is(EINVAL));
  if (MayChown()) EXPECT_EQ(client().SetAttr(link, {.uid = 9}).value().uid, 9u);
  EXPECT_EQ(client().GetAttr(Find("target")).value().mtime, target.mtime);
  EXPECT_EQ(client().GetAttr(Find("target")).value().uid, target.uid);
}

TEST_F(ClientTest, Xattrs) {
  WriteFile(gofer_.Path("f"), "");
  NodeId node = Find("f");
  std::string value("bytes\0with nul", 14);
  auto set = client().SetXattr(node, "user.test", value);
  if (set.Is(EOPNOTSUPP)) GTEST_SKIP() << "no extended attributes here";
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(client().GetXattr(node, "user.test").value(), value);
  EXPECT_TRUE(client().SetXattr(node, "user.test", value, XATTR_CREATE).Is(EEXIST));
  EXPECT_TRUE(client().SetXattr(node, "user.none", value, XATTR_REPLACE).Is(ENODATA));
  EXPECT_TRUE(client().SetXattr(node, "user.empty", "").ok());
  EXPECT_EQ(client().GetXattr(node, "user.empty").value(), "");
  auto names = client().ListXattr(node).value();
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"user.empty", "user.test"}));
  EXPECT_TRUE(client().RemoveXattr(node, "user.test").ok());
  EXPECT_TRUE(client().GetXattr(node, "user.test").Is(ENODATA));
  EXPECT_TRUE(client().GetXattr(node, "trusted.overlay.opaque").Is(EOPNOTSUPP));
  EXPECT_TRUE(client().SetXattr(node, "trusted.x", "1").Is(EOPNOTSUPP));
  EXPECT_TRUE(client().SetXattr(node, "user.big", std::string(65537, 'x')).Is(E2BIG));
  EXPECT_TRUE(client().GetXattr(node, std::string_view("user.\0x", 7)).Is(EINVAL));
  EXPECT_TRUE(client().SetXattr(node, "user.x", "1", 4).Is(EINVAL));
  // A message beyond any packet fails alone, and what was to travel with it is not lost.
  size_t nodes = gofer_.server().nodes().size();
  client().Forget(Find("f"));
  EXPECT_TRUE(client().SetXattr(node, "user.x", std::string(1 << 20, 'x')).Is(E2BIG));
  client().FlushForgets();
  EXPECT_EQ(gofer_.server().nodes().size(), nodes);
  EXPECT_TRUE(client().GetAttr(node).ok());
}

TEST_F(ClientTest, StatFsAndFsync) {
  WriteFile(gofer_.Path("f"), "");
  FileSystemStats stats = client().StatFs(gofer_.root()).value();
  EXPECT_GT(stats.blocks, 0u);
  EXPECT_EQ(stats.name_max, 255u);
  EXPECT_TRUE(client().Fsync(Find("f")).ok());
  EXPECT_TRUE(client().Fsync(Find("f"), true).ok());
  EXPECT_TRUE(client().Fsync(gofer_.root()).ok());
  ASSERT_EQ(mkfifo(gofer_.Path("fifo").c_str(), 0644), 0);
  EXPECT_TRUE(client().Fsync(Find("fifo")).Is(EINVAL));
}

TEST_F(ClientTest, ReadOnlyMeansReadOnly) {
  WriteFile(gofer_.Path("f"), "x");
  NodeId root = gofer_.frozen();
  NodeId node = client().Walk(root, {{"f"}}).value().found[0].id;
  EXPECT_TRUE(client().Open(node, O_RDONLY).ok());
  for (int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) EXPECT_TRUE(client().Open(node, flags).Is(EROFS));
  EXPECT_TRUE(client().Create(root, "n", O_RDWR, {0644, uid_, gid_}).Is(EROFS));
  EXPECT_TRUE(client().TmpFile(root, O_RDWR, {0644, uid_, gid_}).Is(EROFS));
  EXPECT_TRUE(client().MkDir(root, "n", {0755, uid_, gid_}).Is(EROFS));
  EXPECT_TRUE(client().Symlink(root, "n", "t", uid_, gid_).Is(EROFS));
  EXPECT_TRUE(client().MkNod(root, "n", S_IFREG, 0, {0644, uid_, gid_}).Is(EROFS));
  EXPECT_TRUE(client().Link(node, root, "n").Is(EROFS));
  EXPECT_TRUE(client().Link(node, gofer_.root(), "n").Is(EXDEV));
  EXPECT_TRUE(client().Rename(root, "f", root, "n").Is(EROFS));
  EXPECT_TRUE(client().Unlink(root, "f").Is(EROFS));
  EXPECT_TRUE(client().SetAttr(node, {.mode = 0600}).Is(EROFS));
  EXPECT_TRUE(client().SetXattr(node, "user.x", "1").Is(EROFS));
  EXPECT_TRUE(client().RemoveXattr(node, "user.x").Is(EROFS));
}

TEST_F(ClientTest, ManyThreadsShareOneClient) {
  for (int i = 0; i < 8; ++i) WriteFile(gofer_.Path("f" + std::to_string(i)), std::to_string(i));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      std::string name = "f" + std::to_string(i);
      for (int round = 0; round < 200; ++round) {
        WalkResult walk = Walk({name}, {.open_flags = O_RDONLY});
        ASSERT_EQ(walk.found.size(), 1u);
        EXPECT_EQ(ReadAll(walk.file.get()), std::to_string(i));
        client().Forget(walk.found[0].id);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  client().FlushForgets();
  EXPECT_EQ(gofer_.server().nodes().size(), 2u);
}

TEST(ClientWithoutGofer, FailsWithEio) {
  ChannelPair pair = MakeChannel().value();
  pair.server.reset();
  std::vector<UniqueFd> channels;
  channels.push_back(std::move(pair.client));
  Client client(std::move(channels));
  EXPECT_TRUE(client.Attach("root").Is(EIO));
  EXPECT_TRUE(client.GetAttr(1).Is(EIO));
  client.Forget(7);
  client.FlushForgets();
}

}  // namespace
}  // namespace amber::gofer
