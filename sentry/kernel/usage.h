// What the host's accounting knows of a process or thread: getrusage(2), times(2). Kernel lock.
#pragma once

#include <sys/resource.h>
#include <sys/time.h>

#include <cstdint>

namespace amber {

class Task;
class ThreadGroup;

// User and system time, faults and context switches of a process up to now, and of what it ran as before exec and restore. Those of a
// dead one are as they were at its end. Times never go back.
rusage UsageOf(const ThreadGroup& group);
// The same of one thread.
rusage UsageOf(const Task& task);
// How long its host thread has been ready to run without a processor, ns.
int64_t WaitedForProcessor(const Task& task);
timeval ToTimeval(int64_t ns);
int64_t ToNs(const timeval& time);
// a += b, but for the maximum of memory, which is that of the larger.
void AddUsage(rusage* a, const rusage& b);

}  // namespace amber
