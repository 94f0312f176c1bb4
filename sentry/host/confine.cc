#include "sentry/host/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"

namespace amber {
namespace {

absl::Status Failed(const char* what) { return absl::InternalError(absl::StrCat("setting up the sandbox: ", what, ": ", strerrordesc_np(errno))); }

// A file system that is mounted nowhere yet; -1 with errno.
int DetachedMount(const char* type, std::initializer_list<std::pair<const char*, const char*>> options, unsigned attributes) {
  UniqueFd context(fsopen(type, FSOPEN_CLOEXEC));
  if (!context.valid()) return -1;
  for (const auto& [key, value] : options) {
    if (fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) != 0) return -1;
  }
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return -1;
  return fsmount(context.get(), FSMOUNT_CLOEXEC, attributes);
}

}  // namespace

absl::Status DetachFromCaller(const char* name, int messages) {
  setsid();  // EPERM: we lead one already
  prctl(PR_SET_NAME, name);
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, signal == SIGPIPE ? SIG_IGN : SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  umask(0);
  // Standard input and output are the guest's, which has descriptors of its own.
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid() || dup2(null.get(), 0) < 0 || dup2(null.get(), 1) < 0) return Failed("opening /dev/null");
  if (messages != 2 && dup2(messages < 0 ? null.get() : messages, 2) < 0) return Failed("redirecting messages");
  return absl::OkStatus();
}

absl::Status WaitForCaller(int gate) {
  char go = 0;
  ssize_t n;
  do {
    n = read(gate, &go, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1) return absl::CancelledError("setting up the sandbox: the command line ended");
  return absl::OkStatus();
}

absl::Status BecomeNamespaceRoot(int gate) {
  if (absl::Status status = WaitForCaller(gate); !status.ok()) return status;
  if (setgroups(0, nullptr) != 0) return Failed("setgroups");
  if (setresgid(0, 0, 0) != 0) return Failed("setresgid");
  if (setresuid(0, 0, 0) != 0) return Failed("setresuid");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> EnterEmptyRoot() {
  // Nothing that we mount may show up elsewhere, and nothing new from elsewhere here.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return Failed("making mounts private");
  UniqueFd proc(DetachedMount("proc", {{"subset", "pid"}}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!proc.valid()) return Failed("making a proc file system that shows processes only");
  constexpr unsigned kAttributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  UniqueFd root(DetachedMount("tmpfs", {{"size", "4096"}, {"nr_inodes", "4"}, {"mode", "555"}}, kAttributes));
  if (!root.valid()) return Failed("making an empty root");
  if (mkdirat(root.get(), "proc", 0555) != 0) return Failed("mkdir proc in the empty root");
  // /proc is there on every host that we can run on, and open to all.
  if (move_mount(root.get(), "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) != 0) return Failed("mounting the root");
  if (move_mount(proc.get(), "", root.get(), "proc", MOVE_MOUNT_F_EMPTY_PATH) != 0) return Failed("mounting proc");
  if (fchdir(root.get()) != 0) return Failed("entering the empty root");
  // Old and new root in one place: the old one lies on top and comes off (pivot_root(2)).
  if (syscall(SYS_pivot_root, ".", ".") != 0) return Failed("pivot_root");
  if (umount2(".", MNT_DETACH) != 0) return Failed("leaving the host's root");
  if (chdir("/") != 0) return Failed("chdir");
  if (mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return Failed("making the root read-only");
  }
  UniqueFd shown(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!shown.valid()) return Failed("opening proc");
  return shown;
}

absl::Status DropCapabilities() {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return Failed("dropping a capability");
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  // Root's privileges do not come back by exec or setuid.
  prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED, 0,
        0, 0);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return Failed("capset");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Failed("no_new_privs");
  return absl::OkStatus();
}

bool CanForbidFileOpens() { return syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0; }

absl::Status ForbidFileOpens(std::span<const int> nodes) {
  if (!CanForbidFileOpens()) return absl::OkStatus();
  // Every right of the first version: later ones are about renaming, truncating and devices, for which there is no host call.
  landlock_ruleset_attr ruleset = {};
  ruleset.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
  UniqueFd rules(static_cast<int>(syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(ruleset), 0)));
  if (!rules.valid()) return Failed("making rules for opening files");
  UniqueFd proc(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  landlock_path_beneath_attr beneath = {};
  // Written is the memory of stubs, where the fast path patches call sites.
  beneath.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE;
  beneath.parent_fd = proc.get();
  if (syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0) {
    return Failed("allowing to open what is in proc");
  }
  for (int node : nodes) {
    landlock_path_beneath_attr device = {};
    device.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    device.parent_fd = node;
    if (syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &device, 0) != 0) return Failed("allowing to open a device");
  }
  if (syscall(SYS_landlock_restrict_self, rules.get(), 0) != 0) return Failed("forbidding to open files");
  return absl::OkStatus();
}

absl::Status SetResourceLimits() {
  rlimit core = {1, 1};
  if (setrlimit(RLIMIT_CORE, &core) != 0) return Failed("RLIMIT_CORE");
  for (__rlimit_resource_t resource : {RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_SIGPENDING, RLIMIT_MEMLOCK}) {
    rlimit limit;
    if (getrlimit(resource, &limit) != 0) return Failed("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(resource, &limit) != 0) return Failed("setrlimit");
  }
  return absl::OkStatus();
}

absl::Status CloseOtherDescriptors(std::span<const int> keep) {
  std::vector<unsigned> sorted;
  for (int fd : keep) {
    if (fd > 2) sorted.push_back(static_cast<unsigned>(fd));
  }
  std::sort(sorted.begin(), sorted.end());
  unsigned first = 3;
  for (unsigned fd : sorted) {
    if (fd > first && close_range(first, fd - 1, 0) != 0) return Failed("close_range");
    first = std::max(first, fd + 1);
  }
  if (close_range(first, ~0u, 0) != 0) return Failed("close_range");
  return absl::OkStatus();
}

}  // namespace amber
