#include "sentry/kernel/extras.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/aio_context.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/futex_pi.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/seccomp_listener.h"
#include "sentry/kernel/served_call.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"
#include "sentry/keys/key.h"
#include "sentry/landlock/landlock.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

void StoreIo(const IoCounts& io, proto::IoCounts* out) {
  for (uint64_t v : {io.read_bytes, io.written_bytes, io.read_calls, io.write_calls}) out->add_count(v);
}

IoCounts LoadIo(const proto::IoCounts& in) {
  if (in.count_size() != 4) return {};  // an image of before they were counted
  return {in.count(0), in.count(1), in.count(2), in.count(3)};
}

}  // namespace

TaskExtras::TaskExtras() = default;
TaskExtras::~TaskExtras() = default;

void TaskExtras::Inherit(Task& parent, uint64_t flags) {
  TaskExtras& from = parent.extras();
  ipc = from.ipc;
  net = from.net;
  cgroup = from.cgroup;
  // A child with an address space of its own enters the time namespace for children (timens_on_fork).
  time_for_children = from.time_for_children;
  time = (flags & CLONE_VM) != 0 ? from.time : from.time_for_children;
  if (time) time->Freeze();
  seccomp_mode = from.seccomp_mode;
  seccomp = from.seccomp;
  traps_native = from.traps_native;
  // rseq_fork(): threads register their own.
  if ((flags & CLONE_VM) == 0) rseq = from.rseq;
  if ((flags & CLONE_SYSVSEM) != 0) {
    if (!from.sem_undo) from.sem_undo = MakeRef<SemUndo>(from.ipc);
    sem_undo = from.sem_undo;
  }
  sched = from.sched;
  if (sched.reset_on_fork) {
    bool realtime = sched.policy == SCHED_FIFO || sched.policy == SCHED_RR;
    sched = SchedAttributes{.policy = realtime ? SCHED_OTHER : sched.policy};
  }
  ioprio = from.ioprio;
  machine_checks = from.machine_checks;
  login_uid = from.login_uid;
  login_session = from.login_session;
  memory_policy = from.memory_policy;
  affinity = from.affinity;
  default_timer_slack = static_cast<uint64_t>(parent.timer_slack());
  landlock = from.landlock;
  session_keys = from.session_keys;
  if ((flags & CLONE_THREAD) != 0 && from.thread_keys) thread_keys = NewThreadRing(parent);
  request_keys_to = from.request_keys_to;
}

bool TaskExtras::WantsNativeCalls() const { return seccomp_mode == SECCOMP_MODE_STRICT || (seccomp && seccomp->WantsNativeCalls()); }

void TaskExtras::OnExec() {
  // exec_task_namespaces()
  time = time_for_children;
  if (time) time->Freeze();
  rseq = {};
  thread_keys.reset();  // prepare_exec_creds()
  before_guest.clear();
  traps_native = WantsNativeCalls();
  if (traps_native) before_guest.push_back(platform::TrapNativeCallsOp(false));
}

void TaskExtras::ApplyAffinity(const Task& task) const {
  // A machine that has none of these processors (after a restore) lets it run on all of them, as Linux does when they are unplugged.
  cpu_set_t set = Cgroup::CpusFor(task);
  if (affinity || !CPU_EQUAL(&set, &Cgroup::AllCpus())) Cgroup::ApplyCpus(task, set);
}

void TaskExtras::LeaveSemUndo(Task& task) {
  RefPtr<SemUndo> undo = std::move(sem_undo);
  if (undo && undo->ref_count() == 1) undo->Apply(task.pid());
}

void TaskExtras::OnExit(Task& task) {
  task.group().extras().io.Add(std::exchange(io, {}));
  LeaveSemUndo(task);
  ipc.reset();
  net.reset();
  landlock.reset();
  thread_keys.reset();
  session_keys.reset();
  notification.reset();
  served.reset();
  for (const SeccompFilter* f = seccomp.get(); f != nullptr; f = f->below()) {
    if (f->listener() != nullptr) f->listener()->OnTaskGone();
  }
}

std::string TaskExtras::Save(state::Saver& saver, const Task& task) const {
  proto::TaskExtras m;
  for (const CgroupPlace& place : cgroups) m.add_cgroup_apart(saver.Ref(place.group));
  m.set_cpu_base(task.CpuTime());
  m.set_ipc(saver.Ref(ipc));
  m.set_sem_undo(saver.Ref(sem_undo));
  m.set_sched_policy(sched.policy);
  m.set_sched_priority(sched.priority);
  m.set_sched_reset_on_fork(sched.reset_on_fork);
  m.set_ioprio(ioprio);
  m.set_machine_checks(machine_checks + 1);
  m.set_login_uid(login_uid + 1);
  m.set_login_session(login_session + 1);
  m.set_memory_policy(memory_policy.Pack());
  m.set_default_timer_slack(default_timer_slack);
  StoreIo(io, m.mutable_io());
  if (affinity) m.set_affinity(&*affinity, sizeof(*affinity));
  m.set_net(saver.Ref(net));
  m.set_cgroup(saver.Ref(cgroup));
  m.set_time(saver.Ref(time));
  m.set_time_for_children(saver.Ref(time_for_children));
  m.set_pids_for_children(saver.Ref(pids_for_children));
  m.set_landlock(saver.Ref(landlock));
  m.set_thread_keys(saver.Ref(thread_keys));
  m.set_session_keys(saver.Ref(session_keys));
  m.set_request_keys_to(request_keys_to);
  m.set_seccomp_mode(seccomp_mode);
  m.set_seccomp(saver.Ref(seccomp));
  m.set_rseq_area(rseq.area);
  m.set_rseq_size(rseq.size);
  m.set_rseq_signature(rseq.signature);
  if (notification != nullptr) {
    auto* n = m.mutable_notification();
    if (notification->listener != nullptr) n->set_listener(saver.Ref(RefPtr<SeccompListener>(notification->listener)));
    n->set_id(notification->id);
    n->set_data(&notification->data, sizeof(notification->data));
    n->set_state(static_cast<int>(notification->state));
    n->set_error(notification->error);
    n->set_value(notification->value);
    n->set_goes_on(notification->goes_on);
  }
  if (served != nullptr) served->Save(saver, m.mutable_served());
  if (pi_wait != nullptr) {
    m.set_pi_granted(pi_wait->granted);
    m.set_pi_requeued(pi_wait->requeued);
    m.set_pi_age(pi_wait->age);
  }
  if (tracee != nullptr) m.set_tracee(Tracing::Save(saver, *tracee));
  return m.SerializeAsString();
}

namespace {

bool LoadNotification(state::Loader& loader, const proto::SeccompNotification& in, Task& task) {
  auto n = std::make_unique<SeccompNotification>(task);
  int last = static_cast<int>(SeccompNotification::State::kReplied);
  if (in.data().size() != sizeof(n->data) || in.state() < 0 || in.state() > last) return loader.Fail("a call that awaits a listener is malformed");
  memcpy(&n->data, in.data().data(), sizeof(n->data));
  n->id = in.id();
  n->state = static_cast<SeccompNotification::State>(in.state());
  n->error = in.error();
  n->value = in.value();
  n->goes_on = in.goes_on();
  auto* listener = loader.Get<SeccompListener>(in.listener());
  if (listener == nullptr && n->state != SeccompNotification::State::kReplied) return loader.Fail("a call awaits no listener");
  if (listener != nullptr) listener->Add(*n);
  task.extras().notification = std::move(n);
  return true;
}

}  // namespace

bool TaskExtras::Load(state::Loader& loader, const std::string& bytes, Task& task) {
  proto::TaskExtras m;
  if (!m.ParseFromString(bytes)) return loader.Fail("a task's extras are malformed");
  ipc = loader.GetRef<IpcNamespace>(m.ipc());
  // An image from before there were ipc namespaces.
  if (m.ipc() == 0) ipc = MakeRef<IpcNamespace>();
  sem_undo = loader.GetRef<SemUndo>(m.sem_undo());
  sched = {m.sched_policy(), m.sched_priority(), m.sched_reset_on_fork()};
  ioprio = m.ioprio();
  login_uid = m.login_uid() - 1;
  login_session = m.login_session() - 1;
  if (m.machine_checks() >= 1 && m.machine_checks() <= 3) machine_checks = m.machine_checks() - 1;
  memory_policy = MemoryPolicy::Unpack(m.memory_policy());
  if (m.default_timer_slack() != 0) default_timer_slack = m.default_timer_slack();
  if (!m.affinity().empty()) {
    if (m.affinity().size() != sizeof(cpu_set_t)) return loader.Fail("a task's set of processors is malformed");
    memcpy(&affinity.emplace(), m.affinity().data(), sizeof(cpu_set_t));
  }
  net = loader.GetRef<NetNamespace>(m.net());
  if (m.net() != 0 && !net) return false;
  cgroup = loader.GetRef<CgroupNamespace>(m.cgroup());
  for (uint64_t id : m.cgroup_apart()) {
    RefPtr<Cgroup> group = loader.GetRef<Cgroup>(id);
    if (!group) return loader.Fail("a thread's cgroup is missing");
    cgroups.push_back({std::move(group), 0, 0});
  }
  time = loader.GetRef<TimeNamespace>(m.time());
  time_for_children = loader.GetRef<TimeNamespace>(m.time_for_children());
  pids_for_children = loader.GetRef<PidNamespace>(m.pids_for_children());
  landlock = loader.GetRef<LandlockRuleset>(m.landlock());
  thread_keys = loader.GetRef<Key>(m.thread_keys());
  session_keys = loader.GetRef<Key>(m.session_keys());
  request_keys_to = m.request_keys_to();
  io = LoadIo(m.io());
  if ((m.landlock() != 0) != static_cast<bool>(landlock)) return loader.Fail("a task's landlock domain is missing");
  seccomp_mode = m.seccomp_mode();
  seccomp = loader.GetRef<SeccompFilter>(m.seccomp());
  if (seccomp_mode < 0 || seccomp_mode > 2 || (seccomp_mode == 2) != static_cast<bool>(seccomp)) return loader.Fail("a task's filter is missing");
  cpu_base = m.cpu_base();
  rseq = {m.rseq_area(), m.rseq_size(), m.rseq_signature()};
  // What was good for the host before is refused by it now at worst, which harms the program alone.
  if (rseq.area != 0) before_guest.push_back({SYS_rseq, {rseq.area, rseq.size, 0, rseq.signature}});
  if (m.has_notification() && !LoadNotification(loader, m.notification(), task)) return false;
  if (m.has_served()) {
    served = std::make_unique<ServedCall>();
    if (!served->Load(loader, m.served())) return false;
  }
  if (m.pi_granted() != 0 || m.pi_age() != 0) {
    // It waits again when its call is executed again.
    pi_wait = std::make_unique<PiWait>(task);
    pi_wait->granted = m.pi_granted();
    pi_wait->requeued = m.pi_requeued();
    pi_wait->age = m.pi_age();
  }
  return m.tracee().empty() || Tracing::Load(loader, m.tracee(), task);
}

CgroupNamespace::CgroupNamespace() = default;
CgroupNamespace::CgroupNamespace(RefPtr<UserNamespace> owner, RefPtr<Cgroup> root, std::vector<RefPtr<Cgroup>> first_version)
    : Namespace(std::move(owner)), root_(std::move(root)), first_version_(std::move(first_version)) {}
CgroupNamespace::~CgroupNamespace() = default;

std::string CgroupNamespace::Save(state::Saver& saver) const {
  proto::PlainNamespace m;
  m.set_ino(ino());
  m.set_owner(SaveOwner(saver));
  m.set_cgroup(saver.Ref(root_));
  for (const RefPtr<Cgroup>& root : first_version_) m.add_first_version_cgroup(saver.Ref(root));
  return m.SerializeAsString();
}
bool CgroupNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::PlainNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadCommon(loader, m.ino(), m.owner())) return false;
  root_ = loader.GetRef<Cgroup>(m.cgroup());
  for (uint64_t id : m.first_version_cgroup()) {
    RefPtr<Cgroup> root = loader.GetRef<Cgroup>(id);
    if (!root) return loader.Fail("a cgroup namespace is malformed");
    first_version_.push_back(std::move(root));
  }
  return true;
}

GroupExtras::GroupExtras() : serial(next_serial_.fetch_add(1, std::memory_order_relaxed)) {}
GroupExtras::~GroupExtras() = default;

bool GroupExtras::SkipSerials(uint64_t next) {
  // So many that nobody reaches them, and that what follows does not wrap.
  if (next > uint64_t{1} << 62) return false;
  uint64_t now = NextSerial();
  while (now < next && !next_serial_.compare_exchange_weak(now, next, std::memory_order_relaxed)) {
  }
  return true;
}

CpuTimers& GroupExtras::cpu_timers(ThreadGroup& group) {
  if (cpu_timers_ == nullptr) cpu_timers_ = std::make_unique<CpuTimers>(group);
  return *cpu_timers_;
}

platform::StubOp NoHugePagesOp(bool on) { return {SYS_prctl, {PR_SET_THP_DISABLE, on ? 1u : 0u, 0, 0, 0}}; }

void GroupExtras::Inherit(ThreadGroup& group) {
  // Timers are not inherited, the limit is.
  if (group.rlim(RLIMIT_CPU).rlim_cur != RLIM_INFINITY) cpu_timers(group).UpdateLimit();
}

void GroupExtras::InheritMemoryRules(const GroupExtras& parent) {
  mdwe = (parent.mdwe & kMdweNoInherit) != 0 ? 0 : parent.mdwe;
  merges_memory = parent.merges_memory;
}

bool GroupExtras::DeniesProtection(int old_prot, int prot) const {
  if ((mdwe & kMdweRefuseExecGain) == 0 || (prot & PROT_EXEC) == 0) return false;
  return (prot & PROT_WRITE) != 0 || (old_prot & PROT_EXEC) == 0;
}

void GroupExtras::OnExit(ThreadGroup& group) {
  Cgroup::Leave(group);
  process_keys.reset();
  if (cpu_timers_ != nullptr) cpu_timers_->CancelAll();
  if (exit_watcher_ != nullptr) exit_watcher_(group);
}

std::string GroupExtras::Save(state::Saver& saver, const ThreadGroup& group) const {
  proto::GroupExtras m;
  m.set_serial(serial);
  if (!group.zombie()) {
    rusage now = UsageOf(group);
    m.set_cpu_base(group.CpuTime());
    m.set_base(&now, sizeof(now));
  }
  for (const auto& [id, context] : aio) {
    auto* out = m.add_aio();
    out->set_id(id);
    out->set_max_events(context->max_events);
    out->set_ring_size(context->ring_size);
    for (const AioContext::Event& e : context->events) out->add_event(&e, sizeof(e));
  }
  // A file in several tables is named by each; the first one that is loaded counts.
  std::set<const File*> seen;
  for (const RefPtr<Task>& task : group.tasks()) {
    if (task->exiting()) continue;
    task->files().ForEach([&](int, const RefPtr<File>& file, bool) {
      if (file->owner() == nullptr || !seen.insert(file.get()).second) return;
      auto* owned = m.add_owned();
      owned->set_file(saver.Ref(file));
      owned->set_owner(SigioOwner::Of(*file, false)->Save(saver));
    });
  }
  for (const CgroupPlace& place : cgroups) m.add_cgroup(saver.Ref(place.group));
  m.set_core_filter(core_filter + 1);
  m.set_process_keys(saver.Ref(process_keys));
  m.set_had_threads(had_threads);
  m.set_no_huge_pages(no_huge_pages);
  m.set_mdwe(mdwe);
  m.set_merges_memory(merges_memory);
  StoreIo(io, m.mutable_io());
  m.set_creator_tid(creator_tid);
  for (const DeadTracee& dead : dead_tracees) {
    auto* out = m.add_dead_tracee();
    out->set_tid(dead.tid);
    out->set_uid(dead.uid);
    out->set_status(dead.status);
  }
  if (cpu_timers_ != nullptr) {
    m.set_virtual_target(cpu_timers_->virtual_timer().target());
    m.set_virtual_interval(cpu_timers_->virtual_timer().interval());
    m.set_prof_target(cpu_timers_->prof_timer().target());
    m.set_prof_interval(cpu_timers_->prof_timer().interval());
  }
  return m.SerializeAsString();
}

bool GroupExtras::Load(state::Loader& loader, const std::string& bytes) {
  proto::GroupExtras m;
  if (!m.ParseFromString(bytes)) return loader.Fail("a process's extras are malformed");
  if (m.serial() != 0) {
    if (m.serial() == ~uint64_t{0} || !SkipSerials(m.serial() + 1)) return loader.Fail("a process's serial number is malformed");
    serial = m.serial();
  }
  cpu_base = m.cpu_base();
  if (m.core_filter() != 0) core_filter = (m.core_filter() - 1) & CoreDump::kFilterMask;
  process_keys = loader.GetRef<Key>(m.process_keys());
  for (uint64_t id : m.cgroup()) {
    if (id == 0) continue;  // an image of before there were any
    RefPtr<Cgroup> group = loader.GetRef<Cgroup>(id);
    if (!group) return loader.Fail("a process's cgroup is missing");
    cgroups.push_back({std::move(group), 0, 0});
  }
  had_threads = m.had_threads();
  no_huge_pages = m.no_huge_pages();
  mdwe = m.mdwe() & (kMdweRefuseExecGain | kMdweNoInherit);
  merges_memory = m.merges_memory();
  io = LoadIo(m.io());
  creator_tid = m.creator_tid();
  if (m.base().size() == sizeof(base)) memcpy(&base, m.base().data(), sizeof(base));
  for (const auto& in : m.owned()) owned_.emplace_back(in.file(), in.owner());
  for (const auto& in : m.aio()) {
    auto context = std::make_unique<AioContext>();
    context->max_events = in.max_events();
    context->ring_size = in.ring_size();
    for (const std::string& bytes_of : in.event()) {
      AioContext::Event event;
      if (bytes_of.size() != sizeof(event)) return loader.Fail("an asynchronous I/O context is malformed");
      memcpy(&event, bytes_of.data(), sizeof(event));
      context->events.push_back(event);
    }
    aio[in.id()] = std::move(context);
  }
  for (const auto& in : m.dead_tracee()) dead_tracees.push_back({in.tid(), in.uid(), in.status()});
  // 0 is an image without the timer; an armed one has a later target.
  loaded_[0] = m.virtual_target() == 0 ? kNever : m.virtual_target();
  loaded_[1] = m.virtual_interval();
  loaded_[2] = m.prof_target() == 0 ? kNever : m.prof_target();
  loaded_[3] = m.prof_interval();
  return cpu_base >= 0 && loaded_[0] >= 0 && loaded_[1] >= 0 && loaded_[2] >= 0 && loaded_[3] >= 0;
}

namespace {

void ConfirmIfOpen(const FdTable& table, File& file) {
  bool open = false;
  table.ForEach([&](int, const RefPtr<File>& each, bool) { open |= each.get() == &file; });
  if (open) SigioOwner::Of(file, false)->ConfirmLocks(table);
}

}  // namespace

bool GroupExtras::AfterLoad(state::Loader& loader, ThreadGroup& group) {
  if (group.zombie()) return true;
  for (const auto& [id, bytes] : std::exchange(owned_, {})) {
    auto* file = loader.Get<File>(id);
    if (file == nullptr) return false;
    if (file->owner() == nullptr && !SigioOwner::Load(loader, *file, bytes)) return false;
    // Each process that has the file names it, and by that the locks that are its own.
    for (const RefPtr<Task>& task : group.tasks()) {
      if (!task->exiting()) ConfirmIfOpen(task->files(), *file);
    }
  }
  Inherit(group);
  if (no_huge_pages && !group.tasks().empty()) group.tasks().front()->extras().before_guest.push_back(NoHugePagesOp(true));
  if (!Cgroup::EnterLoaded(group)) return loader.Fail("a process's cgroups are malformed");
  for (const RefPtr<Task>& task : group.tasks()) task->extras().cgroup_held = Cgroup::HoldsTask(*task);
  if (loaded_[0] != kNever) cpu_timers(group).virtual_timer().Set(loaded_[0], loaded_[1]);
  if (loaded_[2] != kNever) cpu_timers(group).prof_timer().Set(loaded_[2], loaded_[3]);
  return true;
}

}  // namespace amber
