// Fifos of the host, where the sandbox's owner lets them through.
#include <fcntl.h>
#include <sys/stat.h>

#include "sentry/fs/fifo/fifo.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace amber {

ErrnoOr<RefPtr<File>> GoferInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  // Who uses it as a fifo of the sandbox's keeps doing so.
  if (type() != S_IFIFO || detached_ || special() != nullptr || ctx.task == nullptr) return Inode::Open(ctx, path, flags);
  TRY(NeedNode());
  auto fd = client().Open(node_, (flags & O_ACCMODE) | O_NONBLOCK);
  if (fd.Is(EACCES)) return Inode::Open(ctx, path, flags);
  if (fd.Is(ENXIO) && (flags & O_NONBLOCK) == 0) {
    // Nobody reads yet, and nobody tells when somebody does.
    constexpr int64_t kPause = 20'000'000;
    static auto* nobody = new WaitQueue();
    ctx.task->syscall().deadline = kNever;
    return ctx.task->Block(*nobody, 0, ctx.task->kernel().clocks().Monotonic() + kPause);
  }
  if (!fd.ok()) return fd.error();
  auto end = MakeRef<HostFile>(ctx.task->kernel().host_poll(), std::move(*fd), HostFile::kFifo);
  // Opening for reading does not wait for a writer; the first read does.
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_NONBLOCK) == 0) end->AwaitWriter();
  return RefPtr<File>(MakeRef<FifoFile>(path, RefPtr<File>(std::move(end)), flags));
}

}  // namespace amber
