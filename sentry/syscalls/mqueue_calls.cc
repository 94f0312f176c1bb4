// POSIX message queues: mq_open(3) and its family, as the kernel has them (ipc/mqueue.c).
#include <fcntl.h>
#include <linux/capability.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

// The kernel's struct mq_attr, which is longer than the C library's part of it.
struct KernelAttr {
  int64_t flags, max_messages, max_size, count;
  int64_t reserved[4];
};
static_assert(sizeof(KernelAttr) == 64);

// A name in the root directory: the C library has taken the slash away.
ErrnoOr<std::string> CopyInName(Task& task, UserPtr<const char> p) {
  std::string name = TRY(task.CopyInString(p, 4096));
  if (name.empty()) return Errno(ENOENT);
  if (name.find('/') != std::string::npos || name == "." || name == "..") return Errno(EACCES);
  if (name.size() > 255) return Errno(ENAMETOOLONG);
  return name;
}

ErrnoOr<void> CheckLimits(Task& task, const KernelAttr& attr) {
  bool privileged = task.Has(CAP_SYS_RESOURCE);
  if (attr.max_messages <= 0 || attr.max_size <= 0) return Errno(EINVAL);
  const IpcNamespace& ns = *task.extras().ipc;
  if (attr.max_messages > (privileged ? kMqHardMessages : static_cast<int64_t>(ns.sysctl(kSysctlMqMessages)))) return Errno(EINVAL);
  if (attr.max_size > (privileged ? kMqHardSize : static_cast<int64_t>(ns.sysctl(kSysctlMqMessageSize)))) return Errno(EINVAL);
  return Ok();
}

ErrnoOr<uint64_t> MqOpen(Task& task, UserPtr<const char> name_p, int flags, uint32_t mode, UserPtr<KernelAttr> attr_p) {
  const IpcNamespace& ns = *task.extras().ipc;
  auto least = [&ns](IpcSysctl a, IpcSysctl b) { return static_cast<int64_t>(std::min(ns.sysctl(a), ns.sysctl(b))); };
  KernelAttr attr{0, least(kSysctlMqMessages, kSysctlMqDefaultMessages), least(kSysctlMqMessageSize, kSysctlMqDefaultSize), 0, {}};
  if (attr_p && (flags & O_CREAT) != 0) {
    attr = TRY(task.CopyIn(attr_p));
    TRY(CheckLimits(task, attr));
  }
  std::string name = TRY(CopyInName(task, name_p));
  if ((flags & O_ACCMODE) == O_ACCMODE) return Errno(EINVAL);
  VfsPath root = MqueueRoot(*task.extras().ipc);
  auto& fs = static_cast<MqueueFileSystem&>(root.mount->fs());
  fs.SetNext(attr.max_messages, attr.max_size, task.limit(RLIMIT_MSGQUEUE), task.Has(CAP_SYS_RESOURCE), ns.sysctl(kSysctlMqQueues));
  VfsContext ctx = ContextOf(task);
  OpenHow how{.flags = flags & (O_ACCMODE | O_CREAT | O_EXCL | O_NONBLOCK), .mode = mode & 07777 & ~task.fs().umask()};
  RefPtr<File> file = TRY(OpenPath(ctx, root, name, how));
  constexpr int kLargeFile = 0100000;  // only open(2) says it by itself
  file->set_flags(file->flags() & ~kLargeFile);
  return uint64_t(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<uint64_t> MqUnlink(Task& task, UserPtr<const char> name_p) {
  std::string name = TRY(CopyInName(task, name_p));
  VfsContext ctx = ContextOf(task);
  TRY(UnlinkAt(ctx, MqueueRoot(*task.extras().ipc), name));
  return 0;
}

ErrnoOr<RefPtr<MqueueFile>> GetQueue(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* queue = dynamic_cast<MqueueFile*>(file.get());
  if (queue == nullptr) return Errno(EBADF);
  return RefPtr<MqueueFile>(queue);
}

// Somebody waits in mq_timedreceive(2) for a message of this queue.
bool ReceiverWaits(Task& task, const MqueueInode& queue) {
  for (const RefPtr<ThreadGroup>& group : task.kernel().groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (t->exiting() || !t->blocked_in_call() || t->syscall().number != SYS_mq_timedreceive) continue;
      auto file = t->files().Get(static_cast<int>(t->syscall().args[0]));
      auto* open = file.ok() ? dynamic_cast<MqueueFile*>(file->get()) : nullptr;
      if (open != nullptr && &open->queue() == &queue) return true;
    }
  }
  return false;
}

ErrnoOr<int64_t> Deadline(Task& task, UserPtr<const timespec> timeout) {
  if (timeout.is_null()) return kNever;
  return DeadlineAt(task, CLOCK_REALTIME, TRY(CopyInDuration(task, timeout)));
}

ErrnoOr<uint64_t> Wait(Task& task, MqueueFile& file, uint32_t events, int64_t deadline) {
  if (file.nonblocking()) return Errno(EAGAIN);
  if (task.syscall().timed_out) return Errno(ETIMEDOUT);
  return task.Block(file.queue().queue(), events, deadline);
}

ErrnoOr<uint64_t> MqTimedsend(Task& task, int fd, UserPtr<const void> text, uint64_t size, unsigned priority, UserPtr<const timespec> timeout) {
  int64_t deadline = TRY(Deadline(task, timeout));
  if (priority >= kMqPriorities) return Errno(EINVAL);
  RefPtr<MqueueFile> file = TRY(GetQueue(task, fd));
  if (!file->writable()) return Errno(EBADF);
  MqueueInode& queue = file->queue();
  if (size > static_cast<uint64_t>(queue.max_size())) return Errno(EMSGSIZE);
  MqueueInode::Message message{priority, std::string(size, '\0')};
  TRY(task.CopyInBytes(text.address(), message.text.data(), size));
  auto sent = queue.Send(task, std::move(message), queue.count() == 0 && ReceiverWaits(task, queue));
  if (sent.ok()) return 0;
  return Wait(task, *file, POLLOUT, deadline);
}

ErrnoOr<uint64_t> MqTimedreceive(Task& task, int fd, UserPtr<void> text, uint64_t size, UserPtr<unsigned> priority, UserPtr<const timespec> timeout) {
  int64_t deadline = TRY(Deadline(task, timeout));
  RefPtr<MqueueFile> file = TRY(GetQueue(task, fd));
  if (!file->readable()) return Errno(EBADF);
  if (size < static_cast<uint64_t>(file->queue().max_size())) return Errno(EMSGSIZE);
  auto message = file->queue().Receive();
  if (!message.ok()) return Wait(task, *file, POLLIN, deadline);
  // As in Linux the message is gone even if it cannot be copied out.
  if (priority) TRY(task.CopyOut(priority, message->priority));
  TRY(task.CopyOutBytes(text.address(), message->text.data(), message->text.size()));
  return uint64_t{message->text.size()};
}

// The C library's helper thread listens on a netlink socket, whose descriptor is in sigev_signo; sigev_value points to what it is to be sent.
ErrnoOr<uint64_t> NotifyThread(Task& task, int fd, const sigevent& event) {
  std::string cookie(MqueueInode::kCookie, '\0');
  TRY(task.CopyInBytes(reinterpret_cast<uint64_t>(event.sigev_value.sival_ptr), cookie.data(), cookie.size()));
  RefPtr<File> file = TRY(task.files().Get(event.sigev_signo));
  if (dynamic_cast<Socket*>(file.get()) == nullptr) return Errno(ENOTSOCK);
  auto* socket = dynamic_cast<NetlinkSocket*>(file.get());
  if (socket == nullptr) return Errno(EINVAL);
  RefPtr<MqueueFile> queue = TRY(GetQueue(task, fd));
  auto registered = queue->queue().RegisterThread(task.group(), RefPtr<NetlinkSocket>(socket), std::move(cookie));
  if (registered.Is(EAGAIN)) return task.Block(*socket->wait_queue(), POLLOUT);
  TRY(std::move(registered));
  return 0;
}

ErrnoOr<uint64_t> MqNotify(Task& task, int fd, UserPtr<const sigevent> p) {
  sigevent event{};
  if (p) {
    event = TRY(task.CopyIn(p));
    int how = event.sigev_notify;
    if (how != SIGEV_NONE && how != SIGEV_SIGNAL && how != SIGEV_THREAD) return Errno(EINVAL);
    if (how == SIGEV_SIGNAL && (event.sigev_signo < 0 || event.sigev_signo > kNumSignals)) return Errno(EINVAL);
    if (how == SIGEV_THREAD) return NotifyThread(task, fd, event);
  }
  RefPtr<MqueueFile> file = TRY(GetQueue(task, fd));
  if (p.is_null()) {
    file->queue().Unregister(task.group());
    return 0;
  }
  TRY(file->queue().Register(task.group(), event.sigev_notify, event.sigev_signo, reinterpret_cast<uint64_t>(event.sigev_value.sival_ptr)));
  return 0;
}

ErrnoOr<uint64_t> MqGetsetattr(Task& task, int fd, UserPtr<const KernelAttr> next_p, UserPtr<KernelAttr> old) {
  KernelAttr next{};
  if (next_p) {
    next = TRY(task.CopyIn(next_p));
    if ((next.flags & ~int64_t{O_NONBLOCK}) != 0) return Errno(EINVAL);
  }
  RefPtr<MqueueFile> file = TRY(GetQueue(task, fd));
  KernelAttr now{};
  now.flags = file->flags() & O_NONBLOCK;
  now.max_messages = file->queue().max_messages();
  now.max_size = file->queue().max_size();
  now.count = file->queue().count();
  if (next_p) file->set_flags((file->flags() & ~O_NONBLOCK) | static_cast<int>(next.flags));
  if (old) TRY(task.CopyOut(old, now));
  return 0;
}

}  // namespace

void RegisterMqueueCalls(SyscallTable& table) {
  table.Set(SYS_mq_open, Full<&MqOpen>());
  table.Set(SYS_mq_unlink, Full<&MqUnlink>());
  table.Set(SYS_mq_timedsend, Full<&MqTimedsend>());
  table.Set(SYS_mq_timedreceive, Full<&MqTimedreceive>());
  table.Set(SYS_mq_notify, Full<&MqNotify>());
  table.Set(SYS_mq_getsetattr, Full<&MqGetsetattr>());
}

}  // namespace amber
