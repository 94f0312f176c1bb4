#include "sentry/net/inet/net_namespace.h"

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/linger.h"
#include "sentry/net/inet/raw_layer.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/packet/packet_layer.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {

NetNamespace::NetNamespace(RefPtr<UserNamespace> owner) : Namespace(std::move(owner)), timer_([this] { stack_->RunTimers(); }) {}

NetNamespace::NetNamespace(Kernel& kernel, bool up, RefPtr<UserNamespace> owner) : NetNamespace(std::move(owner)) {
  kernel_ = &kernel;
  SetUp();
  static uint64_t next_cookie = 1;
  cookie_ = next_cookie++;
  if (up) stack_->SetUp(stack_->loopback(), true);
}

void NetNamespace::SetUp() {
  stack_ = std::make_unique<net::Stack>(*this);
  tcp_ = std::make_unique<net::TcpLayer>(*stack_);
  udp_ = std::make_unique<net::UdpLayer>(*stack_, net::kUdp);
  udplite_ = std::make_unique<net::UdpLayer>(*stack_, net::kUdpLite);
  raw_ = std::make_unique<net::RawLayer>(*stack_);
  packets_ = std::make_unique<net::PacketLayer>(*stack_);
}

NetNamespace& NetNamespace::Of(Task& task) {
  RefPtr<NetNamespace>& net = task.extras().net;
  // An image from before there was a network, or a task on its way out.
  if (!net) net = ForNewProcess(task.kernel(), nullptr);
  return *net;
}

RefPtr<NetNamespace> NetNamespace::ForNewProcess(Kernel& kernel, Task* init) {
  if (init != nullptr && init->extras().net) return init->extras().net;
  for (const RefPtr<ThreadGroup>& g : kernel.groups()) {
    if (g->is_init() && g->pids().level() == 0 && g->leader() != nullptr && g->leader()->extras().net) return g->leader()->extras().net;
  }
  auto net = MakeRef<NetNamespace>(kernel, true);
  if (HostNetwork::enabled()) net->BecomeHost();
  return net;
}

void NetNamespace::BecomeHost() {
  host_ = true;
  HostNetwork::ShowIn(*stack_);
}

NetNamespace::~NetNamespace() {
  timer_.Cancel();
  ForgetLingering(*tcp_);
  packets_.reset();
  raw_.reset();
  udplite_.reset();
  udp_.reset();
  tcp_.reset();
  stack_.reset();
  for (const auto& [other, id] : ids_) other->knowing_.erase(this);
  for (NetNamespace* other : knowing_) other->ids_.erase(this);
}

int NetNamespace::IdOf(NetNamespace& other, bool make) {
  auto known = ids_.find(&other);
  if (known == ids_.end() && make && SetId(other, -1)) known = ids_.find(&other);
  return known != ids_.end() ? known->second : -1;
}

bool NetNamespace::SetId(NetNamespace& other, int id) {
  constexpr size_t kMaxIds = 4096;
  if (ids_.size() >= kMaxIds) return false;
  auto taken = [this](int n) {
    for (const auto& [net, number] : ids_) {
      if (number == n) return true;
    }
    return false;
  };
  if (id >= 0 && taken(id)) return false;
  if (id < 0) {
    for (id = 0; taken(id);) ++id;
  }
  ids_[&other] = id;
  other.knowing_.insert(this);
  return true;
}

void NetNamespace::OnLinkEvent(net::Link& link, bool gone) {
  for (NetWatcher* w : watchers_) w->OnLinkEvent(link, gone);
}
void NetNamespace::OnAddressEvent(net::Link& link, const net::InterfaceAddress& address, bool gone) {
  for (NetWatcher* w : watchers_) w->OnAddressEvent(link, address, gone);
}
void NetNamespace::OnRouteEvent(const net::Route& route, bool gone) {
  for (NetWatcher* w : watchers_) w->OnRouteEvent(route, gone);
}

ErrnoOr<void> NetNamespace::WriteSysctl(const SysctlRow& row, std::string_view text) {
  SysctlNumbers after = sysctls_;
  TRY(after.Write(row, text));
  if (row.first == kSysctlPingLow && after[kSysctlPingLow] > after[kSysctlPingHigh]) {
    // ipv4_ping_group_range(): nobody.
    after.Set(kSysctlPingLow, 1);
    after.Set(kSysctlPingHigh, 0);
  }
  // ipv4_local_port_range(), ipv4_privileged_ports().
  uint64_t low = after[kSysctlPortLow], high = after[kSysctlPortHigh];
  if (low > high || (row.first == kSysctlPortLow && low < after[kSysctlUnprivilegedPort])) return Errno(EINVAL);
  if (row.first == kSysctlUnprivilegedPort && after[kSysctlUnprivilegedPort] > low) return Errno(EINVAL);
  sysctls_ = after;
  ApplyPortRange();
  return Ok();
}

void NetNamespace::ApplyPortRange() {
  auto low = static_cast<uint16_t>(sysctl(kSysctlPortLow)), high = static_cast<uint16_t>(sysctl(kSysctlPortHigh));
  tcp_->ports().SetRange(low, high);
  udp_->ports().SetRange(low, high);
  udplite_->ports().SetRange(low, high);
}

int64_t NetNamespace::Now() { return kernel_->clocks().Monotonic(); }

void NetNamespace::ArmAt(int64_t deadline) { timer_.Arm(kernel_->timers(), deadline); }

uint64_t NetNamespace::Random() {
  if (random_left_ == 0) {
    kernel_->Random(random_, sizeof(random_));
    random_left_ = std::size(random_);
  }
  return random_[--random_left_];
}

}  // namespace amber
