#include "sentry/fs/proc/proc_mem.h"

#include <algorithm>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/tracing.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

constexpr size_t kChunk = 64 << 10;

}  // namespace

bool ProcMemFile::Alive(const Task& reader) const {
  if (!mm_) return false;
  for (const RefPtr<Task>& task : reader.kernel().LiveTasks()) {
    if (task->has_mm() && &task->mm() == mm_.get()) return true;
  }
  return false;
}

ErrnoOr<size_t> ProcMemFile::PRead(Task& task, Sink& sink, uint64_t offset) {
  if (!Alive(task)) return size_t{0};
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

std::string ProcMemFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, position_, saver.Ref(mm_), ""); }

bool ProcMemFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  mm_ = loader.GetRef<MemoryManager>(m.data_inode());
  return true;
}

}  // namespace amber
