#include "sentry/fs/nvidia/moved_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/memory_ops.h"

namespace amber {
namespace {

constexpr uint64_t kMostAtOnce = 1 << 30;
// SyscallState::scratch[1] of a call that could not move memory, and of one that is to, from scratch[0] to scratch[2].
constexpr uint64_t kFailed = 0x6d6f766564, kWanted = 0x6d6f7665;

// Mappings on their way. First the bytes are copied; what replaces the mappings runs only when all of them are known to be there.
struct Moves {
  std::vector<Vma> from, to;
  std::vector<platform::StubOp> copy, replace;
};

ErrnoOr<void> Add(Task& task, const Vma& part, Moves* moves) {
  RefPtr<MovedMemory> memory = TRY(MovedMemory::Create(part.size()));
  MapSource source = TRY(memory->Map(task, 0, part.size(), part.prot, true));
  moves->copy.push_back(MemoryManager::Op(SYS_mprotect, part.start, part.size(), PROT_READ));
  for (uint64_t at = 0; at < part.size(); at += kMostAtOnce) {
    platform::StubOp write = MemoryManager::Op(SYS_pwrite64, 0, part.start + at, std::min(kMostAtOnce, part.size() - at), at);
    write.fd = source.fd;
    write.fd_arg = 0;
    moves->copy.push_back(write);
  }
  Vma to = part;
  to.file = std::move(memory);
  to.offset = 0;
  to.shared = true;
  to.image = false;
  to.image_offset = 0;
  moves->replace.push_back(MemoryManager::MapOp(to, source));
  // Cannot fail on a mapping that is there, so that each failure is the map's before it.
  if ((part.flags & Vma::kDontFork) != 0) moves->replace.push_back(MemoryManager::Op(SYS_madvise, part.start, part.size(), MADV_DONTFORK));
  moves->from.push_back(part);
  moves->to.push_back(std::move(to));
  return Ok();
}

// One call's move. Lives in its continuations, which hold the operation lock.
struct Mover : std::enable_shared_from_this<Mover> {
  Mover(Task& t, RefPtr<MemoryManager> m) : task(&t), mm(std::move(m)) {}

  void Start() {
    auto self = shared_from_this();
    task->StopForOps(moves.copy, [self](std::span<const int64_t> results) {
      if (!CopiedMoved(self->moves.copy, results)) return self->GoBack(0);
      self->Replace();
    });
  }

 private:
  void Replace() {
    auto self = shared_from_this();
    task->StopForOps(moves.replace, [self](std::span<const int64_t> results) {
      // Mappings and their advice, in order; the first failing operation is the last result.
      size_t mapped = 0;
      for (size_t i = 0; i < results.size(); ++i) {
        bool failed = results[i] < 0 && results[i] >= -4095;
        if (self->moves.replace[i].number == SYS_mmap && !failed) self->mm->Record(self->moves.to[mapped++]);
      }
      if (mapped == self->moves.to.size()) return self->End();
      self->GoBack(mapped);
    });
  }

  // What was not replaced becomes writable again.
  void GoBack(size_t first) {
    task->syscall().scratch[1] = kFailed;
    std::vector<platform::StubOp> back;
    for (size_t i = first; i < moves.from.size(); ++i) {
      const Vma& v = moves.from[i];
      back.push_back(MemoryManager::Op(SYS_mprotect, v.start, v.size(), static_cast<uint64_t>(v.prot)));
    }
    auto self = shared_from_this();
    task->StopForOps(std::move(back), [self](std::span<const int64_t>) { self->End(); });
  }

  void End() {
    mm->Unlock(*task);
    task->FinishSyscall(-kErestartnointr.number());
  }

 public:
  Task* task;  // StopForOps() keeps it alive
  RefPtr<MemoryManager> mm;
  Moves moves;  // whose files keep the descriptors open
};

}  // namespace

ErrnoOr<RefPtr<MovedMemory>> MovedMemory::Create(uint64_t size) {
  auto memory = MakeRef<MovedMemory>();
  memory->fd_.reset(memfd_create("device", MFD_CLOEXEC));
  if (!memory->fd_.valid() || ftruncate(memory->fd_.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  memory->size_ = size;
  memory->set_flags(O_RDWR);
  return memory;
}

ErrnoOr<MapSource> MovedMemory::Map(Task&, uint64_t, uint64_t, int, bool) {
  MapSource source;
  source.fd = fd_.get();
  source.sentry_owned = true;
  return source;
}

ErrnoOr<void> MovedMemory::Stat(Task&, struct stat* out) {
  std::memset(out, 0, sizeof(*out));
  return Ok();
}

std::string MovedMemory::Save(state::Saver& saver) const {
  uint64_t words[] = {saver.File(fd_.get(), size_), size_};
  return {reinterpret_cast<const char*>(words), sizeof(words)};
}

bool MovedMemory::Load(state::Loader& loader, std::string_view bytes) {
  uint64_t words[2];
  if (bytes.size() != sizeof(words)) return loader.Fail("memory of a device is malformed");
  std::memcpy(words, bytes.data(), sizeof(words));
  fd_.reset(loader.OpenFile(words[0]));
  if (!fd_.valid()) return loader.Fail("the contents of memory of a device are missing");
  size_ = words[1];
  set_flags(O_RDWR);
  return true;
}

bool MoveFailed(Task& task) { return task.syscall().scratch[1] == kFailed; }

void WantMove(Task& task, uint64_t start, uint64_t end) {
  SyscallState& call = task.syscall();
  call.scratch[0] = start;
  call.scratch[1] = kWanted;
  call.scratch[2] = end;
}

bool MoveWanted(Task& task) { return task.syscall().scratch[1] == kWanted; }

ErrnoOr<uint64_t> MovePrivateMemory(Task& task) {
  uint64_t start = task.syscall().scratch[0], end = task.syscall().scratch[2];
  MmLock lock(task, start, end);
  if (!lock.held()) return WaitForMm(task);
  task.syscall().scratch[1] = 0;
  RefPtr<MemoryManager> mm(&task.mm());
  auto mover = std::make_shared<Mover>(task, mm);
  ErrnoOr<void> planned = Ok();
  if (mm->vmas().AnySealed(start, end)) planned = Errno(EPERM);
  for (const Vma& part : mm->vmas().Slice(start, end)) {
    if (planned.ok() && !part.shared && (part.prot & PROT_READ) != 0) planned = Add(task, part, &mover->moves);
  }
  if (!planned.ok() || mover->moves.from.empty()) {
    task.syscall().scratch[1] = kFailed;
    return Errno(kErestartnointr);
  }
  lock.Pass();
  mover->Start();
  return kNoAnswer;
}

}  // namespace amber
