// Birth, exec and death of tasks and processes (Linux: fork.c, exec.c, exit.c).
//
// One per kernel. Every method runs with the kernel lock held.
//
// Death has two steps. Exit() makes a task a non-entity at once: its host thread is told to go, it takes no signals, nobody schedules it. Release()
// gives up its memory, files and so on; it waits until no handler of the task is on a worker's stack. When the last task of a group has
// been released, the group is a zombie and its parent hears of it.
#pragma once

#include <memory>
#include <string>

#include "sentry/base/errno_or.h"
#include "sentry/control/spec.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

class Cgroup;
class Kernel;
class File;
class MountNamespace;
struct CoreDumps;  // sentry/kernel/core_dump.h
class PiFutexes;   // sentry/kernel/futex_pi.h

// clone(2) and clone3(2) after decoding.
struct CloneArgs {
  uint64_t flags = 0;  // CLONE_*, without the exit signal
  int exit_signal = 0;
  uint64_t stack = 0;  // initial stack pointer; 0: the parent's
  uint64_t parent_tid = 0;
  uint64_t child_tid = 0;
  uint64_t pidfd = 0;
  uint64_t tls = 0;
  std::vector<int> set_tid;  // the child's ids, innermost first
  RefPtr<Cgroup> cgroup;     // CLONE_INTO_CGROUP; null: the parent's
};

struct ExecArgs {
  RefPtr<File> file;
  std::string path;
  bool path_vanishes = false;
  std::vector<std::string> argv, envp;
};

// What a container's first process, or one that joins it, starts with.
struct NewProcess {
  RefPtr<PidNamespace> pids;
  RefPtr<UtsNamespace> uts;
  RefPtr<MountNamespace> mounts;
  RefPtr<FsContext> fs;
  RefPtr<FdTable> files;
  RefPtr<const Credentials> creds;
  Container* container = nullptr;
  bool no_new_privs = false;
  RefPtr<Cgroup> cgroup;  // null: one of its own, or that of the namespace's init
};

class TaskLifecycle {
 public:
  explicit TaskLifecycle(Kernel& kernel);
  ~TaskLifecycle();

  // A process without a program yet; its parent is the namespace's init, if there is one. EAGAIN at a limit.
  ErrnoOr<RefPtr<Task>> NewProcessTask(NewProcess what);
  // Loads the first program of such a task; it runs after Start().
  ErrnoOr<void> FirstExec(Task& task, const ExecArgs& args);
  void Start(Task& task);

  // The handler parts of clone and execve: return kNoAnswer, or an error.
  ErrnoOr<uint64_t> Clone(Task& parent, const CloneArgs& args);
  ErrnoOr<uint64_t> Exec(Task& task, const ExecArgs& args);

  // exit(2) of one thread; the caller's handler returns kNoAnswer.
  void ExitThread(Task& task, int status);
  // exit_group(2) with a wait status.
  void ExitGroup(ThreadGroup& group, int wait_status);
  // A fatal signal.
  void KillGroup(ThreadGroup& group, int signo) { ExitGroup(group, signo); }
  // The second step (see above); harmless if it was done.
  void Release(Task& task);
  // What set_tid_address(2) or clone(2) said.
  static uint64_t ClearChildTid(const Task& task);
  // wait4(2) has taken the status: the process is gone.
  void Reap(ThreadGroup& group);
  // The last of its threads is going just now, and what follows from that (signals that others die of, too) is not done: nobody reaps it yet.
  static bool IsLeaving(const ThreadGroup& group);

  // ptrace: may look into tasks as this class may (tracing.h).
  class Tracing;
  // Core files, likewise (core_dump.h).
  class CoreDump;
  CoreDumps& core_dumps() { return *core_dumps_; }

  // Locks with priority inheritance; they outlive their owners.
  PiFutexes& pi_futexes() { return *pi_futexes_; }

  // Calls of helpers (helper_task.h) that run, and may have let go of the lock meanwhile, and what else goes on without it: a freeze waits for them.
  int running_helpers() const { return running_helpers_; }
  void BeginAway() { ++running_helpers_; }
  void EndAway();
  // A cgroup that stands still (cgroup.h): its tasks stay where they are when they come back from the kernel, and are made to come.
  void HoldForCgroup(Task& task, bool hold);
  bool IsHeld(const Task& task) const;
  // Processes whose core files are not finished: likewise.
  int core_dumps_running() const { return core_dumps_running_; }

 private:
  // A program that is in memory, not yet anybody's.
  struct Loaded {
    platform::Thread* thread = nullptr;
    RefPtr<MemoryManager> mm;
    RefPtr<const Credentials> creds;
    RefPtr<File> exe;
    std::string comm;
    bool secure = false;
  };

  void Exit(Task& task, int status);
  void LastTaskGone(ThreadGroup& group);
  void WorkOffDepartures();
  void ReparentChildren(ThreadGroup& group);
  // Of a zombie: its parent is told, or nobody waits for it and it goes.
  void TellParent(ThreadGroup& group);
  void KillNamespace(PidNamespace& pids);
  ErrnoOr<void> CheckCloneFlags(Task& parent, const CloneArgs& args) const;
  void OnCloned(Task& parent, const CloneArgs& args, ErrnoOr<platform::Thread*> made);
  ErrnoOr<RefPtr<Task>> MakeChild(Task& parent, const CloneArgs& args, platform::Thread& thread);
  void CopyMovedMemory(Task& parent, const RefPtr<Task>& child, const CloneArgs& args);
  RefPtr<ThreadGroup> NewGroup(ThreadGroup& old, RefPtr<PidNamespace> pids, int pid, const CloneArgs& args);
  RefPtr<Task> NewTask(ThreadGroup& group, const PidIds& ids, const Task& like);
  void FinishClone(Task& parent, const RefPtr<Task>& child, const CloneArgs& args);
  ErrnoOr<Loaded> LoadForExec(Task& task, const ExecArgs& args);
  void KillOtherThreads(Task& task);
  void CommitExec(Task& task, const ExecArgs& args, const Loaded& loaded, int old_tid);
  void InstallProgram(Task& task, const ExecArgs& args, const Loaded& loaded);

  Kernel& kernel_;
  std::unique_ptr<PiFutexes> pi_futexes_;
  friend class HelperTask;
  int running_helpers_ = 0;
  std::unique_ptr<CoreDumps> core_dumps_;
  int core_dumps_running_ = 0;
};

}  // namespace amber
