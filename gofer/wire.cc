#include "gofer/wire.h"

#include <kj/exception.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdlib>
#include <cstring>

#include "sentry/base/check.h"

namespace amber::gofer {
namespace {

constexpr size_t kPacketWords = kMaxPacket / sizeof(capnp::word);
constexpr size_t kMaxSegments = 7;
// How often a message is looked for before a sleep, some 100 us together: by then the peer waits for something itself.
constexpr int kLooks = 100;

// Anonymous zero pages: only what messages really use becomes memory.
capnp::word* MapBuffer() {
  void* p = mmap(nullptr, kMaxPacket, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  AMBER_CHECK(p != MAP_FAILED);
  return static_cast<capnp::word*>(p);
}

capnp::ReaderOptions Options() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 4 * kPacketWords;
  options.nestingLimit = 8;
  return options;
}

void TakeDescriptors(msghdr& message, std::vector<UniqueFd>* fds) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number;
      memcpy(&number, CMSG_DATA(c) + i * sizeof(int), sizeof number);
      fds->emplace_back(number);
    }
  }
}

}  // namespace

WireBuffer::WireBuffer() : out_(MapBuffer()), in_(MapBuffer()) {}

WireBuffer::~WireBuffer() {
  builder_.reset();
  reader_.reset();
  munmap(out_, kMaxPacket);
  munmap(in_, kMaxPacket);
}

capnp::MessageBuilder& WireBuffer::NewMessage() {
  builder_.reset();  // zeroes what the message before used
  return builder_.emplace(kj::arrayPtr(out_, kPacketWords));
}

ErrnoOr<void> WireBuffer::Send(int socket, std::span<const UniqueFd> fds) {
  AMBER_CHECK(builder_.has_value() && fds.size() <= kMaxDescriptors);
  auto segments = builder_->getSegmentsForOutput();
  if (segments.size() > kMaxSegments) return Errno(EMSGSIZE);
  // The segment table of a Cap'n Proto stream: count less one, the sizes in words, padded to a word.
  uint32_t table[kMaxSegments + 1] = {};
  iovec parts[kMaxSegments + 1];
  size_t table_bytes = (segments.size() / 2 + 1) * sizeof(capnp::word);
  size_t total = table_bytes;
  table[0] = static_cast<uint32_t>(segments.size() - 1);
  parts[0] = {table, table_bytes};
  for (size_t i = 0; i < segments.size(); ++i) {
    auto bytes = segments[i].asBytes();
    table[i + 1] = static_cast<uint32_t>(segments[i].size());
    parts[i + 1] = {const_cast<kj::byte*>(bytes.begin()), bytes.size()};
    total += bytes.size();
  }
  if (total > kMaxPacket) return Errno(EMSGSIZE);
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = segments.size() + 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (size_t i = 0; i < fds.size(); ++i) {
      int number = fds[i].get();
      memcpy(CMSG_DATA(c) + i * sizeof number, &number, sizeof number);
    }
  }
  while (sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return Errno(errno);
  }
  return {};
}

ErrnoOr<capnp::MessageReader*> WireBuffer::Receive(int socket, std::vector<UniqueFd>* fds, bool spin) {
  reader_.reset();
  iovec part = {in_, kMaxPacket};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  // Without room for control data the kernel drops descriptors that a peer sends.
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  if (fds != nullptr) {
    fds->clear();
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  ssize_t length;
  int looks = spin ? kLooks : 0;
  do {
    length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (looks > 0 ? MSG_DONTWAIT : 0));
    // The peer may be waiting for this very CPU.
    if (length < 0 && errno == EAGAIN && looks-- > 0) sched_yield();
  } while (length < 0 && (errno == EINTR || errno == EAGAIN));
  if (length < 0) return Errno(errno);
  if (fds != nullptr) TakeDescriptors(message, fds);
  if (length == 0) return Errno(EPIPE);
  if ((message.msg_flags & MSG_TRUNC) != 0 || length % sizeof(capnp::word) != 0) return Errno(EBADMSG);
  try {
    auto words = kj::arrayPtr(static_cast<const capnp::word*>(in_), length / sizeof(capnp::word));
    return &reader_.emplace(words, Options());
  } catch (const kj::Exception&) {
    return Errno(EBADMSG);
  }
}

}  // namespace amber::gofer
