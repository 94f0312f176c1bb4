// What changes the tree and its attributes, below the system calls: checks as fs/namei.c and fs/attr.c of Linux make
// them, then the file system's operation, then the dentry cache. Kernel lock held.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"

namespace amber {

struct AnonOwner;

VfsContext ContextOf(Task& task);

// Makes what `node` says under a new name; its owner and the set-group-ID rule of directories are filled in, the
// umask is the caller's business. EEXIST.
ErrnoOr<RefPtr<Dentry>> MakeAt(const VfsContext& ctx, const VfsPath& start, std::string_view path, NewNode node);
// As MakeAt, in a directory that was resolved; `name` is negative.
ErrnoOr<void> MakeChild(const VfsContext& ctx, const VfsPath& dir, Dentry& name, NewNode node);
ErrnoOr<void> UnlinkAt(const VfsContext& ctx, const VfsPath& start, std::string_view path);
ErrnoOr<void> RmdirAt(const VfsContext& ctx, const VfsPath& start, std::string_view path);
ErrnoOr<void> LinkAt(const VfsContext& ctx, const VfsPath& target, const VfsPath& start, std::string_view path);
ErrnoOr<void> RenameAt(const VfsContext& ctx, const VfsPath& old_start, std::string_view old_path, const VfsPath& new_start,
                       std::string_view new_path, uint32_t flags);

ErrnoOr<void> ChmodPlace(const VfsContext& ctx, const VfsPath& place, uint32_t mode);
// UINT32_MAX leaves an id as it is.
ErrnoOr<void> ChownPlace(const VfsContext& ctx, const VfsPath& place, uint32_t uid, uint32_t gid);
// The same for what has no place in the tree (lock_keeper.h).
ErrnoOr<void> ChmodKept(const Credentials& creds, AnonOwner& kept, uint32_t mode);
ErrnoOr<void> ChownKept(const Credentials& creds, AnonOwner& kept, uint32_t uid, uint32_t gid);
ErrnoOr<void> SetTimesPlace(const VfsContext& ctx, const VfsPath& place, const AttrChange& times);
ErrnoOr<void> TruncatePlace(const VfsContext& ctx, const VfsPath& place, uint64_t size);
// Without permission checks (an open file is what permits it).
ErrnoOr<void> TruncateInode(const VfsContext& ctx, Inode& inode, uint64_t size);
// Takes set-user-ID and set-group-ID away, as every write does unless the caller has CAP_FSETID.
ErrnoOr<void> StripSetIds(const Credentials& creds, Inode& inode);

}  // namespace amber
