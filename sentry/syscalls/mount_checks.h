// What may be mounted beyond the question who may mount at all; and what other families of this library share.
#pragma once

#include <linux/types.h>

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/vfs/mount.h"

namespace amber {

class File;
class SyscallTable;
class Task;

// mount_too_revealing(): the root of a user namespace gets a new /proc or /sys only if its mount namespace shows one already of which
// nothing is covered: else it would see what a container hides. EPERM. `locked`: flags that the new mount must keep.
ErrnoOr<void> CheckRevealing(const Task& task, const FileSystem& fs, uint32_t flags, uint32_t* locked);

// mnt_ns_loop(): a mount namespace that is held by a mount in itself would live for ever. EINVAL if a mount of `ns` at `where` made such
// a loop, or could by propagating.
ErrnoOr<void> CheckNamespaceLoop(const NsRef& ns, VfsPath where);
// The same of `top` and all that is mounted below it in its namespace (check_for_nsfs_mounts()).
ErrnoOr<void> CheckNamespaceLoops(Mount& top, const VfsPath& where);
// The namespace that a bind mount of nsfs stands for; null for other mounts.
const NsRef* NamespaceBehind(const Mount& mount);

// --- file_flags.cc ---
// FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR. ENOTTY: it is another one, or this file has no flags.
ErrnoOr<uint64_t> FileFlagsIoctl(Task& task, File& file, uint32_t command, uint64_t argument);
// STATX_ATTR_*, and which of them the file can have.
void TellFlags(Inode& inode, __u64* attributes, __u64* mask);

void RegisterFileFlagCalls(SyscallTable& table);
void RegisterCacheCalls(SyscallTable& table);   // cache_calls.cc
void RegisterHandleCalls(SyscallTable& table);  // handle_calls.cc

}  // namespace amber
