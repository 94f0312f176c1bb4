#include "sentry/fs/image/erofs.h"

#include <dirent.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sentry/base/check.h"
#include "sentry/fs/image/erofs_zip.h"

namespace amber {
namespace {

constexpr uint64_t kSuperOffset = 1024;
constexpr uint32_t kMagic = 0xE0F5E1E2;
// The incompatible features that are known here.
constexpr uint32_t kZeroPadding = 1;       // compressed bytes are at the end of their blocks
constexpr uint32_t kCompressionTable = 2;  // `compression` says which algorithms there are; extents may have several blocks
constexpr uint32_t kChunkedFile = 4;
constexpr uint16_t kLz4 = 1;
constexpr uint32_t kHole = ~uint32_t{0};
constexpr uint64_t kMaxDirectory = 8 << 20;
constexpr uint32_t kMaxXattrs = 64 << 10;
constexpr uint64_t kPathMax = 4096;

struct SuperBlock {
  uint32_t magic, checksum, feature_compat;
  uint8_t block_bits, slots;
  uint16_t root_nid;
  uint64_t inodes, build_time;
  uint32_t build_time_ns, blocks, meta_block, xattr_block;
  uint8_t uuid[16], volume[16];
  uint32_t feature_incompat;
  uint16_t compression;
  uint16_t extra_devices, device_slot;
  uint8_t dir_block_bits;
  uint8_t rest[37];
};
static_assert(sizeof(SuperBlock) == 128);

// The first 32 bytes of both kinds of inode: what follows `size_low` is at other places in the extended one.
struct CompactInode {
  uint16_t format, xattr_count, mode, nlink;
  uint32_t size, mtime_delta, place, ino;
  uint16_t uid, gid;
  uint32_t reserved;
};
static_assert(sizeof(CompactInode) == 32);

struct ExtendedInode {
  uint16_t format, xattr_count, mode, reserved;
  uint64_t size;
  uint32_t place, ino, uid, gid;
  uint64_t mtime;
  uint32_t mtime_ns, nlink;
  uint8_t reserved2[16];
};
static_assert(sizeof(ExtendedInode) == 64);

struct [[gnu::packed]] Entry {
  uint64_t nid;
  uint16_t name_offset;
  uint8_t type, reserved;
};
static_assert(sizeof(Entry) == 12);

struct ChunkIndex {
  uint16_t start_high, device;
  uint32_t block;
};

struct XattrHeader {
  uint32_t filter;
  uint8_t shared, reserved[7];
};
static_assert(sizeof(XattrHeader) == 12);

struct XattrEntry {
  uint8_t name_size, prefix;
  uint16_t value_size;
};

struct NamedEntry {
  std::string_view name;
  uint64_t nid;
  uint8_t type;
};

// The entries of one directory block; false if it is malformed.
bool ParseBlock(std::span<const uint8_t> block, std::vector<NamedEntry>* out) {
  out->clear();
  Entry first;
  if (block.size() < sizeof(first)) return false;
  memcpy(&first, block.data(), sizeof(first));
  size_t count = first.name_offset / sizeof(Entry);
  if (count == 0 || first.name_offset % sizeof(Entry) != 0 || first.name_offset > block.size()) return false;
  for (size_t i = 0; i < count; ++i) {
    Entry e, next;
    memcpy(&e, block.data() + i * sizeof(e), sizeof(e));
    size_t end = block.size();
    if (i + 1 < count) {
      memcpy(&next, block.data() + (i + 1) * sizeof(e), sizeof(next));
      end = next.name_offset;
    }
    if (e.name_offset < first.name_offset || e.name_offset >= end || end > block.size()) return false;
    std::string_view name(reinterpret_cast<const char*>(block.data()) + e.name_offset, end - e.name_offset);
    // The last one is padded.
    name = name.substr(0, name.find('\0'));
    if (name.empty() || name.size() > NAME_MAX || name.find('/') != name.npos) return false;
    out->push_back({name, e.nid, e.type});
  }
  return true;
}

uint8_t TypeOf(uint8_t type) {
  constexpr uint8_t kTypes[] = {DT_UNKNOWN, DT_REG, DT_DIR, DT_CHR, DT_BLK, DT_FIFO, DT_SOCK, DT_LNK};
  return type < std::size(kTypes) ? kTypes[type] : uint8_t{DT_UNKNOWN};
}

std::string_view XattrPrefix(uint8_t index) {
  switch (index) {
    case 1: return "user.";
    case 2: return "system.posix_acl_access";
    case 3: return "system.posix_acl_default";
    case 4: return "trusted.";
    case 6: return "security.";
    default: return "";
  }
}

class ErofsSource final : public ImageSource {
 public:
  ErofsSource(UniqueFd fd, uint64_t size, const SuperBlock& super)
      : ImageSource(std::move(fd), size), super_(super),
        zip_([this](uint64_t offset, void* to, size_t bytes) { return ReadExactly(offset, to, bytes); }, super.block_bits,
             (super.feature_incompat & kZeroPadding) != 0, (super.feature_incompat & kCompressionTable) != 0) {}

  const char* type() const override { return "erofs"; }
  uint64_t root() const override { return super_.root_nid; }
  uint64_t file_count() const override { return super_.inodes; }
  std::string identity() const override {
    return absl::StrCat("erofs ", size(), " ", std::string_view(reinterpret_cast<const char*>(&super_), sizeof(super_)));
  }

  ErrnoOr<ImageNode> Load(uint64_t id) override;
  ErrnoOr<uint64_t> Find(const ImageNode& dir, std::string_view name) override;
  ErrnoOr<std::vector<DirEnt>> List(const ImageNode& dir) override;
  ErrnoOr<std::string> Target(const ImageNode& link) override;
  ErrnoOr<XattrMap> Xattrs(const ImageNode& node) override;
  ErrnoOr<size_t> Read(const ImageNode& file, void* to, size_t size, uint64_t offset) override;

 private:
  uint64_t block_size() const { return uint64_t{1} << super_.block_bits; }
  // Where the byte at `offset` of a file is (none in a hole), and how many follow it there.
  struct Place {
    std::optional<uint64_t> at;
    uint64_t run = 0;
  };
  ErrnoOr<Place> Locate(const ImageNode& node, uint64_t offset);
  ErrnoOr<void> SetLayout(ImageNode* node, uint32_t layout, uint32_t place, uint64_t after);
  ErrnoOr<std::vector<uint8_t>> DirBlock(const ImageNode& dir, uint64_t number);
  uint64_t DirBlocks(const ImageNode& dir) const { return (dir.attr.size + block_size() - 1) / block_size(); }
  // One attribute at `at`; returns its length, padded.
  ErrnoOr<uint64_t> ReadXattr(uint64_t at, XattrMap* out);

  SuperBlock super_;
  ErofsZip zip_;
};

ErrnoOr<ImageNode> ErofsSource::Load(uint64_t id) {
  uint64_t at;
  if (id > size() / sizeof(CompactInode)) return Errno(EUCLEAN);
  at = super_.meta_block * block_size() + id * sizeof(CompactInode);
  CompactInode small = TRY(ReadValue<CompactInode>(at));
  ImageNode node;
  node.id = id;
  Attr& a = node.attr;
  a.ino = id;
  a.mode = small.mode;
  uint32_t place = small.place;
  bool extended = (small.format & 1) != 0;
  if (extended) {
    ExtendedInode big = TRY(ReadValue<ExtendedInode>(at));
    a.size = big.size;
    a.uid = big.uid;
    a.gid = big.gid;
    a.nlink = big.nlink;
    place = big.place;
    a.mtime = {static_cast<time_t>(big.mtime), static_cast<long>(big.mtime_ns)};
  } else {
    a.size = small.size;
    a.uid = small.uid;
    a.gid = small.gid;
    a.nlink = small.nlink;
    a.mtime = {static_cast<time_t>(super_.build_time), static_cast<long>(super_.build_time_ns)};
  }
  if (a.mtime.tv_nsec < 0 || a.mtime.tv_nsec >= 1'000'000'000 || a.size > INT64_MAX) return Errno(EUCLEAN);
  a.atime = a.ctime = a.btime = a.mtime;
  a.blocks = (a.size + 4095) / 4096 * 8;
  at += extended ? sizeof(ExtendedInode) : sizeof(CompactInode);
  if (small.xattr_count > 0) {
    node.xattrs = at;
    node.xattr_size = static_cast<uint32_t>(sizeof(XattrHeader) + (small.xattr_count - 1) * 4);
  }
  switch (a.mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK: TRY(SetLayout(&node, small.format >> 1 & 7, place, at + node.xattr_size)); break;
    case S_IFCHR:
    case S_IFBLK: a.rdev = makedev((place & 0xfff00) >> 8, (place & 0xff) | (place >> 12 & 0xfff00)); [[fallthrough]];  // new_decode_dev()
    case S_IFIFO:
    case S_IFSOCK:
      a.size = 0;
      a.blocks = 0;
      break;
    default: return Errno(EUCLEAN);
  }
  return node;
}

ErrnoOr<void> ErofsSource::SetLayout(ImageNode* node, uint32_t layout, uint32_t place, uint64_t after) {
  node->data = place * block_size();
  node->extra = after;
  switch (layout) {
    case 0: node->layout = ImageNode::Layout::kFlat; return Ok();
    case 2: node->layout = ImageNode::Layout::kInline; return Ok();
    case 4:
      node->layout = ImageNode::Layout::kChunks;
      // Directories in chunks do not exist.
      if ((place & ~uint32_t{0x3f}) != 0 || S_ISDIR(node->attr.mode)) return Errno(EUCLEAN);
      node->chunk_bits = static_cast<uint8_t>(super_.block_bits + (place & 0x1f));
      node->chunk_indexes = (place & 0x20) != 0;
      if (node->chunk_bits > 40) return Errno(EUCLEAN);
      node->extra = (after + (node->chunk_indexes ? 7 : 3)) & ~uint64_t{node->chunk_indexes ? 7u : 3u};
      return Ok();
    case 1:
    case 3:
      // Directories and links are not compressed (erofs_inode_is_data_compressed() is asked for files only).
      if (!S_ISREG(node->attr.mode)) return Errno(EUCLEAN);
      node->attr.blocks = place * (block_size() / 512);
      return zip_.Prepare(node, layout == 3, after);
    default: return Errno(EUCLEAN);
  }
}

ErrnoOr<ErofsSource::Place> ErofsSource::Locate(const ImageNode& node, uint64_t offset) {
  uint64_t left = node.attr.size - offset;
  switch (node.layout) {
    case ImageNode::Layout::kFlat: return Place{node.data + offset, left};
    case ImageNode::Layout::kInline: {
      uint64_t whole = node.attr.size & ~(block_size() - 1);
      if (offset < whole) return Place{node.data + offset, whole - offset};
      return Place{node.extra + (offset - whole), left};
    }
    case ImageNode::Layout::kCompressed: return Errno(EUCLEAN);  // has no places
    case ImageNode::Layout::kChunks: break;
  }
  uint64_t chunk = offset >> node.chunk_bits, within = offset & ((uint64_t{1} << node.chunk_bits) - 1);
  uint64_t run = std::min(left, (uint64_t{1} << node.chunk_bits) - within);
  uint32_t block;
  if (node.chunk_indexes) {
    ChunkIndex index = TRY(ReadValue<ChunkIndex>(node.extra + chunk * sizeof(ChunkIndex)));
    block = index.block;
    if (block != kHole && index.device != 0) return Errno(EOPNOTSUPP);
  } else {
    block = TRY(ReadValue<uint32_t>(node.extra + chunk * sizeof(uint32_t)));
  }
  if (block == kHole) return Place{std::nullopt, run};
  return Place{block * block_size() + within, run};
}

ErrnoOr<size_t> ErofsSource::Read(const ImageNode& file, void* to, size_t size, uint64_t offset) {
  if (offset >= file.attr.size) return size_t{0};
  size = std::min<uint64_t>(size, file.attr.size - offset);
  auto* out = static_cast<uint8_t*>(to);
  if (file.layout == ImageNode::Layout::kCompressed) {
    TRY(zip_.Read(file, out, size, offset));
    return size;
  }
  for (size_t done = 0; done < size;) {
    Place place = TRY(Locate(file, offset + done));
    size_t part = std::min<uint64_t>(size - done, place.run);
    AMBER_CHECK(part > 0);
    if (place.at) {
      TRY(ReadExactly(*place.at, out + done, part));
    } else {
      memset(out + done, 0, part);
    }
    done += part;
  }
  return size;
}

ErrnoOr<std::vector<uint8_t>> ErofsSource::DirBlock(const ImageNode& dir, uint64_t number) {
  uint64_t start = number * block_size();
  std::vector<uint8_t> bytes(std::min(block_size(), dir.attr.size - start));
  TRY(Read(dir, bytes.data(), bytes.size(), start));
  return bytes;
}

// Blocks and the entries in them are in the order of their names.
ErrnoOr<uint64_t> ErofsSource::Find(const ImageNode& dir, std::string_view name) {
  if (!S_ISDIR(dir.attr.mode)) return Errno(ENOTDIR);
  std::vector<NamedEntry> entries;
  uint64_t low = 0, high = DirBlocks(dir);
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    std::vector<uint8_t> block = TRY(DirBlock(dir, middle));
    if (!ParseBlock(block, &entries)) return Errno(EUCLEAN);
    if (name < entries.front().name) {
      high = middle;
      continue;
    }
    auto it = std::ranges::lower_bound(entries, name, {}, &NamedEntry::name);
    if (it != entries.end() && it->name == name) return it->nid;
    if (it != entries.end()) break;  // between two of this block
    low = middle + 1;
  }
  return Errno(ENOENT);
}

ErrnoOr<std::vector<DirEnt>> ErofsSource::List(const ImageNode& dir) {
  if (!S_ISDIR(dir.attr.mode)) return Errno(ENOTDIR);
  if (dir.attr.size > kMaxDirectory) return Errno(EUCLEAN);
  std::vector<DirEnt> out;
  std::vector<NamedEntry> entries;
  for (uint64_t i = 0; i < DirBlocks(dir); ++i) {
    std::vector<uint8_t> block = TRY(DirBlock(dir, i));
    if (!ParseBlock(block, &entries)) return Errno(EUCLEAN);
    for (const NamedEntry& e : entries) {
      if (e.name != "." && e.name != "..") out.push_back({std::string(e.name), e.nid, TypeOf(e.type)});
    }
  }
  return out;
}

ErrnoOr<std::string> ErofsSource::Target(const ImageNode& link) {
  if (link.attr.size == 0 || link.attr.size >= kPathMax) return Errno(EUCLEAN);
  std::string target(link.attr.size, '\0');
  TRY(Read(link, target.data(), target.size(), 0));
  if (target.find('\0') != target.npos) return Errno(EUCLEAN);
  return target;
}

ErrnoOr<uint64_t> ErofsSource::ReadXattr(uint64_t at, XattrMap* out) {
  XattrEntry e = TRY(ReadValue<XattrEntry>(at));
  std::string name(e.name_size, '\0'), value(e.value_size, '\0');
  TRY(ReadExactly(at + sizeof(e), name.data(), name.size()));
  TRY(ReadExactly(at + sizeof(e) + name.size(), value.data(), value.size()));
  std::string_view prefix = XattrPrefix(e.prefix);
  if (name.find('\0') != name.npos) return Errno(EUCLEAN);
  if (!prefix.empty()) (*out)[absl::StrCat(prefix, name)] = std::move(value);
  return (sizeof(e) + e.name_size + e.value_size + 3) & ~uint64_t{3};
}

ErrnoOr<XattrMap> ErofsSource::Xattrs(const ImageNode& node) {
  XattrMap out;
  if (node.xattr_size == 0) return out;
  if (node.xattr_size > kMaxXattrs * 4) return Errno(EUCLEAN);
  XattrHeader header = TRY(ReadValue<XattrHeader>(node.xattrs));
  uint64_t at = node.xattrs + sizeof(header), end = node.xattrs + node.xattr_size;
  if (at + header.shared * 4 > end) return Errno(EUCLEAN);
  for (int i = 0; i < header.shared; ++i, at += 4) {
    uint32_t id = TRY(ReadValue<uint32_t>(at));
    TRY(ReadXattr(super_.xattr_block * block_size() + uint64_t{id} * 4, &out));
  }
  while (at + sizeof(XattrEntry) <= end) at += TRY(ReadXattr(at, &out));
  return out;
}

}  // namespace

bool LooksLikeErofs(std::span<const uint8_t> head) {
  uint32_t magic;
  if (head.size() < kSuperOffset + sizeof(SuperBlock)) return false;
  memcpy(&magic, head.data() + kSuperOffset, sizeof(magic));
  return magic == kMagic;
}

absl::StatusOr<std::unique_ptr<ImageSource>> OpenErofs(UniqueFd fd, uint64_t size, std::span<const uint8_t> head) {
  SuperBlock super;
  memcpy(&super, head.data() + kSuperOffset, sizeof(super));
  // As Linux: not larger than a page, which whole blocks of a file are mapped by.
  if (super.block_bits < 9 || super.block_bits > 12) {
    return absl::InvalidArgumentError(absl::StrFormat("the EROFS image has blocks of 2^%d bytes, and at most 4096 are supported", super.block_bits));
  }
  if ((super.feature_incompat & kCompressionTable) != 0 && (super.compression & ~kLz4) != 0) {
    return absl::InvalidArgumentError(
        "the EROFS image is compressed by other means than LZ4, which is not supported: make it with -zlz4hc, or without -z");
  }
  if ((super.feature_incompat & ~(kChunkedFile | kZeroPadding | kCompressionTable)) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the EROFS image has features that are not supported (%#x): packed tails (-Eztailpacking), fragments, several devices or newer ones",
        super.feature_incompat));
  }
  if (super.dir_block_bits != 0) return absl::InvalidArgumentError("the EROFS image has large directory blocks, which are not supported");
  auto source = std::make_unique<ErofsSource>(std::move(fd), size, super);
  ErrnoOr<ImageNode> root = source->Load(source->root());
  if (!root.ok() || !S_ISDIR(root->attr.mode)) return absl::InvalidArgumentError("the EROFS image is damaged: it has no root directory");
  return std::unique_ptr<ImageSource>(std::move(source));
}

}  // namespace amber
