// ExecFiles for tests: a file of the host, and bytes in memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "sentry/base/unique_fd.h"
#include "sentry/loader/elf.h"

namespace amber::loader {

class HostExecFile final : public ExecFile {
 public:
  static ErrnoOr<std::unique_ptr<ExecFile>> Open(const std::string& path) {
    auto file = std::make_unique<HostExecFile>();
    file->fd_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file->fd_.valid()) return Errno(errno);
    return std::unique_ptr<ExecFile>(std::move(file));
  }
  ErrnoOr<size_t> ReadAt(void* data, size_t size, uint64_t offset) override {
    ssize_t n = pread(fd_.get(), data, size, static_cast<off_t>(offset));
    if (n < 0) return Errno(errno);
    return static_cast<size_t>(n);
  }
  ErrnoOr<MapSource> Map(uint64_t, uint64_t, int) override {
    MapSource source;
    // Test plans outlive the file: leave a descriptor behind.
    source.fd = dup(fd_.get());
    return source;
  }
  RefPtr<File> file() override { return nullptr; }

 private:
  UniqueFd fd_;
};

class BytesExecFile final : public ExecFile {
 public:
  explicit BytesExecFile(std::string bytes) : bytes_(std::move(bytes)) {}
  ErrnoOr<size_t> ReadAt(void* data, size_t size, uint64_t offset) override {
    if (offset >= bytes_.size()) return size_t{0};
    size_t n = std::min(size, bytes_.size() - static_cast<size_t>(offset));
    memcpy(data, bytes_.data() + offset, n);
    return n;
  }
  ErrnoOr<MapSource> Map(uint64_t, uint64_t, int) override { return MapSource(); }
  RefPtr<File> file() override { return nullptr; }

 private:
  std::string bytes_;
};

}  // namespace amber::loader
