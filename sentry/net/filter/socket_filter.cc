#include "sentry/net/filter/socket_filter.h"

#include <linux/netlink.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstring>

namespace amber {
namespace {

// How many netlink attributes one run steps over: a program that looks for the last of a large message again and again finds it no more.
constexpr int kMaxAttributes = 100'000;

uint32_t BigEndian(const char* p, size_t size) {
  uint32_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(p[i]);
  return value;
}

// Not for secrets: samples of packets are taken by it.
uint32_t Random() {
  static uint64_t state = __rdtsc();  // kernel lock
  state = state * 6364136223846793005 + 1442695040888963407;
  return static_cast<uint32_t>(state >> 32);
}

class PacketData {
 public:
  explicit PacketData(const FilterPacket& packet) : packet_(packet) {}

  uint32_t length() const { return static_cast<uint32_t>(packet_.bytes.size() - std::min(packet_.data, packet_.bytes.size())); }

  bool Load(const sock_filter& i, uint32_t a, uint32_t x, uint32_t* out) {
    size_t size = BPF_SIZE(i.code) == BPF_W ? 4 : BPF_SIZE(i.code) == BPF_H ? 2 : 1;
    bool absolute = BPF_MODE(i.code) == BPF_ABS;
    if (absolute && i.k >= static_cast<uint32_t>(SKF_AD_OFF)) return Ancillary(i.k - static_cast<uint32_t>(SKF_AD_OFF), a, x, out);
    const char* at = Find(BPF_MODE(i.code) == BPF_IND ? x + i.k : i.k, size);
    if (at == nullptr) return false;
    *out = BigEndian(at, size);
    if (BPF_MODE(i.code) == BPF_MSH) *out = (*out & 0xf) * 4;
    return true;
  }

 private:
  // bpf_internal_load_pointer_neg_helper(): below zero lie the network header and the link's.
  const char* Find(uint32_t offset, size_t size) const {
    auto from = static_cast<int64_t>(static_cast<int32_t>(offset));
    if (from >= 0) {
      from += static_cast<int64_t>(packet_.data);
    } else if (from >= SKF_NET_OFF) {
      from += static_cast<int64_t>(packet_.network) - SKF_NET_OFF;
    } else if (from >= SKF_LL_OFF && packet_.has_link) {
      from -= SKF_LL_OFF;
    } else {
      return nullptr;
    }
    auto end = static_cast<int64_t>(packet_.bytes.size());
    return from + static_cast<int64_t>(size) <= end ? packet_.bytes.data() + from : nullptr;
  }

  bool Ancillary(uint32_t what, uint32_t a, uint32_t x, uint32_t* out) {
    switch (what) {
      case SKF_AD_PROTOCOL: *out = packet_.protocol; return true;
      case SKF_AD_PKTTYPE: *out = packet_.type; return true;
      case SKF_AD_IFINDEX: *out = static_cast<uint32_t>(packet_.interface); return packet_.interface != 0;
      case SKF_AD_HATYPE: *out = packet_.hardware; return packet_.interface != 0;
      case SKF_AD_NLATTR: *out = Attribute(a, x, false); return true;
      case SKF_AD_NLATTR_NEST: *out = Attribute(a, x, true); return true;
      case SKF_AD_MARK: *out = packet_.mark; return true;
      case SKF_AD_ALU_XOR_X: *out = a ^ x; return true;
      case SKF_AD_PAY_OFFSET: *out = PayloadOffset(); return true;
      case SKF_AD_RANDOM: *out = Random(); return true;
      default: *out = 0; return true;  // one queue, one processor, no hash, no VLAN
    }
  }

  // bpf_skb_get_nlattr(), bpf_skb_get_nlattr_nest(): where the attribute of type `type` lies behind offset `from`, or inside the one there.
  uint32_t Attribute(uint32_t from, uint32_t type, bool nested) {
    if (packet_.data > packet_.bytes.size()) return 0;
    std::string_view data = packet_.bytes.substr(packet_.data);
    if (data.size() < sizeof(nlattr) || from > data.size() - sizeof(nlattr)) return 0;
    nlattr header;
    size_t at = from, end = data.size();
    if (nested) {
      memcpy(&header, data.data() + at, sizeof(header));
      if (header.nla_len > end - at || header.nla_len < sizeof(header)) return 0;
      end = at + header.nla_len;
      at += sizeof(header);
    }
    while (at < end && end - at >= sizeof(header) && attributes_++ < kMaxAttributes) {
      memcpy(&header, data.data() + at, sizeof(header));
      if (header.nla_len < sizeof(header) || header.nla_len > end - at) return 0;
      if (static_cast<uint32_t>(header.nla_type & NLA_TYPE_MASK) == type) return static_cast<uint32_t>(at);
      at += NLA_ALIGN(header.nla_len);
    }
    return 0;
  }

  // skb_get_poff(): where the transport's payload begins.
  uint32_t PayloadOffset() const {
    if (!packet_.inet || packet_.network >= packet_.bytes.size()) return 0;
    std::string_view ip = packet_.bytes.substr(packet_.network);
    bool v4 = static_cast<uint8_t>(ip[0]) >> 4 == 4;
    if (ip.size() < (v4 ? 20 : 40)) return 0;
    size_t header = v4 ? size_t{static_cast<uint8_t>(ip[0]) & 15u} * 4 : 40;
    uint8_t protocol = static_cast<uint8_t>(ip[v4 ? 9 : 6]);
    size_t transport = 0;
    if (protocol == 6) {
      transport = header + 12 < ip.size() ? std::max<size_t>(20, static_cast<size_t>(static_cast<uint8_t>(ip[header + 12]) >> 4) * 4) : 0;
    } else if (protocol == 17 || protocol == 136 || protocol == 1 || protocol == 58) {
      transport = 8;
    }
    return static_cast<uint32_t>(packet_.network + header + transport - packet_.data);
  }

  const FilterPacket& packet_;
  int attributes_ = 0;
};

}  // namespace

RefPtr<const SocketFilter> SocketFilter::FromBytes(std::string_view bytes) {
  if (bytes.size() % sizeof(sock_filter) != 0 || bytes.size() / sizeof(sock_filter) > kMaxBpfProgram) return nullptr;
  BpfProgram program(bytes.size() / sizeof(sock_filter));
  if (!bytes.empty()) memcpy(program.data(), bytes.data(), bytes.size());
  if (!CheckBpfProgram(program).ok()) return nullptr;
  return RefPtr<const SocketFilter>::Adopt(new SocketFilter(std::move(program)));
}

std::string SocketFilter::Bytes() const { return std::string(reinterpret_cast<const char*>(program_.data()), program_.size() * sizeof(sock_filter)); }

uint32_t SocketFilter::Run(const FilterPacket& packet) const {
  PacketData data(packet);
  return RunBpfProgram(program_, data);
}

uint32_t SocketFilter::Run(std::string_view message) const {
  FilterPacket packet;
  packet.bytes = message;
  return Run(packet);
}

}  // namespace amber
