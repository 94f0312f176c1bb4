#include "sentry/ipc/msg.h"

#include <poll.h>
#include <time.h>

namespace amber {

ErrnoOr<void> MsgQueue::Send(Message message, int pid) {
  // msgsnd(): the number of messages is bounded as the number of bytes is.
  if (bytes + message.text.size() > max_bytes || messages.size() + 1 > max_bytes) return Errno(EAGAIN);
  bytes += message.text.size();
  messages.push_back(std::move(message));
  last_sender = pid;
  stime = time(nullptr);
  queue.Notify(POLLIN);
  return Ok();
}

std::list<MsgQueue::Message>::iterator MsgQueue::Select(int64_t type, int flags) {
  auto best = messages.end();
  for (auto it = messages.begin(); it != messages.end(); ++it) {
    if (type == 0) return it;
    if (type > 0) {
      if ((it->type == type) != ((flags & MSG_EXCEPT) != 0)) return it;
      continue;
    }
    // The lowest type up to -type, the oldest of them. INT64_MIN has no opposite and means any.
    int64_t bound = type == INT64_MIN ? INT64_MAX : -type;
    if (it->type <= bound && (best == messages.end() || it->type < best->type)) best = it;
  }
  return best;
}

MsgQueue::Message MsgQueue::Take(std::list<Message>::iterator at, int pid) {
  Message message = std::move(*at);
  messages.erase(at);
  bytes -= message.text.size();
  last_receiver = pid;
  rtime = time(nullptr);
  queue.Notify(POLLOUT);
  return message;
}

}  // namespace amber
