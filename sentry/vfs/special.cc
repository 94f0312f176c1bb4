#include "sentry/vfs/special.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <vector>

#include "sentry/kernel/cgroup_tree.h"

namespace amber {
namespace {

struct Range {
  uint32_t major, first, count;
  SpecialOpener opener;
};

SpecialOpener fifo_opener = nullptr;
std::vector<Range>& Devices() {
  static auto* devices = new std::vector<Range>();
  return *devices;
}

}  // namespace

void SetFifoOpener(SpecialOpener opener) { fifo_opener = opener; }

void RegisterCharDevice(uint32_t major, uint32_t first_minor, uint32_t count, SpecialOpener opener) {
  Devices().push_back({major, first_minor, count, opener});
}

ErrnoOr<RefPtr<File>> OpenSpecial(const VfsContext& ctx, const VfsPath& path, int flags) {
  const Attr& a = path.inode()->attr();
  if (S_ISFIFO(a.mode)) {
    if (fifo_opener == nullptr) return Errno(ENXIO);
    return fifo_opener(ctx, path, flags);
  }
  if (ctx.task != nullptr && (S_ISCHR(a.mode) || S_ISBLK(a.mode))) {
    uint32_t access = ((flags & O_ACCMODE) != O_WRONLY ? kDeviceRead : 0) | ((flags & O_ACCMODE) != O_RDONLY ? kDeviceWrite : 0);
    TRY(Cgroup::CheckDevice(*ctx.task, S_ISBLK(a.mode), major(a.rdev), minor(a.rdev), access));
  }
  if (!S_ISCHR(a.mode)) return Errno(ENXIO);
  auto& devices = Devices();
  for (auto it = devices.rbegin(); it != devices.rend(); ++it) {
    if (it->major == major(a.rdev) && minor(a.rdev) >= it->first && minor(a.rdev) - it->first < it->count) {
      return it->opener(ctx, path, flags);
    }
  }
  return Errno(ENXIO);
}

}  // namespace amber
