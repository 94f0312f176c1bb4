// Mappings: the file in a host file of the sentry's, filled before the mapping is there. A later look at the server's file (another mapping after an
// open, a changed size or time) fills it again, in place, as pages of a cache would be.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr uint64_t kChunk = 128 * 1024;
constexpr uint64_t kMaxMapped = uint64_t{4} << 30;
constexpr size_t kAtOnce = 16;

bool SameTime(const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

}  // namespace

ErrnoOr<int> FuseInode::Pages(const RefPtr<FuseHandle>& handle, uint64_t offset, uint64_t size) {
  // A restore maps what is there.
  if (ServedCall::Current() == nullptr && pages_.valid()) return pages_.get();
  TRY(Refresh(handle));
  if (attr_.size > kMaxMapped) return Errno(ENOMEM);
  if (!pages_.valid()) {
    pages_ = GuestFd(memfd_create("fuse", MFD_CLOEXEC));
    if (!pages_.valid()) return Errno(ENOMEM);
  }
  size_t chunks = static_cast<size_t>((attr_.size + kChunk - 1) / kChunk);
  if (filled_.size() != chunks || pages_size_ != attr_.size || !SameTime(pages_mtime_, attr_.mtime)) {
    if (ftruncate(pages_.get(), static_cast<off_t>(attr_.size)) != 0) return Errno(ENOMEM);
    filled_.assign(chunks, false);
    pages_size_ = attr_.size;
    pages_mtime_ = attr_.mtime;
  }
  TRY(FillPages(handle, offset, size));
  return pages_.get();
}

ErrnoOr<void> FuseInode::FillPages(const RefPtr<FuseHandle>& handle, uint64_t offset, uint64_t size) {
  uint64_t room = std::min<uint64_t>(kChunk, std::max<uint64_t>(connection_->max_read(), 4096));
  uint64_t end = std::min(pages_size_, offset + size);
  std::vector<RefPtr<FuseRequest>> waiting;
  for (uint64_t chunk = offset / kChunk; chunk * kChunk < end && waiting.size() < kAtOnce; ++chunk) {
    if (filled_[chunk]) continue;
    std::vector<std::pair<RefPtr<FuseRequest>, uint64_t>> parts;
    bool complete = true;
    for (uint64_t at = chunk * kChunk; at < std::min((chunk + 1) * kChunk, pages_size_); at += room) {
      fuse_read_in in{};
      in.fh = handle->fh;
      in.offset = at;
      in.size = static_cast<uint32_t>(std::min(room, pages_size_ - at));
      FuseQuestion q = About(FUSE_READ, BytesOf(in));
      q.max_out = in.size;
      q.handle = handle;
      RefPtr<FuseRequest> r = TRY(connection_->Start(std::move(q)));
      if (!r->answered()) waiting.push_back(r);
      complete = complete && r->answered();
      parts.emplace_back(std::move(r), at);
    }
    if (!complete) continue;
    for (auto& [r, at] : parts) {
      if (r->error() != 0) return Errno(r->error());
      // What the answer lacks is zeros, also over an earlier filling.
      std::string bytes = r->answer();
      bytes.resize(std::min(room, pages_size_ - at));
      if (pwrite(pages_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(bytes.size())) return Errno(ENOMEM);
    }
    filled_[chunk] = true;
    for (auto& [r, at] : parts) ServedCall::Of(*ServedCall::Current()).Forget(*r);
  }
  if (!waiting.empty()) return ServedCall::WaitFor(*ServedCall::Current(), *waiting.front());
  return Ok();
}

void FuseInode::WritePages(const void* data, size_t size, uint64_t offset) {
  if (!pages_.valid() || offset > kMaxMapped) return;
  (void)!pwrite(pages_.get(), data, size, static_cast<off_t>(offset));
}

}  // namespace amber
