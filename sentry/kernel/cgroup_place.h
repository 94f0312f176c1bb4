// Where processes and threads are in the trees of control groups (cgroup.h). Kernel lock.
#pragma once

#include <cstdint>

#include "sentry/base/ref_ptr.h"

namespace amber {

class Cgroup;

// Of a process (GroupExtras::cgroups), one in each tree; of a thread (TaskExtras::cgroups), only in trees where it is not where its process is.
struct CgroupPlace {
  RefPtr<Cgroup> group;
  int64_t cpu_base = 0;  // its processor time when it came, ns
  // Of a process: what threads that were elsewhere and are gone used since then. Of a thread that ends: what it used in its place.
  int64_t gone_ns = 0;
};

}  // namespace amber
