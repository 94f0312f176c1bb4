// The memory devices of Linux (drivers/char/mem.c, random.c): null, zero, full, random, urandom, kmsg.
//
// RegisterMemoryDevices() enters them into the table of special.h; device nodes lead there from any file system that
// keeps them. Kernel lock.
#pragma once

#include "sentry/base/unique_fd.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

class DeviceFile final : public VfsFile {
 public:
  DeviceFile() = default;  // for Loader
  DeviceFile(VfsPath path, int flags) : VfsFile(std::move(path), flags) {}

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t) override { return Read(task, sink); }
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t) override { return Write(task, source); }
  // Seeking succeeds and means nothing.
  ErrnoOr<uint64_t> Seek(Task&, int64_t, int) override { return uint64_t{0}; }
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;

  state::Kind kind() const override { return state::Kind::kDeviceFile; }
  bool AfterLoad(state::Loader& loader) override;

 private:
  uint32_t minor_number() const;
  // What a mapping of /dev/zero maps: a sparse file of the sentry's.
  UniqueFd zeros_;
};

void RegisterMemoryDevices();

}  // namespace amber
