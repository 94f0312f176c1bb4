// Options of SOL_IP and SOL_IPV6 that are one number, as the tables in ip_options.cc and ip6_options.cc have them.
#pragma once

#include "sentry/net/inet/inet_socket.h"

namespace amber {

// Where the number is, and what it may be.
struct InetSocket::IpRow {
  int name;
  int low = 0, high = 0;  // both 0: anything, which is read back as 0 or 1
  int initial = 0;
  bool IpOptions::* flag = nullptr;  // neither: only kept
  int IpOptions::* number = nullptr;
  bool not_empty = false;   // a length of 0 is no value
  bool not_stream = false;  // EINVAL for TCP
  int only_raw = 0;         // the error for others
  bool privileged = false;  // to switch it on
};

}  // namespace amber
