// Guard regions (madvise(2), MADV_GUARD_INSTALL): pages of a mapping that must not be touched. The host does the work, by markers in page tables; the
// tree knows which pages these are, so that a restore can make them again. To the guest the mapping stays one.
#pragma once

#include <cstdint>

#include "sentry/mm/vma.h"

namespace amber {

// Newer than Debian 12's headers.
inline constexpr int kGuardInstall = 102, kGuardRemove = 103;
// A bit of Vma::flags beside those that vma.h names. Such a part has no contents, and is never in an image (Vma::image).
inline constexpr uint32_t kGuard = 1 << 11;

// As the guest sees a mapping: without what only the host's side of it tells apart.
inline Vma GuestView(Vma vma) {
  vma.image = false;
  vma.image_offset = 0;
  vma.flags &= ~kGuard;
  return vma;
}

}  // namespace amber
