// cachestat(2) (mm/filemap.c). What a file holds counts as cached: that is true of files in memory; of the host's nobody here is told more.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/mount_checks.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/regular_file.h"

namespace amber {
namespace {

constexpr uint64_t kPage = 4096;

struct CacheRange {
  uint64_t offset, size;
};
struct CacheStat {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

// Pages of [begin, end) that hold data.
uint64_t PagesOfData(Inode& data, uint64_t begin, uint64_t end) {
  const Attr& a = data.attr();
  end = std::min(end, (a.size + kPage - 1) / kPage * kPage);
  if (begin == 0 && end >= a.size) return std::min(a.blocks * 512, end) / kPage;
  uint64_t pages = 0;
  // A file of very many holes counts as full behind those.
  for (int parts = 0; begin < end && parts < 1024; ++parts) {
    auto from = data.SeekContents(begin, SEEK_DATA);
    if (!from.ok()) return pages;
    auto to = data.SeekContents(*from, SEEK_HOLE);
    uint64_t last = to.ok() ? std::min(end, (*to + kPage - 1) / kPage * kPage) : end;
    uint64_t first = std::max(begin, *from / kPage * kPage);
    if (first >= last) return pages;
    pages += (last - first) / kPage;
    begin = last;
  }
  return begin < end ? pages + (end - begin) / kPage : pages;
}

// can_do_cachestat()
bool MayAsk(Task& task, const File& file) {
  if (file.writable() || file.path() == nullptr) return true;
  const Inode& inode = *file.path()->inode();
  return CheckOwner(task.creds(), inode).ok() || CheckPermission(task.creds(), inode, kMayWrite).ok();
}

ErrnoOr<uint64_t> CacheStatCall(Task& task, int fd, UserPtr<const CacheRange> in, UserPtr<CacheStat> out, uint32_t flags) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  CacheRange range = TRY(task.CopyIn(in));
  if (!MayAsk(task, *file)) return Errno(EPERM);
  if (flags != 0) return Errno(EINVAL);
  CacheStat stat{};
  if (auto* regular = dynamic_cast<RegularFile*>(file.get())) {
    TRY(regular->data().Refresh());
    uint64_t end = range.offset + range.size;
    if (range.size == 0 || end < range.offset || end > UINT64_MAX - kPage) end = UINT64_MAX / kPage * kPage;
    stat.cached = PagesOfData(regular->data(), range.offset / kPage * kPage, (end + kPage - 1) / kPage * kPage);
  }
  TRY(task.CopyOut(out, stat));
  return 0;
}

}  // namespace

void RegisterCacheCalls(SyscallTable& table) {
  constexpr uint64_t kCacheStat = 451;
  table.Set(kCacheStat, Partial<&CacheStatCall>("what a file holds counts as cached; nothing is dirty"));
}

}  // namespace amber
