// System V message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2).
#include <linux/capability.h>
#include <sys/msg.h>
#include <sys/syscall.h>
#include <time.h>

#include <iterator>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/ipc_owner.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr int kMsgCopy = 040000;
constexpr int kMsgStatAny = 13;

IpcNamespace& NamespaceOf(Task& task) { return *task.extras().ipc; }

ErrnoOr<uint64_t> Msgget(Task& task, int key, int flags) {
  IpcNamespace& ns = NamespaceOf(task);
  auto check = [](const MsgQueue&) { return Ok(); };
  auto make = [&]() -> ErrnoOr<int> {
    auto queue = MakeRef<MsgQueue>();
    queue->perm.SetCreator(task.creds(), static_cast<uint32_t>(flags));
    queue->perm.key = key;
    queue->max_bytes = ns.sysctl(kSysctlMsgQueueBytes);
    queue->ctime = time(nullptr);
    if (!ns.msgs().Add(queue, ns.sysctl(kSysctlMsgQueues))) return Errno(ENOSPC);
    return queue->perm.id;
  };
  return static_cast<uint64_t>(TRY(IpcGet(ns.msgs(), task.creds(), key, flags, check, make)));
}

// The queue of a call that may have waited: EIDRM if it went meanwhile.
ErrnoOr<RefPtr<MsgQueue>> Find(Task& task, int id) {
  auto queue = NamespaceOf(task).msgs().Find(id);
  if (!queue.ok() && task.syscall().scratch[1] != 0) return Errno(EIDRM);
  return queue;
}

// msgsnd(2) and msgrcv(2) are never restarted after a handler (signal(7)).
Errno Wait(Task& task, MsgQueue& queue, uint32_t events) {
  task.syscall().scratch[1] = 1;
  return task.Block(queue.queue, events, kNever, Errno(EINTR));
}

ErrnoOr<uint64_t> Msgsnd(Task& task, int id, UserPtr<int64_t> p, uint64_t size, int flags) {
  if (size > NamespaceOf(task).sysctl(kSysctlMsgMax) || id < 0) return Errno(EINVAL);
  MsgQueue::Message message;
  message.type = TRY(task.CopyIn(p));
  if (message.type < 1) return Errno(EINVAL);
  message.text.resize(size);
  TRY(task.CopyInBytes(p.address() + sizeof(int64_t), message.text.data(), size));
  RefPtr<MsgQueue> queue = TRY(Find(task, id));
  TRY(queue->perm.Check(task.creds(), 0222));
  auto sent = queue->Send(std::move(message), task.pid());
  if (sent.ok()) return 0;
  if ((flags & IPC_NOWAIT) != 0) return Errno(EAGAIN);
  return Wait(task, *queue, POLLOUT);
}

ErrnoOr<uint64_t> CopyOutMessage(Task& task, UserPtr<int64_t> p, const MsgQueue::Message& message, uint64_t size) {
  uint64_t n = std::min<uint64_t>(message.text.size(), size);
  TRY(task.CopyOut(p, message.type));
  TRY(task.CopyOutBytes(p.address() + sizeof(int64_t), message.text.data(), n));
  return n;
}

// MSG_COPY: the message at position `index` stays where it is.
ErrnoOr<uint64_t> PeekMessage(Task& task, MsgQueue& queue, UserPtr<int64_t> p, uint64_t size, int64_t index, int flags) {
  if (index < 0 || static_cast<uint64_t>(index) >= queue.messages.size()) return Errno(ENOMSG);
  const MsgQueue::Message& message = *std::next(queue.messages.begin(), index);
  if (message.text.size() > size && (flags & MSG_NOERROR) == 0) return Errno(E2BIG);
  return CopyOutMessage(task, p, message, size);
}

ErrnoOr<uint64_t> Msgrcv(Task& task, int id, UserPtr<int64_t> p, uint64_t size, int64_t type, int flags) {
  if (id < 0 || static_cast<int64_t>(size) < 0) return Errno(EINVAL);
  if ((flags & kMsgCopy) != 0 && ((flags & MSG_EXCEPT) != 0 || (flags & IPC_NOWAIT) == 0)) return Errno(EINVAL);
  RefPtr<MsgQueue> queue = TRY(Find(task, id));
  TRY(queue->perm.Check(task.creds(), 0444));
  if ((flags & kMsgCopy) != 0) return PeekMessage(task, *queue, p, size, type, flags);
  auto at = queue->Select(type, flags);
  if (at == queue->messages.end()) {
    if ((flags & IPC_NOWAIT) != 0) return Errno(ENOMSG);
    return Wait(task, *queue, POLLIN);
  }
  if (at->text.size() > size && (flags & MSG_NOERROR) == 0) return Errno(E2BIG);
  // As in Linux the message is gone even if it cannot be copied out.
  return CopyOutMessage(task, p, queue->Take(at, task.pid()), size);
}

ErrnoOr<uint64_t> Stat(Task& task, const MsgQueue& queue, uint64_t out) {
  msqid_ds ds{};
  queue.perm.FillOut(&ds.msg_perm);
  ShowIpcOwner(task, &ds.msg_perm);
  ds.msg_stime = queue.stime;
  ds.msg_rtime = queue.rtime;
  ds.msg_ctime = queue.ctime;
  ds.__msg_cbytes = queue.bytes;
  ds.msg_qnum = queue.messages.size();
  ds.msg_qbytes = queue.max_bytes;
  ds.msg_lspid = queue.last_sender;
  ds.msg_lrpid = queue.last_receiver;
  TRY(task.CopyOutBytes(out, &ds, sizeof(ds)));
  return 0;
}

ErrnoOr<uint64_t> Info(Task& task, int command, uint64_t out) {
  IpcNamespace& ns = NamespaceOf(task);
  msginfo info{};
  info.msgmni = static_cast<int>(ns.sysctl(kSysctlMsgQueues));
  info.msgmax = static_cast<int>(ns.sysctl(kSysctlMsgMax));
  info.msgmnb = static_cast<int>(ns.sysctl(kSysctlMsgQueueBytes));
  info.msgssz = 16;
  info.msgseg = 0xffff;
  info.msgmap = 16384;  // MSGMAP and MSGTQL are MSGMNB as it was at build time
  info.msgpool = 32000 * 16384 / 1024;
  info.msgtql = 16384;
  if (command == MSG_INFO) {
    uint64_t messages = 0, bytes = 0;
    for (const auto& [index, queue] : ns.msgs().all()) {
      messages += queue->messages.size();
      bytes += queue->bytes;
    }
    info.msgpool = static_cast<int>(ns.msgs().all().size());
    info.msgmap = static_cast<int>(messages);
    info.msgtql = static_cast<int>(bytes);
  }
  TRY(task.CopyOutBytes(out, &info, sizeof(info)));
  return static_cast<uint64_t>(ns.msgs().max_index());
}

ErrnoOr<uint64_t> SetQueue(Task& task, MsgQueue& queue, const msqid_ds& ds) {
  TRY(queue.perm.CheckOwner(task.creds()));
  if (ds.msg_qbytes > NamespaceOf(task).sysctl(kSysctlMsgQueueBytes) && !task.Has(CAP_SYS_RESOURCE)) return Errno(EPERM);
  TRY(SetIpcOwner(task, ds.msg_perm, &queue.perm));
  queue.max_bytes = ds.msg_qbytes;
  queue.ctime = time(nullptr);
  // Permissions and room may be others now: everybody looks again.
  queue.queue.Notify(POLLIN | POLLOUT);
  return 0;
}

ErrnoOr<uint64_t> Msgctl(Task& task, int id, int command, uint64_t argument) {
  IpcNamespace& ns = NamespaceOf(task);
  if (id < 0 || command < 0) return Errno(EINVAL);
  switch (command) {
    case IPC_INFO:
    case MSG_INFO: return Info(task, command, argument);
    case MSG_STAT:
    case kMsgStatAny: {
      RefPtr<MsgQueue> queue = TRY(ns.msgs().FindIndex(id));
      if (command == MSG_STAT) TRY(queue->perm.Check(task.creds(), 0444));
      TRY(Stat(task, *queue, argument));
      return static_cast<uint64_t>(queue->perm.id);
    }
    default: break;
  }
  if (id < 0) return Errno(EINVAL);
  msqid_ds given = {};
  if (command == IPC_SET) given = TRY(task.CopyIn(UserPtr<msqid_ds>(argument)));
  RefPtr<MsgQueue> queue = TRY(ns.msgs().Find(id));
  switch (command) {
    case IPC_STAT: TRY(queue->perm.Check(task.creds(), 0444)); return Stat(task, *queue, argument);
    case IPC_SET: return SetQueue(task, *queue, given);
    case IPC_RMID:
      TRY(queue->perm.CheckOwner(task.creds()));
      ns.msgs().Remove(id);
      queue->queue.Notify(POLLIN | POLLOUT);
      return 0;
    default: return Errno(EINVAL);
  }
}

}  // namespace

void RegisterMsgCalls(SyscallTable& table) {
  table.Set(SYS_msgget, Full<&Msgget>());
  table.Set(SYS_msgsnd, Full<&Msgsnd>());
  table.Set(SYS_msgrcv, Full<&Msgrcv>());
  table.Set(SYS_msgctl, Full<&Msgctl>());
}

}  // namespace amber
