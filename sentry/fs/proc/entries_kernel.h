// Texts of /proc that tell of the kernel (entries_kernel.cc).
#pragma once

#include <string>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

ErrnoOr<std::string> ProcConfig(Task& reader, Task* target);      // /proc/config.gz
ErrnoOr<std::string> ProcTtyDrivers(Task& reader, Task* target);  // /proc/tty/drivers
ErrnoOr<std::string> ProcPressure(Task& reader, Task* target);    // /proc/pressure: nothing is measured
ErrnoOr<std::string> ProcBuddyInfo(Task& reader, Task* target);
ErrnoOr<std::string> ProcZoneInfo(Task& reader, Task* target);
ErrnoOr<std::string> ProcSoftIrqs(Task& reader, Task* target);

}  // namespace amber
