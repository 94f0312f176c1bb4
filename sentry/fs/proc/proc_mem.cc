#include "sentry/fs/proc/proc_mem.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/moved.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

constexpr size_t kChunk = 64 << 10;

// Bits of a page's word (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kExclusive = uint64_t{1} << 56, kProtected = uint64_t{1} << 57, kFile = uint64_t{1} << 61, kSwapped = uint64_t{1} << 62,
                   kPresent = uint64_t{1} << 63;

// What the guest is told of a page of `vma` that the host describes by `host`. Page frames are hidden from everybody, as Linux hides them from
// those without CAP_SYS_ADMIN; soft-dirty bits are those of a kernel without CONFIG_MEM_SOFT_DIRTY.
uint64_t GuestPage(const Vma& vma, uint64_t host) {
  uint64_t page = host & (kPresent | kSwapped | kFile | kProtected | kExclusive);
  // Ordinary memory to the guest, wherever the host has it.
  if (vma.image) page = kPresent | (page & kProtected);
  if (IsMoved(vma)) page &= ~kFile;
  return page;
}

}  // namespace

bool ProcMemFile::Alive(const Task& reader) const {
  if (!mm_) return false;
  for (const RefPtr<Task>& task : reader.kernel().LiveTasks()) {
    if (task->has_mm() && &task->mm() == mm_.get()) return true;
  }
  return false;
}

// pagemap_read()
ErrnoOr<size_t> ProcMemFile::ReadPagemap(Sink& sink, uint64_t offset) const {
  if (offset % 8 != 0 || sink.remaining() % 8 != 0) return Errno(EINVAL);
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/pagemap", mm_->attached() ? mm_->space().host_pid() : 0);
  UniqueFd host(open(path, O_RDONLY | O_CLOEXEC));
  if (!host.valid()) return size_t{0};
  constexpr uint64_t kPages = (platform::kGuestTop + 0x1000'0000) / kPageSize;  // TASK_SIZE
  std::array<uint64_t, 512> told;
  std::array<uint64_t, 512> words;
  size_t done = 0;
  // Not for long under the lock: a short read is one that may happen.
  size_t left = std::min<size_t>(sink.remaining(), 1 << 20);
  for (uint64_t page = offset / 8; left >= 8 && page < kPages;) {
    size_t count = std::min<uint64_t>({told.size(), left / 8, kPages - page});
    words.fill(0);
    (void)pread(host.get(), words.data(), count * 8, static_cast<off_t>(page * 8));
    for (size_t i = 0; i < count; ++i) {
      const Vma* vma = mm_->vmas().Find((page + i) * kPageSize);
      told[i] = vma != nullptr ? GuestPage(*vma, words[i]) : 0;
    }
    auto put = sink.Put(told.data(), count * 8);
    if (!put.ok()) return done > 0 ? ErrnoOr<size_t>(done) : put;
    done += *put;
    if (*put < count * 8) break;
    page += count;
    left -= *put;
  }
  return done;
}

ErrnoOr<size_t> ProcMemFile::PRead(Task& task, Sink& sink, uint64_t offset) {
  if (!Alive(task)) return size_t{0};
  if (pagemap_) return ReadPagemap(sink, offset);
  std::vector<char> buffer(std::min(kChunk, sink.remaining()));
  size_t done = 0;
  while (sink.remaining() > 0) {
    auto n = DebugCopy(*mm_, offset + done, buffer.data(), std::min(buffer.size(), sink.remaining()), false);
    if (!n.ok()) return done > 0 ? ErrnoOr<size_t>(done) : n;
    auto put = sink.Put(buffer.data(), *n);
    if (!put.ok()) return done > 0 ? ErrnoOr<size_t>(done) : put;
    done += *put;
    if (*put < *n) break;
  }
  return done;
}

ErrnoOr<size_t> ProcMemFile::PWrite(Task& task, Source& source, uint64_t offset) {
  if (pagemap_) return Errno(EINVAL);
  if (!Alive(task)) return size_t{0};
  std::vector<char> buffer(std::min(kChunk, source.remaining()));
  size_t done = 0;
  while (source.remaining() > 0) {
    auto taken = source.Take(buffer.data(), std::min(buffer.size(), source.remaining()));
    if (!taken.ok()) return done > 0 ? ErrnoOr<size_t>(done) : taken;
    auto n = DebugCopy(*mm_, offset + done, buffer.data(), *taken, true);
    if (!n.ok()) return done > 0 ? ErrnoOr<size_t>(done) : n;
    done += *n;
    if (*n < *taken) break;
  }
  return done;
}

ErrnoOr<size_t> ProcMemFile::Read(Task& task, Sink& sink) {
  size_t n = TRY(PRead(task, sink, position_));
  position_ += n;
  return n;
}

ErrnoOr<size_t> ProcMemFile::Write(Task& task, Source& source) {
  size_t n = TRY(PWrite(task, source, position_));
  position_ += n;
  return n;
}

ErrnoOr<uint64_t> ProcMemFile::Seek(Task&, int64_t offset, int whence) {
  // mem_lseek(): any position, but not from the end.
  if (whence != SEEK_SET && whence != SEEK_CUR) return Errno(EINVAL);
  position_ = (whence == SEEK_CUR ? position_ : 0) + static_cast<uint64_t>(offset);
  return position_;
}

std::string ProcMemFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, position_, saver.Ref(mm_), pagemap_ ? "pagemap" : ""); }

bool ProcMemFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  pagemap_ = m.extra() == "pagemap";
  mm_ = loader.GetRef<MemoryManager>(m.data_inode());
  return true;
}

}  // namespace amber
