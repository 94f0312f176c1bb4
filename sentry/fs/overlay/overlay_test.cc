#include "sentry/fs/overlay/overlay.h"

#include <gtest/gtest.h>
#include <linux/fs.h>

#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

// A lower tree: /etc/passwd, /etc/hosts, /bin/sh, /link -> etc/passwd, /deep/er/est/f.
class OverlayTest : public testing::Test {
 protected:
  OverlayTest() : lower(MakeLower()), t(MakeOverlayOnTmpfs(lower)) {}

  static RefPtr<FileSystem> MakeLower() {
    auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755});
    TestTree l(fs);
    for (const char* dir : {"/etc", "/bin", "/deep", "/deep/er", "/deep/er/est", "/empty"}) l.MkDir(dir);
    l.Write("/etc/passwd", "root");
    l.Write("/etc/hosts", "localhost");
    l.Write("/bin/sh", "#!");
    l.Write("/deep/er/est/f", "bottom");
    l.Symlink("etc/passwd", "/link");
    return fs;
  }
  using Names = std::vector<std::string>;

  RefPtr<FileSystem> lower;
  TestTree t;
};

TEST_F(OverlayTest, ShowsTheLowerLayer) {
  EXPECT_EQ(t.Read("/etc/passwd"), "root");
  EXPECT_EQ(t.Read("/link"), "root");
  EXPECT_EQ(t.Read("/deep/er/est/f"), "bottom");
  EXPECT_EQ(t.Lookup("/etc/nothing"), ENOENT);
  EXPECT_EQ(t.List("/"), (Names{"bin", "deep", "empty", "etc", "link"}));
}

TEST_F(OverlayTest, CopiesUpOnWrite) {
  auto reader = t.Open("/etc/passwd", O_RDONLY);
  ASSERT_TRUE(reader.ok());
  RefPtr<Inode> seen = *(*reader)->path()->inode()->DataInode(t.ctx(), false);
  uint64_t ino = t.Ino("/etc/passwd");
  EXPECT_EQ(t.Write("/etc/passwd", "R"), 0);
  EXPECT_EQ(t.Read("/etc/passwd"), "Root");
  EXPECT_EQ(t.Ino("/etc/passwd"), ino);
  // Who had it open for reading keeps the lower layer's bytes.
  EXPECT_EQ(TestTree::ReadInode(*seen), "root");
  TestTree l(lower);
  EXPECT_EQ(l.Read("/etc/passwd"), "root");
  EXPECT_EQ(t.List("/etc"), (Names{"hosts", "passwd"}));
}

TEST_F(OverlayTest, NumbersStayAfterTheCacheIsDropped) {
  uint64_t ino = t.Ino("/etc/passwd"), dir = t.Ino("/etc");
  EXPECT_EQ(t.Write("/etc/passwd", "x"), 0);
  t.ns->root().dentry->fs().Shrink(0);
  EXPECT_EQ(t.Ino("/etc/passwd"), ino);
  EXPECT_EQ(t.Ino("/etc"), dir);
}

TEST_F(OverlayTest, WhiteoutsHideAndGo) {
  EXPECT_EQ(t.Unlink("/etc/hosts"), 0);
  EXPECT_EQ(t.Lookup("/etc/hosts"), ENOENT);
  t.ns->root().dentry->fs().Shrink(0);
  EXPECT_EQ(t.Lookup("/etc/hosts"), ENOENT);
  EXPECT_EQ(t.List("/etc"), (Names{"passwd"}));
  EXPECT_EQ(t.Write("/etc/hosts", "new"), 0);
  EXPECT_EQ(t.Read("/etc/hosts"), "new");
  EXPECT_EQ(t.Unlink("/etc/hosts"), 0);
  EXPECT_EQ(t.Unlink("/etc/passwd"), 0);
  EXPECT_EQ(t.List("/etc"), Names{});
  EXPECT_EQ(t.Rmdir("/etc"), 0);
  EXPECT_EQ(t.Lookup("/etc"), ENOENT);
  EXPECT_EQ(t.Lookup("/link"), ENOENT);
  // A new directory of that name is empty.
  EXPECT_EQ(t.MkDir("/etc"), 0);
  EXPECT_EQ(t.List("/etc"), Names{});
  t.ns->root().dentry->fs().Shrink(0);
  EXPECT_EQ(t.Lookup("/etc/passwd"), ENOENT);
}

TEST_F(OverlayTest, Renames) {
  EXPECT_EQ(t.Rename("/etc/passwd", "/bin/pw"), 0);
  EXPECT_EQ(t.Read("/bin/pw"), "root");
  EXPECT_EQ(t.Lookup("/etc/passwd"), ENOENT);
  EXPECT_EQ(t.Rename("/bin/pw", "/etc/hosts"), 0);
  EXPECT_EQ(t.Read("/etc/hosts"), "root");
  EXPECT_EQ(t.List("/bin"), (Names{"sh"}));
  // Directories with lower parts do not move; those made here do.
  EXPECT_EQ(t.Rename("/deep", "/deeper"), EXDEV);
  EXPECT_EQ(t.MkDir("/mine"), 0);
  EXPECT_EQ(t.Write("/mine/f", "1"), 0);
  EXPECT_EQ(t.Rename("/mine", "/empty"), 0);
  EXPECT_EQ(t.Read("/empty/f"), "1");
  EXPECT_EQ(t.Rename("/etc/hosts", "/bin/sh", RENAME_EXCHANGE), 0);
  EXPECT_EQ(t.Read("/bin/sh"), "root");
  EXPECT_EQ(t.Read("/etc/hosts"), "#!");
}

TEST_F(OverlayTest, HardLinksInTheUpperLayer) {
  EXPECT_EQ(t.Link("/etc/passwd", "/bin/pw"), 0);
  EXPECT_EQ(t.Write("/bin/pw", "W"), 0);
  EXPECT_EQ(t.Read("/etc/passwd"), "Woot");
  EXPECT_EQ(t.Ino("/etc/passwd"), t.Ino("/bin/pw"));
  t.ns->root().dentry->fs().Shrink(0);
  EXPECT_EQ(t.Ino("/etc/passwd"), t.Ino("/bin/pw"));
}

TEST_F(OverlayTest, AttributesCopyUp) {
  VfsContext ctx = t.ctx();
  EXPECT_TRUE(ChmodPlace(ctx, *t.Find("/deep/er/est"), 0700).ok());
  EXPECT_EQ(t.Find("/deep/er/est")->inode()->attr().mode & 07777, 0700u);
  EXPECT_EQ(t.Read("/deep/er/est/f"), "bottom");
  EXPECT_TRUE(TruncatePlace(ctx, *t.Find("/deep/er/est/f"), 3).ok());
  EXPECT_EQ(t.Read("/deep/er/est/f"), "bot");
}

}  // namespace
}  // namespace amber
