// memfd_create(2), and the files behind shared anonymous memory: bytes in a host memfd of the sentry's own.
//
// Seals are those of the host's memfd, so that the host enforces them against mappings as well. Guarded by the kernel lock; like every
// File it is released by its last reference, mappings included.
#pragma once

#include <cstdint>
#include <string>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/lock_keeper.h"

namespace amber {

class MemFd final : public File, public OwnerKeeper {
 public:
  MemFd() = default;  // for Loader
  ~MemFd() override = default;

  // memfd_create(2) without its checks of `flags` (MFD_*).
  static ErrnoOr<RefPtr<File>> Create(Task& task, const std::string& name, unsigned flags);
  // Memory for MAP_SHARED | MAP_ANONYMOUS: appears in /proc/PID/maps as "/dev/zero (deleted)".
  static ErrnoOr<RefPtr<File>> CreateShared(Task& task, uint64_t size);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<void> Fsync(Task&, bool) override { return Ok(); }
  ErrnoOr<void> Truncate(Task& task, uint64_t size) override;
  ErrnoOr<void> Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  ErrnoOr<uint64_t> Fcntl(Task& task, int command, uint64_t argument) override;
  ErrnoOr<RefPtr<File>> Reopen(Task& task, int flags) override;
  AnonOwner& owner_and_mode() override { return owner_; }
  ErrnoOr<void> CheckMode(uint32_t mode) const override;
  std::string LinkName() const override { return name_ + " (deleted)"; }
  uint64_t position() const override { return position_; }

  state::Kind kind() const override { return state::Kind::kMemFd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  ErrnoOr<uint64_t> Size() const;
  ErrnoOr<void> AddSeals(int seals);

  UniqueFd fd_;
  std::string name_;  // "/memfd:NAME"
  uint64_t position_ = 0;
  uint64_t ino_ = 0;
  AnonOwner owner_;
  bool exec_sealed_ = false;  // F_SEAL_EXEC; other seals are the host's
};

}  // namespace amber
