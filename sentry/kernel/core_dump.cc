#include "sentry/kernel/core_dump.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

constexpr uint64_t kMinCore = 4096;  // binfmt->min_coredump
constexpr size_t kStep = 8 << 20;    // written before others get the lock
constexpr size_t kBufferSize = 1 << 18;
constexpr int kCoreFlag = 0x80;  // of a wait status

// cn_esc_printf(): no piece may lead out of the directory.
std::string Escaped(std::string piece, bool first) {
  if (first && (piece == "." || piece == "..")) piece[0] = '!';
  std::replace(piece.begin(), piece.end(), '/', '!');
  return piece;
}

}  // namespace

std::string CoreDump::FileName(const CoreDumps& settings, Task& task, int signo) {
  const std::string& pattern = settings.pattern;
  std::string out;
  bool has_pid = false;
  const ThreadGroup& group = task.group();
  auto hostname = [&] { return Escaped(task.uts().hostname, out.empty()); };
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '%') {
      out += pattern[i];
      continue;
    }
    if (++i == pattern.size()) break;
    switch (pattern[i]) {
      case '%': out += '%'; break;
      case 'p':
        has_pid = true;
        out += std::to_string(group.pids().IdOf(group));
        break;
      case 'P': out += std::to_string(group.pids().IdOf(group)); break;
      case 'i':
      case 'I': out += std::to_string(group.pids().IdOf(task)); break;
      case 'u': out += std::to_string(task.creds().uid); break;
      case 'g': out += std::to_string(task.creds().gid); break;
      case 'd': out += group.dumpable() ? '1' : '0'; break;
      case 's': out += std::to_string(signo); break;
      case 't': out += std::to_string(task.kernel().clocks().Realtime() / kNsPerSecond); break;
      case 'h': out += hostname(); break;
      case 'e': out += Escaped(task.name(), out.empty()); break;
      case 'f': out += Escaped(group.exe_path().substr(group.exe_path().rfind('/') + 1), out.empty()); break;
      case 'E': out += Escaped(group.exe_path(), out.empty()); break;
      case 'c': out += std::to_string(group.rlim(RLIMIT_CORE).rlim_cur); break;
      default: break;
    }
  }
  if (!out.empty() && !has_pid && settings.uses_pid) out += "." + std::to_string(group.pids().IdOf(group));
  return out;
}

bool CoreDump::Begin(Task& task, const SigInfo& info) {
  ThreadGroup& group = task.group();
  GroupExtras& extras = group.extras();
  if (extras.core != nullptr || !group.dumpable() || group.rlim(RLIMIT_CORE).rlim_cur < kMinCore) return false;
  extras.core = std::make_unique<CoreDump>(task, info);
  ++task.kernel().lifecycle().core_dumps_running_;
  std::vector<RefPtr<Task>> tasks(group.tasks_);
  for (const RefPtr<Task>& t : tasks) {
    if (t.get() != &task && !t->exiting_) t->Interrupt();
  }
  return true;
}

bool CoreDump::Holds(const Task& task) {
  const CoreDump* dump = task.group().extras().core.get();
  return dump != nullptr && (dump->state_ != State::kDone || dump->task_ != &task);
}

void CoreDump::Check(ThreadGroup& group) {
  CoreDump* dump = group.extras().core.get();
  if (dump == nullptr || dump->state_ != State::kStopping || group.group_exit_) return;
  for (const RefPtr<Task>& t : group.tasks_) {
    if (!t->exiting_ && t->thread_ != nullptr && !t->held_) return;
  }
  if (!dump->Open()) return dump->Finish(false);
  dump->state_ = State::kWriting;
  CoreDumps& all = group.kernel().lifecycle().core_dumps();
  all.writing.emplace_back(&group);
  all.timer.Arm(group.kernel().timers(), group.kernel().clocks().Monotonic());
}

void CoreDump::OnExit(ThreadGroup& group) {
  CoreDump* dump = group.extras().core.get();
  if (dump == nullptr || dump->state_ == State::kDone) return;
  dump->state_ = State::kDone;
  dump->file_.reset();
  --group.kernel().lifecycle().core_dumps_running_;
}

// do_coredump(), where it opens the file.
bool CoreDump::Open() {
  Task& task = *task_;
  limit_ = task.group().rlim(RLIMIT_CORE).rlim_cur;
  std::string name = FileName(task.kernel().lifecycle().core_dumps(), task, info_.signo());
  if (name.empty() || name[0] == '|') return false;
  VfsContext ctx = ContextOf(task);
  (void)UnlinkAt(ctx, task.fs().cwd(), name);
  auto file = OpenPath(ctx, task.fs().cwd(), name, {.flags = O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, .mode = 0600, .walk = 0});
  if (!file.ok()) return false;
  const Inode* inode = (*file)->dentry() != nullptr ? (*file)->dentry()->inode() : nullptr;
  if (inode == nullptr || !inode->IsRegular() || inode->attr().nlink > 1) return false;
  if (inode->attr().uid != task.creds().fsuid || (inode->attr().mode & 0677) != 0600) return false;
  file_ = std::move(*file);

  std::vector<CoreThread> threads;
  auto add = [&](Task& t) {
    const platform::Frame& frame = t.thread_->frame();
    CoreThread thread{&t, frame.regs, frame.fs_base, frame.gs_base, -1};
    if (t.call_ == Task::Call::kBlocked) {
      // As if it were on its way out of the call, which the signal interrupts.
      thread.regs.rip = t.syscall_.ip;
      thread.regs.rax = static_cast<uint64_t>(int64_t{-t.syscall_.on_signal});
      thread.orig_rax = static_cast<int64_t>(t.syscall_.number);
    }
    threads.push_back(thread);
  };
  add(task);
  for (const RefPtr<Task>& t : task.group_->tasks_) {
    if (t.get() != &task && !t->exiting_ && t->thread_ != nullptr) add(*t);
  }
  segments_ = CoreSegments(task, task.group_->extras().core_filter);
  std::string header = CoreHeader(segments_, CoreNotes(threads, info_));
  segment_offset_ = header.size();
  return Put(header.data(), header.size()) || offset_ > 0;
}

// At offset_. False if the limit or the disk ends it; then the file is what it is. Holes do not count for the limit (dump_emit()).
bool CoreDump::Put(const void* data, size_t size) {
  bool fits = size <= limit_ - written_;
  if (!fits) size = limit_ - written_;
  BufferSource source(data, size);
  while (source.remaining() > 0) {
    auto n = file_->PWrite(*task_, source, offset_);
    if (!n.ok() || *n == 0) return false;
    offset_ += *n;
    written_ += *n;
  }
  return fits;
}

bool CoreDump::WriteSome() {
  static std::array<uint8_t, kBufferSize> buffer;  // kernel lock
  for (size_t moved = 0; moved < kStep;) {
    if (segment_ == segments_.size()) {
      // What ends in a hole has its size, too.
      if (segment_offset_ > offset_) (void)file_->Truncate(*task_, segment_offset_);
      return false;
    }
    const CoreSegment& segment = segments_[segment_];
    if (run_ == segment.runs.size()) {
      segment_offset_ += segment.file_size;
      ++segment_;
      run_ = 0;
      continue;
    }
    const CoreSegment::Run& run = segment.runs[run_];
    uint64_t address = run.start + done_;
    size_t part = std::min<uint64_t>(run.end - address, buffer.size());
    if (part == 0) {
      ++run_;
      done_ = 0;
      continue;
    }
    auto n = DebugCopy(task_->mm(), address, buffer.data(), part, false);
    done_ += n.ok() ? *n : kPageSize;  // what cannot be read is a hole
    moved += n.ok() ? *n : kPageSize;
    if (!n.ok()) continue;
    offset_ = segment_offset_ + (address - segment.start);
    if (!Put(buffer.data(), *n)) return false;
  }
  return true;
}

void CoreDump::Finish(bool dumped) {
  Task& task = *task_;
  ThreadGroup& group = task.group();
  OnExit(group);
  int status = info_.signo() | (dumped ? kCoreFlag : 0);
  if (task.extras_->tracee != nullptr && Tracing::BeforeExit(task, status, status)) return task.ReturnToGuest();
  group.kernel().lifecycle().ExitGroup(group, status);
}

void CoreDumps::Step() {
  if (writing.empty()) return;
  RefPtr<ThreadGroup> group = writing.front();
  CoreDump* dump = group->extras().core.get();
  bool more = false;
  if (dump->state_ == CoreDump::State::kWriting) {
    more = dump->WriteSome();
    if (!more) dump->Finish(true);
  }
  if (!more) writing.pop_front();
  if (!writing.empty()) timer.Arm(kernel.timers(), kernel.clocks().Monotonic());
}

}  // namespace amber
