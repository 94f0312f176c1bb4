// The gofer's own root, and the attach points in it.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gofer/confine.h"

namespace amber::gofer {
namespace {

// Where the new root is put together. It exists wherever the gofer can run, since /proc/self/fd is needed; the mount
// covers it in the gofer's namespace only.
constexpr char kStage[] = "/proc";

// Not all of these constants are in every <linux/mount.h> beside <sys/mount.h>.
constexpr uint64_t kReadOnly = 0x00000001;  // MOUNT_ATTR_RDONLY
constexpr uint64_t kNoSuid = 0x00000002;    // MOUNT_ATTR_NOSUID
constexpr uint64_t kNoDev = 0x00000004;     // MOUNT_ATTR_NODEV

AttachPoint Describe(const MountConfig& mount) {
  AttachPoint point;
  point.name = mount.name;
  point.read_only = mount.read_only;
  point.allow_devices = mount.allow_devices;
  point.allow_fifos = mount.allow_fifos;
  point.allow_connect = mount.allow_connect;
  point.allow_bind = mount.allow_bind;
  return point;
}

absl::Status MountError(const MountConfig& mount, const char* what) {
  int error = errno;
  return ErrnoStatus(error, absl::StrCat("gofer: attach point \"", mount.name, "\" (", mount.path, "): ", what));
}

// A detached copy of the mount at the attach point. Private first of all: a copy of a shared mount is its peer, and what
// is unmounted below it would be unmounted on the host.
absl::StatusOr<UniqueFd> CloneMount(const MountConfig& mount) {
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (mount.recursive ? AT_RECURSIVE : 0);
  const bool by_fd = mount.fd.valid();
  UniqueFd tree(static_cast<int>(
      syscall(SYS_open_tree, by_fd ? mount.fd.get() : AT_FDCWD, by_fd ? "" : mount.path.c_str(), flags | (by_fd ? AT_EMPTY_PATH : 0))));
  if (!tree.valid()) return MountError(mount, "cannot copy the mount");
  struct mount_attr attr = {};
  attr.propagation = MS_PRIVATE;
  attr.attr_set = kNoSuid | (mount.read_only ? kReadOnly : 0) | (mount.allow_devices ? 0 : kNoDev);
  if (syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr) != 0) {
    return MountError(mount, "cannot set mount attributes");
  }
  return tree;
}

bool IsKernelInterface(std::string_view type) {
  for (std::string_view name : {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "debugfs", "tracefs", "securityfs", "bpf", "configfs", "fusectl",
                                "efivarfs", "pstore", "binfmt_misc", "mqueue", "rpc_pipefs", "nsfs", "selinuxfs", "binder"}) {
    if (type == name) return true;
  }
  return false;
}

// The mount points of kernel interfaces strictly below `top`, less those that lie below others of them: each unmounting
// waits for the kernel's grace period, and takes what is below along. proc(5) has the format of mountinfo.
std::vector<std::string> KernelInterfacesBelow(int mountinfo, const std::string& top) {
  std::string text;
  char buffer[8192];
  lseek(mountinfo, 0, SEEK_SET);
  for (ssize_t n; (n = read(mountinfo, buffer, sizeof buffer)) > 0;) text.append(buffer, n);
  std::vector<std::string> points;
  for (std::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    std::vector<std::string_view> fields = absl::StrSplit(line, ' ');
    size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 1 >= fields.size() || !IsKernelInterface(fields[dash + 1])) continue;
    std::string point;
    if (!absl::CUnescape(fields[4], &point)) continue;  // \040 and so on
    if (!point.starts_with(top + "/")) continue;
    // Parents come before what is mounted on them.
    bool below = std::any_of(points.begin(), points.end(), [&](const std::string& other) { return point.starts_with(other + "/"); });
    if (!below) points.push_back(std::move(point));
  }
  return points;
}

absl::Status MakeStage(size_t entries) {
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoStatus(errno, "gofer: making mounts private");
  }
  std::string options = absl::StrCat("mode=0755,size=4096,nr_inodes=", entries + 8);
  if (mount("gofer", kStage, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0) {
    return ErrnoStatus(errno, "gofer: mounting a root");
  }
  return absl::OkStatus();
}

// Puts a detached mount into the stage under `index`.
absl::StatusOr<AttachPoint> Place(const MountConfig& mount, UniqueFd tree, size_t index, int mountinfo) {
  std::string where = absl::StrCat(kStage, "/", index);
  struct stat st;
  if (fstatat(tree.get(), "", &st, AT_EMPTY_PATH) != 0) return MountError(mount, "cannot be read");
  if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("gofer: attach point \"", mount.name, "\" (", mount.path, ") is neither a directory nor a regular file"));
  }
  if (S_ISDIR(st.st_mode)) {
    if (mkdir(where.c_str(), 0755) != 0) return MountError(mount, "mkdir");
  } else {
    UniqueFd file(open(where.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644));
    if (!file.valid()) return MountError(mount, "create");
  }
  if (syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, where.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return MountError(mount, "cannot place the mount");
  }
  for (const std::string& point : KernelInterfacesBelow(mountinfo, where)) {
    // May fail for mounts that an outer user namespace has locked. Look-ups refuse to enter those in any case.
    umount2(point.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  }
  AttachPoint attach = Describe(mount);
  attach.root.reset(open(where.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!attach.root.valid()) return MountError(mount, "cannot open");
  return attach;
}

absl::Status EnterStage() {
  if (chdir(kStage) != 0) return ErrnoStatus(errno, "gofer: chdir");
  if (syscall(SYS_pivot_root, ".", ".") != 0) return ErrnoStatus(errno, "gofer: pivot_root");
  // The old root now lies over the new one (pivot_root(2)).
  if (umount2(".", MNT_DETACH) != 0) return ErrnoStatus(errno, "gofer: leaving the old root");
  if (chdir("/") != 0) return ErrnoStatus(errno, "gofer: chdir");
  if (mount("none", "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return ErrnoStatus(errno, "gofer: making the root read-only");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<AttachPoint>> OpenAttachPoints(GoferConfig& config) {
  std::vector<AttachPoint> points;
  for (MountConfig& mount : config.mounts) {
    AttachPoint attach = Describe(mount);
    attach.root = mount.fd.valid() ? std::move(mount.fd) : UniqueFd(open(mount.path.c_str(), O_PATH | O_CLOEXEC));
    if (!attach.root.valid()) return MountError(mount, "cannot open");
    points.push_back(std::move(attach));
  }
  return points;
}

absl::StatusOr<std::vector<AttachPoint>> EnterOwnRoot(GoferConfig& config) {
  // Paths and descriptors belong to the namespace that the caller is in: copy before leaving it.
  std::vector<UniqueFd> trees;
  for (MountConfig& mount : config.mounts) {
    auto tree = CloneMount(mount);
    if (!tree.ok()) return tree.status();
    trees.push_back(std::move(tree).value());
    mount.fd.reset();
  }
  int others = config.new_other_namespaces ? CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET : 0;
  if (unshare(CLONE_NEWNS | others) != 0) return ErrnoStatus(errno, "gofer: unshare");
  UniqueFd mountinfo(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  if (!mountinfo.valid()) return ErrnoStatus(errno, "gofer: /proc/self/mountinfo");
  absl::Status status = MakeStage(trees.size());
  if (!status.ok()) return status;
  std::vector<AttachPoint> points;
  for (size_t i = 0; i < trees.size(); ++i) {
    auto attach = Place(config.mounts[i], std::move(trees[i]), i, mountinfo.get());
    if (!attach.ok()) return attach.status();
    points.push_back(std::move(attach).value());
  }
  status = EnterStage();
  if (!status.ok()) return status;
  return points;
}

}  // namespace amber::gofer
