#include "gofer/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace amber::gofer {
namespace {

constexpr uint64_t Bit(int capability) { return uint64_t{1} << capability; }

}  // namespace

absl::Status ErrnoStatus(int number, std::string what) { return absl::InternalError(absl::StrCat(what, ": ", strerror(number))); }

uint64_t NeededCapabilities(const GoferConfig& config) {
  uint64_t needed = Bit(CAP_CHOWN) | Bit(CAP_DAC_OVERRIDE) | Bit(CAP_DAC_READ_SEARCH) | Bit(CAP_FOWNER) | Bit(CAP_FSETID);
  for (const MountConfig& mount : config.mounts) {
    if (mount.allow_devices) needed |= Bit(CAP_MKNOD);
    if (mount.allow_connect) needed |= Bit(CAP_SETUID) | Bit(CAP_SETGID);
  }
  if (config.allow_file_capabilities) needed |= Bit(CAP_SETFCAP);
  return needed;
}

absl::Status KeepCapabilities(uint64_t keep) {
  for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; ++c) {
    // Without CAP_SETPCAP the bounding set stays; no_new_privs makes it meaningless.
    if ((keep & Bit(c)) == 0) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  if (syscall(SYS_capget, &header, data) != 0) return ErrnoStatus(errno, "capget");
  for (int i = 0; i < 2; ++i) {
    uint32_t mask = static_cast<uint32_t>(keep >> (32 * i));
    data[i].permitted &= mask;
    data[i].effective = data[i].permitted;
    data[i].inheritable = 0;
  }
  if (syscall(SYS_capset, &header, data) != 0) return ErrnoStatus(errno, "capset");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoStatus(errno, "no_new_privs");
  return absl::OkStatus();
}

uint32_t RaiseFileLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  rlimit wanted = {limit.rlim_max, limit.rlim_max};
  if (setrlimit(RLIMIT_NOFILE, &wanted) == 0) limit = wanted;
  constexpr rlim_t kEnough = 1 << 20;  // fs.nr_open's default
  return static_cast<uint32_t>(limit.rlim_cur < kEnough ? limit.rlim_cur : kEnough);
}

}  // namespace amber::gofer
