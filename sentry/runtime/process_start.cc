// Finding and loading the program of a process that is started from outside.
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/runtime/container.h"
#include "sentry/vfs/exec_open.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string SearchPath(const ProcessSpec& spec) {
  for (const std::string& e : spec.env) {
    if (e.starts_with("PATH=")) return e.substr(5);
  }
  return kDefaultPath;
}

absl::Status Explain(const std::string& program, Errno error) {
  std::string text = absl::StrCat("exec: \"", program, "\": ", strerrordesc_np(error.number()));
  switch (error.number()) {
    case ENOENT:
    case ENOTDIR: return absl::NotFoundError(text);
    case EACCES:
    case ENOEXEC:
    case EPERM: return absl::PermissionDeniedError(text);
    default: return absl::FailedPreconditionError(text);
  }
}

// execvp(3).
absl::StatusOr<ExecArgs> FindProgram(Task& task, const ProcessSpec& spec) {
  const std::string& program = spec.argv[0];
  ExecArgs args;
  args.argv = spec.argv;
  args.envp = spec.env;
  if (program.empty()) return absl::InvalidArgumentError("the program's name is empty");
  if (program.find('/') != std::string::npos) {
    args.path = program;
    ErrnoOr<RefPtr<File>> file = OpenForExec(task, AT_FDCWD, program, 0);
    if (!file.ok()) return Explain(program, file.error());
    args.file = *std::move(file);
    return args;
  }
  bool denied = false;
  for (std::string_view dir : absl::StrSplit(SearchPath(spec), ':')) {
    args.path = absl::StrCat(dir.empty() ? "." : dir, "/", program);
    ErrnoOr<RefPtr<File>> file = OpenForExec(task, AT_FDCWD, args.path, 0);
    if (file.ok()) {
      args.file = *std::move(file);
      return args;
    }
    denied = denied || file.Is(EACCES);
  }
  if (denied) return Explain(program, Errno(EACCES));
  return absl::NotFoundError(absl::StrCat("exec: \"", program, "\": executable file not found in $PATH"));
}

}  // namespace

absl::Status Container::LoadProgram(Task& task, const ProcessSpec& spec) {
  VfsContext context{&task, &task.creds(), &task.fs()};
  ErrnoOr<Resolved> cwd = PathWalker(context, task.fs().root(), kFollowLast | kMustBeDir).Walk(spec.cwd);
  if (!cwd.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot use \"", spec.cwd, "\" as the working directory: ", strerrordesc_np(cwd.error().number())));
  }
  task.fs().set_cwd(cwd->path);
  absl::StatusOr<ExecArgs> args = FindProgram(task, spec);
  if (!args.ok()) return args.status();
  ErrnoOr<void> loaded = kernel_->lifecycle().FirstExec(task, *args);
  if (!loaded.ok()) return Explain(args->path, loaded.error());
  return absl::OkStatus();
}

}  // namespace amber
