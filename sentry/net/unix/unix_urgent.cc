// Urgent bytes of stream sockets: MSG_OOB, SIOCATMARK, SO_OOBINLINE (af_unix.c, since Linux 5.15).
//
// The byte is a message of its own in the queue. Taken out of band it leaves an empty message behind, the mark, at which reading stops once.
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/mount.h"

namespace amber {

size_t UnixSocket::UrgentIndex() const {
  size_t index = messages_.size();
  while (index > 0 && !messages_[index - 1].urgent) --index;
  return index - 1;
}

void UnixSocket::Drop(size_t index) {
  UnixMessage m = std::move(messages_[index]);
  messages_.erase(messages_.begin() + static_cast<ptrdiff_t>(index));
  if (m.urgent) has_urgent_ = false;
  UnixGarbage::Remove(m.rights, m.rights_owner);
  Release(m, m.left(), true);
}

// manage_oob(): moves `*index` past marks and urgent bytes that are no part of the stream. False if reading ends here.
bool UnixSocket::StepOverUrgent(size_t* index, bool peek, bool copied) {
  bool in_line = (toggles_ >> SO_OOBINLINE & 1) != 0;
  if (messages_[*index].left() == 0) {
    if (copied && !has_urgent_) return false;
    if (peek) {
      ++*index;
    } else {
      Drop(*index);
    }
    if (*index == messages_.size()) return false;
  }
  UnixMessage& m = messages_[*index];
  if (!m.urgent) return true;
  if (copied) return false;
  if (peek) {
    if (!in_line) ++*index;
  } else {
    m.urgent = has_urgent_ = false;
    if (!in_line) Drop(*index);
  }
  return *index < messages_.size();
}

// unix_stream_recv_urg().
ErrnoOr<size_t> UnixSocket::ReceiveUrgent(ReceiveRequest& request) {
  if ((toggles_ >> SO_OOBINLINE & 1) != 0 || !has_urgent_) return Errno(EINVAL);
  size_t index = UrgentIndex();
  bool peek = (request.flags & MSG_PEEK) != 0;
  UnixMessage& m = messages_[index];
  request.out_flags |= MSG_OOB;
  // Without room for it, it counts as received. A fault takes it, too.
  bool fits = request.sink.remaining() == 0 || request.sink.Put(m.data.data(), 1).ok();
  if (peek) return fits ? ErrnoOr<size_t>(size_t{1}) : Errno(EFAULT);
  m.urgent = has_urgent_ = false;
  m.offset = 1;
  Release(m, 1, false);
  // Two marks in a row would be one too many.
  if (index > 0 && messages_[index - 1].left() == 0) Drop(index - 1);
  return fits ? ErrnoOr<size_t>(size_t{1}) : Errno(EFAULT);
}

bool UnixSocket::at_mark() const {
  if (messages_.empty()) return false;
  const UnixMessage& first = messages_.front();
  if (first.urgent) return true;
  return first.left() == 0 && (!has_urgent_ || (messages_.size() > 1 && messages_[1].urgent));
}

}  // namespace amber
