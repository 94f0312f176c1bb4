#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "sentry/fs/image/image_fs.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

UniqueFd FileOf(std::string_view bytes) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  return fd;
}

std::string Golden(const std::string& name) {
  std::ifstream in("sentry/fs/image/testdata/" + name, std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  EXPECT_GT(bytes.str().size(), 4096u) << name;
  return bytes.str();
}

std::string ErrorOf(std::string_view bytes) {
  auto source = ImageSource::Open(FileOf(bytes));
  return source.ok() ? "" : std::string(source.status().message());
}

RefPtr<FileSystem> Mounted(std::string_view bytes) {
  auto source = ImageSource::Open(FileOf(bytes));
  EXPECT_TRUE(source.ok()) << source.status();
  return std::move(*ImageFileSystem::Make(std::move(*source), {"c", "root"}));
}

std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>((i * 7 + i / 256) % 251);
  return bytes;
}

// As `mixed` of the golden images: runs that compress well, and some that do not.
std::string Mixed() {
  std::string bytes;
  uint32_t x = 1;
  for (int run = 0; run < 24; ++run) {
    for (int i = 0; i < 5000; ++i) {
      x = x * 1103515245 + 12345;
      bytes += static_cast<char>(run % 3 == 0 ? x >> 16 : run % 3 == 1 ? 'a' + run : (x >> 28) + 'A');
    }
  }
  return bytes;
}

// One member of an archive.
std::string Member(const std::string& name, char type, std::string_view data = "", const std::string& link = "", uint32_t mode = 0644,
                   uint32_t uid = 0) {
  std::string h(512, '\0');
  auto put = [&h](size_t at, const std::string& text) { h.replace(at, text.size(), text); };
  char number[32];
  auto octal = [&](size_t at, int digits, uint64_t value) {
    snprintf(number, sizeof(number), "%0*lo", digits, static_cast<unsigned long>(value));
    put(at, number);
  };
  put(0, name.substr(0, 100));
  octal(100, 7, mode);
  octal(108, 7, uid);
  octal(116, 7, 5);
  octal(124, 11, data.size());
  octal(136, 11, 1700000000);
  h[156] = type;
  put(157, link.substr(0, 100));
  put(257, std::string("ustar\00000", 8));
  octal(329, 7, 5);
  octal(337, 7, 1);
  put(148, "        ");
  unsigned sum = 0;
  for (char c : h) sum += static_cast<unsigned char>(c);
  octal(148, 6, sum);
  h[154] = '\0';
  h += data;
  h.resize((h.size() + 511) / 512 * 512);
  return h;
}

std::string Pax(const std::string& name, const std::string& value) {
  std::string rest = " " + name + "=" + value + "\n";
  size_t size = rest.size() + 1;
  while (std::to_string(size).size() + rest.size() != size) ++size;
  return std::to_string(size) + rest;
}

std::string End() { return std::string(1024, '\0'); }

class Erofs : public testing::TestWithParam<const char*> {};

TEST_P(Erofs, ShowsTheTree) {
  TestTree t(Mounted(Golden(GetParam())));
  auto attr = [&](std::string_view path) { return (*t.Find(path, 0)).inode()->attr(); };
  EXPECT_EQ(t.Read("/a"), "hello\n");
  EXPECT_EQ(t.Read("/b"), Pattern(10000));
  EXPECT_EQ(t.Read("/exact"), std::string(4096, 'A') + std::string(4096, 'B'));
  EXPECT_EQ(t.Read("/empty"), "");
  EXPECT_EQ(t.Read("/l"), "hello\n");
  EXPECT_EQ(attr("/a").nlink, 2u);
  EXPECT_EQ((*t.Find("/a")).inode(), (*t.Find("/h")).inode());
  EXPECT_EQ(attr("/b").mode, S_IFREG | 0755u);
  EXPECT_EQ(attr("/b").uid, 100000u);
  EXPECT_EQ(attr("/b").gid, 5u);
  EXPECT_EQ(attr("/b").size, 10000u);
  EXPECT_EQ(attr("/b").mtime.tv_sec, 1700000000);
  EXPECT_TRUE(S_ISFIFO(attr("/f").mode));
  EXPECT_EQ(attr("/c").mode, S_IFCHR | 0600u);
  EXPECT_EQ(attr("/c").rdev, makedev(5, 1));
  EXPECT_EQ(*(*t.Find("/long", 0)).inode()->ReadLink(t.ctx()), "/" + std::string(300, 'x'));
  EXPECT_EQ(*(*t.Find("/a")).inode()->GetXattr("user.colour"), "blue");
  EXPECT_EQ(*(*t.Find("/b")).inode()->GetXattr("trusted.t"), std::string("\0\1", 2));
  EXPECT_EQ((*t.Find("/b")).inode()->ListXattr()->size(), 2u);
  EXPECT_TRUE((*t.Find("/a")).inode()->GetXattr("user.other").Is(ENODATA));
}

TEST_P(Erofs, FindsEachNameOfALargeDirectory) {
  TestTree t(Mounted(Golden(GetParam())));
  auto names = (*t.Find("/d")).inode()->List(t.ctx());
  ASSERT_TRUE(names.ok());
  EXPECT_EQ(names->size(), 300u);
  for (int i = 0; i < 300; ++i) {
    std::string path = "/d/entry-" + std::to_string(i);
    ASSERT_EQ(t.Lookup(path, 0), 0) << path;
    EXPECT_EQ(*(*t.Find(path, 0)).inode()->ReadLink(t.ctx()), std::to_string(i));
  }
  for (const char* name : {"/d/entry-", "/d/entry-300", "/d/a", "/d/zzz", "/d/entry-99x"}) EXPECT_EQ(t.Lookup(name), ENOENT) << name;
}

TEST_P(Erofs, IsReadOnlyAndAnOverlayTakesWrites) {
  {
    TestTree t(Mounted(Golden(GetParam())));
    EXPECT_EQ(t.Write("/a", "x"), EROFS);
    EXPECT_EQ(t.MkDir("/new"), EROFS);
    EXPECT_EQ(t.Unlink("/a"), EROFS);
  }
  TestTree t(MakeOverlayOnTmpfs(Mounted(Golden(GetParam()))));
  EXPECT_EQ(t.Write("/b", "X", 3), 0);
  std::string changed = Pattern(10000);
  changed[3] = 'X';
  EXPECT_EQ(t.Read("/b"), changed);
  EXPECT_EQ(t.MkDir("/new"), 0);
  EXPECT_EQ(t.Unlink("/a"), 0);
  EXPECT_EQ(t.Lookup("/a"), ENOENT);
  EXPECT_EQ(t.Read("/h"), "hello\n");
}

// What a mapping of the whole file, and two pages more, shows.
TEST_P(Erofs, MapsPagesOfTheImageButNoBytesOfOthers) {
  TestTree t(Mounted(Golden(GetParam())));
  for (auto [path, contents] : std::initializer_list<std::pair<const char*, std::string>>{
           {"/b", Pattern(10000)}, {"/exact", std::string(4096, 'A') + std::string(4096, 'B')}, {"/a", "hello\n"}}) {
    RefPtr<Inode> inode((*t.Find(path)).inode());
    ASSERT_TRUE(inode->BeginIo(false).ok());
    auto source = inode->MapContents(false);
    ASSERT_TRUE(source.ok());
    std::string seen;
    uint64_t whole = source->rest_fd < 0 ? 0 : source->rest_from;
    if (whole > 0) {
      EXPECT_EQ(whole % 4096, 0u);
      seen.resize(whole);
      ASSERT_EQ(pread(source->fd, seen.data(), whole, static_cast<off_t>(source->offset)), static_cast<ssize_t>(whole));
    }
    char rest[3 * 4096];
    ssize_t n = pread(source->rest_fd < 0 ? source->fd : source->rest_fd, rest, sizeof(rest), 0);
    seen.append(rest, static_cast<size_t>(n));
    EXPECT_EQ(seen, contents) << path;
    EXPECT_EQ(source->offset % 4096, 0u);
    EXPECT_EQ(inode->map_seam(), whole == 0 ? UINT64_MAX : whole);
    EXPECT_TRUE(inode->MapContents(true).Is(EACCES));
    inode->EndIo(false);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Erofs, testing::Values("inline.erofs", "chunks.erofs", "lz4.erofs", "lz4-full.erofs", "lz4-big.erofs"));

// A file that is compressed in many extents, some of them not compressible, from every side.
class Compressed : public testing::TestWithParam<const char*> {};

TEST_P(Compressed, ReadsAnywhere) {
  TestTree t(Mounted(Golden(GetParam())));
  std::string all = Mixed();
  EXPECT_EQ(t.Read("/mixed"), all);
  RefPtr<Inode> inode((*t.Find("/mixed")).inode());
  EXPECT_EQ(inode->attr().size, all.size());
  EXPECT_LT(inode->attr().blocks * 512, all.size());
  ASSERT_TRUE(inode->BeginIo(false).ok());
  std::string part(5000, '\0');
  for (uint64_t offset = all.size(); offset > 3001; offset -= 2999) {
    auto n = inode->ReadBytes(part.data(), part.size(), offset);
    ASSERT_TRUE(n.ok());
    ASSERT_EQ(part.substr(0, *n), all.substr(offset, part.size())) << offset;
  }
  inode->EndIo(false);
}

TEST_P(Compressed, DamageIsNotFatal) {
  std::string good = Golden(GetParam());
  for (size_t at = 1152; at < good.size(); at += 61) {
    std::string bad = good;
    bad[at] ^= static_cast<char>(0x41 + at % 7);
    auto source = ImageSource::Open(FileOf(bad));
    if (!source.ok()) continue;
    auto fs = ImageFileSystem::Make(std::move(*source), {"c", "root"});
    if (!fs.ok()) continue;
    TestTree t(std::move(*fs));
    for (const char* path : {"/mixed", "/b"}) {
      if (t.Lookup(path) != 0 || !(*t.Find(path)).inode()->IsRegular()) continue;
      RefPtr<Inode> inode((*t.Find(path)).inode());
      char bytes[4096];
      if (!inode->BeginIo(false).ok()) continue;
      for (uint64_t offset : {0, 5000, 70000, 110000}) (void)inode->ReadBytes(bytes, sizeof(bytes), offset);
      inode->EndIo(false);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Compressed, testing::Values("lz4.erofs", "lz4-full.erofs", "lz4-big.erofs"));

TEST(ErofsErrors, SayWhatIsWrong) {
  std::string good = Golden("inline.erofs");
  auto with = [&](size_t at, std::string_view bytes) { return std::string(good).replace(1024 + at, bytes.size(), bytes); };
  EXPECT_EQ(ErrorOf(good), "");
  EXPECT_NE(ErrorOf(with(80, "\x02").replace(1024 + 84, 1, "\x02")).find("LZ4"), std::string::npos);
  EXPECT_NE(ErrorOf(with(80, "\x10")).find("packed tails"), std::string::npos);
  EXPECT_NE(ErrorOf(with(80, "\x80")).find("features"), std::string::npos);
  EXPECT_NE(ErrorOf(with(12, "\x20")).find("blocks"), std::string::npos);
  EXPECT_NE(ErrorOf(with(14, "\xff\xff")).find("no root"), std::string::npos);
  EXPECT_NE(ErrorOf(good.substr(0, 1200)).find("no root"), std::string::npos);
  EXPECT_NE(ErrorOf(good.substr(0, 1100)).find("neither"), std::string::npos);
  EXPECT_NE(ErrorOf("").find("neither"), std::string::npos);
  EXPECT_NE(ErrorOf("\x1f\x8b\x08").find("gzip"), std::string::npos);
}

TEST(ErofsErrors, AShortenedImageIsDamagedNotFatal) {
  std::string good = Golden("inline.erofs");
  for (size_t size = 2048; size < good.size(); size += 1777) {
    auto source = ImageSource::Open(FileOf(good.substr(0, size)));
    if (!source.ok()) continue;
    TestTree t(std::move(*ImageFileSystem::Make(std::move(*source), {"c", "root"})));
    auto names = t.ns->root().inode()->List(t.ctx());
    if (!names.ok()) continue;
    for (const DirEnt& e : *names) (void)t.Open("/" + e.name, O_RDONLY | O_NONBLOCK);
  }
}

TEST(Tar, ShowsTheTree) {
  std::string deep = "very/" + std::string(90, 'd') + "/" + std::string(90, 'e') + "/file";
  std::string archive =
      Member("./", '5', "", "", 0750) + Member("./dir/", '5', "", "", 0700, 7) + Member("dir/f", '0', Pattern(3000), "", 0640, 1000) +
      Member("dir/hard", '1', "", "./dir/f") + Member("link", '2', "", "dir/f") + Member("fifo", '6') + Member("tty", '3', "", "", 0620) +
      Member("@LongLink", 'L', deep + std::string(1, '\0')) + Member("cut", '0', "deep") +
      Member("pax", 'x', Pax("path", "from/pax") + Pax("uid", "4000000") + Pax("mtime", "1600000000.5") + Pax("SCHILY.xattr.user.k", "v")) +
      Member("cut", '0', "by pax") + Member("twice", '0', "old") + Member("twice", '0', "new") + End();
  TestTree t(Mounted(archive));
  auto attr = [&](std::string_view path) { return (*t.Find(path, 0)).inode()->attr(); };
  EXPECT_EQ(attr("/").mode, S_IFDIR | 0750u);
  EXPECT_EQ(attr("/dir").uid, 7u);
  EXPECT_EQ(t.Read("/dir/f"), Pattern(3000));
  EXPECT_EQ(attr("/dir/f").mode, S_IFREG | 0640u);
  EXPECT_EQ(attr("/dir/f").uid, 1000u);
  EXPECT_EQ(attr("/dir/f").gid, 5u);
  EXPECT_EQ(attr("/dir/f").nlink, 2u);
  EXPECT_EQ((*t.Find("/dir/hard")).inode(), (*t.Find("/dir/f")).inode());
  EXPECT_EQ(t.Read("/link"), Pattern(3000));
  EXPECT_TRUE(S_ISFIFO(attr("/fifo").mode));
  EXPECT_EQ(attr("/tty").rdev, makedev(5, 1));
  EXPECT_EQ(t.Read("/" + deep), "deep");
  EXPECT_EQ(attr("/very").mode, S_IFDIR | 0755u);
  EXPECT_EQ(t.Read("/from/pax"), "by pax");
  EXPECT_EQ(attr("/from/pax").uid, 4000000u);
  EXPECT_EQ(attr("/from/pax").mtime.tv_sec, 1600000000);
  EXPECT_EQ(attr("/from/pax").mtime.tv_nsec, 500000000);
  EXPECT_EQ(*(*t.Find("/from/pax")).inode()->GetXattr("user.k"), "v");
  EXPECT_EQ(t.Read("/twice"), "new");
  EXPECT_EQ(attr("/").nlink, 5u);  // dir, very, from
  EXPECT_EQ(t.Lookup("/none"), ENOENT);
  EXPECT_EQ(t.Write("/twice", "x"), EROFS);
}

TEST(Tar, ErrorsSayWhatAndWhere) {
  std::string good = Member("f", '0', "contents");
  auto expect = [](const std::string& archive, const char* part) { EXPECT_NE(ErrorOf(archive).find(part), std::string::npos) << ErrorOf(archive); };
  EXPECT_EQ(ErrorOf(good), "");  // without its end
  std::string bad = good;
  bad[600 - 512] ^= 1;
  expect(good + bad, "at byte 1024: the checksum");
  expect(good.substr(0, 515), "ends within f");
  expect(good + std::string(good, 0, 100), "ends within a header");
  expect(Member("a/../b", '0'), "leads up");
  expect(good + Member("f/below", '0'), "no directory");
  expect(Member("s", 'S'), "sparse");
  expect(Member("p", 'x', Pax("GNU.sparse.major", "1")) + good, "sparse");
  expect(Member("p", 'x', "99 path=x\n") + good, "malformed");
  expect(Member("p", 'x', "junk") + good, "malformed");
  expect(Member("v", 'V'), "unknown kind");
  expect(Member("h", '1', "", "nothing"), "hard link");
  expect(Member("d/", '5') + Member("h", '1', "", "d"), "hard link to a directory");
  expect(Member("l", '2'), "leads nowhere");
  expect(Member("n" + std::string(95, 'x') + "/", '0', "", "") + Member("/", '0', "x"), "");
}

TEST(ImageFs, ACheckpointKnowsItsImage) {
  std::string one = Member("f", '0', "1"), other = Member("g", '0', "1");
  auto identity = [](std::string_view bytes) { return (*ImageSource::Open(FileOf(bytes)))->identity(); };
  EXPECT_EQ(identity(one), identity(one));
  EXPECT_NE(identity(one), identity(other));
  EXPECT_NE(identity(Golden("inline.erofs")), identity(Golden("chunks.erofs")));
}

TEST(ImageFs, CopiesOfClosedFilesAreBounded) {
  std::string archive;
  for (int i = 0; i < 300; ++i) archive += Member("f" + std::to_string(i), '0', "contents");
  TestTree t(Mounted(archive));
  auto descriptors = [] {
    int count = 0;
    DIR* dir = opendir("/proc/self/fd");
    while (readdir(dir) != nullptr) ++count;
    closedir(dir);
    return count;
  };
  int before = descriptors();
  std::vector<RefPtr<Inode>> held;
  for (int i = 0; i < 300; ++i) {
    held.emplace_back((*t.Find("/f" + std::to_string(i))).inode());
    ASSERT_TRUE(held.back()->BeginIo(false).ok());
    ASSERT_TRUE(held.back()->MapContents(false).ok());
    held.back()->EndIo(false);
  }
  EXPECT_EQ(descriptors() - before, 256);
  held.clear();
}

}  // namespace
}  // namespace amber
