#include "sentry/vfs/path.h"

#include <gtest/gtest.h>

#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

TEST(Path, FindsWhatIsThere) {
  TestTree t;
  EXPECT_EQ(t.MkDir("/a"), 0);
  EXPECT_EQ(t.MkDir("/a/b"), 0);
  EXPECT_EQ(t.MkDir("/a/b"), EEXIST);
  EXPECT_EQ(t.MkDir("/x/y"), ENOENT);
  EXPECT_EQ(t.Write("/a/f", "hello"), 0);
  EXPECT_EQ(t.Lookup("/a/f/"), ENOTDIR);
  EXPECT_EQ(t.Lookup("/a/f/g"), ENOTDIR);
  EXPECT_EQ(t.Lookup("a/../a/./b//"), 0);
  EXPECT_EQ(t.Lookup("/../../a"), 0);
  EXPECT_EQ(t.Lookup(""), ENOENT);
  EXPECT_EQ(t.Lookup("/" + std::string(256, 'n')), ENAMETOOLONG);
  EXPECT_EQ(t.Lookup(std::string(5000, '/')), ENAMETOOLONG);
  EXPECT_EQ(t.Read("/a/f"), "hello");
  EXPECT_EQ(PathName(*t.Find("/a/b"), t.ns->root()), "/a/b");
}

TEST(Path, SymbolicLinks) {
  TestTree t;
  t.MkDir("/d");
  t.Write("/d/f", "x");
  EXPECT_EQ(t.Symlink("d", "/l"), 0);
  EXPECT_EQ(t.Symlink("/d/f", "/abs"), 0);
  EXPECT_EQ(t.Symlink("loop", "/loop"), 0);
  EXPECT_EQ(t.Read("/l/f"), "x");
  EXPECT_EQ(t.Read("/abs"), "x");
  EXPECT_EQ(t.Lookup("/loop"), ELOOP);
  EXPECT_EQ(t.Lookup("/loop", 0), 0);
  EXPECT_EQ(t.Lookup("/l/f", kNoSymlinks | kFollowLast), ELOOP);
  EXPECT_TRUE(t.Find("/l/", 0)->inode()->IsDir());
  EXPECT_TRUE(t.Open("/abs", O_RDONLY | O_NOFOLLOW).Is(ELOOP));
  EXPECT_TRUE(t.Open("/abs", O_RDWR | O_CREAT | O_EXCL).Is(EEXIST));
  // Through a dangling link a file is made where it points.
  EXPECT_EQ(t.Symlink("d/new", "/dangling"), 0);
  EXPECT_TRUE(t.Open("/dangling", O_RDWR | O_CREAT).ok());
  EXPECT_EQ(t.Lookup("/d/new"), 0);
}

TEST(Path, FortyLinksAreEnough) {
  TestTree t;
  t.Write("/l0", "end");
  for (int i = 1; i <= 41; ++i) t.Symlink("l" + std::to_string(i - 1), "/l" + std::to_string(i));
  EXPECT_EQ(t.Read("/l40"), "end");
  EXPECT_EQ(t.Lookup("/l41"), ELOOP);
}

TEST(Path, BeneathAndInRoot) {
  TestTree t;
  t.MkDir("/jail");
  t.Write("/secret", "s");
  t.Symlink("/secret", "/jail/abs");
  t.Symlink("../secret", "/jail/up");
  VfsPath jail = *t.Find("/jail");
  VfsContext ctx = t.ctx();
  EXPECT_TRUE(ResolvePath(ctx, jail, "abs", kFollowLast | kBeneath).Is(EXDEV));
  EXPECT_TRUE(ResolvePath(ctx, jail, "up", kFollowLast | kBeneath).Is(EXDEV));
  EXPECT_TRUE(ResolvePath(ctx, jail, "../secret", kFollowLast | kBeneath).Is(EXDEV));
  EXPECT_TRUE(ResolvePath(ctx, jail, "abs", kFollowLast | kInRoot).Is(ENOENT));
  EXPECT_TRUE(ResolvePath(ctx, jail, "up", kFollowLast | kInRoot).Is(ENOENT));
  EXPECT_TRUE(ResolvePath(ctx, jail, "/", kFollowLast | kInRoot).ok());
}

TEST(Path, Permissions) {
  TestTree t;
  t.MkDir("/private", 0700);
  t.Write("/private/f", "x");
  t.MkDir("/tmp", 01777);
  t.Write("/tmp/roots", "x");
  t.Write("/exec", "x");
  EXPECT_EQ(TestTree::Number(CheckPermission(*t.creds, *t.Find("/exec"), kMayExec)), EACCES);  // no x bit at all
  t.Become(1000);
  EXPECT_EQ(t.Lookup("/private/f"), EACCES);
  EXPECT_EQ(t.MkDir("/d"), EACCES);
  EXPECT_EQ(t.Unlink("/tmp/roots"), EPERM);
  EXPECT_EQ(t.Write("/tmp/mine", "x"), 0);
  EXPECT_EQ(t.Find("/tmp/mine")->inode()->attr().uid, 1000u);
  EXPECT_EQ(t.Unlink("/tmp/mine"), 0);
  EXPECT_TRUE(t.Open("/tmp/roots", O_RDWR).Is(EACCES));
}

TEST(Path, MountsAndDotDot) {
  TestTree t;
  t.MkDir("/mnt");
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{});
  auto mount = MakeRef<Mount>(fs, fs->root(), MS_NODEV, "other");
  EXPECT_TRUE(t.ns->Attach(mount, *t.Find("/mnt")).ok());
  t.MkDir("/mnt/in");
  EXPECT_EQ(t.Find("/mnt/in")->mount, mount);
  EXPECT_EQ(t.Find("/mnt/in/../..")->dentry, t.ns->root().dentry);
  EXPECT_EQ(PathName(*t.Find("/mnt/in"), t.ns->root()), "/mnt/in");
  EXPECT_EQ(t.Lookup("/mnt/in", kFollowLast | kNoXdev), EXDEV);
  t.MkDir("/src");
  EXPECT_EQ(t.Rename("/src", "/mnt/dst"), EXDEV);
  EXPECT_EQ(t.Rmdir("/mnt"), EBUSY);
  EXPECT_TRUE(t.ns->Detach(*mount, false, 1).ok());
  mount.reset();
  EXPECT_EQ(t.Lookup("/mnt/in"), ENOENT);
}

// The last user of a file system that was taken off lazily leaves it, as a working directory and as a place of anyone's: what the dentry has there
// goes before the file system does.
TEST(Path, LeavingAMountThatIsGone) {
  for (bool file : {false, true}) {
    TestTree t;
    t.MkDir("/mnt");
    auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{});
    auto mount = MakeRef<Mount>(fs, fs->root(), 0, "other");
    ASSERT_TRUE(t.ns->Attach(mount, *t.Find("/mnt")).ok());
    fs.reset();
    t.MkDir("/mnt/in");
    t.Write("/mnt/in/f", "bytes");
    VfsPath place = *t.Find(file ? "/mnt/in/f" : "/mnt/in");
    if (!file) t.context->set_cwd(place);
    EXPECT_TRUE(t.ns->Detach(*mount, true, 1).ok());
    mount.reset();
    place = *t.Find("/");
    EXPECT_EQ(t.Lookup("/mnt/in"), ENOENT);
    t.context->set_cwd(place);
  }
}

// A namespace that ends with a parent younger than its child: the place of the child's mount point is of the parent's file system, which goes.
TEST(Path, NamespacesEndWithParentsBehindTheirChildren) {
  for (bool pivot : {false, true}) {
    TestTree t;
    auto attach = [&](const char* where) {
      t.MkDir(where);
      auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{});
      RefPtr<Dentry> root = fs->root();
      ASSERT_TRUE(t.ns->Attach(MakeRef<Mount>(std::move(fs), std::move(root), 0, "tmp"), *t.Find(where)).ok());
    };
    attach("/a");
    attach("/b");
    t.MkDir("/b/x");
    if (pivot) {
      ASSERT_TRUE(t.ns->Pivot(*t.Find("/b"), *t.Find("/b/x")).ok());
    } else {
      ASSERT_TRUE(t.ns->Move(*t.Find("/a")->mount, *t.Find("/b/x")).ok());
    }
    t.context = MakeRef<FsContext>();
  }
}

TEST(Path, ChrootHolds) {
  TestTree t;
  t.MkDir("/jail");
  t.Write("/secret", "s");
  t.context->set_root(*t.Find("/jail"));
  t.context->set_cwd(*t.Find("/"));
  EXPECT_EQ(t.Lookup("../secret"), ENOENT);
  EXPECT_EQ(t.Lookup("/../../secret"), ENOENT);
}

TEST(Path, DeletedNames) {
  TestTree t;
  t.MkDir("/d");
  t.Write("/d/f", "bytes");
  auto file = t.Open("/d/f", O_RDONLY);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(t.Unlink("/d/f"), 0);
  EXPECT_EQ(PathName(*(*file)->path(), t.ns->root()), "/d/f (deleted)");
  EXPECT_EQ(TestTree::ReadInode(*(*file)->path()->inode()), "bytes");
  EXPECT_EQ((*file)->path()->inode()->attr().nlink, 0u);
  VfsPath dir = *t.Find("/d");
  EXPECT_EQ(t.Rmdir("/d"), 0);
  EXPECT_TRUE(MakeAt(t.ctx(), dir, "x", {.mode = S_IFREG | 0644}).Is(ENOENT));
}

}  // namespace
}  // namespace amber
