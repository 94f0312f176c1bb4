#include "sentry/runtime/gpu_checkpoint.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/image.pb.h"
#include "sentry/fs/nvidia/nvidia_file.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/mm/memory_manager.h"

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
constexpr int kStateRunning = 0, kStateLocked = 1, kStateCheckpointed = 2;
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

}  // namespace

void GpuCheckpoint::FindTargets() {
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  if (gpus == nullptr) return;
  std::set<uint64_t> busy = gpus->proxy().BusyProcesses();
  nvproxy::Ledger& ledger = gpus->proxy().ledger();
  for (size_t i = 0; i < gpus->proxy().gpus().size(); ++i) {
    bytes_[gpus->proxy().gpus()[i].uuid_text()] = ledger.used(static_cast<uint32_t>(i));
  }
  KernelLock lock(kernel_);
  for (const RefPtr<Task>& task : kernel_.LiveTasks()) {
    uint64_t process = GpuSupport::SessionOf(*task).process;
    if (!busy.contains(process)) continue;
    auto container = std::ranges::find_if(containers_, [&](const auto& c) { return c.get() == task->container(); });
    bool known = std::ranges::any_of(targets_, [&](const Target& t) { return t.process == process; });
    if (container == containers_.end() || known) continue;
    targets_.push_back({.container = *container, .group = RefPtr<ThreadGroup>(&task->group()), .process = process, .pid = task->group().pid()});
  }
}

absl::Status GpuCheckpoint::LoadTargets(const checkpoint::proto::Manifest& manifest) {
  if (manifest.gpu_processes().empty()) return absl::OkStatus();
  GpuSupport* gpus = GpuSupport::Of(kernel_);
  if (gpus == nullptr) return absl::FailedPreconditionError("the image holds processes that use a GPU: restore it with --gpu");
  if (manifest.gpu_driver() != gpus->proxy().version()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the image was made with NVIDIA driver ", manifest.gpu_driver(), ", and this machine has ", gpus->proxy().version()));
  }
  if (static_cast<size_t>(manifest.gpu_memory_size()) > gpus->proxy().gpus().size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the image needs ", manifest.gpu_memory_size(), " GPUs, and the sandbox has ", gpus->proxy().gpus().size()));
  }
  for (const auto& memory : manifest.gpu_memory()) {
    if (!IsUuid(memory.uuid())) return absl::InvalidArgumentError("the image is damaged: a GPU has no uuid");
    bytes_[memory.uuid()] = memory.bytes();
  }
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

void GpuCheckpoint::SaveTargets(checkpoint::proto::Manifest* manifest) const {
  if (targets_.empty()) return;
  manifest->set_gpu_driver(GpuSupport::Of(kernel_)->proxy().version());
  for (const auto& [uuid, bytes] : bytes_) {
    auto* memory = manifest->add_gpu_memory();
    memory->set_uuid(uuid);
    memory->set_bytes(bytes);
  }
  for (const Target& t : targets_) {
    auto* process = manifest->add_gpu_processes();
    process->set_container(t.container->id());
    process->set_pid(t.pid);
    for (auto [start, end] : t.away) {
      process->add_away(start);
      process->add_away(end);
    }
  }
}

absl::Duration GpuCheckpoint::CopyTime() const {
  constexpr uint64_t kMostBytes = uint64_t{1} << 46;  // an image may say anything
  uint64_t bytes = 0;
  for (const auto& [uuid, used] : bytes_) bytes += std::min(used, kMostBytes);
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
  if (answer->result != 0) return absl::FailedPreconditionError(absl::StrCat(what, GpuResultText(answer->result)));
  return absl::OkStatus();
}

// Which of the targets the library knows; the others' state stays an obstacle.
absl::Status GpuCheckpoint::AskStates() {
  std::vector<Target> known;
  for (Target& t : targets_) {
    absl::StatusOr<GpuHelper::Answer> answer = Ask(t, "state", "", kStateLimit);
    if (!answer.ok()) return answer.status();
    if (answer->result == kNotCuda || answer->result == kOperatingSystem) continue;
    if (answer->result != 0 || (answer->state != kStateRunning && answer->state != kStateCheckpointed)) {
      return absl::FailedPreconditionError(absl::StrCat("process ", t.pid, " cannot be checkpointed: its CUDA library is in state ", answer->state));
    }
    if (answer->state == kStateRunning) known.push_back(std::move(t));
  }
  targets_ = std::move(known);
  return absl::OkStatus();
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
}

absl::Status GpuCheckpoint::Drain() {
  if (targets_.empty()) return absl::OkStatus();
  Phase lock(&phases_, "GPU lock");
  if (absl::Status s = AskStates(); !s.ok()) {
    helper_.reset();
    targets_.clear();
    return s;
  }
  for (Target& t : targets_) {
    if (absl::Status s = Verb(t, "lock", absl::StrCat(" ", kLockMilliseconds), kLockLimit); !s.ok()) return Undo(s);
    t.locked = true;
  }
  lock.End();
  Phase drain(&phases_, "GPU drain");
  NoteAway();
  for (Target& t : targets_) {
    if (absl::Status s = Verb(t, "checkpoint", "", CopyTime()); !s.ok()) return Undo(s);
    t.drained = true;
  }
  helper_.reset();
  absl::Status verified = VerifyDrained();
  drain.End();
  return verified.ok() ? verified : Undo(verified);
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
    Task* leader = t.group->leader();
    if (leader == nullptr || !leader->has_mm()) continue;
    for (const auto& [start, vma] : leader->mm().vmas()) {
      if (vma.file && vma.file->kind() == kNvidiaFileKind) t.away.emplace_back(vma.start, vma.end);
    }
    t.group->extras().away = t.away;
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

absl::Status GpuCheckpoint::CheckFreeMemory() {
  if (targets_.empty()) return absl::OkStatus();
  nvproxy::Proxy& proxy = GpuSupport::Of(kernel_)->proxy();
  for (const auto& [old, now] : DeviceMap()) {
    uint64_t needed = bytes_[old];
    auto gpu = std::ranges::find_if(proxy.gpus(), [&](const nvproxy::Gpu& g) { return g.uuid_text() == now; });
    int index = proxy.IndexOf(*gpu);
    uint64_t limit = proxy.ledger().limit();
    if (limit != 0 && needed > limit) {
      return absl::FailedPreconditionError(
          absl::StrCat("the image needs ", needed >> 20, " MiB of GPU memory, and --gpu-memory is ", limit >> 20, " MiB"));
    }
    ErrnoOr<uint64_t> free = proxy.FreeBytes(index);
    if (free.ok() && needed > *free) {
      return absl::ResourceExhaustedError(absl::StrCat("the image needs ", needed >> 20, " MiB of memory of GPU ", gpu->minor, ", and ", *free >> 20,
                                                       " MiB are free: try again when others have given theirs back"));
    }
  }
  return absl::OkStatus();
}

// Old uuids to new ones: a GPU that is there stays itself, others take what is left in order.
std::vector<std::pair<std::string, std::string>> GpuCheckpoint::DeviceMap() const {
  std::vector<std::string> free;
  for (const nvproxy::Gpu& gpu : GpuSupport::Of(kernel_)->proxy().gpus()) {
    if (!bytes_.contains(gpu.uuid_text())) free.push_back(gpu.uuid_text());
  }
  std::vector<std::pair<std::string, std::string>> map;
  for (const auto& [uuid, bytes] : bytes_) {
    bool here = std::ranges::any_of(GpuSupport::Of(kernel_)->proxy().gpus(), [&](const nvproxy::Gpu& g) { return g.uuid_text() == uuid; });
    if (here) {
      map.emplace_back(uuid, uuid);
    } else if (!free.empty()) {
      map.emplace_back(uuid, free.front());
      free.erase(free.begin());
    }
  }
  return map;
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
  std::string pairs;
  auto map = DeviceMap();
  if (std::ranges::any_of(map, [](const auto& p) { return p.first != p.second; })) {
    for (const auto& [from, to] : map) absl::StrAppend(&pairs, " ", Digits(from), "=", Digits(to));
  }
  std::vector<std::string> lost;
  for (Target& t : targets_) {
    if (absl::Status s = BringBack(t, pairs); !s.ok()) lost.emplace_back(s.message());
    t.drained = t.locked = t.unsure = false;
  }
  helper_.reset();
  ComeBack();
  return lost.empty() ? absl::OkStatus() : absl::InternalError(absl::StrJoin(lost, "; "));
}

}  // namespace amber
