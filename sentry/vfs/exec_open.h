// Opening a program for execve(2).
#pragma once

#include <string>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"

namespace amber {

class Task;

// What a program's file says about the credentials of who runs it. Both false where the mount has nosuid.
struct ExecIds {
  bool set_uid = false;
  bool set_gid = false;
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::string capabilities;  // the value of security.capability, or empty
};

// The file that execveat(dirfd, path, ..., flags) names, open for reading: a regular file that the task may execute, on a mount
// without noexec. `flags`: AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW. EACCES, ENOENT, ELOOP, ENOTDIR, ETXTBSY as execve(2).
ErrnoOr<RefPtr<File>> OpenForExec(Task& task, int dirfd, const std::string& path, int flags);
// `file` is a program that runs, until it is destroyed: writing to it is ETXTBSY.
void MarkRunning(File& file);
ExecIds ExecIdsOf(const File& file);
// The path of a file as the task sees it, for AT_EXECFN and /proc/PID/exe.
std::string ExecPath(Task& task, const File& file);

}  // namespace amber
