// ioctl(2) of process descriptors: who it is, and its namespaces (Linux: fs/pidfs.c).
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <iterator>

#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/tracing.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// linux/pidfd.h is older on Debian 12.
constexpr uint32_t kType = 0xff, kGetInfo = 11;

// struct pidfd_info of Linux 6.18.
struct Info {
  uint64_t mask, cgroup;
  uint32_t pid, tgid, ppid;
  uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
  uint32_t core_mask, spare;
};
constexpr size_t kFirstSize = 64;  // PIDFD_INFO_SIZE_VER0
static_assert(sizeof(Info) == 72);
constexpr uint64_t kPid = 1, kCreds = 2, kExit = 8;

struct NamespaceIoctl {
  uint32_t number;
  int type;
  bool for_children;
};
constexpr NamespaceIoctl kNamespaces[] = {
    {1, CLONE_NEWCGROUP, false}, {2, CLONE_NEWIPC, false},  {3, CLONE_NEWNS, false},  {4, CLONE_NEWNET, false},  {5, CLONE_NEWPID, false},
    {6, CLONE_NEWPID, true},     {7, CLONE_NEWTIME, false}, {8, CLONE_NEWTIME, true}, {9, CLONE_NEWUSER, false}, {10, CLONE_NEWUTS, false},
};

ErrnoOr<uint64_t> OpenNamespace(Task& task, Task& target, const NamespaceIoctl& which) {
  const Credentials& c = task.creds();
  if (&task.group() != &target.group() && !CredentialsMayAccess(task, target, c.fsuid, c.fsgid, c.effective)) return Errno(EACCES);
  auto ns = NamespaceOf(target, which.type, which.for_children);
  if (ns.Is(ENOENT)) return Errno(ESRCH);
  auto file = MakeRef<NsFile>(NsRef{which.type, TRY(std::move(ns))}, O_RDONLY);
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
}

void Describe(const Task& reader, Task& target, Info* out) {
  const PidNamespace& pids = reader.group().pids();
  const UserNamespace* users = reader.creds().user_ns.get();
  const Credentials& c = target.creds();
  out->mask |= kPid | kCreds;
  out->pid = static_cast<uint32_t>(pids.IdOf(target));
  out->tgid = static_cast<uint32_t>(pids.IdOf(target.group()));
  ThreadGroup* parent = target.group().parent();
  out->ppid = parent != nullptr ? static_cast<uint32_t>(pids.IdOf(*parent)) : 0;
  out->ruid = ShownUid(users, c.uid);
  out->euid = ShownUid(users, c.euid);
  out->suid = ShownUid(users, c.suid);
  out->fsuid = ShownUid(users, c.fsuid);
  out->rgid = ShownGid(users, c.gid);
  out->egid = ShownGid(users, c.egid);
  out->sgid = ShownGid(users, c.sgid);
  out->fsgid = ShownGid(users, c.fsgid);
}

}  // namespace

ErrnoOr<uint64_t> PidFd::GetInfo(Task& task, uint64_t argument, size_t size) {
  if (argument == 0) return Errno(EINVAL);
  uint64_t wanted = TRY(task.CopyIn(UserPtr<const uint64_t>(argument)));
  Info info{};
  bool reaped = group_->pids().FindGroup(group_->pid()) != group_.get();
  // How it ended is told once somebody has waited for it.
  if (reaped && (wanted & kExit) != 0) {
    info.mask |= kExit;
    info.exit_code = group_->exit_status();
  }
  Task* target = task_ ? task_.get() : group_->leader();
  if (alive() && target != nullptr) {
    Describe(task, *target, &info);
    if (info.pid == 0) return Errno(ESRCH);
  } else if ((info.mask & kExit) == 0) {
    return Errno(ESRCH);
  }
  TRY(task.CopyOutBytes(argument, &info, std::min(size, sizeof(info))));
  // copy_struct_to_user(): a structure of a later time gets zeros.
  for (size_t at = sizeof(info); at < size; at += sizeof(uint64_t)) {
    TRY(task.CopyOut(UserPtr<uint64_t>(argument + at), uint64_t{0}));
  }
  return uint64_t{0};
}

ErrnoOr<uint64_t> PidFd::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (_IOC_TYPE(command) != kType) return Errno(ENOTTY);
  if (_IOC_NR(command) == kGetInfo) {
    size_t size = _IOC_SIZE(command);
    bool good = _IOC_DIR(command) == (_IOC_READ | _IOC_WRITE) && size >= kFirstSize && size % sizeof(uint64_t) == 0;
    return good ? GetInfo(task, argument, size) : Errno(ENOTTY);
  }
  const auto* which = std::ranges::find_if(kNamespaces, [command](const NamespaceIoctl& n) { return _IO(kType, n.number) == command; });
  if (which == std::end(kNamespaces)) return Errno(ENOTTY);
  if (argument != 0) return Errno(EINVAL);
  Task* target = task_ ? task_.get() : group_->leader();
  if (!alive() || target == nullptr) return Errno(ESRCH);
  return OpenNamespace(task, *target, *which);
}

}  // namespace amber
