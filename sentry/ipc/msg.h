// System V message queues (ipc/msg.c). Owned by the IpcNamespace; guarded by the kernel lock.
#pragma once

#include <sys/msg.h>

#include <cstdint>
#include <list>
#include <string>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/ipc/ipc_table.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class MsgQueue final : public RefCounted<MsgQueue> {
 public:
  struct Message {
    int64_t type = 0;
    std::string text;
  };

  IpcPerm perm;
  std::list<Message> messages;
  uint64_t bytes = 0;
  uint64_t max_bytes = 0;
  int last_sender = 0, last_receiver = 0;
  int64_t stime = 0, rtime = 0, ctime = 0;
  WaitQueue queue;  // POLLIN: a message came; POLLOUT: one went

  // EAGAIN if the queue is full.
  ErrnoOr<void> Send(Message message, int pid);
  // The message that msgrcv(2) would take for `type` and `flags` (MSG_EXCEPT); end() if there is none.
  std::list<Message>::iterator Select(int64_t type, int flags);
  // Takes it.
  Message Take(std::list<Message>::iterator at, int pid);
};

}  // namespace amber
