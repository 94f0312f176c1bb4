// A socket's filter: a classic BPF program that says how much of a packet is kept (socket(7), SO_ATTACH_FILTER). Immutable and counted, since the
// connections of a listener share theirs. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "sentry/base/classic_bpf.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

// A packet as a program sees it.
struct FilterPacket {
  std::string_view bytes;  // from the first header that there is
  size_t data = 0;         // where offset 0 of a program is
  size_t network = 0;      // where SKF_NET_OFF is
  bool has_link = false;   // begins with a link's header, which is SKF_LL_OFF's
  // SKF_AD_*.
  uint16_t protocol = 0;  // ETH_P_*
  uint8_t type = 0;       // PACKET_*
  int interface = 0;      // 0: none; a program that asks ends
  uint16_t hardware = 0;  // ARPHRD_*
  uint32_t mark = 0;
  bool inet = false;  // an IP packet lies at `network`
};

class SocketFilter final : public RefCounted<SocketFilter> {
 public:
  explicit SocketFilter(BpfProgram program) : program_(std::move(program)) {}  // a checked one

  // What was saved; null if it is no program.
  static RefPtr<const SocketFilter> FromBytes(std::string_view bytes);
  std::string Bytes() const;
  const BpfProgram& program() const { return program_; }
  // How many bytes of it, from `data` on, are kept; 0: it is dropped.
  uint32_t Run(const FilterPacket& packet) const;
  // Of a message without headers.
  uint32_t Run(std::string_view message) const;

 private:
  friend class RefCounted<SocketFilter>;
  ~SocketFilter() = default;

  BpfProgram program_;
};

}  // namespace amber
