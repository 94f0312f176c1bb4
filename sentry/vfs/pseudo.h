// File systems that show the kernel's own objects: their files have no contents that are kept anywhere.
#pragma once

#include <string_view>

#include "sentry/vfs/file_system.h"

namespace amber {

inline bool IsPseudo(const FileSystem& fs) {
  std::string_view type = fs.type_name();
  return type == "proc" || type == "sysfs" || type == "cgroup2" || type == "mqueue" || type == "devpts";
}

}  // namespace amber
