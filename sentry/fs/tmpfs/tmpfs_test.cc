#include "sentry/fs/tmpfs/tmpfs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/test_tree.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

struct stat StatOf(TestTree& t, std::string_view path) {
  struct stat st{};
  EXPECT_TRUE(StatInode(*t.Find(path, 0)->inode(), &st).ok());
  return st;
}

TEST(Tmpfs, LinksAndCounts) {
  TestTree t;
  t.MkDir("/d");
  EXPECT_EQ(StatOf(t, "/").st_nlink, 3u);
  t.Write("/f", "abc");
  EXPECT_EQ(t.Link("/f", "/d/g"), 0);
  EXPECT_EQ(StatOf(t, "/f").st_nlink, 2u);
  EXPECT_EQ(t.Ino("/f"), t.Ino("/d/g"));
  EXPECT_EQ(t.Link("/d", "/e"), EPERM);
  EXPECT_EQ(t.Unlink("/f"), 0);
  EXPECT_EQ(t.Read("/d/g"), "abc");
  EXPECT_EQ(t.Rmdir("/d"), ENOTEMPTY);
  EXPECT_EQ(t.Unlink("/d"), EISDIR);
  EXPECT_EQ(t.Rmdir("/d/g"), ENOTDIR);
  EXPECT_EQ(t.Unlink("/d/g"), 0);
  EXPECT_EQ(t.Rmdir("/d"), 0);
  EXPECT_EQ(StatOf(t, "/").st_nlink, 2u);
}

TEST(Tmpfs, Rename) {
  TestTree t;
  t.MkDir("/a");
  t.MkDir("/b");
  t.Write("/a/f", "1");
  t.Write("/b/f", "2");
  EXPECT_EQ(t.Rename("/a/f", "/b/f", RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(t.Rename("/a/f", "/b/f", RENAME_EXCHANGE), 0);
  EXPECT_EQ(t.Read("/a/f"), "2");
  EXPECT_EQ(t.Read("/b/f"), "1");
  EXPECT_EQ(t.Rename("/a/f", "/b/f"), 0);
  EXPECT_EQ(t.Read("/b/f"), "2");
  EXPECT_EQ(t.Lookup("/a/f"), ENOENT);
  EXPECT_EQ(t.Rename("/a", "/a/sub"), EINVAL);
  EXPECT_EQ(t.Rename("/b", "/b/f"), EINVAL);
  EXPECT_EQ(t.Rename("/b/f", "/a"), EISDIR);
  EXPECT_EQ(t.Rename("/a", "/b"), ENOTEMPTY);
  EXPECT_EQ(t.Rename("/b", "/a"), 0);
  EXPECT_EQ(t.Read("/a/f"), "2");
  EXPECT_EQ(t.Rename("/nothing", "/x"), ENOENT);
  EXPECT_EQ(t.Rename("/a/.", "/x"), EBUSY);
}

TEST(Tmpfs, SizesAndHoles) {
  TestTree t;
  EXPECT_EQ(t.Write("/f", "end", 100'000), 0);
  auto inode = RefPtr<Inode>(t.Find("/f")->inode());
  EXPECT_TRUE(inode->Refresh().ok());
  EXPECT_EQ(inode->attr().size, 100'003u);
  EXPECT_LT(inode->attr().blocks * 512, 100'000u);
  VfsContext ctx = t.ctx();
  EXPECT_TRUE(inode->SetAttr(ctx, {.size = 5}).ok());
  EXPECT_EQ(t.Read("/f"), std::string(5, '\0'));
  EXPECT_TRUE(inode->Fallocate(ctx, 0, 0, 8192).ok());
  EXPECT_EQ(inode->attr().size, 8192u);
  EXPECT_TRUE(inode->Fallocate(ctx, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096).ok());
  EXPECT_TRUE(inode->Fallocate(ctx, FALLOC_FL_COLLAPSE_RANGE, 0, 4096).Is(EOPNOTSUPP));
}

TEST(Tmpfs, SmallFilesNeedNoDescriptorForLong) {
  TestTree t;
  t.MkDir("/many");
  int before = open("/dev/null", O_RDONLY);
  close(before);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(t.Write("/many/" + std::to_string(i), std::to_string(i)), 0);
  int after = open("/dev/null", O_RDONLY);
  close(after);
  EXPECT_LT(after - before, 400);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(t.Read("/many/" + std::to_string(i)), std::to_string(i));
}

TEST(Tmpfs, SizeLimit) {
  TestTree t(MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.size = 16384, .inodes = 4}));
  EXPECT_EQ(t.Write("/f", std::string(16384, 'x')), 0);
  EXPECT_EQ(t.Write("/g", "y"), ENOSPC);
  EXPECT_EQ(t.Write("/f", "rewriting is fine"), 0);
  EXPECT_EQ(t.Unlink("/f"), 0);
  EXPECT_EQ(t.Write("/g", "y"), 0);
  EXPECT_EQ(t.MkDir("/1"), 0);
  EXPECT_EQ(t.MkDir("/2"), 0);
  EXPECT_EQ(t.MkDir("/3"), ENOSPC);
}

TEST(Tmpfs, CountsWithoutALimitOfItsOwn) {
  uint64_t before = TmpfsFileSystem::AllUsed();
  TestTree t;
  struct statfs empty, now;
  ASSERT_TRUE(t.Find("/")->inode()->fs().StatFs(&empty).ok());
  EXPECT_EQ(t.Write("/f", std::string(16384, 'x')), 0);
  EXPECT_EQ(t.Write("/g", "y"), 0);
  ASSERT_TRUE(t.Find("/")->inode()->fs().StatFs(&now).ok());
  EXPECT_EQ(empty.f_bfree - now.f_bfree, 5u);
  EXPECT_EQ(TmpfsFileSystem::AllUsed() - before, 5 * 4096u);
  // More than half of the memory can be had by none but who asks for it.
  auto inode = RefPtr<Inode>(t.Find("/g")->inode());
  VfsContext ctx = t.ctx();
  EXPECT_TRUE(inode->Fallocate(ctx, 0, 0, (now.f_bfree + 2) * 4096).Is(ENOSPC));
  EXPECT_EQ(t.Unlink("/f"), 0);
  EXPECT_EQ(t.Unlink("/g"), 0);
  inode.reset();
  EXPECT_EQ(TmpfsFileSystem::AllUsed(), before);
  auto o = ParseTmpfsOptions({"size=0"});
  ASSERT_TRUE(o.ok());
  EXPECT_TRUE(o->unlimited);
}

TEST(Tmpfs, Options) {
  auto o = ParseTmpfsOptions({"size=64k", "mode=1770", "uid=7", "nr_inodes=10"});
  ASSERT_TRUE(o.ok());
  EXPECT_EQ(o->size, 65536u);
  EXPECT_EQ(o->mode, 01770u);
  EXPECT_EQ(o->uid, 7u);
  EXPECT_EQ(o->inodes, 10u);
  EXPECT_TRUE(ParseTmpfsOptions({"size=bad"}).Is(EINVAL));
  EXPECT_TRUE(ParseTmpfsOptions({"size=99999999999999999t"}).Is(EINVAL));
  EXPECT_TRUE(ParseTmpfsOptions({"colour=red"}).Is(EINVAL));
}

TEST(Tmpfs, DeepTreesGoWithoutRecursion) {
  TestTree t;
  RefPtr<Dentry> dir = t.ns->root().dentry;
  VfsContext ctx = t.ctx();
  for (int i = 0; i < 100'000; ++i) {
    VfsPath at{t.ns->root().mount, dir};
    auto made = MakeAt(ctx, at, "d", {.mode = S_IFDIR | 0755});
    ASSERT_TRUE(made.ok());
    dir = std::move(*made);
  }
}

TEST(Locks, RangesSplitAndMerge) {
  FileLocks locks;
  auto a = MakeRef<FdTable>();
  auto b = MakeRef<FdTable>();
  auto lock = [](const RefPtr<FdTable>& owner, bool exclusive, uint64_t start, uint64_t end) {
    return FileLock{.exclusive = exclusive, .start = start, .end = end, .owner = owner.get(), .pid = 1};
  };
  EXPECT_TRUE(locks.Take(lock(a, true, 0, 99)).ok());
  EXPECT_TRUE(locks.Take(lock(b, false, 50, 60)).Is(EAGAIN));
  locks.Release(lock(a, true, 50, 60));
  EXPECT_EQ(locks.all().size(), 2u);
  EXPECT_TRUE(locks.Take(lock(b, false, 50, 60)).ok());
  EXPECT_TRUE(locks.Take(lock(a, true, 40, 55)).Is(EAGAIN));
  EXPECT_TRUE(locks.Take(lock(a, false, 40, 55)).ok());
  locks.ReleaseAll(b.get());
  EXPECT_TRUE(locks.Take(lock(a, true, 40, 60)).ok());
  ASSERT_EQ(locks.all().size(), 1u);
  EXPECT_EQ(locks.all()[0].start, 0u);
  EXPECT_EQ(locks.all()[0].end, 99u);
}

}  // namespace
}  // namespace amber
