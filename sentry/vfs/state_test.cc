// Trees through an image: saved, loaded, and looked at.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/tmpfs/tmpfs.pb.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/regular_file.h"
#include "sentry/vfs/test_tree.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

using state::Kind;
using state::Loader;

// The kinds that these trees consist of.
Loader::Factory FactoryFor(Kind kind) {
  switch (kind) {
    case Kind::kFsContext: return &Loader::Make<FsContext>;
    case Kind::kMountNamespace: return &Loader::Make<MountNamespace>;
    case Kind::kMount: return &Loader::Make<Mount>;
    case Kind::kDentry: return &Loader::Make<Dentry>;
    case Kind::kTmpfsFileSystem: return &Loader::Make<TmpfsFileSystem>;
    case Kind::kTmpfsInode: return &Loader::Make<TmpfsInode>;
    case Kind::kOverlayFileSystem: return &Loader::Make<OverlayFileSystem>;
    case Kind::kOverlayInode: return &Loader::Make<OverlayInode>;
    case Kind::kRegularFile: return &Loader::Make<RegularFile>;
    case Kind::kDirectoryFile: return &Loader::Make<DirectoryFile>;
    case Kind::kFdTable: return &Loader::Make<FdTable>;
    default: return nullptr;
  }
}

}  // namespace
namespace state {
Loader::Factory FactoryOf(Kind kind) { return FactoryFor(kind); }
}  // namespace state
namespace {

// Everything that a test process holds.
class Root final : public RefCounted<Root>, public state::Saveable {
 public:
  Kind kind() const override { return Kind::kKernel; }
  std::string Save(state::Saver& saver) const override {
    saver.Ref(fs);
    saver.Ref(files);
    return "";
  }
  bool Load(Loader&, std::string_view) override { return true; }
  ~Root() override = default;
  RefPtr<FsContext> fs;
  RefPtr<FdTable> files;
};

// Saves `tree` and `files` and loads them again into `tree` and `files`.
void ThroughAnImage(TestTree& tree, RefPtr<FdTable>& files, const std::function<void(std::vector<state::Saver::Record>&)>& change = nullptr) {
  Root root;
  root.fs = tree.context;
  root.files = files;
  state::Saver saver;
  saver.Run(&root);
  auto open_file = [&](uint64_t id) {
    for (const auto& f : saver.files()) {
      if (f.id != id) continue;
      int fd = memfd_create("restored", MFD_CLOEXEC);
      EXPECT_EQ(ftruncate(fd, static_cast<off_t>(f.size)), 0);
      loff_t from = 0;
      EXPECT_EQ(copy_file_range(f.fd, &from, fd, nullptr, f.size, 0), static_cast<ssize_t>(f.size));
      return fd;
    }
    return -1;
  };
  // The root itself has no factory.
  std::vector<state::Saver::Record> records(saver.records().begin() + 1, saver.records().end());
  if (change) change(records);
  Loader loader(open_file);
  ASSERT_TRUE(loader.Run(records)) << loader.error();
  tree.context = loader.GetRef<FsContext>(2);
  files = loader.GetRef<FdTable>(3);
  tree.ns = RefPtr<MountNamespace>(tree.context->root().mount->ns());
}

std::string ReadFd(FdTable& files, int fd) { return TestTree::ReadInode(static_cast<RegularFile&>(**files.Get(fd)).data()); }

TEST(State, TmpfsComesBack) {
  TestTree t;
  t.MkDir("/d", 01777);
  t.Write("/d/f", "contents");
  t.Write("/d/large", std::string(300'000, 'L'));
  t.Link("/d/f", "/hard");
  t.Symlink("d/f", "/soft");
  EXPECT_TRUE(t.Find("/d")->inode()->SetXattr("user.x", "y", 0).ok());
  uint64_t ino = t.Ino("/d/f");
  auto files = MakeRef<FdTable>();
  EXPECT_EQ(*files->Allocate(*t.Open("/d/f", O_RDWR), true, 100), 0);
  t.Write("/gone", "deleted bytes");
  EXPECT_EQ(*files->Allocate(*t.Open("/gone", O_RDONLY), false, 100, 7), 7);
  t.Unlink("/gone");
  t.context->set_cwd(*t.Find("/d"));
  ThroughAnImage(t, files);
  EXPECT_EQ(t.Read("f"), "contents");
  EXPECT_EQ(t.Read("/soft"), "contents");
  EXPECT_EQ(t.Read("/d/large"), std::string(300'000, 'L'));
  EXPECT_EQ(t.Ino("/hard"), ino);
  EXPECT_EQ(t.Find("/d")->inode()->attr().mode & 07777, 01777u);
  EXPECT_EQ(*t.Find("/d")->inode()->GetXattr("user.x"), "y");
  EXPECT_TRUE(*files->close_on_exec(0));
  EXPECT_EQ(ReadFd(*files, 7), "deleted bytes");
  EXPECT_EQ(PathName(*(*files->Get(7))->path(), t.ns->root()), "/gone (deleted)");
  EXPECT_EQ((*files->Get(0))->dentry(), t.Find("/d/f")->dentry.get());
  EXPECT_EQ(t.Lookup("/gone"), ENOENT);
}

TEST(State, MountsComeBack) {
  TestTree t;
  t.MkDir("/mnt");
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.size = 1 << 20});
  ASSERT_TRUE(t.ns->Attach(MakeRef<Mount>(fs, fs->root(), MS_NOSUID, "src"), *t.Find("/mnt")).ok());
  fs.reset();
  t.MkDir("/mnt/in");
  std::string before = t.ns->FormatMountInfo(t.ns->root());
  auto files = MakeRef<FdTable>();
  ThroughAnImage(t, files);
  EXPECT_EQ(t.ns->FormatMountInfo(t.ns->root()), before);
  EXPECT_EQ(t.Lookup("/mnt/in"), 0);
  EXPECT_EQ(t.Find("/mnt/in/../..")->dentry, t.ns->root().dentry);
}

TEST(State, OverlayComesBack) {
  auto lower = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755});
  {
    TestTree l(lower);
    l.MkDir("/etc");
    l.Write("/etc/passwd", "root");
    l.Write("/etc/hosts", "localhost");
  }
  TestTree t(MakeOverlayOnTmpfs(lower));
  lower.reset();
  auto files = MakeRef<FdTable>();
  EXPECT_EQ(*files->Allocate(*t.Open("/etc/passwd", O_RDONLY), false, 100), 0);
  uint64_t ino = t.Ino("/etc/passwd");
  t.Write("/etc/passwd", "R");
  t.Unlink("/etc/hosts");
  ThroughAnImage(t, files);
  EXPECT_EQ(t.Read("/etc/passwd"), "Root");
  EXPECT_EQ(ReadFd(*files, 0), "root");
  EXPECT_EQ(t.Ino("/etc/passwd"), ino);
  EXPECT_EQ(t.Lookup("/etc/hosts"), ENOENT);
  EXPECT_EQ(t.Write("/etc/hosts", "again"), 0);
}

TEST(State, LocksComeBack) {
  TestTree t;
  t.Write("/f", "x");
  auto files = MakeRef<FdTable>();
  EXPECT_TRUE(files->Allocate(*t.Open("/f", O_RDWR), false, 100).ok());
  FileLock lock{.exclusive = true, .start = 5, .end = 9, .owner = files.get(), .pid = 3};
  EXPECT_TRUE(t.Find("/f")->inode()->locks().Take(lock).ok());
  FileLock flock{.kind = LockKind::kFlock, .exclusive = true, .owner = files->Get(0)->get(), .pid = -1};
  EXPECT_TRUE(t.Find("/f")->inode()->locks().Take(flock).ok());
  ThroughAnImage(t, files);
  FileLocks& locks = t.Find("/f")->inode()->locks();
  ASSERT_EQ(locks.all().size(), 1u);
  EXPECT_EQ(locks.all()[0].owner, files->Get(0)->get());
  EXPECT_EQ(locks.all()[0].kind, LockKind::kFlock);
  // The other is there once a process has the table (Task::AfterLoad).
  locks.Confirm(*files);
  ASSERT_EQ(locks.all().size(), 2u);
  EXPECT_EQ(locks.all()[1].owner, files.get());
  EXPECT_EQ(locks.all()[1].end, 9u);
}

// A lock that an image gives to an open file of something else would outlive it.
TEST(State, LocksOfOthersAreNone) {
  TestTree t;
  t.Write("/f", "x");
  t.Write("/g", "x");
  auto files = MakeRef<FdTable>();
  EXPECT_TRUE(files->Allocate(*t.Open("/f", O_RDWR), false, 100).ok());
  EXPECT_TRUE(files->Allocate(*t.Open("/g", O_RDWR), false, 100).ok());
  for (LockKind kind : {LockKind::kFlock, LockKind::kOfd}) {
    FileLock lock{.kind = kind, .exclusive = true, .owner = files->Get(1)->get(), .pid = -1};
    EXPECT_TRUE(t.Find("/f")->inode()->locks().Take(lock).ok());
  }
  ThroughAnImage(t, files);
  EXPECT_TRUE(t.Find("/f")->inode()->locks().empty());
}

// Images with good checksums whose objects are not what a tree can be: `change` gets each message of `kind`. True if it is refused.
template <typename Message>
bool IsRefused(Kind kind, const std::function<void(Message&)>& change) {
  TestTree t;
  t.MkDir("/a");
  t.MkDir("/a/b");
  t.MkDir("/mnt");
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{});
  EXPECT_TRUE(t.ns->Attach(MakeRef<Mount>(fs, fs->root(), 0, "src"), *t.Find("/mnt")).ok());
  t.context->set_cwd(*t.Find("/a/b"));
  Root root;
  root.fs = t.context;
  root.files = MakeRef<FdTable>();
  state::Saver saver;
  saver.Run(&root);
  std::vector<state::Saver::Record> records(saver.records().begin() + 1, saver.records().end());
  for (auto& r : records) {
    if (r.kind != kind) continue;
    Message m;
    EXPECT_TRUE(m.ParseFromString(r.bytes));
    change(m);
    r.bytes = m.SerializeAsString();
  }
  Loader loader([](uint64_t) { return -1; });
  return !loader.Run(records);
}

TEST(State, RingsOfDirectoriesAreRefused) {
  EXPECT_FALSE(IsRefused<vfs_state::Dentry>(Kind::kDentry, [](auto&) {}));
  std::map<std::string, uint64_t> parents;
  auto note = [&](vfs_state::Dentry& d) { parents[d.name()] = d.parent(); };
  EXPECT_FALSE(IsRefused<vfs_state::Dentry>(Kind::kDentry, note));
  // a is its own parent, and b is in it.
  auto ring = [&](vfs_state::Dentry& d) {
    if (d.name() == "a") d.set_parent(parents["b"]), d.set_cached(false);
  };
  EXPECT_TRUE(IsRefused<vfs_state::Dentry>(Kind::kDentry, ring));
}

// Of two file systems: what of one is found in the other would be left with a plain pointer to what is gone.
TEST(State, OneFileSystemInAnotherIsRefused) {
  std::map<std::string, vfs_state::Dentry> names;
  std::vector<vfs_state::Dentry> roots;
  EXPECT_FALSE(IsRefused<vfs_state::Dentry>(Kind::kDentry, [&](auto& d) {
    names[d.name()] = d;
    if (d.parent() == 0) roots.push_back(d);
  }));
  ASSERT_EQ(roots.size(), 2u);
  const vfs_state::Dentry other = roots[0].fs() == names["b"].fs() ? roots[1] : roots[0];
  ASSERT_NE(other.fs(), names["b"].fs());
  EXPECT_TRUE(IsRefused<vfs_state::Dentry>(Kind::kDentry, [&](auto& d) {
    if (d.name() == "b") d.set_inode(other.inode());
  }));
  EXPECT_TRUE(IsRefused<vfs_state::Dentry>(Kind::kDentry, [&](auto& d) {
    if (d.name() == "b") d.set_fs(other.fs()), d.set_inode(other.inode());
  }));
  std::vector<uint64_t> root_ids;
  EXPECT_FALSE(IsRefused<vfs_state::FileSystem>(Kind::kTmpfsFileSystem, [&](auto& fs) { root_ids.push_back(fs.root()); }));
  ASSERT_EQ(root_ids.size(), 2u);
  for (int from : {0, 1}) {
    EXPECT_TRUE(IsRefused<vfs_state::FileSystem>(Kind::kTmpfsFileSystem, [&](auto& fs) {
      if (fs.root() == root_ids[from]) fs.set_root(root_ids[1 - from]);
    }));
  }
  EXPECT_TRUE(IsRefused<tmpfs_state::Inode>(Kind::kTmpfsInode, [&](auto& inode) {
    for (auto& c : *inode.mutable_children()) {
      if (c.name() == "b") c.set_inode(other.inode());
    }
  }));
}

// An open file whose contents, by an image, are another file system's keeps that.
TEST(State, ContentsKeepTheirFileSystem) {
  TestTree t;
  t.Write("/f", "ours");
  t.MkDir("/mnt");
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{});
  ASSERT_TRUE(t.ns->Attach(MakeRef<Mount>(fs, fs->root(), 0, "src"), *t.Find("/mnt")).ok());
  fs.reset();
  t.Write("/mnt/x", "theirs");
  auto files = MakeRef<FdTable>();
  EXPECT_EQ(*files->Allocate(*t.Open("/f", O_RDWR), false, 100), 0);
  EXPECT_EQ(*files->Allocate(*t.Open("/mnt/x", O_RDONLY), false, 100), 1);
  auto swap = [](std::vector<state::Saver::Record>& records) {
    vfs_state::OpenFile ours, theirs;
    state::Saver::Record* record = nullptr;
    for (auto& r : records) {
      vfs_state::OpenFile m;
      if (r.kind != Kind::kRegularFile || !m.ParseFromString(r.bytes)) continue;
      bool first = (m.flags() & O_ACCMODE) == O_RDWR;
      (first ? ours : theirs) = m;
      if (first) record = &r;
    }
    ASSERT_NE(record, nullptr);
    ours.set_data_inode(theirs.data_inode());
    record->bytes = ours.SerializeAsString();
  };
  ThroughAnImage(t, files, swap);
  // Closes what else holds the second file system: nothing but the first file does.
  ASSERT_TRUE(files->Remove(1).ok());
  ASSERT_TRUE(t.ns->Detach(*t.Find("/mnt")->mount, true, 0).ok());
  RefPtr<File> file = *files->Get(0);
  files.reset();
  t.context.reset();
  t.ns.reset();
  EXPECT_EQ(TestTree::ReadInode(static_cast<RegularFile&>(*file).data()), "theirs");
  file.reset();
}

TEST(State, NamesInNoDirectoryAreRefused) {
  auto hollow = [](vfs_state::Dentry& d) {
    if (d.name() == "a") d.set_inode(0);
  };
  EXPECT_TRUE(IsRefused<vfs_state::Dentry>(Kind::kDentry, hollow));
}

}  // namespace
}  // namespace amber
