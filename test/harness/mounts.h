// Mount namespaces of their own, for tests of mounts.
#pragma once

#include <sched.h>
#include <sys/mount.h>

#include "test/harness/guest_util.h"

namespace guest {

inline void Tmpfs(const char* where) { MUST(mount("none", where, "tmpfs", 0, nullptr)); }

// `body` in a process with mounts of its own, which are private.
template <typename Body>
void InOwnMounts(Body body) {
  if (geteuid() != 0) Skip("needs root");
  JOIN_OK(Fork([&] {
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    body();
  }));
}

// The same with a tmpfs at `dir`.
template <typename Body>
void InOwnMounts(const TempDir& dir, Body body) {
  InOwnMounts([&] {
    Tmpfs(dir.path());
    body();
  });
}

}  // namespace guest
