#include "sentry/fs/dev/devices.h"

#include <linux/random.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr uint32_t kMemoryMajor = 1;
enum Minor : uint32_t { kNull = 3, kZero = 5, kFull = 7, kRandom = 8, kUrandom = 9, kKmsg = 11 };

bool IsKnown(uint32_t number) {
  return number == kNull || number == kZero || number == kFull || number == kRandom || number == kUrandom || number == kKmsg;
}

ErrnoOr<RefPtr<File>> OpenMemoryDevice(const VfsContext&, const VfsPath& path, int flags) {
  if (!IsKnown(minor(path.inode()->attr().rdev))) return Errno(ENXIO);
  return RefPtr<File>(MakeRef<DeviceFile>(path, flags));
}

}  // namespace

uint32_t DeviceFile::minor_number() const { return minor(inode().attr().rdev); }

ErrnoOr<size_t> DeviceFile::Read(Task& task, Sink& sink) {
  uint32_t device = minor_number();
  if (device == kNull) return size_t{0};
  if (device == kKmsg) return Errno(EAGAIN);  // the log is empty for ever
  uint8_t block[4096] = {};
  size_t done = 0;
  while (sink.remaining() > 0) {
    size_t n = std::min(sizeof(block), sink.remaining());
    if (device == kRandom || device == kUrandom) task.kernel().Random(block, n);
    auto put = sink.Put(block, n);
    if (!put.ok()) return done > 0 ? ErrnoOr<size_t>(done) : put.error();
    done += *put;
    if (*put < n) break;
  }
  return done;
}

ErrnoOr<size_t> DeviceFile::Write(Task&, Source& source) {
  if (minor_number() == kFull) return Errno(ENOSPC);
  // Taken without being looked at, as Linux does it for null and zero.
  return source.remaining();
}

ErrnoOr<uint64_t> DeviceFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  uint32_t device = minor_number();
  if ((device == kRandom || device == kUrandom) && command == RNDGETENTCNT) {
    TRY(task.CopyOut(UserPtr<int>(argument), 256));
    return uint64_t{0};
  }
  return Errno(ENOTTY);
}

ErrnoOr<MapSource> DeviceFile::Map(Task&, uint64_t offset, uint64_t size, int, bool) {
  if (minor_number() != kZero) return Errno(ENODEV);
  constexpr uint64_t kSize = uint64_t{1} << 40;
  if (offset + size > kSize) return Errno(ENOMEM);
  if (!zeros_.valid()) {
    UniqueFd fd(memfd_create("zero", MFD_CLOEXEC));
    if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(kSize)) != 0) return Errno(ENOMEM);
    zeros_ = std::move(fd);
  }
  return MapSource{zeros_.get(), 0, true};
}

bool DeviceFile::AfterLoad(state::Loader& loader) {
  if (!VfsFile::AfterLoad(loader)) return false;
  return IsKnown(minor_number()) || loader.Fail("an open device is unknown");
}

void RegisterMemoryDevices() { RegisterCharDevice(kMemoryMajor, 0, 12, OpenMemoryDevice); }

}  // namespace amber
