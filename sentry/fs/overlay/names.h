// The marks that overlays leave in their layers, in Linux's format.
#pragma once

#include <string_view>

#include "sentry/vfs/inode.h"

namespace amber {

inline constexpr std::string_view kOverlayPrefix = "trusted.overlay.";
inline constexpr std::string_view kOpaque = "trusted.overlay.opaque";
// Of a copied-up file: the inode number that it had, 8 bytes. (Linux keeps a file handle here.)
inline constexpr std::string_view kOrigin = "trusted.overlay.origin";

bool IsWhiteout(const Inode& inode);
bool IsOpaque(Inode& dir);
// The inode number that the overlay shows for a layer's inode.
uint64_t OverlayInoOf(Inode& shown, bool is_upper);

}  // namespace amber
