// close(2) that waits for the other side to have it all: SO_LINGER with a time (inet_release(), __tcp_close(), sk_stream_wait_close()).
//
// The socket is gone while its closer waits; the connection, an orphan, is found again by the inode number of its socket. So a call that was
// saved while it waited goes on waiting. Guarded by the kernel lock.
#pragma once

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

class File;
class Task;
namespace net {
class TcpLayer;
}

// For the end of a call that took `file` out of a descriptor table and answers `answer`: drops it. If it was the last reference to a TCP socket that
// lingers, waits as Task::Block() does until its connection is closed on this side, the time is over or a signal comes.
ErrnoOr<uint64_t> DropLingering(Task& task, RefPtr<File> file, uint64_t answer);
// The call that is executed again is one that waits so.
bool Lingers(Task& task);
ErrnoOr<uint64_t> GoOnLingering(Task& task);
// `layer` goes: nothing will ever come for its connections.
void ForgetLingering(net::TcpLayer& layer);

}  // namespace amber
