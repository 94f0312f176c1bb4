#include "sentry/runtime/gpu_checkpoint.h"

#include <algorithm>
#include <map>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/image.pb.h"
#include "nvproxy/open_file.h"
#include "sentry/fs/nvidia/nvidia_file.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// A new helper starts CUDA, which takes seconds on a large machine.
constexpr absl::Duration kStartLimit = absl::Seconds(30);
// Work that the program has submitted must end in this time.
constexpr int kLockMilliseconds = 10000;
constexpr absl::Duration kLockLimit = absl::Milliseconds(kLockMilliseconds + 2000);
constexpr absl::Duration kStateLimit = absl::Seconds(5);
constexpr absl::Duration kGoneLimit = absl::Seconds(2);
constexpr int kNotCuda = 3, kOperatingSystem = 304;
constexpr int kStateRunning = 0, kStateLocked = 1, kStateCheckpointed = 2, kStateFailed = 3;
constexpr int kRounds = 4;  // of looking for processes that have started meanwhile
constexpr size_t kMostGpus = 64;
constexpr int kTries = 2;  // to bring a process back, each with a helper of its own

// One step's time, noted at its end.
class Phase {
 public:
  Phase(std::vector<std::pair<std::string, uint64_t>>* phases, const char* name) : phases_(phases), name_(name) {}
  ~Phase() { End(); }
  void End() {
    if (phases_ != nullptr) phases_->emplace_back(name_, static_cast<uint64_t>(absl::ToInt64Nanoseconds(absl::Now() - begin_)));
    phases_ = nullptr;
  }

 private:
  std::vector<std::pair<std::string, uint64_t>>* phases_;
  const char* name_;
  const absl::Time begin_ = absl::Now();
};

// "GPU-0123..." as helper.c reads it.
std::string Digits(std::string_view uuid) { return absl::StrReplaceAll(uuid.substr(std::min<size_t>(4, uuid.size())), {{"-", ""}}); }

bool IsUuid(std::string_view uuid) {
  return uuid.size() == 40 && uuid.starts_with("GPU-") && Digits(uuid).size() == 32 &&
         uuid.substr(4).find_first_not_of("0123456789abcdef-") == std::string_view::npos;
}

// Its program's; it may have ended and been waited for.
std::string NameOf(Kernel& kernel, const ThreadGroup& group) {
  KernelLock lock(kernel);
  return group.leader() != nullptr ? group.leader()->name() : "gone";
}

// It has started CUDA, even if it holds no object that an image cannot hold.
bool HasStarted(const Task& task, uint64_t process) {
  bool started = false;
  task.files().ForEach([&](int, const RefPtr<File>& file, bool) {
    if (file->kind() != kNvidiaFileKind) return;
    const std::shared_ptr<nvproxy::OpenFile>& gpu = static_cast<const NvidiaFile&>(*file).file();
    if (gpu == nullptr || gpu->session().process != process) return;
    absl::MutexLock lock(&gpu->mu);
    started = started || gpu->uvm_initialized || gpu->attached;
  });
  return started;
}

// The memory of a process; null if it has ended. Its first thread may have, before the others. Kernel lock.
const MemoryManager* MemoryOf(const ThreadGroup& group) {
  auto task = std::ranges::find_if(group.tasks(), [](const RefPtr<Task>& t) { return !t->exiting() && t->has_mm(); });
  return task != group.tasks().end() ? &(*task)->mm() : nullptr;
}

}  // namespace

// What the containers have now, and how much of it is used. Kernel lock.
void GpuCheckpoint::NoteGpus() {
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  uint64_t theirs = 0;
  for (const auto& container : containers_) theirs |= gpus->GpusOf(container.get());
  nvproxy::Proxy& proxy = gpus->proxy();
  gpus_.clear();
  for (const nvproxy::Gpu* gpu : proxy.GpusOf({.gpus = theirs})) {
    uint32_t kind = uint32_t{gpu->vendor} << 16 | gpu->device;
    gpus_.push_back({.uuid = gpu->uuid_text(), .bytes = proxy.ledger().used(static_cast<uint32_t>(proxy.IndexOf(*gpu))), .kind = kind});
  }
}

void GpuCheckpoint::FindTargets() {
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  if (gpus == nullptr) return;
  std::set<uint64_t> busy = gpus->proxy().BusyProcesses();
  KernelLock lock(kernel_);
  NoteGpus();
  for (const RefPtr<Task>& task : kernel_.LiveTasks()) {
    uint64_t process = GpuSupport::ProcessOf(task->group());
    bool helper = helper_ != nullptr && helper_->running() && helper_->process() == process;
    if (helper || left_alone_.contains(process) || task->exiting() || (!busy.contains(process) && !HasStarted(*task, process))) continue;
    auto container = std::ranges::find_if(containers_, [&](const auto& c) { return c.get() == task->container(); });
    bool known = std::ranges::any_of(targets_, [&](const Target& t) { return t.process == process; });
    if (container == containers_.end() || known) continue;
    targets_.push_back({.container = *container, .group = RefPtr<ThreadGroup>(&task->group()), .process = process, .pid = task->group().pid()});
  }
}

absl::Status GpuCheckpoint::LoadGpus(const checkpoint::proto::Manifest& manifest) {
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  bool needed = !manifest.gpu_processes().empty();
  if (gpus == nullptr)
    return needed ? absl::FailedPreconditionError("the image holds processes that use a GPU: restore it with --gpu") : absl::OkStatus();
  if (needed && manifest.gpu_driver() != gpus->proxy().version()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the image was made with NVIDIA driver ", manifest.gpu_driver(), ", and this machine has ", gpus->proxy().version()));
  }
  for (const auto& memory : manifest.gpu_memory()) {
    bool twice = std::ranges::any_of(gpus_, [&](const OldGpu& g) { return g.uuid == memory.uuid(); });
    if (!IsUuid(memory.uuid()) || twice || gpus_.size() >= kMostGpus)
      return absl::InvalidArgumentError("the image is damaged: its GPUs make no sense");
    gpus_.push_back({.uuid = memory.uuid(), .bytes = memory.bytes(), .kind = memory.kind()});
  }
  if (gpus_.empty()) return absl::OkStatus();
  absl::Status found = FindReplacements();
  if (!needed) return absl::OkStatus();  // what else needs one that is missing says so itself
  return found.ok() ? CheckMemory() : found;
}

// A GPU that is there stays itself; others take what is left in order, of their own kind if they can.
absl::Status GpuCheckpoint::FindReplacements() {
  nvproxy::Proxy& proxy = GpuSupport::Of(kernel_)->proxy();
  std::span<const nvproxy::Gpu> all = proxy.gpus();
  replacements_ = 0;
  auto place = [&](auto fits) {
    for (OldGpu& old : gpus_) {
      for (size_t i = 0; i < all.size() && old.now < 0; ++i) {
        if ((replacements_ >> i & 1) != 0 || !fits(old, all[i])) continue;
        old.now = static_cast<int>(i);
        replacements_ |= uint64_t{1} << i;
      }
    }
  };
  place([](const OldGpu& old, const nvproxy::Gpu& gpu) { return old.uuid == gpu.uuid_text(); });
  place([](const OldGpu& old, const nvproxy::Gpu& gpu) { return old.kind == (uint32_t{gpu.vendor} << 16 | gpu.device); });
  place([](const OldGpu&, const nvproxy::Gpu&) { return true; });
  std::map<nvproxy::Uuid, uint32_t> places;
  for (const OldGpu& old : gpus_) {
    nvproxy::Uuid uuid;
    for (size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<uint8_t>(std::stoi(Digits(old.uuid).substr(2 * i, 2), nullptr, 16));
    if (old.now >= 0) places[uuid] = static_cast<uint32_t>(old.now);
  }
  bool enough = places.size() == gpus_.size();
  proxy.SetReplacements(std::move(places));
  if (enough) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the image needs ", gpus_.size(), " GPUs, and the sandbox has ", all.size()));
}

absl::Status GpuCheckpoint::CheckMemory() {
  nvproxy::Proxy& proxy = GpuSupport::Of(kernel_)->proxy();
  uint64_t limit = proxy.ledger().limit();
  for (const OldGpu& old : gpus_) {
    if (limit != 0 && old.bytes > limit) {
      return absl::FailedPreconditionError(
          absl::StrCat("the image needs ", old.bytes >> 20, " MiB of GPU memory, and --gpu-memory is ", limit >> 20, " MiB"));
    }
    ErrnoOr<uint64_t> free = proxy.FreeBytes(old.now);
    if (free.ok() && old.bytes > *free) {
      return absl::ResourceExhaustedError(absl::StrCat("the image needs ", old.bytes >> 20, " MiB of memory of GPU ",
                                                       proxy.gpus()[static_cast<size_t>(old.now)].minor, ", and ", *free >> 20,
                                                       " MiB are free: try again when others have given theirs back"));
    }
  }
  return absl::OkStatus();
}

absl::Status GpuCheckpoint::LoadTargets(const checkpoint::proto::Manifest& manifest, std::vector<RefPtr<Container>> containers) {
  containers_ = std::move(containers);
  for (const auto& process : manifest.gpu_processes()) {
    auto container = containers_.empty() ? containers_.end() : containers_.begin();
    for (auto it = containers_.begin(); it != containers_.end(); ++it) {
      if ((*it)->id() == process.container()) container = it;
    }
    RefPtr<ThreadGroup> group;
    if (container != containers_.end()) {
      for (const RefPtr<ThreadGroup>& g : (*container)->pids().Groups()) {
        if (g->pid() == process.pid()) group = g;
      }
    }
    if (!group) return absl::InvalidArgumentError("the image is damaged: a process that used a GPU is missing");
    Target target{.container = *container, .group = group, .pid = process.pid(), .locked = true, .drained = true};
    for (int i = 0; i + 1 < process.away_size(); i += 2) target.away.emplace_back(process.away(i), process.away(i + 1));
    targets_.push_back(std::move(target));
  }
  return absl::OkStatus();
}

void GpuCheckpoint::SaveGpus(checkpoint::proto::Manifest* manifest) {
  if (GpuSupport::Of(kernel_) == nullptr) return;
  NoteGpus();
  SaveTargets(manifest);
}

void GpuCheckpoint::SaveTargets(checkpoint::proto::Manifest* manifest) const {
  if (!gpus_.empty()) manifest->set_gpu_driver(GpuSupport::Of(kernel_)->proxy().version());
  for (const OldGpu& gpu : gpus_) {
    auto* memory = manifest->add_gpu_memory();
    memory->set_uuid(gpu.uuid);
    memory->set_bytes(gpu.bytes);
    memory->set_kind(gpu.kind);
  }
  for (const Target& t : targets_) {
    auto* process = manifest->add_gpu_processes();
    process->set_container(t.container->id());
    process->set_pid(t.pid);
    for (auto [start, end] : t.away) {
      process->add_away(start);
      process->add_away(end);
    }
    for (auto [start, end] : t.filled) {
      process->add_filled(start);
      process->add_filled(end);
    }
  }
}

absl::Duration GpuCheckpoint::CopyTime() const {
  constexpr uint64_t kMostBytes = uint64_t{1} << 46;  // an image may say anything
  uint64_t bytes = 0;
  for (const OldGpu& gpu : gpus_) bytes += std::min(gpu.bytes, kMostBytes);
  return absl::Seconds(GpuSupport::Of(kernel_)->copy_seconds() + static_cast<int64_t>(std::min(bytes, kMostBytes) / 1'000'000'000));
}

absl::Status GpuCheckpoint::StartHelper(const RefPtr<Container>& container) {
  if (helper_ != nullptr && helper_->running() && helper_for_ == container) return absl::OkStatus();
  if (helper_ != nullptr) helper_->Stop();
  helper_ = std::make_unique<GpuHelper>(kernel_, container, GpuSupport::Of(kernel_)->helper_streams());
  helper_for_ = container;
  return helper_->Start(kStartLimit);
}

absl::StatusOr<GpuHelper::Answer> GpuCheckpoint::Ask(Target& target, const char* verb, const std::string& rest, absl::Duration limit) {
  if (absl::Status s = StartHelper(target.container); !s.ok()) return s;
  return helper_->Ask(absl::StrCat(verb, " ", target.pid, rest), limit);
}

absl::Status GpuCheckpoint::Verb(Target& target, const char* verb, const std::string& rest, absl::Duration limit) {
  absl::StatusOr<GpuHelper::Answer> answer = Ask(target, verb, rest, limit);
  std::string what = absl::StrCat("GPU ", verb, " of process ", target.pid, " (", NameOf(kernel_, *target.group), "): ");
  if (!answer.ok()) {
    target.unsure = true;
    return absl::Status(answer.status().code(), absl::StrCat(what, answer.status().message()));
  }
  if (answer->result == 0) return absl::OkStatus();
  // What has failed may have been done by half: the library says where that has left the process.
  if (answer->state == kStateRunning || answer->state == kStateLocked || answer->state == kStateCheckpointed) {
    target.drained = answer->state == kStateCheckpointed;
    target.locked = answer->state != kStateRunning;
  }
  target.lost = answer->state == kStateFailed;
  return absl::FailedPreconditionError(absl::StrCat(what, GpuResultText(answer->result), target.lost ? ", and the process is lost" : ""));
}

// A process that ends by itself meanwhile is no failure of the others'.
bool GpuCheckpoint::HasEnded(const Target& target) {
  KernelLock lock(kernel_);
  return std::ranges::all_of(target.group->tasks(), [](const RefPtr<Task>& t) { return t->exiting(); });
}

// Which of the targets the library knows; the others' state stays an obstacle.
absl::Status GpuCheckpoint::AskStates() {
  std::vector<Target> all = std::exchange(targets_, {});
  absl::Status status;
  for (Target& t : all) {
    if (!t.known && (!status.ok() || HasEnded(t))) continue;
    if (!t.known) {
      absl::StatusOr<GpuHelper::Answer> answer = Ask(t, "state", "", kStateLimit);
      if (!answer.ok()) {
        status = answer.status();
        continue;
      }
      if (answer->result == kNotCuda || answer->result == kOperatingSystem || answer->state == kStateCheckpointed) {
        left_alone_.insert(t.process);
        continue;
      }
      if (answer->result != 0 || answer->state != kStateRunning) {
        if (HasEnded(t)) continue;
        status =
            absl::FailedPreconditionError(absl::StrCat("process ", t.pid, " cannot be checkpointed: its CUDA library is in state ", answer->state));
        continue;
      }
      t.known = true;
    }
    targets_.push_back(std::move(t));
  }
  return status;
}

absl::Status GpuCheckpoint::Check() {
  if (targets_.empty()) return absl::OkStatus();
  absl::Status status = AskStates();
  helper_.reset();
  if (!status.ok()) return status;
  std::set<uint64_t> drainable;
  for (const Target& t : targets_) drainable.insert(t.process);
  KernelLock lock(kernel_);
  GpuSupport::Of(kernel_)->set_drainable(std::move(drainable));
  marked_ = true;
  return absl::OkStatus();
}

GpuCheckpoint::~GpuCheckpoint() {
  if (!marked_) return;
  KernelLock lock(kernel_);
  GpuSupport::Of(kernel_)->set_drainable({});
  GpuSupport::Of(kernel_)->set_drained({});
}

absl::Status GpuCheckpoint::LockAll() {
  for (int round = 0; round < kRounds; ++round) {
    if (absl::Status s = AskStates(); !s.ok()) return s;
    for (size_t i = 0; i < targets_.size();) {
      Target& t = targets_[i];
      absl::Status s = t.locked ? absl::OkStatus() : Verb(t, "lock", absl::StrCat(" ", kLockMilliseconds), kLockLimit);
      if (!s.ok() && !HasEnded(t)) return s;
      t.locked = true;
      if (s.ok()) {
        ++i;
      } else {
        targets_.erase(targets_.begin() + static_cast<ptrdiff_t>(i));
      }
    }
    // Programs that were not locked yet may have started others.
    size_t before = targets_.size();
    FindTargets();
    if (targets_.size() == before) break;
  }
  // Those of the last round are obstacles, as are others that come later.
  std::erase_if(targets_, [](const Target& t) { return !t.known; });
  return absl::OkStatus();
}

absl::Status GpuCheckpoint::DrainAll() {
  NoteAway();
  for (Target& t : targets_) {
    absl::Status s = Verb(t, "checkpoint", "", CopyTime());
    if (!s.ok() && !HasEnded(t)) return s;
    t.drained = s.ok();
    t.locked = s.ok();
  }
  helper_.reset();
  std::erase_if(targets_, [](const Target& t) { return !t.drained; });
  NoteFilled();
  if (absl::Status s = VerifyDrained(); !s.ok()) return s;
  std::set<uint64_t> drained;
  for (const Target& t : targets_) drained.insert(t.process);
  KernelLock lock(kernel_);
  GpuSupport::Of(kernel_)->set_drained(std::move(drained));
  marked_ = true;
  return absl::OkStatus();
}

absl::Status GpuCheckpoint::Drain() {
  if (targets_.empty()) return absl::OkStatus();
  Phase lock(&phases_, "GPU lock");
  absl::Status status = LockAll();
  lock.End();
  if (status.ok()) {
    Phase drain(&phases_, "GPU drain");
    status = DrainAll();
  }
  if (status.ok()) return status;
  if (!targets_.empty()) return Undo(status);
  helper_.reset();
  return status;
}

absl::Status GpuCheckpoint::Undo(absl::Status why) {
  absl::Status undone = Refill();
  targets_.clear();
  if (undone.ok()) return absl::Status(why.code(), absl::StrCat(why.message(), "; the GPU programs run on"));
  return absl::Status(why.code(), absl::StrCat(why.message(), "; and on the way back: ", undone.message()));
}

absl::Status GpuCheckpoint::VerifyDrained() {
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  absl::Time deadline = absl::Now() + kGoneLimit;
  for (;;) {
    std::set<uint64_t> busy = gpus->proxy().BusyProcesses();
    auto left = std::ranges::find_if(targets_, [&](const Target& t) { return busy.contains(t.process); });
    if (left == targets_.end()) return absl::OkStatus();
    if (absl::Now() > deadline)
      return absl::FailedPreconditionError(absl::StrCat("process ", left->pid, " still holds GPU objects after its checkpoint"));
    absl::SleepFor(absl::Milliseconds(2));
  }
}

// What is mapped from devices now will be away until Refill() has brought it back.
void GpuCheckpoint::NoteAway() {
  KernelLock lock(kernel_);
  for (Target& t : targets_) {
    const MemoryManager* mm = MemoryOf(*t.group);
    if (mm == nullptr) continue;
    for (const auto& [start, vma] : mm->vmas()) {
      if (vma.file && vma.file->kind() == kNvidiaFileKind) t.away.emplace_back(vma.start, vma.end);
      if (vma.anonymous() && !vma.shared) t.before.emplace_back(vma.start, vma.end);
    }
    t.group->extras().away = t.away;
  }
}

// What the library has put the GPUs' memory into, as far as it asked for memory to do so.
void GpuCheckpoint::NoteFilled() {
  KernelLock lock(kernel_);
  for (Target& t : targets_) {
    const MemoryManager* mm = MemoryOf(*t.group);
    if (mm == nullptr) continue;
    t.filled.clear();
    for (const auto& [start, vma] : mm->vmas()) {
      if (!vma.anonymous() || vma.shared || (vma.prot & PROT_WRITE) == 0) continue;
      uint64_t at = vma.start;
      // Both in order of addresses.
      for (auto [old_start, old_end] : t.before) {
        if (old_end <= at || old_start >= vma.end) continue;
        if (old_start > at) t.filled.emplace_back(at, old_start);
        at = std::min(old_end, vma.end);
      }
      if (at < vma.end) t.filled.emplace_back(at, vma.end);
    }
  }
}

void GpuCheckpoint::AwaitMemory() {
  for (Target& t : targets_) t.group->extras().away = t.away;
}

void GpuCheckpoint::ComeBack() {
  KernelLock lock(kernel_);
  for (Target& t : targets_) {
    t.group->extras().away.clear();
    for (const RefPtr<Task>& task : t.group->tasks()) task->extras().waits_for_memory = false;
  }
  // Held tasks look again whether they still have to wait.
  if (!kernel_.frozen()) kernel_.Thaw();
}

// After a verb without an answer: the helper was killed or stopped, before it asked or after, and the process stands wherever that left it.
absl::Status GpuCheckpoint::LearnState(Target& t) {
  absl::StatusOr<GpuHelper::Answer> answer = Ask(t, "state", "", kStateLimit);
  std::string unknown = absl::StrCat("whether process ", t.pid, " (", NameOf(kernel_, *t.group), ") goes on is not known: ");
  if (!answer.ok()) return absl::UnavailableError(absl::StrCat(unknown, answer.status().message()));
  if (answer->result != 0) return absl::UnavailableError(absl::StrCat(unknown, GpuResultText(answer->result)));
  if (answer->state != kStateRunning && answer->state != kStateLocked && answer->state != kStateCheckpointed) {
    return absl::InternalError(absl::StrCat("process ", t.pid, " is lost: its CUDA library is in state ", answer->state));
  }
  t.drained = answer->state == kStateCheckpointed;
  t.locked = answer->state != kStateRunning;
  t.unsure = false;
  return absl::OkStatus();
}

absl::Status GpuCheckpoint::BringBack(Target& t, const std::string& pairs) {
  if (t.lost) return absl::InternalError(absl::StrCat("process ", t.pid, " (", NameOf(kernel_, *t.group), ") is lost"));
  absl::Status status;
  for (int i = 0; i < kTries; ++i) {
    status = t.unsure ? LearnState(t) : absl::OkStatus();
    if (!status.ok()) continue;
    if (t.drained) {
      status = Verb(t, "restore", pairs, CopyTime());
      if (status.ok()) t.drained = false;
    }
    if (status.ok() && t.locked) status = Verb(t, "unlock", "", kStateLimit);
    // What the library itself has answered it would answer again.
    if (status.ok() || !t.unsure) return status;
  }
  return status;
}

absl::Status GpuCheckpoint::Refill() {
  if (targets_.empty()) return absl::OkStatus();
  Phase phase(&phases_, "GPU return");
  // The library wants all that the process has seen, or none.
  std::string pairs;
  bool moved = false;
  for (const OldGpu& gpu : gpus_) {
    if (gpu.now < 0) continue;
    std::string now = GpuSupport::Of(kernel_)->proxy().gpus()[static_cast<size_t>(gpu.now)].uuid_text();
    moved = moved || now != gpu.uuid;
    absl::StrAppend(&pairs, " ", Digits(gpu.uuid), "=", Digits(now));
  }
  if (!moved) pairs.clear();
  std::vector<std::string> lost;
  for (Target& t : targets_) {
    if (absl::Status s = BringBack(t, pairs); !s.ok() && !HasEnded(t)) lost.emplace_back(s.message());
    t.drained = t.locked = t.unsure = false;
  }
  helper_.reset();
  ComeBack();
  return lost.empty() ? absl::OkStatus() : absl::InternalError(absl::StrJoin(lost, "; "));
}

}  // namespace amber
