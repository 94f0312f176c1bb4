// Cloning a process right into a cgroup of version 2. Moving one there afterwards makes the host wait for a grace period, 8 ms and more.
#pragma once

#include <linux/sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace amber {

// clone3(args) into the cgroup whose directory is `cgroup`, or as usual if that is -1 or does not work (the caller looks where the
// child is). As the system call: the child returns 0 on the same stack.
inline long CloneInto(clone_args args, int cgroup) {
  if (cgroup >= 0) {
    clone_args into = args;
    into.flags |= CLONE_INTO_CGROUP;
    into.cgroup = static_cast<uint64_t>(cgroup);
    long pid = syscall(SYS_clone3, &into, sizeof(into));
    if (pid >= 0) return pid;
  }
  return syscall(SYS_clone3, &args, sizeof(args));
}

}  // namespace amber
