// /sys/class/net and /sys/devices/virtual/net: the interfaces of the reader's network namespace (net/core/net-sysfs.c). Nothing can be written here.
#include <array>
#include <set>

#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/net/link/veth_link.h"

namespace amber {
namespace {

constexpr uint32_t kDirectory = S_IFDIR | 0555, kFile = S_IFREG | 0444, kLink = S_IFLNK | 0777;
constexpr std::string_view kClass = "class/net", kDevices = "devices/virtual/net";

using Text = ErrnoOr<std::string> (*)(const net::Link& link);
struct Row {
  const char* name;
  Text text;
};

std::string Number(uint64_t n) { return std::to_string(n) + "\n"; }
std::string Hardware(const net::HardwareAddress& h) {
  std::string out;
  for (uint8_t b : h) AppendFormat(&out, out.empty() ? "%02x" : ":%02x", b);
  return out + "\n";
}
ErrnoOr<std::string> Address(const net::Link& l) { return l.header_size() > 0 ? Hardware(l.hardware()) : "\n"; }
ErrnoOr<std::string> Broadcast(const net::Link& l) {
  if (l.header_size() == 0) return std::string("\n");
  return Hardware(l.loopback() ? net::HardwareAddress{} : net::kEverybody);
}
ErrnoOr<std::string> Carrier(const net::Link& l) { return l.up() ? ErrnoOr<std::string>(l.carrier() ? "1\n" : "0\n") : Errno(EINVAL); }
ErrnoOr<std::string> Changes(const net::Link& l) { return Number(l.carrier_ups() + l.carrier_downs()); }
ErrnoOr<std::string> Duplex(const net::Link& l) {
  return dynamic_cast<const net::VethLink*>(&l) != nullptr ? ErrnoOr<std::string>("full\n") : Errno(EINVAL);
}
ErrnoOr<std::string> Speed(const net::Link& l) {
  return dynamic_cast<const net::VethLink*>(&l) != nullptr ? ErrnoOr<std::string>("10000\n") : Errno(EINVAL);
}
ErrnoOr<std::string> Flags(const net::Link& l) {
  std::string out;
  AppendFormat(&out, "0x%x\n", l.flags() & ~static_cast<uint32_t>(IFF_RUNNING));
  return out;
}
ErrnoOr<std::string> State(const net::Link& l) {
  static constexpr const char* kNames[] = {"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"};
  return std::string(kNames[l.operational_state()]) + "\n";
}
ErrnoOr<std::string> Event(const net::Link& l) { return "INTERFACE=" + l.name() + "\nIFINDEX=" + Number(static_cast<uint64_t>(l.index())); }
ErrnoOr<std::string> Alias(const net::Link& l) { return l.settings().alias.empty() ? std::string() : l.settings().alias + "\n"; }
ErrnoOr<std::string> Zero(const net::Link&) { return std::string("0\n"); }

constexpr Row kRows[] = {
    {"addr_assign_type", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.kind() != nullptr ? 3 : 0); }},
    {"addr_len", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.header_size() > 0 ? 6 : 0); }},
    {"address", Address},
    {"broadcast", Broadcast},
    {"carrier", Carrier},
    {"carrier_changes", Changes},
    {"carrier_down_count", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.carrier_downs()); }},
    {"carrier_up_count", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.carrier_ups()); }},
    {"dev_id", [](const net::Link&) -> ErrnoOr<std::string> { return std::string("0x0\n"); }},
    {"dev_port", Zero},
    {"dormant", Zero},
    {"duplex", Duplex},
    {"flags", Flags},
    {"gro_flush_timeout", Zero},
    {"ifalias", Alias},
    {"ifindex", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(static_cast<uint64_t>(l.index())); }},
    {"iflink", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(static_cast<uint64_t>(l.lower_index())); }},
    {"link_mode", Zero},
    {"mtu", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.mtu()); }},
    {"netdev_group", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.settings().group); }},
    {"operstate", State},
    {"proto_down", Zero},
    {"speed", Speed},
    {"tx_queue_len", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.settings().queue_length); }},
    {"type", [](const net::Link& l) -> ErrnoOr<std::string> { return Number(l.type()); }},
    {"uevent", Event},
};

constexpr const char* kCounters[] = {"collisions",       "multicast",           "rx_bytes",       "rx_compressed",   "rx_crc_errors",
                                     "rx_dropped",       "rx_errors",           "rx_fifo_errors", "rx_frame_errors", "rx_length_errors",
                                     "rx_missed_errors", "rx_nohandler",        "rx_over_errors", "rx_packets",      "tx_aborted_errors",
                                     "tx_bytes",         "tx_carrier_errors",   "tx_compressed",  "tx_dropped",      "tx_errors",
                                     "tx_fifo_errors",   "tx_heartbeat_errors", "tx_packets",     "tx_window_errors"};

uint64_t Counter(const net::LinkCounters& c, std::string_view name) {
  if (name == "multicast") return c.multicast;
  if (name == "rx_bytes") return c.rx_bytes;
  if (name == "rx_packets") return c.rx_packets;
  if (name == "rx_dropped") return c.rx_dropped;
  if (name == "tx_bytes") return c.tx_bytes;
  if (name == "tx_packets") return c.tx_packets;
  if (name == "tx_dropped") return c.tx_dropped;
  return 0;
}

// Files that interfaces of one kind have.
std::optional<std::string> OfKind(const net::Link& link, std::string_view rest) {
  if (const auto* tun = dynamic_cast<const net::TunLink*>(&link); tun != nullptr) {
    std::string out;
    uint32_t flags = (tun->tap() ? 2 : 1) | (tun->packet_info ? 0 : 0x1000) | (tun->vnet_header ? 0x4000 : 0) | (tun->persistent ? 0x800 : 0);
    AppendFormat(&out, "0x%x\n", flags);
    if (rest == "tun_flags") return out;
    if (rest == "owner") return std::to_string(static_cast<int>(tun->owner)) + "\n";
    if (rest == "group") return std::to_string(static_cast<int>(tun->group)) + "\n";
  }
  if (const auto* bridge = dynamic_cast<const net::BridgeLink*>(&link); bridge != nullptr) {
    if (rest == "bridge/stp_state") return "0\n";
    if (rest == "bridge/ageing_time") return Number(static_cast<uint64_t>(bridge->ageing / (10 * net::kMs)));
    if (rest == "bridge/forward_delay") return "1500\n";
  }
  return std::nullopt;
}

constexpr const char* kOfKind[] = {"tun_flags", "owner", "group", "bridge/stp_state", "bridge/ageing_time", "bridge/forward_delay"};

net::Stack& StackOf(Task& reader) { return NetNamespace::Of(reader).stack(); }

// What lies in the directory of `link` at `rest`.
std::optional<SysNode> FindOf(const net::Link& link, std::string_view rest) {
  if (rest.empty() || rest == "statistics") return SysNode{kDirectory, std::string()};
  if (rest == "bridge" && OfKind(link, "bridge/stp_state")) return SysNode{kDirectory, std::string()};
  if (rest == "subsystem") return SysNode{kLink, std::string("../../../../class/net")};
  if (rest == "master" && link.master() != nullptr) return SysNode{kLink, "../" + link.master()->name()};
  for (const Row& row : kRows) {
    if (rest == row.name) return SysNode{kFile, row.text(link)};
  }
  if (rest.starts_with("statistics/")) {
    for (const char* name : kCounters) {
      if (rest.substr(11) == name) return SysNode{kFile, Number(Counter(link.counters(), name))};
    }
  }
  if (auto text = OfKind(link, rest)) return SysNode{kFile, std::move(*text)};
  return std::nullopt;
}

}  // namespace

std::optional<SysNode> FindSysNet(Task& reader, std::string_view path) {
  if (path == kDevices) return SysNode{kDirectory, std::string()};
  bool link_name = path.starts_with("class/net/");
  if (!link_name && !path.starts_with("devices/virtual/net/")) return std::nullopt;
  path.remove_prefix((link_name ? kClass : kDevices).size() + 1);
  std::string_view name = path.substr(0, path.find('/'));
  const net::Link* link = StackOf(reader).FindLink(name);
  if (link == nullptr) return std::nullopt;
  std::string_view rest = path.size() > name.size() ? path.substr(name.size() + 1) : std::string_view();
  if (!link_name) return FindOf(*link, rest);
  if (!rest.empty()) return std::nullopt;
  return SysNode{kLink, "../../devices/virtual/net/" + std::string(name)};
}

void ListSysNet(Task& reader, std::string_view path, std::set<std::string>* names) {
  if (path == "devices/virtual") names->insert("net");
  if (path == kClass || path == kDevices) {
    for (const auto& link : StackOf(reader).links()) names->insert(link->name());
    return;
  }
  if (!path.starts_with("devices/virtual/net/")) return;
  path.remove_prefix(kDevices.size() + 1);
  std::string_view name = path.substr(0, path.find('/'));
  std::string_view rest = path.size() > name.size() ? path.substr(name.size() + 1) : std::string_view();
  const net::Link* link = StackOf(reader).FindLink(name);
  if (link == nullptr) return;
  if (rest == "statistics") names->insert(std::begin(kCounters), std::end(kCounters));
  if (rest == "bridge") {
    for (const char* own : kOfKind) {
      if (std::string_view(own).starts_with("bridge/") && OfKind(*link, own)) names->insert(own + 7);
    }
  }
  if (!rest.empty()) return;
  for (const Row& row : kRows) names->insert(row.name);
  names->insert({"statistics", "subsystem"});
  if (link->master() != nullptr) names->insert("master");
  for (const char* own : kOfKind) {
    std::string_view o(own);
    if (OfKind(*link, o)) names->insert(std::string(o.substr(0, o.find('/'))));
  }
}

}  // namespace amber
