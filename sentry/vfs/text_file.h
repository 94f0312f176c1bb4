// Open files whose contents are a text that is made when somebody reads from its beginning, and that take what is written as one line (kernfs, seq_file): the
// base of those of /proc, /sys and cgroups.
#pragma once

#include <string>
#include <string_view>

#include "sentry/vfs/vfs_file.h"

namespace amber {

class TextFile : public VfsFile {
 public:
  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  // Sizes are 0: SEEK_END is SEEK_SET.
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<void> Truncate(Task&, uint64_t) override { return Ok(); }
  uint64_t position() const override { return position_; }

 protected:
  static constexpr size_t kMaxWrite = 4096;

  TextFile() = default;  // for Loader
  TextFile(VfsPath path, int flags) : VfsFile(std::move(path), flags) {}

  virtual ErrnoOr<std::string> MakeText(Task& task) = 0;
  // Before `size` bytes are copied in: at most kMaxWrite may be allowed.
  virtual ErrnoOr<void> MayWrite(Task& task, size_t size) = 0;
  // Without the newline, or null character, at its end.
  virtual ErrnoOr<void> TakeText(Task& task, std::string_view line) = 0;

  // A reader in the middle of a file goes on in the text that it began with: it is saved.
  std::string text_;
  bool made_ = false;
  uint64_t position_ = 0;
};

}  // namespace amber
