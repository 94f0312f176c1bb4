// Signal actions that a task's stub keeps for it (platform/fast_actions.h): rt_sigaction(2) then costs no hand-over. Programs and shells ask for all
// 64 when they start, posix_spawn(3) of glibc asks for and sets them all before each exec.
//
// The task must be alone with its actions (no other thread, no CLONE_SIGHAND), and nobody may want to see its calls (tracers, filters, --strace).
// Its ThreadGroup's SignalHandlers stay what counts; changes are taken at its contacts and whenever somebody is about to look while it runs.
// Kernel lock.
#pragma once

#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

// What rt_sigaction(2) does with a new action.
void SetAction(ThreadGroup& group, int signo, SigAction action);

// `task` has a host thread that does not run yet.
void OfferActions(Task& task);
void TakeActions(Task& task);
// Before the actions of a process are looked at that is not the caller.
void TakeActionsOf(const ThreadGroup& group);
// `task` is about to be alone no more, or to be watched.
void WithdrawActions(Task& task, bool may_run = false);
// The kernel has changed an action of `task`'s.
void TellAction(Task& task, int signo);

}  // namespace amber
