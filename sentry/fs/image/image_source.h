// A file tree inside one host file: what the readers of the formats have in common.
//
// Everything in the file is hostile; a reader answers EUCLEAN where it contradicts itself (Linux: EFSCORRUPTED). Not thread-safe; kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"
#include "sentry/vfs/inode.h"

namespace amber {

// A file as the image has it.
struct ImageNode {
  enum class Layout : uint8_t {
    kFlat,        // all bytes at `data`
    kInline,      // whole blocks at `data`, the rest at `extra`
    kChunks,      // a table at `extra`
    kCompressed,  // an index at `extra`
  };
  uint64_t id = 0;
  Attr attr;
  Layout layout = Layout::kFlat;
  uint64_t data = 0, extra = 0;  // offsets in the image
  uint64_t xattrs = 0;           // offset of the extended attributes; their size
  uint32_t xattr_size = 0;
  uint8_t chunk_bits = 0;      // a chunk has 1 << chunk_bits bytes
  bool chunk_indexes = false;  // 8 bytes for each rather than 4
  bool compact = false;        // the index of a compressed file is; what its header says of it
  uint8_t advice = 0;
};

using XattrMap = std::map<std::string, std::string, std::less<>>;

class ImageSource {
 public:
  virtual ~ImageSource() = default;
  // Finds out which format it is. The status says what is wrong with the file. `fd` is open for reading; a regular file.
  static absl::StatusOr<std::unique_ptr<ImageSource>> Open(UniqueFd fd);

  virtual const char* type() const = 0;
  virtual uint64_t root() const = 0;
  virtual uint64_t file_count() const = 0;
  // Tells images apart: what a checkpoint keeps of it.
  virtual std::string identity() const = 0;

  virtual ErrnoOr<ImageNode> Load(uint64_t id) = 0;
  // ENOENT if `dir` has no such name.
  virtual ErrnoOr<uint64_t> Find(const ImageNode& dir, std::string_view name) = 0;
  // All entries but "." and "..".
  virtual ErrnoOr<std::vector<DirEnt>> List(const ImageNode& dir) = 0;
  virtual ErrnoOr<std::string> Target(const ImageNode& link) = 0;
  virtual ErrnoOr<XattrMap> Xattrs(const ImageNode& node) = 0;
  // At most `size` bytes of a file's contents at `offset`; fewer at the end only.
  virtual ErrnoOr<size_t> Read(const ImageNode& file, void* to, size_t size, uint64_t offset) = 0;

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  // True if the file's whole pages are pages of the image, at `node.data`.
  bool OnPages(const ImageNode& node) const;

 protected:
  ImageSource(UniqueFd fd, uint64_t size) : fd_(std::move(fd)), size_(size) {}
  // EUCLEAN if any of it is beyond the end.
  ErrnoOr<void> ReadExactly(uint64_t offset, void* to, size_t size) const;
  template <typename T>
  ErrnoOr<T> ReadValue(uint64_t offset) const {
    T value;
    TRY(ReadExactly(offset, &value, sizeof(value)));
    return value;
  }

 private:
  UniqueFd fd_;
  uint64_t size_;
};

}  // namespace amber
