// Calls that answer as a Linux without the feature does, and the little ones that tell what there is.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <iterator>
#include <span>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

// Debian 12's headers are older than these.
constexpr uint64_t kQuotactlFd = 443, kMemfdSecret = 447, kMapShadowStack = 453;
constexpr uint64_t kLsmGetSelfAttr = 459, kLsmSetSelfAttr = 460, kLsmListModules = 461;
constexpr uint64_t kLsmIds[] = {100, 110};  // LSM_ID_CAPABILITY, LSM_ID_LANDLOCK

ErrnoOr<uint64_t> NotConfigured(Task&) { return Errno(ENOSYS); }
ErrnoOr<uint64_t> NotPermitted(Task&) { return Errno(EPERM); }

// ustat(2): of the mounted file system with this device number.
struct Ustat {
  int32_t free_blocks;
  uint64_t free_inodes;
  char name[6], pack[6];
};
static_assert(sizeof(Ustat) == 32);

ErrnoOr<uint64_t> UstatCall(Task& task, unsigned device, UserPtr<Ustat> out) {
  // new_decode_dev(): 12 bits of major, 20 of minor.
  uint64_t major = (device & 0xfff00) >> 8, minor = (device & 0xff) | (device >> 12 & 0xfff00);
  for (const Mount* mount : task.mounts().All()) {
    uint64_t dev = mount->fs().dev();
    uint64_t dev_major = (dev >> 8 & 0xfff) | (dev >> 32 & ~uint64_t{0xfff}), dev_minor = (dev & 0xff) | (dev >> 12 & ~uint64_t{0xff});
    if (dev_major != major || dev_minor != minor) continue;
    struct statfs stats{};
    TRY(mount->fs().StatFs(&stats));
    Ustat result{};
    result.free_blocks = static_cast<int32_t>(stats.f_bfree);
    result.free_inodes = stats.f_ffree;
    TRY(task.CopyOut(out, result));
    return 0;
  }
  return Errno(EINVAL);
}

// sysfs(2): 1, the index of a type; 2, the type of an index; 3, how many types there are.
ErrnoOr<uint64_t> Sysfs(Task& task, int option, uint64_t argument, uint64_t buffer) {
  std::vector<std::string> types = FileSystemTypes();
  switch (option) {
    case 1: {
      std::string name = TRY(task.CopyInString(UserPtr<const char>(argument), 4096));
      for (size_t i = 0; i < types.size(); ++i) {
        if (types[i] == name) return uint64_t{i};
      }
      return Errno(EINVAL);
    }
    case 2: {
      if (argument >= types.size()) return Errno(EINVAL);
      const std::string& name = types[argument];
      TRY(task.CopyOutBytes(buffer, name.c_str(), name.size() + 1));
      return 0;
    }
    case 3: return uint64_t{types.size()};
    default: return Errno(EINVAL);
  }
}

// lsm_list_modules(2)
ErrnoOr<uint64_t> LsmListModules(Task& task, UserPtr<uint64_t> ids, UserPtr<uint32_t> size_p, unsigned flags) {
  if (flags != 0) return Errno(EINVAL);
  uint32_t size = TRY(task.CopyIn(size_p));
  TRY(task.CopyOut(size_p, static_cast<uint32_t>(sizeof(kLsmIds))));
  if (size < sizeof(kLsmIds)) return Errno(E2BIG);
  TRY(task.CopyOutArray(ids, std::span<const uint64_t>(kLsmIds)));
  return uint64_t{std::size(kLsmIds)};
}

ErrnoOr<uint64_t> LsmAttr(Task&, unsigned, UserPtr<void>, UserPtr<uint32_t>, unsigned) { return Errno(EOPNOTSUPP); }
ErrnoOr<uint64_t> MapShadowStack(Task&, uint64_t, uint64_t, unsigned) { return Errno(EOPNOTSUPP); }

}  // namespace

void RegisterAbsentCalls(SyscallTable& table) {
  table.Set(SYS_ustat, Full<&UstatCall>());
  table.Set(SYS_sysfs, Full<&Sysfs>());
  table.Set(kLsmListModules, Full<&LsmListModules>());
  constexpr const char* kNoAttributes = "EOPNOTSUPP: no security module here has attributes";
  table.Set(kLsmGetSelfAttr, Refused<&LsmAttr>(kNoAttributes));
  table.Set(kLsmSetSelfAttr, Refused<&LsmAttr>(kNoAttributes));
  table.Set(kMapShadowStack, Refused<&MapShadowStack>("EOPNOTSUPP: no shadow stacks"));
  for (uint64_t number :
       {SYS__sysctl, SYS_create_module, SYS_get_kernel_syms, SYS_query_module, SYS_nfsservctl, SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall,
        SYS_security, SYS_vserver, SYS_epoll_ctl_old, SYS_epoll_wait_old, SYS_lookup_dcookie, SYS_set_thread_area, SYS_get_thread_area}) {
    table.Set(number, Refused<&NotConfigured>("ENOSYS, as every Linux of today on x86-64"));
  }
  constexpr const char* kNotConfigured = "ENOSYS, as on a kernel built without it";
  for (uint64_t number : {uint64_t{SYS_uselib}, uint64_t{SYS_perf_event_open}, kMemfdSecret}) {
    table.Set(number, Refused<&NotConfigured>(kNotConfigured));
  }
  table.Set(SYS_bpf, Refused<&NotPermitted>("EPERM, as with kernel.unprivileged_bpf_disabled: the machine is not the guest's"));
  for (uint64_t number : {uint64_t{SYS_kexec_file_load}, kQuotactlFd}) {
    table.Set(number, Refused<&NotPermitted>("the machine is not the guest's"));
  }
}

}  // namespace amber
