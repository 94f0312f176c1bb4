// Where other subsystems take over inodes: fifos, devices and sockets.
//
// The tables are filled at start, before the first guest runs, and never change afterwards.
#pragma once

#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

// Opens `path`, whose inode is a fifo or a device. Returns the open file with `flags` set; kBlocked (through ctx.task->Block) if it
// must wait, as a fifo for its other end. ctx.task is not null. A fifo's pipe is kept in Inode::special().
using SpecialOpener = ErrnoOr<RefPtr<File>> (*)(const VfsContext& ctx, const VfsPath& path, int flags);

void SetFifoOpener(SpecialOpener opener);
// Character devices `major`:`first_minor` to +`count` - 1. A later registration of the same numbers wins.
void RegisterCharDevice(uint32_t major, uint32_t first_minor, uint32_t count, SpecialOpener opener);

// ENXIO for devices that nobody registered and for sockets.
ErrnoOr<RefPtr<File>> OpenSpecial(const VfsContext& ctx, const VfsPath& path, int flags);

}  // namespace amber
