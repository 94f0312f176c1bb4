#include "sentry/syscalls/may_signal.h"

#include <linux/capability.h>
#include <signal.h>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/landlock/landlock.h"

namespace amber {

bool MaySignal(Task& task, Task& target, int signo) {
  if (!LandlockMaySignal(task, target)) return false;
  const Credentials& c = task.creds();
  const Credentials& t = target.creds();
  if (&task.group() == &target.group() || c.HasIn(t.user_ns.get(), CAP_KILL)) return true;
  if (c.euid == t.suid || c.euid == t.uid || c.uid == t.suid || c.uid == t.uid) return true;
  return signo == SIGCONT && &task.group().session() == &target.group().session();
}

}  // namespace amber
