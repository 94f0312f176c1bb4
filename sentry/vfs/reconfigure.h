// File systems whose options can be changed while they are mounted: mount(2) with MS_REMOUNT, fsconfig(2) with FSCONFIG_CMD_RECONFIGURE.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

class Task;

class Reconfigurable {
 public:
  // All of `options`, or none of them.
  virtual ErrnoOr<void> Reconfigure(Task& task, const std::vector<std::string>& options) = 0;

 protected:
  ~Reconfigurable() = default;
};

// Options that every file system takes (vfs_parse_sb_flag()); but for ro and rw they have no effect here.
inline bool IsCommonMountFlag(std::string_view key) {
  constexpr std::string_view kKnown[] = {"ro", "rw", "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"};
  return std::ranges::find(kKnown, key) != std::end(kKnown);
}

}  // namespace amber
