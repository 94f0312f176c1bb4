// Writing and reading of image files (image_format.h has the layout, README.md the picture).
//
// ImageWriter is used by one thread; it has a thread of its own that writes while the caller gathers the next pages. ImageReader is
// immutable after Open(). Neither owns kernel objects: they deal in records and ranges.
//
// An image is untrusted input: a reader checks every size, offset and order before use, and says what is wrong in words.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/image_format.h"
#include "checkpoint/state.h"
#include "sentry/base/unique_fd.h"

namespace amber::checkpoint {

namespace proto {
class Manifest;
}

// In bytes, multiples of kImagePage.
struct ImageExtent {
  uint64_t start = 0;  // guest address, or offset in the file
  uint64_t size = 0;
  uint64_t offset = 0;  // in the image
};

struct SpaceIndex {
  uint64_t object = 0;
  std::vector<ImageExtent> extents;
};

struct FileIndex {
  uint64_t id = 0;
  uint64_t size = 0;
  std::vector<ImageExtent> extents;
};

struct ImageIndex {
  std::vector<SpaceIndex> spaces;
  std::vector<FileIndex> files;
};

class ImageWriter {
 public:
  // `fd`: an empty regular file, open for writing; stays the caller's.
  explicit ImageWriter(int fd);
  ~ImageWriter();
  ImageWriter(const ImageWriter&) = delete;
  ImageWriter& operator=(const ImageWriter&) = delete;

  // Where the next appended byte will be.
  uint64_t position() const;
  // Adds whole pages. A failure to write is reported by a later call at the latest by Finish(). RESOURCE_EXHAUSTED: the disk is full.
  absl::Status Append(const void* pages, size_t size);
  absl::Status AppendZeros(size_t size);
  // Completes the image. `manifest.schema` and counts of this class's knowledge are filled in. Does not fsync: see Sync().
  absl::Status Finish(proto::Manifest& manifest, const std::vector<state::Saver::Record>& objects, const ImageIndex& index);
  // After Finish(): the file is on the disk.
  absl::Status Sync();
  uint64_t file_size() const { return file_size_; }

 private:
  class Pump;
  absl::Status WriteSection(const std::string& bytes, uint64_t* at, Section* section);

  int fd_;
  uint64_t file_size_ = 0;
  std::unique_ptr<Pump> pump_;
};

class ImageReader {
 public:
  // Checks everything but the pages. `fd` stays the caller's and must stay open as long as the reader.
  static absl::StatusOr<std::unique_ptr<ImageReader>> Open(int fd);
  ~ImageReader();

  // Reads and checks all pages.
  absl::Status VerifyPages() const;
  const proto::Manifest& manifest() const { return *manifest_; }
  const std::vector<state::Saver::Record>& objects() const { return objects_; }
  const ImageIndex& index() const { return index_; }
  const SpaceIndex* FindSpace(uint64_t object) const;
  const FileIndex* FindFile(uint64_t id) const;
  // The contents of a saved file as a new descriptor: a memfd with the bytes copied, as far as they exist.
  absl::StatusOr<UniqueFd> OpenFile(uint64_t id) const;
  uint64_t file_size() const { return header_.file_size; }

 private:
  ImageReader() = default;
  absl::Status ReadHeader();
  absl::Status ReadManifest();
  absl::Status ReadObjects();
  absl::Status ReadIndex();
  absl::StatusOr<std::string> ReadSection(const Section& section, const char* name, uint64_t limit) const;

  int fd_ = -1;
  Header header_ = {};
  std::unique_ptr<proto::Manifest> manifest_;
  std::vector<state::Saver::Record> objects_;
  ImageIndex index_;
  std::vector<uint64_t> page_checksums_;
};

}  // namespace amber::checkpoint
