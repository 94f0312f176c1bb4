// Who may look into whom.
#include <linux/capability.h>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/landlock/landlock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"

namespace amber {

bool CredentialsMayAccess(const Task& task, const Task& target, uid_t uid, gid_t gid, uint64_t capabilities) {
  if (!LandlockMayTrace(task, target)) return false;
  const Credentials& me = task.creds();
  const Credentials& it = target.creds();
  bool rules = me.HasIn(it.user_ns.get(), CAP_SYS_PTRACE);
  bool same = uid == it.euid && uid == it.suid && uid == it.uid && gid == it.egid && gid == it.sgid && gid == it.gid;
  if (!same && !rules) return false;
  // Memory that is hidden belongs to the namespace that it was made in.
  bool hidden = !target.group().dumpable() && target.has_mm();
  if (hidden && !me.HasIn(MemoryOwner::Of(target.mm()).get(), CAP_SYS_PTRACE)) return false;
  return rules || (me.user_ns == it.user_ns && (it.permitted & ~capabilities) == 0);  // cap_ptrace_access_check()
}

bool Tracing::MayAccess(const Task& task, const Task& target) {
  if (&task.group() == &target.group()) return true;
  const Credentials& me = task.creds();
  return CredentialsMayAccess(task, target, me.uid, me.gid, me.permitted);
}

}  // namespace amber
