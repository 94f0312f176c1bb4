// What the socket calls share: sockets and addresses in and out, descriptors and credentials beside messages.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/user_ptr.h"
#include "sentry/net/socket.h"

namespace amber {

class Task;

// ENOTSOCK if `fd` is something else.
ErrnoOr<RefPtr<Socket>> GetSocket(Task& task, int fd);
// The bytes of a sockaddr; EINVAL for a length beyond sockaddr_storage.
ErrnoOr<std::string> CopyInAddress(Task& task, UserPtr<const void> p, int size);
// Writes as much as fits and the full length (move_addr_to_user).
ErrnoOr<void> CopyOutAddress(Task& task, std::string_view address, UserPtr<void> p, UserPtr<int> size);

// Decodes SCM_RIGHTS and SCM_CREDENTIALS into `request`; checks what others than Unix and netlink sockets take of SOL_SOCKET.
ErrnoOr<void> ParseControl(Task& task, const Socket& socket, UserPtr<const void> control, uint64_t size, SendRequest* request);
// Encodes what came with a message: installs descriptors, writes control messages. Returns the bytes used; sets MSG_CTRUNC in
// `flags` if something did not fit.
ErrnoOr<uint64_t> DeliverControl(Task& task, ReceiveRequest& request, UserPtr<void> control, uint64_t size, bool cloexec, int* flags);

// Drops the first `bytes` of what `ranges` cover.
void SkipBytes(std::vector<iovec>* ranges, uint64_t bytes);

}  // namespace amber
