// /proc/PID/mem: the memory of a process as a file (fs/proc/base.c, mem_rw()); and /proc/PID/pagemap, what its pages are (fs/proc/task_mmu.c).
//
// Owned by descriptors, as any File. It goes on showing the memory that the process had when it was opened, though that executes another
// program. Kernel lock.
#pragma once

#include <string>
#include <string_view>

#include "sentry/base/ref_ptr.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

class ProcMemFile final : public VfsFile {
 public:
  ProcMemFile() = default;  // for Loader
  ProcMemFile(VfsPath path, int flags, RefPtr<MemoryManager> mm) : VfsFile(std::move(path), flags), mm_(std::move(mm)) {}

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  uint64_t position() const override { return position_; }

  state::Kind kind() const override { return state::Kind::kProcMemFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

  // /proc/PID/pagemap instead.
  void set_pagemap() { pagemap_ = true; }

 private:
  // The memory is still somebody's.
  bool Alive(const Task& reader) const;

  ErrnoOr<size_t> ReadPagemap(Sink& sink, uint64_t offset) const;

  RefPtr<MemoryManager> mm_;
  bool pagemap_ = false;
  uint64_t position_ = 0;
};

}  // namespace amber
