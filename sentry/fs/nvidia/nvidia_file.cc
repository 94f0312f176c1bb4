#include "sentry/fs/nvidia/nvidia_file.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <optional>

#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/fs/nvidia/moved_memory.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

// The task that made the call, for the proxy. Its methods take the kernel lock, but IsMapped(), which Map() alone leads to. Keeps nothing of the task's: that may
// be killed meanwhile, and its memory and files must go then.
class TaskCaller final : public nvproxy::Caller {
 public:
  explicit TaskCaller(Task& task) : task_(&task), session_(GpuSupport::SessionOf(task)) {}

  nvproxy::Session session() const override { return session_; }
  bool Read(uint64_t address, void* out, size_t size) override {
    absl::MutexLock lock(&task_->kernel().mu());
    return Usable() && task_->CopyInBytes(address, out, size).ok();
  }
  bool Write(uint64_t address, const void* in, size_t size) override {
    absl::MutexLock lock(&task_->kernel().mu());
    return Usable() && task_->CopyOutBytes(address, in, size).ok();
  }
  std::shared_ptr<nvproxy::OpenFile> FileOf(int fd) override {
    absl::MutexLock lock(&task_->kernel().mu());
    if (!Usable()) return nullptr;
    auto file = task_->files().Get(fd);
    if (!file.ok() || (*file)->kind() != kNvidiaFileKind) return nullptr;
    return static_cast<NvidiaFile&>(**file).file();
  }
  ErrnoOr<std::vector<nvproxy::MemoryPiece>> Share(uint64_t address, uint64_t size, bool write) override {
    absl::MutexLock lock(&task_->kernel().mu());
    if (!Usable() || !task_->mm().IsMapped(address, address + size)) return Errno(EFAULT);
    std::vector<nvproxy::MemoryPiece> pieces;
    for (const Vma& vma : task_->mm().vmas().Slice(address, address + size)) {
      if ((vma.prot & (write ? PROT_WRITE : PROT_READ)) == 0) return Errno(EFAULT);
      if (!vma.shared) {
        if (MoveFailed(*task_)) return Errno(ENOMEM);
        to_move_ = {address, address + size};
        return Errno(EAGAIN);
      }
      if (!vma.file || vma.file->kind() == kNvidiaFileKind) return Errno(EOPNOTSUPP);
      MapSource source = TRY(vma.file->Map(*task_, vma.offset, vma.size(), vma.prot & ~PROT_EXEC, true));
      // A file of the host's. Linux pins no pages of such for long and for writing (mm/gup.c, writable_file_mapping_allowed()).
      if (!source.sentry_owned) return Errno(write ? EFAULT : EOPNOTSUPP);
      // Another thread may unmap it as soon as the lock is released; the descriptor's number must not become another file's before it is used.
      shared_.push_back(vma.file);
      pieces.push_back({source.fd, source.offset + vma.offset, vma.size()});
    }
    return pieces;
  }
  // Private memory that Share() needs elsewhere first: then it gave EAGAIN, and the call is to be executed again.
  struct Range {
    uint64_t start, end;
  };
  const std::optional<Range>& to_move() const { return to_move_; }
  bool IsMapped(const nvproxy::OpenFile& file, uint64_t address, uint64_t size) override {
    for (const Vma& vma : task_->mm().vmas().Slice(address, address + size)) {
      bool same = vma.file && vma.file->kind() == kNvidiaFileKind && static_cast<NvidiaFile&>(*vma.file).file().get() == &file;
      if (same) return true;
    }
    return false;
  }

 private:
  // False once the task has been killed. Until then it is in its call, and has what it had.
  bool Usable() const { return !task_->exiting() && task_->has_mm(); }

  RefPtr<Task> task_;
  nvproxy::Session session_;
  std::optional<Range> to_move_;
  std::vector<RefPtr<File>> shared_;  // whose descriptors Share() gave; let go with the kernel lock held, as the rest
};

nvproxy::Node NodeOf(uint64_t rdev) {
  if (major(rdev) == kUvmMajor) return {minor(rdev) == 0 ? nvproxy::NodeKind::kUvm : nvproxy::NodeKind::kUvmTools, 0};
  if (minor(rdev) == kNvidiaControlMinor) return {nvproxy::NodeKind::kControl, 0};
  return {nvproxy::NodeKind::kGpu, minor(rdev)};
}

ErrnoOr<RefPtr<File>> OpenNvidia(const VfsContext& ctx, const VfsPath& path, int flags) {
  Kernel& kernel = ctx.task->kernel();
  GpuSupport* gpus = GpuSupport::Of(kernel);
  if (gpus == nullptr) return Errno(ENXIO);
  auto file = TRY(gpus->proxy().Open(NodeOf(path.inode()->attr().rdev), flags & O_ACCMODE, GpuSupport::SessionOf(*ctx.task)));
  return RefPtr<File>(MakeRef<NvidiaFile>(path, flags, kernel, std::move(file)));
}

// UVM lets only the process that has initialized a file use it. A child that was forked since then still has it open when that one has given it up, and
// is given back one that nobody has initialized.
bool LeadsToNothing(nvproxy::OpenFile& file) {
  if (file.node().kind != nvproxy::NodeKind::kUvm) return false;
  absl::MutexLock lock(&file.mu);
  return file.external_ranges.empty() && file.externals.empty() && file.managed.empty();
}

}  // namespace

NvidiaFile::NvidiaFile(VfsPath path, int flags, Kernel& kernel, std::shared_ptr<nvproxy::OpenFile> file) : VfsFile(std::move(path), flags) {
  Bind(kernel, std::move(file));
}

NvidiaFile::~NvidiaFile() {
  if (file_ == nullptr) return;
  waker_->file = nullptr;
  source_.reset();
  // The last reference closes the host's file and frees its clients, which takes their locks.
  uint64_t process = file_->session().process;
  GpuSupport::Of(*kernel_)->work().Close(process, [file = std::move(file_)]() mutable { file.reset(); });
}

void NvidiaFile::Bind(Kernel& kernel, std::shared_ptr<nvproxy::OpenFile> file) {
  kernel_ = &kernel;
  file_ = std::move(file);
  waker_ = std::make_shared<Waker>(Waker{this});
  file_->proxy().host().SetReadyCallback(file_->host(), [&kernel, waker = waker_] {
    KernelLock lock(kernel);
    if (waker->file != nullptr) waker->file->queue_.Notify(POLLIN | POLLPRI);
  });
  int fd = file_->proxy().host().WaitFd(file_->host());
  if (fd < 0) return;
  source_ = std::make_unique<HostPoll::Source>(host_queue_);
  host_queue_.Add(&relay_, POLLIN | POLLPRI);
  source_->Register(kernel.host_poll(), fd);
}

void NvidiaFile::Relay::OnEvent(uint32_t events) {
  {
    // An event without data is gone once the host's epoll has seen it.
    absl::MutexLock lock(&file_.file_->mu);
    file_.file_->events |= events;
  }
  file_.queue_.Notify(events);
}

namespace {

// One ioctl, on its way through the driver. Made and destroyed with the kernel lock held.
struct DriverCall {
  DriverCall(NvidiaFile& f, Task& t, uint32_t c, uint64_t a) : file(&f), task(&t), caller(t), command(c), argument(a) {}

  void Run() { result = file->file()->proxy().Ioctl(file->file(), caller, command, argument); }
  void Finish() {
    if (task->exiting()) return;
    // Nothing has happened yet in that case.
    if (const auto& range = caller.to_move(); range && result.Is(EAGAIN)) {
      WantMove(*task, range->start, range->end);
      return task->FinishSyscall(-kErestartnointr.number());
    }
    task->FinishSyscall(result.ok() ? static_cast<int64_t>(*result) : -static_cast<int64_t>(result.error().number()));
  }

  RefPtr<NvidiaFile> file;
  RefPtr<Task> task;
  TaskCaller caller;
  const uint32_t command;
  const uint64_t argument;
  ErrnoOr<uint64_t> result = Errno(EIO);
};

}  // namespace

ErrnoOr<uint64_t> NvidiaFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (MoveWanted(task)) return MovePrivateMemory(task);
  auto call = std::make_shared<DriverCall>(*this, task, command, argument);
  auto run = [c = call.get()] { c->Run(); };
  auto done = [call = std::move(call)]() mutable {
    call->Finish();
    call.reset();
  };
  if (!GpuSupport::Of(*kernel_)->work().Call(GpuSupport::ProcessOf(task.group()), std::move(run), std::move(done))) return Errno(ENOMEM);
  return kNoAnswer;
}

ErrnoOr<MapSource> NvidiaFile::Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) {
  TaskCaller caller(task);
  // The kernel asks with all that mprotect could grant later.
  nvproxy::HostMapping mapping = TRY(file_->proxy().Map(*file_, caller, offset, size, prot & ~PROT_EXEC, shared));
  return MapSource{mapping.fd, mapping.offset, false};
}

uint32_t NvidiaFile::Poll(Task&) { return file_->proxy().Poll(*file_); }

std::string NvidiaFile::CannotSave() const {
  GpuSupport* gpus = GpuSupport::Of(*kernel_);
  if (gpus != nullptr && gpus->drainable(file_->session().process)) return "";
  for (const RefPtr<Task>& task : kernel_->LiveTasks()) {
    if (!task->has_mm()) continue;
    for (const auto& [start, vma] : task->mm().vmas()) {
      if (vma.file.get() == this) return "process " + std::to_string(task->pid()) + " has memory of a GPU mapped";
    }
  }
  if (gpus != nullptr && gpus->drained(file_->session().process) && LeadsToNothing(*file_)) return "";
  std::string out;
  for (const std::string& line : file_->proxy().CannotSave(*file_)) out += (out.empty() ? "" : "; ") + line;
  return out;
}

std::string NvidiaFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, 0, 0, file_->proxy().SaveFile(*file_)); }

bool NvidiaFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  saved_ = m.extra();
  return true;
}

bool NvidiaFile::AfterLoad(state::Loader& loader) {
  auto* kernel = loader.Get<Kernel>(1);
  if (kernel == nullptr || !VfsFile::AfterLoad(loader)) return false;
  GpuSupport* gpus = GpuSupport::Of(*kernel);
  if (gpus == nullptr) return loader.Fail("the sandbox had GPUs: restore it with --gpu");
  std::string error;
  std::shared_ptr<nvproxy::OpenFile> file = gpus->proxy().RestoreFile(saved_, &error);
  if (file == nullptr) return loader.Fail(error);
  saved_.clear();
  Bind(*kernel, std::move(file));
  return true;
}

void RegisterNvidiaDevices() {
  RegisterCharDevice(kNvidiaMajor, 0, 256, OpenNvidia);
  RegisterCharDevice(kUvmMajor, 0, 2, OpenNvidia);
}

}  // namespace amber
