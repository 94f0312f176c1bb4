// Save and load of UserfaultFd. Which mappings are registered, and how, is in the tree (Vma::flags); pages that are missing are missing in the
// image, too. A thread that waits for a page faults again after a restore: its event comes once more, as after any signal.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "sentry/fs/userfaultfd/userfaultfd.h"
#include "sentry/fs/userfaultfd/userfaultfd.pb.h"
#include "sentry/kernel/kernel.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

// Bit 57 of /proc/PID/pagemap: "pte is uffd-wp write-protected" (Documentation/admin-guide/mm/pagemap.rst).
constexpr uint64_t kProtected = uint64_t{1} << 57;

// Write-protected pages of [start, end), as pairs of start and end.
template <typename Add>
void FindProtected(int pagemap, uint64_t start, uint64_t end, const Add& add) {
  std::array<uint64_t, 512> entries;
  uint64_t from = 0;  // of the run that is open
  for (uint64_t at = start; at < end;) {
    size_t count = std::min<uint64_t>(entries.size(), (end - at) / kPageSize);
    ssize_t n = pread(pagemap, entries.data(), count * 8, static_cast<off_t>(at / kPageSize * 8));
    if (n < 8) break;
    for (size_t i = 0; i < static_cast<size_t>(n) / 8; ++i, at += kPageSize) {
      bool is = (entries[i] & kProtected) != 0;
      if (is && from == 0) from = at;
      if (!is && from != 0) {
        add(from, at);
        from = 0;
      }
    }
  }
  if (from != 0) add(from, end);
}

}  // namespace

std::string UserfaultFd::Save(state::Saver& saver) const {
  proto::UserfaultFd out;
  out.set_flags(static_cast<uint32_t>(flags()));
  out.set_number(number_);
  out.set_initialized(initialized_);
  out.set_features(features_);
  if (mm_ != nullptr) {
    out.set_mm(saver.Ref(mm_));
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/pagemap", mm_->attached() ? mm_->space().host_pid() : 0);
    UniqueFd pagemap(open(path, O_RDONLY | O_CLOEXEC));
    for (const auto& [start, vma] : mm_->vmas()) {
      if ((vma.flags & kUffdBits) >> kUffdShift != number_ || (vma.flags & kUffdWriteProtect) == 0) continue;
      FindProtected(pagemap.get(), vma.start, vma.end, [&](uint64_t from, uint64_t to) {
        out.add_write_protected(from);
        out.add_write_protected(to);
      });
    }
  }
  return out.SerializeAsString();
}

bool UserfaultFd::Load(state::Loader& loader, std::string_view bytes) {
  proto::UserfaultFd in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a userfaultfd is malformed");
  set_flags(static_cast<int>(in.flags()));
  initialized_ = in.initialized();
  features_ = in.features();
  if (!KnowsFeatures(features_)) return loader.Fail("a userfaultfd has features that are not offered");
  number_ = in.number();
  mm_ = loader.Get<MemoryManager>(in.mm());
  if (in.mm() == 0) return true;
  if (mm_ == nullptr) return false;
  if (number_ == 0 || Userfaults::Add(*mm_, *this, number_) == 0) {
    mm_ = nullptr;
    return loader.Fail("a userfaultfd has a number that makes no sense");
  }
  for (int i = 0; i + 1 < in.write_protected_size(); i += 2) protected_.emplace_back(in.write_protected(i), in.write_protected(i + 1));
  return true;
}

bool UserfaultFd::AfterLoad(state::Loader& loader) {
  kernel_ = loader.Get<Kernel>(1);
  return kernel_ != nullptr;
}

ErrnoOr<void> UserfaultFd::MakeAgain(Task& task, const RunOp& run) {
  int64_t number = TRY(run(MakeOp()));
  if (number < 0) return Errno(static_cast<int>(-number));
  ErrnoOr<UniqueFd> fd = Fetch(task, static_cast<int>(number));
  TRY(run(MemoryManager::Op(SYS_close, static_cast<uint64_t>(number))));
  fd_ = TRY(std::move(fd));
  poll_source_.Register(kernel_->host_poll(), fd_.get());
  if (!initialized_) return Ok();
  uffdio_api api{UFFD_API, features_, 0};
  if (ioctl(fd_.get(), UFFDIO_API, &api) != 0) return Errno(errno);
  for (const auto& [start, vma] : mm_->vmas()) {
    if ((vma.flags & kUffdBits) >> kUffdShift != number_) continue;
    uint64_t modes = ((vma.flags & kUffdMissing) != 0 ? UFFDIO_REGISTER_MODE_MISSING : 0) |
                     ((vma.flags & kUffdWriteProtect) != 0 ? UFFDIO_REGISTER_MODE_WP : 0) |
                     ((vma.flags & kUffdMinor) != 0 ? UFFDIO_REGISTER_MODE_MINOR : 0);
    uffdio_register r{{vma.start, vma.size()}, modes, 0};
    if (ioctl(fd_.get(), UFFDIO_REGISTER, &r) != 0) return Errno(errno);
  }
  for (auto [start, end] : protected_) {
    uffdio_writeprotect w{{start, end - start}, UFFDIO_WRITEPROTECT_MODE_WP};
    TRY(CheckRange(start, end - start));
    if (ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &w) != 0) return Errno(errno);
  }
  protected_.clear();
  return Ok();
}

}  // namespace amber
