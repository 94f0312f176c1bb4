#include "nvproxy/real_driver.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "nvproxy/abi.h"
#include "nvproxy/host_rules.h"
#include "sentry/base/unique_fd.h"

namespace amber::nvproxy {
namespace {

constexpr uint32_t kVersionCommand = 0xc04846d2;  // NV_ESC_CHECK_VERSION_STR, 72 bytes
constexpr uint32_t kQuery = 0x32, kStrict = 0;    // the first is known since 530; older drivers answer the second

}  // namespace

std::string RealDriver::Version() {
  auto file = Open({NodeKind::kControl, 0}, O_RDWR);
  if (!file.ok()) return "";
  std::string version;
  for (uint32_t cmd : {kQuery, kStrict}) {
    VersionCheck block{};
    block.cmd = cmd;
    if (!version.empty() || ioctl(*file, kVersionCommand, &block) != 0) continue;
    version.assign(block.text, strnlen(block.text, sizeof(block.text)));
  }
  Close(*file);
  return version;
}

ErrnoOr<std::string> RealDriver::ReadInfo(const std::string& path) {
  auto it = config_.info.find(path);
  if (it == config_.info.end()) return Errno(ENOENT);
  return it->second;
}

ErrnoOr<HostFile> RealDriver::Open(const Node& node, int access) {
  auto it = std::ranges::find(config_.nodes, node, &RealNode::node);
  if (it == config_.nodes.end()) return Errno(ENXIO);
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", it->path);
  // Only the access mode: with O_NONBLOCK the driver opens asynchronously and its poll does not wait.
  UniqueFd opened(open(path, (access & O_ACCMODE) | O_CLOEXEC));
  if (!opened.valid()) return Errno(errno);
  // The node is what it was when the command line looked at it.
  struct stat named, now;
  if (fstat(it->path, &named) != 0 || fstat(opened.get(), &now) != 0) return Errno(errno);
  if (!S_ISCHR(now.st_mode) || named.st_rdev != now.st_rdev) return Errno(ENXIO);
  UniqueFd moved(fcntl(opened.get(), F_DUPFD_CLOEXEC, kHostFdBase));
  if (!moved.valid()) return Errno(errno == EINVAL ? EMFILE : errno);
  if ((static_cast<uint64_t>(moved.get()) & kHostFdMask) != kHostFdBase) return Errno(EMFILE);
  return moved.release();
}

int RealDriver::Ioctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer>) {
  return ioctl(file, command, block.data()) < 0 ? errno : 0;
}

// The guest's own process maps it, by a descriptor that it has for the time of the call.
ErrnoOr<HostMapping> RealDriver::Map(HostFile file, uint64_t, uint64_t, int) { return HostMapping{.fd = file, .offset = 0}; }

uint32_t RealDriver::Poll(HostFile file) {
  pollfd p = {file, POLLIN | POLLPRI, 0};
  return poll(&p, 1, 0) > 0 ? static_cast<uint32_t>(p.revents) : 0;
}

void RealDriver::Close(HostFile file) { close(file); }

}  // namespace amber::nvproxy
