// Where private guest memory goes that a device is to use: a memfd of the sentry's, so that the driver, which sees the sentry's memory, and the
// guest, which has it mapped, share the pages (DESIGN: a process's private memory is its stub's alone).
//
// Referred to by the mappings of the process that registered the memory, even when the device is done with it. To the guest the memory stays
// what it was: /proc/PID/maps, fork and checkpoints treat it as private (sentry/mm/moved.h). Kernel lock.
#pragma once

#include <cstdint>

#include "sentry/base/unique_fd.h"
#include "sentry/mm/moved.h"
#include "sentry/vfs/file.h"

namespace amber {

class MovedMemory final : public File {
 public:
  MovedMemory() = default;  // for Loader
  // Null and errno if there is no memory for it.
  static ErrnoOr<RefPtr<MovedMemory>> Create(uint64_t size);

  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  std::string LinkName() const override { return ""; }

  state::Kind kind() const override { return kMovedMemoryKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  UniqueFd fd_;
  uint64_t size_ = 0;
};

// Moves what is private in the range of WantMove(), where it can be read, for the call that `task` is in. Returns what the handler returns: the
// call is executed again when the memory has moved, or could not be (MoveFailed()). Bytes do not change meanwhile: the range is read-only for the
// time of the copy, and a thread that writes to it waits (Task::OnStopped).
ErrnoOr<uint64_t> MovePrivateMemory(Task& task);
// Whether that is to be done first when the call that `task` is in is executed again; it has ended by then, or the next attempt asks for it anew.
void WantMove(Task& task, uint64_t start, uint64_t end);
bool MoveWanted(Task& task);
// True if that was tried in the call that `task` is in, to no avail.
bool MoveFailed(Task& task);

}  // namespace amber
