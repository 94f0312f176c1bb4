#include "checkpoint/image.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint/cpu_features.h"
#include "checkpoint/image.pb.h"

namespace amber::checkpoint {
namespace {

using ::testing::HasSubstr;

UniqueFd EmptyFile() { return UniqueFd(memfd_create("image", MFD_CLOEXEC)); }

struct Sample {
  UniqueFd fd = EmptyFile();
  uint64_t size = 0;
  std::vector<state::Saver::Record> objects = {{1, state::Kind::kKernel, "kernel"}, {2, state::Kind::kTask, std::string(5000, 't')}};
  uint64_t pages_at = 0;
  const size_t pages;

  // 3000: more than one chunk of the writer.
  explicit Sample(size_t page_count = 30) : pages(page_count) {
    ImageWriter writer(fd.get());
    pages_at = writer.position();
    std::string page(kImagePage, 0);
    for (size_t i = 0; i < pages; ++i) {
      memset(page.data(), static_cast<int>(i % 250 + 1), page.size());
      EXPECT_TRUE(writer.Append(page.data(), page.size()).ok());
    }
    ImageIndex index;
    index.spaces.push_back(
        {7, {{0x400000, pages / 3 * kImagePage, pages_at}, {0x800000000, pages / 2 * kImagePage, pages_at + pages / 3 * kImagePage}}});
    index.files.push_back({1, 600 * kImagePage + 10, {{100 * kImagePage, 5 * kImagePage, pages_at + 5 * kImagePage}}});
    proto::Manifest manifest;
    manifest.set_creator("test");
    EXPECT_TRUE(writer.Finish(manifest, objects, index).ok());
    size = writer.file_size();
  }

  std::string OpenError() {
    auto reader = ImageReader::Open(fd.get());
    return reader.ok() ? "" : std::string(reader.status().message());
  }
  void Flip(uint64_t at) {
    char c;
    ASSERT_EQ(pread(fd.get(), &c, 1, static_cast<off_t>(at)), 1);
    c = static_cast<char>(c ^ 0x10);
    ASSERT_EQ(pwrite(fd.get(), &c, 1, static_cast<off_t>(at)), 1);
  }
  Header ReadHeader() {
    Header h;
    EXPECT_EQ(pread(fd.get(), &h, sizeof(h), 0), static_cast<ssize_t>(sizeof(h)));
    return h;
  }
  // With fitting checksums, as a hostile author would.
  void WriteHeader(Header h) {
    h.checksum = XXH3_64bits(&h, offsetof(Header, checksum));
    Trailer t = {};
    memcpy(t.magic, kTrailerMagic, 8);
    t.file_size = h.file_size;
    t.header_checksum = h.checksum;
    t.checksum = XXH3_64bits(&t, offsetof(Trailer, checksum));
    ASSERT_EQ(pwrite(fd.get(), &h, sizeof(h), 0), static_cast<ssize_t>(sizeof(h)));
    ASSERT_EQ(pwrite(fd.get(), &t, sizeof(t), static_cast<off_t>(size - kImagePage)), static_cast<ssize_t>(sizeof(t)));
  }
  // Replaces the index.
  void WriteIndex(const proto::Index& index) {
    std::string bytes = index.SerializeAsString();
    Header h = ReadHeader();
    ASSERT_LE(h.index.offset + bytes.size(), h.manifest.offset);
    ASSERT_EQ(pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(h.index.offset)), static_cast<ssize_t>(bytes.size()));
    h.index.size = bytes.size();
    h.index.checksum = XXH3_64bits(bytes.data(), bytes.size());
    WriteHeader(h);
  }
};

TEST(Image, ComesBackAsItWasWritten) {
  Sample s(3000);
  struct stat st;
  ASSERT_EQ(fstat(s.fd.get(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), s.size);
  auto reader = ImageReader::Open(s.fd.get());
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_EQ((*reader)->manifest().creator(), "test");
  ASSERT_EQ((*reader)->objects().size(), 2u);
  EXPECT_EQ((*reader)->objects()[1].bytes, s.objects[1].bytes);
  EXPECT_EQ((*reader)->objects()[1].kind, state::Kind::kTask);
  const SpaceIndex* space = (*reader)->FindSpace(7);
  ASSERT_NE(space, nullptr);
  ASSERT_EQ(space->extents.size(), 2u);
  EXPECT_EQ(space->extents[1].start, 0x800000000u);
  EXPECT_EQ(space->extents[1].offset, s.pages_at + 1000 * kImagePage);
  EXPECT_EQ((*reader)->FindSpace(8), nullptr);
  EXPECT_TRUE((*reader)->VerifyPages().ok());
}

TEST(Image, FilesComeBackWithTheirHoles) {
  Sample s;
  auto reader = ImageReader::Open(s.fd.get());
  ASSERT_TRUE(reader.ok());
  auto file = (*reader)->OpenFile(1);
  ASSERT_TRUE(file.ok()) << file.status().message();
  struct stat st;
  ASSERT_EQ(fstat(file->get(), &st), 0);
  EXPECT_EQ(static_cast<uint64_t>(st.st_size), 600 * kImagePage + 10);
  EXPECT_EQ(lseek(file->get(), 0, SEEK_DATA), static_cast<off_t>(100 * kImagePage));
  char c = 0;
  ASSERT_EQ(pread(file->get(), &c, 1, 100 * kImagePage), 1);
  EXPECT_EQ(static_cast<uint8_t>(c), 5 + 1);
  EXPECT_FALSE((*reader)->OpenFile(2).ok());
}

TEST(Image, DamageIsNamed) {
  Header h = Sample().ReadHeader();
  struct {
    uint64_t at;
    const char* text;
  } const cases[] = {
      {20, "header"},
      {h.manifest.offset + 1, "manifest"},
      {h.objects.offset + 100, "objects"},
      {h.index.offset + 3, "memory index"},
      {h.file_size - kImagePage + 9, "end"},
  };
  for (const auto& c : cases) {
    Sample s;
    s.Flip(c.at);
    EXPECT_THAT(s.OpenError(), HasSubstr(c.text)) << c.at;
  }
}

TEST(Image, DamagedPagesAreFoundWhenAsked) {
  Sample s(3000);
  s.Flip(s.pages_at + 2999 * kImagePage + 5);
  auto reader = ImageReader::Open(s.fd.get());
  ASSERT_TRUE(reader.ok());
  EXPECT_THAT(std::string((*reader)->VerifyPages().message()), HasSubstr("do not fit their checksum"));
}

TEST(Image, EveryTruncationIsRefused) {
  Sample whole;
  for (uint64_t size : {whole.size - 1, whole.size - kImagePage, whole.size / 2, uint64_t{4096}, uint64_t{100}, uint64_t{5}, uint64_t{0}}) {
    Sample s;
    ASSERT_EQ(ftruncate(s.fd.get(), static_cast<off_t>(size)), 0);
    EXPECT_NE(s.OpenError(), "") << size;
  }
}

TEST(Image, UnfinishedAndForeignFilesAreRefused) {
  Sample s;
  Header zero = {};
  ASSERT_EQ(pwrite(s.fd.get(), &zero, sizeof(zero), 0), static_cast<ssize_t>(sizeof(zero)));
  EXPECT_THAT(s.OpenError(), HasSubstr("did not finish"));
  std::string text(10000, 'x');
  ASSERT_EQ(pwrite(s.fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  EXPECT_THAT(s.OpenError(), HasSubstr("not an image"));
}

TEST(Image, NewerVersionsAreExplained) {
  Sample s;
  Header h = s.ReadHeader();
  h.version = kFormatVersion + 1;
  s.WriteHeader(h);
  EXPECT_THAT(s.OpenError(), HasSubstr("a newer one"));
}

TEST(Image, HostileSectionsAreRefused) {
  for (int section = 0; section < 3; ++section) {
    for (auto [offset, size] : std::vector<std::pair<uint64_t, uint64_t>>{
             {uint64_t{0} - kImagePage, 2 * kImagePage}, {uint64_t{1} << 62, 10}, {kImagePage, uint64_t{1} << 40}, {1, 10}}) {
      Sample s;
      Header h = s.ReadHeader();
      Section* sections[] = {&h.manifest, &h.objects, &h.index};
      sections[section]->offset = offset;
      sections[section]->size = size;
      s.WriteHeader(h);
      EXPECT_NE(s.OpenError(), "");
    }
  }
  Sample s;
  Header h = s.ReadHeader();
  h.pages_offset = h.file_size;
  s.WriteHeader(h);
  EXPECT_THAT(s.OpenError(), HasSubstr("outside of the file"));
}

TEST(Image, HostileIndexesAreRefused) {
  struct Range {
    uint64_t page, count, image_page;
  };
  const std::vector<std::vector<Range>> cases = {
      {{10, 0, 1}},              // empty
      {{10, 1, 0}},              // the header as a page
      {{10, 31, 1}},             // beyond the pages
      {{10, 1, 31}},             // behind them
      {{10, 5, 1}, {14, 5, 1}},  // overlap
      {{20, 1, 1}, {10, 1, 1}},  // order
      {{~uint64_t{0}, 1, 1}},    // overflow
      {{10, ~uint64_t{0}, 1}},   //
      {{10, 1, ~uint64_t{0}}},   //
  };
  for (const auto& ranges : cases) {
    for (bool file : {false, true}) {
      Sample s;
      proto::Index index;
      auto* extents = file ? index.add_files()->mutable_extents() : index.add_spaces()->mutable_extents();
      if (file) index.mutable_files(0)->set_size(uint64_t{1} << 40);
      for (const Range& r : ranges) {
        proto::Extent* e = extents->Add();
        e->set_page(r.page);
        e->set_count(r.count);
        e->set_image_page(r.image_page);
      }
      index.add_page_checksums(0);
      s.WriteIndex(index);
      EXPECT_THAT(s.OpenError(), HasSubstr("memory index"));
    }
  }
}

TEST(Image, FullDiskIsAnError) {
  // A file that may not grow stands for a full disk.
  UniqueFd fd(memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  ImageWriter writer(fd.get());
  std::string page(kImagePage, 'x');
  absl::Status status;
  for (int i = 0; i < 100000 && status.ok(); ++i) status = writer.Append(page.data(), page.size());
  EXPECT_FALSE(status.ok());
  proto::Manifest manifest;
  EXPECT_FALSE(writer.Finish(manifest, {}, {}).ok());
}

TEST(Image, EmptySandbox) {
  UniqueFd fd = EmptyFile();
  ImageWriter writer(fd.get());
  proto::Manifest manifest;
  ASSERT_TRUE(writer.Finish(manifest, {}, {}).ok());
  auto reader = ImageReader::Open(fd.get());
  ASSERT_TRUE(reader.ok()) << reader.status().message();
  EXPECT_TRUE((*reader)->VerifyPages().ok());
}

TEST(CpuFeatures, WhatIsMissingIsNamed) {
  CpuFeatures here = CpuFeatures::Here();
  EXPECT_FALSE(here.vendor.empty());
  proto::Cpu saved;
  here.Save(&saved);
  CpuFeatures again = CpuFeatures::Load(saved);
  EXPECT_EQ(here.Missing(again), "");
  CpuFeatures less = here;
  less.words[0] &= ~1u;
  EXPECT_EQ(less.Missing(here), "sse3");
  EXPECT_EQ(here.Missing(less), "");
  CpuFeatures more = here;
  more.xfeatures |= uint64_t{1} << 40;
  EXPECT_THAT(here.Missing(more), HasSubstr("xcr0"));
}

}  // namespace
}  // namespace amber::checkpoint
