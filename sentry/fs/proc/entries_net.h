// Texts of /proc/PID/net, told by the network stack of the process's namespace.
#pragma once

#include <string>

#include "sentry/base/errno_or.h"

namespace amber {

class NetNamespace;
class Task;
namespace net {
struct Endpoint;
}

// Whose network the files of `target` tell of.
NetNamespace& NetOf(Task& reader, Task* target);
// An address and a port as the files have them: 32-bit words in the machine's order, then the port.
std::string HexEndpoint(const net::Endpoint& e, bool v4);

ErrnoOr<std::string> ProcNetDev(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetIfInet6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetNetstat(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetRoute6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetRoute(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetTcp(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetTcp6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetUdp(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetUdp6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetUdpLite(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetUdpLite6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetPacket(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetSockstat(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetSockstat6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetSnmp(Task& reader, Task* target);

// entries_protocols.cc
ErrnoOr<std::string> ProcNetIcmp(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetIcmp6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetIgmp(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetNetlink(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetProtocols(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetPtype(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetRaw(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetRaw6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetSnmp6(Task& reader, Task* target);
ErrnoOr<std::string> ProcNetSoftnetStat(Task& reader, Task* target);

}  // namespace amber
