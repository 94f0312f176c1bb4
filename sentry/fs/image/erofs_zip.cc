#include "sentry/fs/image/erofs_zip.h"

#include <lz4.h>
#include <string.h>

#include <algorithm>

namespace amber {
namespace {

// z_erofs_map_header, 8 bytes.
struct Header {
  uint32_t fragment;
  uint16_t advise;
  uint8_t algorithms, cluster_bits;
};
static_assert(sizeof(Header) == 8);

// One entry of a full index.
struct FullEntry {
  uint16_t advise, start;
  uint32_t block;  // or two distances
};
static_assert(sizeof(FullEntry) == 8);

constexpr uint16_t kShortEntries = 1;   // two bytes for each cluster where that is possible
constexpr uint16_t kSeveralBlocks = 2;  // extents may take more blocks than one
constexpr uint16_t kKnownAdvice = 7;    // ... of the second kind of head, too
constexpr uint32_t kCount = 1 << 11;    // of a distance: it is a number of blocks
constexpr uint64_t kFullIndexPadding = 8;
constexpr unsigned kLogicalBits = 12;

uint64_t RoundUp(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

}  // namespace

// Entries of a compact index: equal shares of bits, then the block of the first extent that begins here.
struct ErofsZip::Pack {
  static constexpr unsigned kValueBits = 12;
  uint8_t bytes[32 + 4];  // and room to read over the end
  unsigned count = 0, size = 0;

  unsigned Value(unsigned i, Type* type) const {
    unsigned bits = (size - 4) * 8 / count, at = bits * i;
    uint32_t v;
    memcpy(&v, bytes + at / 8, sizeof(v));
    v >>= at % 8;
    *type = static_cast<Type>(v >> kValueBits & 3);
    return v & ((1u << kValueBits) - 1);
  }
  uint32_t base() const {
    uint32_t block;
    memcpy(&block, bytes + size - 4, sizeof(block));
    return block;
  }
};

ErrnoOr<void> ErofsZip::Prepare(ImageNode* node, bool compact, uint64_t after) {
  uint64_t at = RoundUp(after, 8);
  Header header = {};
  if (compact || headed_) TRY(read_(at, &header, sizeof(header)));
  // Pieces in the inode or in other files, other algorithms, clusters of another size.
  if ((header.advise & ~kKnownAdvice) != 0 || header.algorithms != 0 || header.cluster_bits != 0) return Errno(EOPNOTSUPP);
  if (block_bits_ != kLogicalBits) return Errno(EOPNOTSUPP);
  node->layout = ImageNode::Layout::kCompressed;
  node->compact = compact;
  node->advice = static_cast<uint8_t>(header.advise);
  node->data = 0;
  node->extra = at + sizeof(header) + (compact ? 0 : kFullIndexPadding);
  return Ok();
}

ErrnoOr<void> ErofsZip::ReadIndex(uint64_t offset, void* to, size_t size) {
  uint64_t page = offset / index_.size() * index_.size();
  if (offset - page + size > index_.size()) return read_(offset, to, size);
  if (page != index_at_) {
    index_at_ = UINT64_MAX;
    // The image may end before the page does.
    if (!read_(page, index_.data(), index_.size()).ok()) return read_(offset, to, size);
    index_at_ = page;
  }
  memcpy(to, index_.data() + (offset - page), size);
  return Ok();
}

ErrnoOr<ErofsZip::Cluster> ErofsZip::Load(const ImageNode& node, uint64_t number) {
  if (number >= RoundUp(node.attr.size, 1 << kLogicalBits) >> kLogicalBits) return Errno(EUCLEAN);
  Cluster c = TRY(node.compact ? LoadCompact(node, number) : LoadFull(node, number));
  if (c.head() ? c.start >= 1 << kLogicalBits : (c.back == 0 || c.back > number)) return Errno(EUCLEAN);
  return c;
}

ErrnoOr<ErofsZip::Cluster> ErofsZip::LoadFull(const ImageNode& node, uint64_t number) {
  FullEntry e;
  TRY(ReadIndex(node.extra + number * sizeof(e), &e, sizeof(e)));
  Cluster c{.type = static_cast<Type>(e.advise & 3)};
  if (c.head()) {
    c.start = e.start;
    c.block = e.block;
  } else if (uint32_t back = e.block & 0xffff; (back & kCount) != 0) {
    if ((node.advice & kSeveralBlocks) == 0) return Errno(EUCLEAN);
    c.blocks = back & ~kCount;
    c.back = 1;
  } else {
    c.back = back;
  }
  return c;
}

// The index begins with entries of four bytes up to a multiple of 32, so that those of two bytes lie in whole groups; what is left at the end has four.
ErrnoOr<ErofsZip::Cluster> ErofsZip::LoadCompact(const ImageNode& node, uint64_t number) {
  uint64_t total = RoundUp(node.attr.size, 1 << kLogicalBits) >> kLogicalBits;
  uint64_t first = (32 - node.extra % 32) / 4 % 8, small = 0;
  if ((node.advice & kShortEntries) != 0 && first < total) small = (total - first) / 16 * 16;
  Pack pack;
  uint64_t at = node.extra;
  unsigned width = 4;
  if (number < first) {
    at += number * 4;
  } else if (number - first < small) {
    width = 2;
    at += first * 4 + (number - first) * 2;
  } else {
    at += first * 4 + small * 2 + (number - first - small) * 4;
  }
  pack.count = width == 2 ? 16 : 2;
  pack.size = pack.count * width;
  uint64_t begin = at / pack.size * pack.size;
  unsigned i = static_cast<unsigned>(at - begin) / width;
  memset(pack.bytes, 0, sizeof(pack.bytes));
  TRY(ReadIndex(begin, pack.bytes, pack.size));

  const bool several = (node.advice & kSeveralBlocks) != 0;
  Cluster c;
  uint32_t value = pack.Value(i, &c.type);
  if (!c.head()) {
    Type before;
    if ((value & kCount) != 0) {
      if (!several) return Errno(EUCLEAN);
      c.blocks = value & ~kCount;
      c.back = 1;
    } else if (i + 1 < pack.count) {
      c.back = value;
    } else {
      // The last one has the distance to the next head instead.
      uint32_t previous = pack.Value(i - 1, &before);
      c.back = before != Type::kInside ? 1 : (previous & kCount) != 0 ? 2 : previous + 1;
    }
    return c;
  }
  c.start = value;
  // Blocks of the extents that begin before this one in the pack. If each has one, the number is of the block before the first extent.
  uint32_t blocks = several ? 0 : 1;
  int64_t j = i;
  while (j > 0) {
    Type type;
    uint32_t other = pack.Value(static_cast<unsigned>(--j), &type);
    if (type != Type::kInside) {
      ++blocks;
    } else if (several && (other & kCount) != 0) {
      --j;
      blocks += other & ~kCount;
    } else if (several) {
      if (other <= 1) return Errno(EUCLEAN);
      j -= other - 2;
    } else {
      j -= other;
      if (j >= 0) ++blocks;
    }
  }
  c.block = pack.base() + blocks;
  return c;
}

ErrnoOr<uint64_t> ErofsZip::PackedBlocks(const ImageNode& node, uint64_t number, const Cluster& head) {
  if (head.type != Type::kHead || (node.advice & kSeveralBlocks) == 0) return uint64_t{1};
  if ((number + 1) << kLogicalBits >= node.attr.size) return uint64_t{1};
  Cluster next = TRY(Load(node, number + 1));
  if (next.head()) return uint64_t{1};
  if (next.blocks == 0 || next.blocks > kMaxPacked >> block_bits_) return Errno(EUCLEAN);
  return uint64_t{next.blocks};
}

ErrnoOr<ErofsZip::Extent> ErofsZip::Find(const ImageNode& node, uint64_t offset) {
  uint64_t number = offset >> kLogicalBits;
  const uint64_t total = RoundUp(node.attr.size, 1 << kLogicalBits) >> kLogicalBits;
  Cluster c = TRY(Load(node, number));
  if (c.head() && (offset & ((1 << kLogicalBits) - 1)) < c.start) {
    if (number == 0) return Errno(EUCLEAN);
    c = TRY(Load(node, --number));
  }
  // Each step leads back, and an extent is not long.
  while (!c.head()) {
    number -= c.back;
    if ((offset >> kLogicalBits) - number > kMaxExtent >> kLogicalBits) return Errno(EUCLEAN);
    c = TRY(Load(node, number));
  }
  // Heads of the second kind come with features that are refused.
  if (c.type == Type::kOtherHead) return Errno(EUCLEAN);
  Extent extent{.start = (number << kLogicalBits) + c.start, .end = node.attr.size, .plain = c.type == Type::kPlain};
  for (uint64_t next = number + 1; next < total; ++next) {
    Cluster other = TRY(Load(node, next));
    if (other.head()) {
      extent.end = (next << kLogicalBits) + other.start;
      break;
    }
    if (next - number > kMaxExtent >> kLogicalBits) return Errno(EUCLEAN);
  }
  extent.end = std::min(extent.end, node.attr.size);
  if (extent.start > offset || extent.end <= offset || extent.end - extent.start > kMaxExtent) return Errno(EUCLEAN);
  extent.packed = uint64_t{c.block} << block_bits_;
  extent.size = TRY(PackedBlocks(node, number, c)) << block_bits_;
  return extent;
}

ErrnoOr<void> ErofsZip::Unpack(uint64_t node, const Extent& extent) {
  unpacked_ = {};
  size_t size = extent.end - extent.start;
  bytes_.resize(size);
  if (extent.plain) {
    if (size > extent.size) return Errno(EUCLEAN);
    TRY(read_(extent.packed, bytes_.data(), size));
  } else {
    // No more is read than so much can be packed into: an index that says otherwise is made to keep us busy.
    const uint64_t block = uint64_t{1} << block_bits_;
    if (extent.size > RoundUp(static_cast<uint64_t>(LZ4_COMPRESSBOUND(size)), block)) return Errno(EUCLEAN);
    packed_.resize(extent.size);
    TRY(read_(extent.packed, packed_.data(), packed_.size()));
    size_t begin = 0;
    if (padded_) {
      while (begin < std::min<size_t>(packed_.size(), block) && packed_[begin] == 0) ++begin;  // z_erofs_fixup_insize()
    }
    if (begin == packed_.size()) return Errno(EUCLEAN);
    int n = LZ4_decompress_safe_partial(reinterpret_cast<const char*>(packed_.data()) + begin, reinterpret_cast<char*>(bytes_.data()),
                                        static_cast<int>(packed_.size() - begin), static_cast<int>(size), static_cast<int>(size));
    if (n < 0 || static_cast<size_t>(n) != size) return Errno(EUCLEAN);
  }
  unpacked_ = extent;
  unpacked_node_ = node;
  return Ok();
}

ErrnoOr<void> ErofsZip::Read(const ImageNode& node, uint8_t* to, size_t size, uint64_t offset) {
  while (size > 0) {
    bool known = unpacked_node_ == node.id && offset >= unpacked_.start && offset < unpacked_.end;
    if (!known) TRY(Unpack(node.id, TRY(Find(node, offset))));
    size_t part = std::min<uint64_t>(size, unpacked_.end - offset);
    memcpy(to, bytes_.data() + (offset - unpacked_.start), part);
    to += part;
    offset += part;
    size -= part;
  }
  return Ok();
}

}  // namespace amber
