// What tmpfs is mounted with: options, and their changes.
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

bool ParseNumber(std::string_view s, int base, uint64_t* out, std::string_view* rest = nullptr) {
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), *out, base);
  if (error != std::errc()) return false;
  std::string_view left = s.substr(static_cast<size_t>(end - s.data()));
  if (rest != nullptr) *rest = left;
  return rest != nullptr || left.empty();
}

// "64k", "1g", "50%" of the machine's memory.
bool ParseSize(std::string_view s, uint64_t* out) {
  std::string_view unit;
  if (!ParseNumber(s, 10, out, &unit)) return false;
  if (unit.empty()) return true;
  if (unit.size() != 1) return false;
  int shift;
  switch (unit[0] | 0x20) {
    case 'k': shift = 10; break;
    case 'm': shift = 20; break;
    case 'g': shift = 30; break;
    case 't': shift = 40; break;
    default:
      if (unit[0] != '%' || *out > 10000) return false;
      *out = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * 4096 / 100 * *out;
      return true;
  }
  if (*out >> (63 - shift) != 0) return false;
  *out <<= shift;
  return true;
}

}  // namespace

ErrnoOr<TmpfsFileSystem::Options> ParseTmpfsOptions(const std::vector<std::string>& options) {
  TmpfsFileSystem::Options o;
  for (std::string_view option : options) {
    size_t equals = option.find('=');
    std::string_view key = option.substr(0, equals);
    std::string_view value = equals == std::string_view::npos ? std::string_view() : option.substr(equals + 1);
    uint64_t n = 0;
    if (key == "size" || key == "nr_blocks" || key == "nr_inodes") {
      if (!ParseSize(value, &n)) return Errno(EINVAL);
      if (key == "size") o.size = (n + 4095) / 4096 * 4096;
      if (key == "nr_blocks") o.size = n * 4096;
      if (key != "nr_inodes") o.unlimited = n == 0;
      if (key == "nr_inodes") o.inodes = n;
    } else if (key == "mode") {
      if (!ParseNumber(value, 8, &n)) return Errno(EINVAL);
      o.mode = n & 07777;
    } else if (key == "uid" || key == "gid") {
      if (!ParseNumber(value, 10, &n) || n >= UINT32_MAX) return Errno(EINVAL);
      (key == "uid" ? o.uid : o.gid) = static_cast<uint32_t>(n);
    } else if (key != "huge" && key != "mpol" && key != "inode64" && key != "inode32" && key != "noswap") {
      return Errno(EINVAL);
    }
  }
  return o;
}

// shmem_reconfigure(): limits that are there may be moved, but not below what is used; mode and owner stay those of the root.
ErrnoOr<void> TmpfsFileSystem::Reconfigure(Task&, const std::vector<std::string>& options) {
  Options next = TRY(ParseTmpfsOptions(options));
  auto given = [&](std::string_view key) {
    return std::ranges::any_of(options, [&](const std::string& o) { return o.starts_with(key) && o.substr(key.size()).starts_with('='); });
  };
  bool sized = given("size") || given("nr_blocks");
  if (sized && !next.unlimited && (options_.unlimited || used_ > next.size)) return Errno(EINVAL);
  if (given("nr_inodes") && next.inodes != 0 && inodes_ > next.inodes) return Errno(EINVAL);
  if (sized) {
    options_.size = next.size;
    options_.unlimited = next.unlimited;
  }
  if (given("nr_inodes")) options_.inodes = next.inodes;
  return Ok();
}

ErrnoOr<RefPtr<FileSystem>> MakeTmpfs(const MountArguments& arguments) {
  auto options = TRY(ParseTmpfsOptions(arguments.options));
  if (arguments.task != nullptr) {
    // Owned by who mounts it; ids of options are that one's (shmem_init_fs_context, shmem_parse_one).
    const Credentials& creds = arguments.task->creds();
    auto given = [&](std::string_view key) {
      return std::ranges::any_of(arguments.options, [&](const std::string& o) { return o.starts_with(key); });
    };
    options.uid = given("uid=") ? ToKernelUid(creds.user_ns.get(), options.uid) : creds.fsuid;
    options.gid = given("gid=") ? ToKernelGid(creds.user_ns.get(), options.gid) : creds.fsgid;
    if (options.uid == UserNamespace::kInvalidId || options.gid == UserNamespace::kInvalidId) return Errno(EINVAL);
  }
  return RefPtr<FileSystem>(MakeRef<TmpfsFileSystem>(options));
}

}  // namespace amber
