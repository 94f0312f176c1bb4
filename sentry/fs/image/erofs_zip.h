// Files of an EROFS image that are compressed with LZ4 (Linux: fs/erofs/zmap.c and decompressor.c).
//
// Such a file is a row of extents, each in one or several blocks ("physical cluster"). An index says for each 4 KiB ("logical cluster") of the file
// whether an extent begins in it, and where. Everything in the index and in the blocks is hostile. Kernel lock.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "sentry/fs/image/image_source.h"

namespace amber {

class ErofsZip {
 public:
  // Reads bytes of the image: EUCLEAN if any is beyond the end.
  using Reader = std::function<ErrnoOr<void>(uint64_t offset, void* to, size_t size)>;
  // `padded`: compressed bytes are at the end of their blocks, behind zeros. `headed`: full indexes have headers, too.
  ErofsZip(Reader reader, uint8_t block_bits, bool padded, bool headed)
      : read_(std::move(reader)), block_bits_(block_bits), padded_(padded), headed_(headed) {}

  // Reads the header of the index, which begins behind the inode, at `after`. EOPNOTSUPP for what is packed in another way.
  ErrnoOr<void> Prepare(ImageNode* node, bool compact, uint64_t after);
  // `size` bytes at `offset`, all of them within the file.
  ErrnoOr<void> Read(const ImageNode& node, uint8_t* to, size_t size, uint64_t offset);

 private:
  static constexpr uint64_t kMaxExtent = 8 << 20;  // more than mkfs.erofs makes
  static constexpr uint64_t kMaxPacked = 1 << 20;  // Z_EROFS_PCLUSTER_MAX_SIZE

  enum class Type : uint8_t { kPlain = 0, kHead = 1, kInside = 2, kOtherHead = 3 };
  // What the index says of one logical cluster.
  struct Cluster {
    Type type = Type::kInside;
    uint32_t start = 0;   // of a head: where in it the extent begins
    uint32_t block = 0;   // and the first block of what is packed
    uint32_t back = 0;    // of others: how many clusters back the head, or one that knows more, is
    uint32_t blocks = 0;  // ... or how many blocks are packed, if it is known here
    bool head() const { return type != Type::kInside; }
  };
  struct Extent {
    uint64_t start = 0, end = 0;    // in the file
    uint64_t packed = 0, size = 0;  // in the image
    bool plain = false;
  };
  // A part of an index: pairs or groups of sixteen clusters with the block of the first of them.
  struct Pack;

  ErrnoOr<void> ReadIndex(uint64_t offset, void* to, size_t size);
  ErrnoOr<Cluster> Load(const ImageNode& node, uint64_t number);
  ErrnoOr<Cluster> LoadFull(const ImageNode& node, uint64_t number);
  ErrnoOr<Cluster> LoadCompact(const ImageNode& node, uint64_t number);
  ErrnoOr<Extent> Find(const ImageNode& node, uint64_t offset);
  ErrnoOr<uint64_t> PackedBlocks(const ImageNode& node, uint64_t number, const Cluster& head);
  ErrnoOr<void> Unpack(uint64_t node, const Extent& extent);

  const Reader read_;
  const uint8_t block_bits_;
  const bool padded_, headed_;
  // The page of an index that was read last.
  uint64_t index_at_ = UINT64_MAX;
  std::array<uint8_t, 4096> index_;
  // The extent that was unpacked last.
  uint64_t unpacked_node_ = 0;
  Extent unpacked_;
  std::vector<uint8_t> bytes_, packed_;
};

}  // namespace amber
