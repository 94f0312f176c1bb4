// Leases on files (fcntl(2), F_SETLEASE): who holds one is told by a signal before somebody else opens or truncates the file, who waits for it.
//
// A lease belongs to an open file and lies with the inode's locks (FileLocks). Guarded by the kernel lock.
#pragma once

#include <cstdint>

#include "sentry/base/errno_or.h"

namespace amber {

class File;
class Inode;
class Task;
struct VfsContext;

struct Lease {
  enum Breaking : uint8_t { kNot = 0, kToRead = 1, kToNone = 2 };

  File* owner = nullptr;
  bool write = false;  // F_WRLCK, else F_RDLCK
  Breaking breaking = kNot;
  int64_t deadline = 0;   // guest monotonic, ns: when it is taken away
  bool confirmed = true;  // false: an image says so, and the file not yet
};

// /proc/sys/fs/lease-break-time, in seconds.
inline constexpr int kLeaseBreakTime = 45;

// F_SETLEASE by way of descriptor `fd`, F_GETLEASE.
ErrnoOr<void> SetLease(Task& task, File& file, int fd, int type);
int GetLease(Task& task, File& file);
// Before the file is opened with O_* `flags` (or truncated: O_WRONLY). EAGAIN with O_NONBLOCK, kBlocked while somebody holds a lease.
ErrnoOr<void> BreakLeases(const VfsContext& ctx, Inode& inode, int flags);

}  // namespace amber
