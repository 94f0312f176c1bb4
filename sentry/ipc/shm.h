// System V shared memory (ipc/shm.c): segments, and the files that attachments map.
//
// A segment is referred to by the namespace's table and by its files; a file by the mappings of one shmat(2) and their copies in
// forked children. A segment that was removed goes with its last file. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/ipc/ipc_table.h"
#include "sentry/vfs/file.h"

namespace amber {

class IpcNamespace;
class Kernel;

class ShmSegment final : public RefCounted<ShmSegment>, public state::Saveable {
 public:
  ShmSegment() = default;  // for Loader
  ~ShmSegment() override = default;
  // ENOMEM if the host has no room.
  static ErrnoOr<RefPtr<ShmSegment>> Make(IpcNamespace& ns, uint64_t size);

  IpcPerm perm;
  uint64_t size = 0;          // as asked for
  bool removed = false;       // IPC_RMID: goes with the last attachment
  bool locked = false;        // SHM_LOCK
  int creator = 0, last = 0;  // pids
  int64_t atime = 0, dtime = 0, ctime = 0;

  int fd() const { return fd_.get(); }
  // Mappings of it in all processes; of all segments, by one look at each mapping.
  uint64_t CountAttached(Kernel& kernel) const;
  static std::map<const ShmSegment*, uint64_t> CountAllAttached(Kernel& kernel);
  void FileMade() { ++files_; }
  void FileGone();
  bool in_use() const { return files_ > 0; }
  void DropNamespace() { ns_ = nullptr; }

  state::Kind kind() const override { return state::Kind::kShmSegment; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class IpcNamespace;
  UniqueFd fd_;
  IpcNamespace* ns_ = nullptr;  // null once it is gone
  int files_ = 0;
};

// What one shmat(2) maps.
class ShmFile final : public File {
 public:
  ShmFile() = default;  // for Loader
  ShmFile(RefPtr<ShmSegment> segment, bool read_only);
  ~ShmFile() override;

  ShmSegment& segment() const { return *segment_; }
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  std::string LinkName() const override;

  state::Kind kind() const override { return state::Kind::kShmFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  RefPtr<ShmSegment> segment_;
};

}  // namespace amber
