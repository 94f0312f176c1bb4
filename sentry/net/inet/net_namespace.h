// A network namespace: a stack and its transports. Sockets and tasks hold references.
//
// The first one is the kernel's; unshare(CLONE_NEWNET) makes others, whose lo is down. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/namespace.h"
#include "sentry/net/inet/net_sysctls.h"
#include "sentry/net/ip/stack.h"

namespace amber {

class Kernel;
class Task;

namespace net {
class PacketLayer;
class RawLayer;
class TcpConnection;
class TcpLayer;
class UdpLayer;
struct TimeWait;
}  // namespace net
namespace proto {
class NetLink;
class NetNamespace;
}  // namespace proto

// Who is told of changes of interfaces, addresses and routes (netlink sockets).
class NetWatcher {
 public:
  virtual void OnLinkEvent(net::Link& link, bool gone) = 0;
  virtual void OnAddressEvent(net::Link& link, const net::InterfaceAddress& address, bool gone) = 0;
  virtual void OnRouteEvent(const net::Route& route, bool gone) = 0;

 protected:
  ~NetWatcher() = default;
};

class NetNamespace final : public Namespace, public net::StackHost {
 public:
  explicit NetNamespace(RefPtr<UserNamespace> owner = nullptr);  // for Load()
  // `up`: lo is up and has its addresses.
  NetNamespace(Kernel& kernel, bool up, RefPtr<UserNamespace> owner = nullptr);
  ~NetNamespace() override;

  // The namespace that `task` is in.
  static NetNamespace& Of(Task& task);
  // For a container's new process: that of its init, else that of the sandbox's other containers, else a new one with lo up.
  static RefPtr<NetNamespace> ForNewProcess(Kernel& kernel, Task* init);

  int type() const override { return 0x40000000; }  // CLONE_NEWNET
  net::Stack& stack() { return *stack_; }
  net::TcpLayer& tcp() { return *tcp_; }
  net::UdpLayer& udp() { return *udp_; }
  net::UdpLayer& udplite() { return *udplite_; }
  net::RawLayer& raw() { return *raw_; }
  net::PacketLayer& packets() { return *packets_; }
  uint64_t cookie() const { return cookie_; }
  uint64_t sysctl(NetSysctl value) const { return sysctls_[value]; }
  const SysctlNumbers& sysctls() const { return sysctls_; }
  // What was written to the row's file.
  ErrnoOr<void> WriteSysctl(const SysctlRow& row, std::string_view text);
  // --network=host: new TCP and UDP sockets are the host's, and the host's interfaces are shown.
  bool host() const { return host_; }

  std::set<NetWatcher*>& watchers() { return watchers_; }
  // What other namespaces are called here (peernet2id()): -1 for one without a number, unless `make`.
  int IdOf(NetNamespace& other, bool make);
  // Gives `other` the number `id`, or a free one for -1; false if the number is taken or there are too many.
  bool SetId(NetNamespace& other, int id);
  const std::map<NetNamespace*, int>& ids() const { return ids_; }

  void OnLinkEvent(net::Link& link, bool gone) override;
  void OnAddressEvent(net::Link& link, const net::InterfaceAddress& address, bool gone) override;
  void OnRouteEvent(const net::Route& route, bool gone) override;
  int64_t Now() override;
  void ArmAt(int64_t deadline) override;
  uint64_t Random() override;

  state::Kind kind() const override { return state::Kind::kNetNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  void SetUp();
  void BecomeHost();
  void ApplyPortRange();
  void SaveLink(state::Saver& saver, const net::Link& link, proto::NetLink* out) const;
  net::Link* MakeSavedLink(state::Loader& loader, const proto::NetLink& in);
  bool JoinPeers();
  bool LoadLinks(state::Loader& loader, const proto::NetNamespace& m);

  Kernel* kernel_ = nullptr;
  Timer timer_;
  uint64_t cookie_ = 1;
  SysctlNumbers sysctls_{kNetSysctls};
  bool host_ = false;
  uint64_t random_[32];
  size_t random_left_ = 0;
  std::set<NetWatcher*> watchers_;
  std::map<NetNamespace*, int> ids_;
  std::set<NetNamespace*> knowing_;  // those that have a number for this one
  std::unique_ptr<net::Stack> stack_;
  std::unique_ptr<net::TcpLayer> tcp_;
  std::unique_ptr<net::UdpLayer> udp_, udplite_;
  std::unique_ptr<net::RawLayer> raw_;
  std::unique_ptr<net::PacketLayer> packets_;
  // From an image, until AfterLoad().
  std::vector<RefPtr<net::TcpConnection>> loading_;
  std::vector<std::unique_ptr<net::TimeWait>> loading_time_waits_;
  struct LoadingPeer {
    int index;
    RefPtr<NetNamespace> net;
    int peer_index;
  };
  std::vector<LoadingPeer> loading_peers_;
  std::vector<std::pair<RefPtr<NetNamespace>, int>> loading_ids_;
};

}  // namespace amber
