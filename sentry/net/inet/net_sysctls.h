// What sysctl(8) sets of a network namespace: /proc/sys/net. See Documentation/networking/ip-sysctl.rst.
#pragma once

#include <span>

#include "sentry/kernel/sysctl.h"

namespace amber {

enum NetSysctl : int {
  kSysctlSomaxconn,
  kSysctlUnprivilegedPort,
  kSysctlPingLow,
  kSysctlPingHigh,
  kSysctlPortLow,
  kSysctlPortHigh,
  kSysctlKeepaliveTime,
  kSysctlKeepaliveInterval,
  kSysctlKeepaliveProbes,
  kSysctlIpForward,
  kSysctlBindV6Only,
};

inline constexpr uint64_t kIntMax = 0x7fffffff;
inline constexpr SysctlRow kNetSysctls[] = {
    {"net/core/somaxconn", kSysctlSomaxconn, 1, {4096}, 0, 65535},
    {"net/ipv4/ip_unprivileged_port_start", kSysctlUnprivilegedPort, 1, {1024}, 0, 65535},
    {"net/ipv4/ping_group_range", kSysctlPingLow, 2, {1, 0}, 0, kIntMax},
    {"net/ipv4/ip_local_port_range", kSysctlPortLow, 2, {32768, 60999}, 1, 65535},
    {"net/ipv4/tcp_keepalive_time", kSysctlKeepaliveTime, 1, {7200}, 1, kIntMax / 100},
    {"net/ipv4/tcp_keepalive_intvl", kSysctlKeepaliveInterval, 1, {75}, 1, kIntMax / 100},
    {"net/ipv4/tcp_keepalive_probes", kSysctlKeepaliveProbes, 1, {9}, 0, 255},
    // With one interface there is nothing to forward.
    {"net/ipv4/ip_forward", kSysctlIpForward, 1, {0}, 0, 1},
    {"net/ipv6/bindv6only", kSysctlBindV6Only, 1, {0}, 0, 1},
};

}  // namespace amber
