#include "sentry/fs/image/image_source.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "sentry/fs/image/erofs.h"
#include "sentry/fs/image/tar.h"

namespace amber {

absl::StatusOr<std::unique_ptr<ImageSource>> ImageSource::Open(UniqueFd fd) {
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return absl::InternalError(absl::StrCat("cannot look at the image: ", strerrordesc_np(errno)));
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError("an image must be a regular file");
  uint64_t size = static_cast<uint64_t>(st.st_size);
  uint8_t start[2048] = {};
  ssize_t n = pread(fd.get(), start, sizeof(start), 0);
  if (n < 0) return absl::InternalError(absl::StrCat("cannot read the image: ", strerrordesc_np(errno)));
  std::span<const uint8_t> head(start, static_cast<size_t>(n));
  if (LooksLikeErofs(head)) return OpenErofs(std::move(fd), size, head);
  if (LooksLikeTar(head)) return OpenTar(std::move(fd), size);
  if (n >= 2 && start[0] == 0x1f && start[1] == 0x8b)
    return absl::InvalidArgumentError("the image is compressed (gzip): unpack it to a plain tar first");
  if (n >= 4 && memcmp(start, "\x28\xb5\x2f\xfd", 4) == 0) {
    return absl::InvalidArgumentError("the image is compressed (zstd): unpack it to a plain tar first");
  }
  if (n >= 4 && memcmp(start, "hsqs", 4) == 0)
    return absl::InvalidArgumentError("the image is a squashfs, which is not supported: make an EROFS image or a tar of it");
  return absl::InvalidArgumentError("the image is neither an EROFS image nor a tar archive");
}

bool ImageSource::OnPages(const ImageNode& node) const {
  constexpr uint64_t kPage = 4096;
  if (node.layout == ImageNode::Layout::kChunks || node.layout == ImageNode::Layout::kCompressed || node.data % kPage != 0 || node.attr.size < kPage)
    return false;
  // Whole pages that are not in the file would be SIGBUS.
  uint64_t whole = node.attr.size / kPage * kPage;
  return node.data <= size_ && whole <= size_ - node.data;
}

ErrnoOr<void> ImageSource::ReadExactly(uint64_t offset, void* to, size_t size) const {
  if (offset > size_ || size > size_ - offset) return Errno(EUCLEAN);
  auto* out = static_cast<uint8_t*>(to);
  while (size > 0) {
    ssize_t n = pread(fd(), out, size, static_cast<off_t>(offset));
    if (n < 0) return Errno(errno == EINTR ? EIO : errno);
    if (n == 0) return Errno(EUCLEAN);  // it became shorter
    out += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return Ok();
}

}  // namespace amber
