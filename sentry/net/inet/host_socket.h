// --network=host: a TCP or UDP socket that is a socket of the host's, in the network namespace that the sentry was started in.
//
// The host's socket never blocks; its readiness comes from HostPoll. The guest names options and control messages of a list only
// (host_options.cc), so that what it can ask of the host is what a reviewer reads there. In an image a bound or listening socket keeps its address and
// options and is bound again; a connection's other side is out of reach, so the program finds it reset (ECONNRESET). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/net/inet/inet_socket.h"

namespace amber {

class HostSocket final : public InetSocket {
 public:
  HostSocket() = default;  // for Load()
  ~HostSocket() override;
  // SOCK_STREAM or SOCK_DGRAM; the host's errno if it refuses.
  static ErrnoOr<RefPtr<Socket>> Make(Task& task, int family, int type, int protocol);

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<void> Listen(Task& task, int backlog) override;
  ErrnoOr<void> Connect(Task& task, std::string_view address) override;
  ErrnoOr<RefPtr<Socket>> Accept(Task& task) override;
  ErrnoOr<void> Shutdown(Task& task, int how) override;
  ErrnoOr<std::string> LocalAddress() override;
  ErrnoOr<std::string> PeerAddress() override;
  ErrnoOr<size_t> Send(Task& task, SendRequest& request) override;
  ErrnoOr<size_t> Receive(Task& task, ReceiveRequest& request) override;
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }

  state::Kind kind() const override { return state::Kind::kHostSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  using OptionKey = std::pair<int, int>;  // level, name

  void Adopt(Kernel& kernel, UniqueFd fd);
  // After a restore, on a new socket: what the guest had set. The errno of what the host refuses.
  ErrnoOr<void> SetUpAgain();
  // Tells that the connection is lost, once by an error.
  ErrnoOr<void> CheckLost();
  // By getsockname or getpeername.
  ErrnoOr<std::string> NameBy(int (*call)(int, sockaddr*, socklen_t*)) const;
  bool takes_filters() const override { return false; }
  // The host's kernel delivers; a filter that was only kept would let everything through.
  int TakeError() override;
  bool listening() const override { return listening_; }

  UniqueFd fd_;
  WaitQueue queue_;
  HostPoll::Source source_{queue_};
  bool connecting_ = false;
  bool connected_ = false;  // or will be
  bool bound_ = false;      // by the guest's bind(2)
  bool listening_ = false;
  int backlog_ = 0;
  int lost_error_ = 0;                        // to be told once
  bool lost_ = false;                         // was connected when the image was made
  std::map<OptionKey, std::string> options_;  // that the guest has set
  // From an image, until AfterLoad().
  std::string load_local_, load_peer_;
};

// Whether the sentry may make sockets of the host's, and what it saw of the host's interfaces before it was confined.
class HostNetwork {
 public:
  // Looks at the interfaces. To be called once, before the list of host calls is installed.
  static void Enable();
  static bool enabled();
  // Adds the interfaces but lo, with their addresses, to `stack`, for programs that list them.
  static void ShowIn(net::Stack& stack);
};

}  // namespace amber
