// Pieces of messages that many VFS objects share.
#pragma once

#include "checkpoint/state.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {

void SavePath(state::Saver& saver, const VfsPath& path, vfs_state::Path* out);
// False if the path is incomplete.
bool LoadPath(state::Loader& loader, const vfs_state::Path& m, VfsPath* out);
// For AfterLoad(): that a loaded path's two halves fit, and that something is there.
bool CheckPath(state::Loader& loader, const VfsPath& path);
void SaveAttr(const Attr& attr, vfs_state::Attr* out);
Attr LoadAttr(const vfs_state::Attr& m);

}  // namespace amber
