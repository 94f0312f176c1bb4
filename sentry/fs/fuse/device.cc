// /dev/fuse: where the server reads requests and writes answers (fuse(4)).
#include <poll.h>
#include <sys/ioctl.h>

#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/special.h"

namespace amber {
namespace {

constexpr uint32_t kMiscMajor = 10, kFuseMinor = 229;

ErrnoOr<RefPtr<File>> OpenFuse(const VfsContext& ctx, const VfsPath& path, int flags) {
  return RefPtr<File>(MakeRef<FuseDevice>(path, flags, ctx.creds != nullptr ? ctx.creds->user_ns : RefPtr<UserNamespace>()));
}

}  // namespace

FuseDevice::~FuseDevice() {
  if (connection_) connection_->DropDevice();
}

void FuseDevice::Connect(RefPtr<FuseConnection> connection) {
  connection_ = std::move(connection);
  connection_->AddDevice();
  queue_.Notify(POLLIN | POLLERR);
}

// fuse_get_dev(): EPERM before it was mounted with.
ErrnoOr<size_t> FuseDevice::Read(Task&, Sink& sink) {
  if (!connection_) return Errno(EPERM);
  return connection_->Read(sink);
}

ErrnoOr<size_t> FuseDevice::Write(Task&, Source& source) {
  if (!connection_) return Errno(EPERM);
  return connection_->Write(source);
}

uint32_t FuseDevice::Poll(Task&) {
  if (!connection_ || !connection_->connected()) return POLLERR;
  return POLLOUT | POLLWRNORM | (connection_->has_pending() ? POLLIN | POLLRDNORM : 0);
}

// FUSE_DEV_IOC_CLONE: another descriptor of the same connection.
ErrnoOr<uint64_t> FuseDevice::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FUSE_DEV_IOC_CLONE) return Errno(ENOTTY);
  auto fd = TRY(task.CopyIn(UserPtr<uint32_t>(argument)));
  RefPtr<File> file = TRY(task.files().Get(static_cast<int>(fd)));
  auto* other = dynamic_cast<FuseDevice*>(file.get());
  if (other == nullptr || !other->connection_ || connection_) return Errno(EINVAL);
  Connect(other->connection_);
  return uint64_t{0};
}

void RegisterFuse() {
  RegisterFileSystemType("fuse", FuseFileSystem::Make);
  RegisterFileSystemType("fuseblk", FuseFileSystem::MakeOnDevice);
  RegisterCharDevice(kMiscMajor, kFuseMinor, 1, OpenFuse);
}

}  // namespace amber
