// Texts of /proc/PID/net, told by the network stack of the process's namespace.
#pragma once

#include <string>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

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

}  // namespace amber
