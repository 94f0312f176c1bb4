// The host's accounting of a process, told when it is complete.
#pragma once

#include <sys/resource.h>

#include <functional>

namespace amber::platform {

class Thread;

// Calls `done` once, on a thread of the platform's and with no lock of it held, when the host process of `thread` has ended and been reaped; not if the
// platform stops before. It costs nothing, as wait4(2) tells it anyway. False if that is over: then `done` is never called.
bool WhenReaped(Thread& thread, std::function<void(const rusage&)> done);

}  // namespace amber::platform
