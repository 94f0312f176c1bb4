#include "sentry/fs/dev/populate.h"

#include <sys/sysmacros.h>

#include "sentry/vfs/ops.h"

namespace amber {
namespace {

struct Device {
  const char* name;
  uint32_t major, minor;
};
constexpr Device kDevices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

struct LinkTo {
  const char* name;
  const char* target;
};
constexpr LinkTo kLinks[] = {{"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
                             {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},         {"core", "/proc/kcore"}};

constexpr const char* kDirectories[] = {"pts", "shm", "mqueue"};

ErrnoOr<void> MakeUnlessThere(const VfsContext& ctx, const VfsPath& dev, const char* name, NewNode node) {
  auto r = MakeAt(ctx, dev, name, std::move(node));
  if (!r.ok() && !r.Is(EEXIST)) return r.error();
  return Ok();
}

}  // namespace

ErrnoOr<void> PopulateDev(const VfsContext& ctx, const VfsPath& dev) {
  for (const Device& d : kDevices) {
    TRY(MakeUnlessThere(ctx, dev, d.name, {.mode = S_IFCHR | 0666, .rdev = makedev(d.major, d.minor)}));
  }
  for (const LinkTo& l : kLinks) TRY(MakeUnlessThere(ctx, dev, l.name, {.mode = S_IFLNK | 0777, .target = l.target}));
  for (const char* name : kDirectories) {
    uint32_t mode = std::string_view(name) == "shm" ? 01777 : 0755;
    TRY(MakeUnlessThere(ctx, dev, name, {.mode = S_IFDIR | mode}));
  }
  return Ok();
}

}  // namespace amber
