// execve's program loader: from an opened file to the plan of a new address space.
//
// LoadProgram() follows `#!` lines, reads the ELF headers of the program and of its interpreter, lays out memory as Linux's binfmt_elf
// does, and gives back (a) the platform's plan (mappings and the initial stack) and (b) a MemoryManager whose tree describes the same.
// It changes nothing of the task, so a failure is simply an errno of execve. Kernel lock held; `open` and the files' methods may release it.
//
// The caller: platform.Exec(result.plan), then result.mm->Attach(space), then the point of no return.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/file.h"

namespace amber {

class Task;

namespace loader {

// What the new program's auxiliary vector says about its owner.
struct ExecIdentity {
  uint32_t uid = 0, euid = 0, gid = 0, egid = 0;
  bool secure = false;  // AT_SECURE: ids or capabilities were raised by the file
};

struct ExecRequest {
  RefPtr<File> file;  // opened for execution (permission, type and mount flags checked)
  std::string path;   // as the caller of execve named it (AT_EXECFN, and argv[1] of a script's interpreter)
  // `path` will not exist after exec (/dev/fd/N with close-on-exec): a script cannot be run (ENOENT).
  bool path_vanishes = false;
  std::vector<std::string> argv, envp;
  // Opens an interpreter by path for execution: same checks, same errors (ENOENT, EACCES, ELOOP ...).
  std::function<ErrnoOr<RefPtr<File>>(const std::string& path)> open;
  // The identity with which `exe` (the binary in the end; for a script its interpreter) will run: set-user-id bits and capabilities
  // of the file. Null: the task's present credentials.
  std::function<ErrnoOr<ExecIdentity>(File& exe)> identity;
  uint64_t stack_limit = 8 << 20;  // RLIMIT_STACK, soft
  bool randomize = true;           // personality has no ADDR_NO_RANDOMIZE
};

struct LoadResult {
  platform::ExecPlan plan;
  RefPtr<MemoryManager> mm;       // not attached yet
  RefPtr<File> exe;               // the binary: what /proc/PID/exe names
  std::string comm;               // the new task name (15 bytes of the last path component)
  bool executable_stack = false;  // PT_GNU_STACK asks for it (missing means no on x86-64)
};

// Errors: ENOEXEC, EACCES, ENOENT, ELIBBAD, EINVAL, E2BIG, ENOMEM, EIO, ELOOP and what `open` and the files return.
ErrnoOr<LoadResult> LoadProgram(Task& task, const ExecRequest& request);

class Vdso;
// The vDSO of this sandbox, made on first use; null if the host refuses memfds. Restore sets its offsets, and may do so before
// any guest runs. `host_base` counts on the first call only.
Vdso* SharedVdso(uint64_t host_base);

}  // namespace loader
}  // namespace amber
