// Saving and loading tasks. See checkpoint/state.h for the passes.
#include <sched.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/state_util.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/lock_keeper.h"
#include "sentry/vfs/mount.h"

namespace amber {

void SaveCredentials(state::Saver& saver, const Credentials& c, proto::Credentials* out) {
  out->set_uid(c.uid);
  out->set_euid(c.euid);
  out->set_suid(c.suid);
  out->set_fsuid(c.fsuid);
  out->set_gid(c.gid);
  out->set_egid(c.egid);
  out->set_sgid(c.sgid);
  out->set_fsgid(c.fsgid);
  for (gid_t g : c.groups) out->add_groups(g);
  out->set_inheritable(c.inheritable);
  out->set_permitted(c.permitted);
  out->set_effective(c.effective);
  out->set_bounding(c.bounding);
  out->set_ambient(c.ambient);
  out->set_securebits(c.securebits);
  out->set_user_ns(saver.Ref(c.user_ns));
}

RefPtr<const Credentials> LoadCredentials(state::Loader& loader, const proto::Credentials& in) {
  auto c = MakeRef<Credentials>();
  c->uid = in.uid();
  c->euid = in.euid();
  c->suid = in.suid();
  c->fsuid = in.fsuid();
  c->gid = in.gid();
  c->egid = in.egid();
  c->sgid = in.sgid();
  c->fsgid = in.fsgid();
  c->groups.assign(in.groups().begin(), in.groups().end());
  c->inheritable = in.inheritable() & kAllCapabilities;
  c->permitted = in.permitted() & kAllCapabilities;
  c->effective = in.effective() & kAllCapabilities;
  c->bounding = in.bounding() & kAllCapabilities;
  c->ambient = in.ambient() & kAllCapabilities;
  c->securebits = in.securebits();
  c->user_ns = loader.GetRef<UserNamespace>(in.user_ns());
  return c;
}

void SaveSignals(const SignalQueue& queue, proto::SignalQueue* out) {
  SignalSet marked = queue.set();
  for (const SigInfo& info : queue.entries()) {
    out->add_info(&info.raw, sizeof(info.raw));
    marked &= ~SignalBit(info.signo());
  }
  for (int signo = 1; signo <= kNumSignals; ++signo) {
    SigInfo info = SigInfo::User(signo, SI_USER, 0, 0);
    if ((marked & SignalBit(signo)) != 0) out->add_info(&info.raw, sizeof(info.raw));
  }
}

bool LoadSignals(const proto::SignalQueue& in, SignalQueue* queue) {
  for (const std::string& bytes : in.info()) {
    SigInfo info;
    if (bytes.size() != sizeof(info.raw)) return false;
    memcpy(&info.raw, bytes.data(), sizeof(info.raw));
    if (info.signo() < 1 || info.signo() > kNumSignals) return false;
    queue->Add(info);
  }
  return true;
}

namespace {

void SaveFrame(const platform::Frame& frame, platform::Thread& thread, proto::Frame* out) {
  out->set_registers(&frame.regs, sizeof(frame.regs));
  out->set_fs_base(frame.fs_base);
  out->set_gs_base(frame.gs_base);
  auto xstate = thread.xstate();
  if (xstate.ok()) out->set_xstate(xstate->data(), xstate->size());
}

void SaveCall(const SyscallState& call, proto::SyscallState* out) {
  out->set_number(call.number);
  for (uint64_t a : call.args) out->add_args(a);
  out->set_timed_out(call.timed_out);
  out->set_deadline(call.deadline);
  out->set_done(call.done);
  for (uint64_t s : call.scratch) out->add_scratch(s);
  out->set_on_signal(call.on_signal);
}

bool LoadCall(const proto::SyscallState& in, SyscallState* call) {
  if (in.args_size() != 6 || in.scratch_size() != 4 || in.on_signal() < 0 || in.on_signal() > kKillable.number()) return false;
  call->number = in.number();
  for (int i = 0; i < 6; ++i) call->args[i] = in.args(i);
  for (int i = 0; i < 4; ++i) call->scratch[i] = in.scratch(i);
  call->timed_out = in.timed_out();
  call->deadline = in.deadline();
  call->done = in.done();
  call->on_signal = in.on_signal();
  call->framed = true;
  call->restarted = true;
  return true;
}

}  // namespace

std::string Task::Save(state::Saver& saver) const {
  proto::Task out;
  out.set_tid(tid_);
  out.set_group(saver.Ref(group_));
  out.set_name(name_);
  out.set_mm(saver.Ref(mm_));
  out.set_files(saver.Ref(files_));
  out.set_fs(saver.Ref(fs_));
  out.set_mounts(saver.Ref(mounts_));
  out.set_uts(saver.Ref(uts_));
  SaveCredentials(saver, *creds_, out.mutable_creds());
  out.set_blocked(blocked_);
  out.set_saved_mask(saved_mask_);
  out.set_has_saved_mask(has_saved_mask_);
  SaveSignals(pending_, out.mutable_pending());
  out.set_altstack_sp(altstack_.sp);
  out.set_altstack_flags(altstack_.flags);
  out.set_altstack_size(altstack_.size);
  out.set_clear_child_tid(clear_child_tid_);
  out.set_robust_list(robust_list_);
  out.set_no_new_privs(no_new_privs_);
  out.set_keep_caps(keep_caps_);
  out.set_parent_death_signal(parent_death_signal_);
  out.set_timer_slack(timer_slack_);
  out.set_exit_signal(exit_signal_);
  out.set_exit_status(exit_status_);
  out.set_exiting(exiting_);
  out.set_personality(personality_);
  out.set_vfork_pending(vfork_pending_);
  for (int id : extras_->ids_above) out.add_ids_above(id);
  if (!exiting_) out.set_extras(extras_->Save(saver, *this));
  if (call_ == Call::kBlocked) SaveCall(syscall_, out.mutable_call());
  if (thread_ != nullptr) {
    platform::Frame frame = thread_->frame();
    // The call was given back to stop the thread; restored, it is executed again from the frame.
    if (undone_) frame.regs.rip = syscall_.ip;
    SaveFrame(frame, *thread_, out.mutable_frame());
  }
  return out.SerializeAsString();
}

bool Task::Load(state::Loader& loader, std::string_view bytes) {
  proto::Task in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a task is malformed");
  kernel_ = loader.Get<Kernel>(1);
  group_ = loader.GetRef<ThreadGroup>(in.group());
  if (kernel_ == nullptr || !group_) return loader.Fail("a task has no process");
  tid_ = in.tid();
  extras_->ids_above.assign(in.ids_above().begin(), in.ids_above().end());
  name_ = in.name();
  mm_ = loader.GetRef<MemoryManager>(in.mm());
  files_ = loader.GetRef<FdTable>(in.files());
  fs_ = loader.GetRef<FsContext>(in.fs());
  mounts_ = loader.GetRef<MountNamespace>(in.mounts());
  uts_ = loader.GetRef<UtsNamespace>(in.uts());
  creds_ = LoadCredentials(loader, in.creds());
  blocked_ = in.blocked() & ~kUnblockable;
  saved_mask_ = in.saved_mask() & ~kUnblockable;
  has_saved_mask_ = in.has_saved_mask();
  if (!LoadSignals(in.pending(), &pending_)) return loader.Fail("a task's signals are malformed");
  altstack_ = AltStack{in.altstack_sp(), in.altstack_flags(), in.altstack_size()};
  clear_child_tid_ = in.clear_child_tid();
  robust_list_ = in.robust_list();
  no_new_privs_ = in.no_new_privs();
  keep_caps_ = in.keep_caps();
  parent_death_signal_ = in.parent_death_signal();
  timer_slack_ = in.timer_slack();
  exit_signal_ = in.exit_signal();
  exit_status_ = in.exit_status();
  exiting_ = released_ = in.exiting();
  personality_ = in.personality();
  vfork_pending_ = in.vfork_pending();
  auto is_signal = [](int signo) { return signo >= 0 && signo <= kNumSignals; };
  if (!is_signal(parent_death_signal_) || exit_signal_ < 0 || exit_signal_ > CSIGNAL) return loader.Fail("a task's signals are malformed");
  if (exiting_) return true;
  if (!extras_->Load(loader, in.extras(), *this)) return false;
  if (!in.has_frame() || !mm_ || !files_ || !fs_ || !mounts_ || !uts_) return loader.Fail("a task lacks its memory, files or registers");
  const proto::Frame& frame = in.frame();
  if (frame.registers().size() != sizeof(platform::Registers)) return loader.Fail("a task's registers are malformed");
  saved_frame_ = std::make_unique<SavedFrame>();
  memcpy(&saved_frame_->frame.regs, frame.registers().data(), sizeof(platform::Registers));
  saved_frame_->frame.fs_base = frame.fs_base();
  saved_frame_->frame.gs_base = frame.gs_base();
  saved_frame_->xstate.assign(frame.xstate().begin(), frame.xstate().end());
  if (in.has_call()) {
    if (!LoadCall(in.call(), &syscall_)) return loader.Fail("a task's call is malformed");
    syscall_.ip = saved_frame_->frame.regs.rip;
    call_ = Call::kBlocked;
  }
  return true;
}

bool Task::AfterLoad(state::Loader& loader) {
  if (exiting_) return true;
  ++kernel_->task_count_;
  files_->ForEach([this](int, const RefPtr<File>& file, bool) {
    Inode* inode = file->dentry() != nullptr ? file->dentry()->inode() : nullptr;
    if (inode != nullptr && inode->locks_if_any() != nullptr) inode->locks().Confirm(*files_);
    if (auto* keeper = dynamic_cast<LockKeeper*>(file.get())) keeper->locks().Confirm(*files_);
  });
  // Who knows it by a plain pointer relies on its process.
  const auto& siblings = group_->tasks();
  return std::ranges::find(siblings, this, &RefPtr<Task>::get) != siblings.end() || loader.Fail("a task is in no process");
}

std::string UtsNamespace::Save(state::Saver& saver) const {
  proto::UtsNamespace out;
  out.set_ino(ino());
  out.set_owner(SaveOwner(saver));
  out.set_hostname(hostname);
  out.set_domainname(domainname);
  return out.SerializeAsString();
}

bool UtsNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::UtsNamespace in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a host name is malformed");
  hostname = in.hostname();
  domainname = in.domainname();
  return LoadCommon(loader, in.ino(), in.owner());
}

}  // namespace amber
