#include "nvproxy/host_rules.h"

#include <cstdio>

namespace amber::nvproxy {
namespace {

constexpr uint32_t kSizeBits = 0x3fff0000;

bool HasOpenSize(const Entry& entry) {
  return entry.size == kUnknownSize || entry.kind == Kind::kCardInfo || entry.kind == Kind::kAttachGpus || entry.kind == Kind::kDmabuf;
}

}  // namespace

std::vector<HostIoctlRule> HostIoctlRules(const Branch& branch, uint8_t capabilities) {
  std::vector<HostIoctlRule> rules;
  for (const Entry& entry : branch.frontend) {
    if ((entry.caps & capabilities) == 0 || entry.kind == Kind::kRefuse) continue;
    uint32_t command = 0xc0004600u | entry.number;
    if (HasOpenSize(entry)) {
      rules.push_back({~kSizeBits, command, entry.name});
    } else {
      rules.push_back({~0u, command | entry.size << 16, entry.name});
    }
  }
  for (const Entry& entry : branch.uvm) {
    if ((entry.caps & capabilities) != 0 && entry.kind != Kind::kRefuse) rules.push_back({~0u, entry.number, entry.name});
  }
  return rules;
}

std::string DescribeHostIoctls(const Branch& branch, uint8_t capabilities) {
  std::string out;
  for (const HostIoctlRule& rule : HostIoctlRules(branch, capabilities)) {
    char line[128];
    std::snprintf(line, sizeof(line), "ioctl & 0x%08x = 0x%08x  %s\n", rule.mask, rule.value, rule.name);
    out += line;
  }
  return out;
}

}  // namespace amber::nvproxy
