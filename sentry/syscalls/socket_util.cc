#include "sentry/syscalls/socket_util.h"

#include <string.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/socket_numbers.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint64_t kMaxControl = 131072;  // net.core.optmem_max
constexpr size_t kMaxRights = 253;        // SCM_MAX_FD
constexpr int kCapNetAdmin = 12, kCapNetRaw = 13;
constexpr int kCapSetgid = 6, kCapSetuid = 7, kCapSysAdmin = 21;

constexpr uint64_t Align(uint64_t size) { return (size + 7) & ~uint64_t{7}; }

// What the guest says of itself, in terms that hold everywhere (scm_check_creds).
ErrnoOr<ucred> CheckCredentials(Task& task, ucred c) {
  const Credentials& own = task.creds();
  bool pid_ok = c.pid == task.pid() || own.HasIn(task.group().pids().owner(), kCapSysAdmin);
  c.uid = ToKernelUid(own.user_ns.get(), c.uid);
  c.gid = ToKernelGid(own.user_ns.get(), c.gid);
  if (c.uid == UserNamespace::kInvalidId || c.gid == UserNamespace::kInvalidId) return Errno(EINVAL);
  bool uid_ok = c.uid == own.uid || c.uid == own.euid || c.uid == own.suid || own.HasOwn(kCapSetuid);
  bool gid_ok = c.gid == own.gid || c.gid == own.egid || c.gid == own.sgid || own.HasOwn(kCapSetgid);
  if (!pid_ok || !uid_ok || !gid_ok) return Errno(EPERM);
  Task* named = task.FindTask(c.pid);
  if (named == nullptr) return Errno(ESRCH);  // find_get_pid() in net/core/scm.c.
  c.pid = KernelCredentials(*named, 0, 0).pid;
  return c;
}

ErrnoOr<void> ParseRights(Task& task, std::span<const uint8_t> data, SendRequest* request) {
  size_t count = data.size() / sizeof(int);
  if (request->rights.size() + count > kMaxRights) return Errno(EINVAL);
  for (size_t i = 0; i < count; ++i) {
    int fd = -1;
    memcpy(&fd, data.data() + i * sizeof(int), sizeof(fd));
    RefPtr<File> file = TRY(task.files().GetAny(fd));
    // A ring's requests hold files; in a message to one of these it would keep itself alive (scm_fp_copy()).
    if (file->kind() == state::Kind::kIoUring) return Errno(EINVAL);
    request->rights.push_back(std::move(file));
  }
  return Ok();
}

// __sock_cmsg_send(): of sockets that pass nothing on. What it asks for has no effect here.
ErrnoOr<void> CheckSocketControl(Task& task, int type, std::span<const uint8_t> data) {
  constexpr int kTimestampingNew = 65;
  constexpr uint32_t kTransmitRecords = 0x40303;  // SOF_TIMESTAMPING_TX_RECORD_MASK
  constexpr uint32_t kFreePriority = 6;
  if (type == SCM_RIGHTS || type == SCM_CREDENTIALS) return Ok();
  if (type != SO_MARK && type != SO_PRIORITY && type != SO_TIMESTAMPING && type != kTimestampingNew) return Errno(EINVAL);
  bool may = task.creds().HasIn(NetNamespace::Of(task).owner(), kCapNetRaw) || task.creds().HasIn(NetNamespace::Of(task).owner(), kCapNetAdmin);
  if (type == SO_MARK && !may) return Errno(EPERM);
  uint32_t value = 0;
  if (data.size() != sizeof(value)) return Errno(EINVAL);
  memcpy(&value, data.data(), sizeof(value));
  if (type == SO_PRIORITY && value > kFreePriority && !may) return Errno(EPERM);
  if (type != SO_MARK && type != SO_PRIORITY && (value & ~kTransmitRecords) != 0) return Errno(EINVAL);
  return Ok();
}

// Puts control messages into the guest's buffer one after the other.
class ControlWriter {
 public:
  ControlWriter(Task& task, UserPtr<void> p, uint64_t size) : task_(task), address_(p.address()), left_(size) {}

  uint64_t left() const { return left_; }
  uint64_t used() const { return used_; }
  // False if not all of it fit. A part is written, as put_cmsg() does.
  ErrnoOr<bool> Put(int type, const void* data, size_t size, int level = SOL_SOCKET) {
    if (left_ < sizeof(cmsghdr)) return false;
    cmsghdr header{};
    header.cmsg_len = std::min<uint64_t>(sizeof(cmsghdr) + size, left_);
    header.cmsg_level = level;
    header.cmsg_type = type;
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    bytes.append(static_cast<const char*>(data), header.cmsg_len - sizeof(header));
    TRY(task_.CopyOutBytes(address_, bytes.data(), bytes.size()));
    uint64_t step = std::min(Align(header.cmsg_len), left_);
    address_ += step;
    left_ -= step;
    used_ += step;
    return bytes.size() == sizeof(header) + size;
  }

 private:
  Task& task_;
  uint64_t address_;
  uint64_t left_;
  uint64_t used_ = 0;
};

ErrnoOr<void> DeliverRights(Task& task, ReceiveRequest& request, bool cloexec, ControlWriter& writer, int* flags) {
  uint64_t room = writer.left() > sizeof(cmsghdr) ? (writer.left() - sizeof(cmsghdr)) / sizeof(int) : 0;
  std::vector<int> fds;
  for (const RefPtr<File>& file : request.rights) {
    if (fds.size() >= room) break;
    auto fd = task.files().Allocate(file, cloexec, task.limit(RLIMIT_NOFILE));
    if (!fd.ok()) break;
    fds.push_back(*fd);
  }
  if (fds.size() < request.rights.size()) *flags |= MSG_CTRUNC;
  if (!fds.empty()) TRY(writer.Put(SCM_RIGHTS, fds.data(), fds.size() * sizeof(int)));
  return Ok();
}

// scm_pidfd_recv() of include/net/scm.h. A sender that nobody recorded has none.
ErrnoOr<void> DeliverPidfd(Task& task, ReceiveRequest& request, ControlWriter& writer, int* flags) {
  if (writer.left() < sizeof(cmsghdr) + sizeof(int)) {
    *flags |= MSG_CTRUNC;
    return Ok();
  }
  if (!request.process) return Ok();
  auto fd = task.files().Allocate(MakeRef<PidFd>(request.process, nullptr, 0), true, task.limit(RLIMIT_NOFILE));
  int told = fd.ok() ? *fd : -fd.error().number();
  auto put = writer.Put(kScmPidfd, &told, sizeof(told));
  if (!put.ok() && fd.ok()) (void)task.files().Remove(*fd);
  TRY(std::move(put));
  return Ok();
}

}  // namespace

ErrnoOr<RefPtr<Socket>> GetSocket(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* socket = dynamic_cast<Socket*>(file.get());
  if (socket == nullptr) return Errno(ENOTSOCK);
  return RefPtr<Socket>(socket);
}

ErrnoOr<std::string> CopyInAddress(Task& task, UserPtr<const void> p, int size) {
  if (size < 0 || size > static_cast<int>(sizeof(sockaddr_storage))) return Errno(EINVAL);
  std::string bytes(static_cast<size_t>(size), '\0');
  if (size > 0) TRY(task.CopyInBytes(p.address(), bytes.data(), bytes.size()));
  return bytes;
}

ErrnoOr<void> CopyOutAddress(Task& task, std::string_view address, UserPtr<void> p, UserPtr<int> size) {
  int room = TRY(task.CopyIn(size));
  if (room < 0) return Errno(EINVAL);
  size_t copied = std::min(address.size(), static_cast<size_t>(room));
  if (copied > 0) TRY(task.CopyOutBytes(p.address(), address.data(), copied));
  return task.CopyOut(size, static_cast<int>(address.size()));
}

ErrnoOr<void> ParseControl(Task& task, const Socket& socket, UserPtr<const void> control, uint64_t size, SendRequest* request) {
  bool of_scm = socket.family() == AF_UNIX || socket.family() == AF_NETLINK;
  if (size > kMaxControl) return Errno(ENOBUFS);
  std::vector<uint8_t> bytes(size);
  TRY(task.CopyInBytes(control.address(), bytes.data(), size));
  for (size_t at = 0; size - at >= sizeof(cmsghdr);) {
    cmsghdr header;
    memcpy(&header, bytes.data() + at, sizeof(header));
    if (header.cmsg_len < sizeof(header) || header.cmsg_len > size - at) return Errno(EINVAL);
    std::span<const uint8_t> data(bytes.data() + at + sizeof(header), header.cmsg_len - sizeof(header));
    if (header.cmsg_level == SOL_SOCKET) {
      if (!of_scm) {
        TRY(CheckSocketControl(task, header.cmsg_type, data));
      } else if (header.cmsg_type == SCM_RIGHTS) {
        TRY(ParseRights(task, data, request));
      } else if (header.cmsg_type == SCM_CREDENTIALS) {
        ucred c;
        if (data.size() != sizeof(c)) return Errno(EINVAL);
        memcpy(&c, data.data(), sizeof(c));
        request->credentials = TRY(CheckCredentials(task, c));
      } else {
        return Errno(EINVAL);
      }
    } else {
      request->control.push_back({header.cmsg_level, header.cmsg_type, std::string(reinterpret_cast<const char*>(data.data()), data.size())});
    }
    uint64_t step = Align(header.cmsg_len);
    if (step >= size - at) break;
    at += step;
  }
  return Ok();
}

ErrnoOr<uint64_t> DeliverControl(Task& task, ReceiveRequest& request, UserPtr<void> control, uint64_t size, bool cloexec, int* flags) {
  ControlWriter writer(task, control, control.is_null() ? 0 : size);
  if (request.credentials.has_value()) {
    ucred shown = ShownCredentials(task, *request.credentials);
    // Of a sender that nobody asked for (from_kuid_munged of an invalid id).
    if (shown.uid == UserNamespace::kInvalidId) shown.uid = UserNamespace::kOverflowId;
    if (shown.gid == UserNamespace::kInvalidId) shown.gid = UserNamespace::kOverflowId;
    if (!TRY(writer.Put(SCM_CREDENTIALS, &shown, sizeof(ucred)))) *flags |= MSG_CTRUNC;
  }
  for (const ControlMessage& m : request.control) {
    if (!TRY(writer.Put(m.type, m.data.data(), m.data.size(), m.level))) *flags |= MSG_CTRUNC;
  }
  if (!request.rights.empty()) TRY(DeliverRights(task, request, cloexec, writer, flags));
  if (request.wants_pidfd) TRY(DeliverPidfd(task, request, writer, flags));
  return writer.used();
}

void SkipBytes(std::vector<iovec>* ranges, uint64_t bytes) {
  size_t whole = 0;
  while (whole < ranges->size() && bytes >= (*ranges)[whole].iov_len) bytes -= (*ranges)[whole++].iov_len;
  ranges->erase(ranges->begin(), ranges->begin() + static_cast<ptrdiff_t>(whole));
  if (bytes > 0 && !ranges->empty()) {
    ranges->front().iov_base = static_cast<char*>(ranges->front().iov_base) + bytes;
    ranges->front().iov_len -= bytes;
  }
}

}  // namespace amber
