#include "sentry/fs/image/tar.h"

#include <dirent.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include <algorithm>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace amber {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kMaxNodes = 4'000'000;
constexpr size_t kMaxExtended = 1 << 20;  // bytes of a pax header or a long name
constexpr size_t kMaxXattrBytes = 64 << 20;
constexpr size_t kPathMax = 4096;

struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], user[32], group[32], major[8],
      minor[8], prefix[155], pad[12];
};
static_assert(sizeof(Header) == kBlock);

template <size_t N>
std::string_view Text(const char (&field)[N]) {
  return std::string_view(field, strnlen(field, N));
}

// Octal digits, or GNU's base 256 (first bit set).
template <size_t N>
std::optional<uint64_t> Number(const char (&field)[N]) {
  if ((static_cast<uint8_t>(field[0]) & 0x80) != 0) {
    uint64_t value = static_cast<uint8_t>(field[0]) & 0x3f;
    if ((static_cast<uint8_t>(field[0]) & 0x40) != 0) return std::nullopt;  // negative
    for (size_t i = 1; i < N; ++i) {
      if (value >> 55 != 0) return std::nullopt;
      value = value << 8 | static_cast<uint8_t>(field[i]);
    }
    return value;
  }
  std::string_view text = absl::StripAsciiWhitespace(Text(field));
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '7' || value >> 60 != 0) return std::nullopt;
    value = value << 3 | static_cast<uint64_t>(c - '0');
  }
  return value;
}

bool ChecksumFits(const Header& h) {
  auto stored = Number(h.checksum);
  auto* bytes = reinterpret_cast<const uint8_t*>(&h);
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    bool within = i >= offsetof(Header, checksum) && i < offsetof(Header, checksum) + sizeof(h.checksum);
    sum += within ? ' ' : bytes[i];
  }
  return stored == sum;
}

// What extended headers say of the member that follows.
struct Extended {
  std::optional<std::string> path, link;
  std::optional<uint64_t> size, uid, gid;
  std::optional<timespec> mtime;
  XattrMap xattrs;
};

// "1700000000.25"
std::optional<timespec> ParseTime(std::string_view text) {
  size_t point = std::min(text.find('.'), text.size());
  int64_t seconds;
  if (!absl::SimpleAtoi(text.substr(0, point), &seconds)) return std::nullopt;
  timespec out{seconds, 0};
  std::string_view fraction = text.substr(std::min(point + 1, text.size()));
  long unit = 100'000'000;
  for (char c : fraction) {
    if (c < '0' || c > '9') return std::nullopt;
    out.tv_nsec += (c - '0') * unit;
    unit /= 10;
  }
  return out;
}

// Records "LENGTH NAME=VALUE\n". The status says which is malformed or not supported.
absl::Status ParsePax(std::string_view text, Extended* out) {
  while (!text.empty()) {
    size_t blank = text.find(' ');
    size_t length = 0;
    if (blank == text.npos || !absl::SimpleAtoi(text.substr(0, blank), &length) || length <= blank + 1 || length > text.size() ||
        text[length - 1] != '\n') {
      return absl::InvalidArgumentError("a pax record is malformed");
    }
    std::string_view record = text.substr(blank + 1, length - blank - 2);
    text.remove_prefix(length);
    size_t equals = record.find('=');
    if (equals == record.npos) return absl::InvalidArgumentError("a pax record has no value");
    std::string_view name = record.substr(0, equals), value = record.substr(equals + 1);
    auto number = [&](std::optional<uint64_t>* to) {
      uint64_t n;
      if (!absl::SimpleAtoi(value, &n)) return false;
      *to = n;
      return true;
    };
    bool good = true;
    if (name == "path") {
      out->path = std::string(value);
    } else if (name == "linkpath") {
      out->link = std::string(value);
    } else if (name == "size") {
      good = number(&out->size);
    } else if (name == "uid") {
      good = number(&out->uid);
    } else if (name == "gid") {
      good = number(&out->gid);
    } else if (name == "mtime") {
      out->mtime = ParseTime(value);
      good = out->mtime.has_value();
    } else if (absl::ConsumePrefix(&name, "SCHILY.xattr.")) {
      if (!name.empty() && name.size() <= 255 && value.size() <= 65536) out->xattrs[std::string(name)] = std::string(value);
    } else if (name.starts_with("GNU.sparse.")) {
      return absl::UnimplementedError("it has sparse members, which are not supported: make it without --sparse");
    }
    if (!good) return absl::InvalidArgumentError(absl::StrCat("a pax record is malformed: ", name));
  }
  return absl::OkStatus();
}

struct TarNode {
  ImageNode node;
  std::map<std::string, uint64_t, std::less<>> children;
  std::string target;
  XattrMap xattrs;
};

class TarSource final : public ImageSource {
 public:
  TarSource(UniqueFd fd, uint64_t size) : ImageSource(std::move(fd), size), hash_(XXH3_createState()) {
    XXH3_64bits_reset(hash_);
    NewNode(S_IFDIR | 0755);
  }
  ~TarSource() override { XXH3_freeState(hash_); }
  absl::Status Index();

  const char* type() const override { return "tar"; }
  uint64_t root() const override { return 1; }
  uint64_t file_count() const override { return nodes_.size(); }
  std::string identity() const override { return absl::StrFormat("tar %d %016x", size(), XXH3_64bits_digest(hash_)); }

  ErrnoOr<ImageNode> Load(uint64_t id) override {
    if (id == 0 || id > nodes_.size()) return Errno(EUCLEAN);
    return nodes_[id - 1].node;
  }
  ErrnoOr<uint64_t> Find(const ImageNode& dir, std::string_view name) override {
    const TarNode& d = nodes_[dir.id - 1];
    auto it = d.children.find(name);
    if (it == d.children.end()) return Errno(ENOENT);
    return it->second;
  }
  ErrnoOr<std::vector<DirEnt>> List(const ImageNode& dir) override {
    std::vector<DirEnt> out;
    for (const auto& [name, id] : nodes_[dir.id - 1].children) {
      out.push_back({name, id, static_cast<uint8_t>(IFTODT(nodes_[id - 1].node.attr.mode))});
    }
    return out;
  }
  ErrnoOr<std::string> Target(const ImageNode& link) override { return nodes_[link.id - 1].target; }
  ErrnoOr<XattrMap> Xattrs(const ImageNode& node) override { return nodes_[node.id - 1].xattrs; }
  ErrnoOr<size_t> Read(const ImageNode& file, void* to, size_t size, uint64_t offset) override {
    if (offset >= file.attr.size) return size_t{0};
    size = std::min<uint64_t>(size, file.attr.size - offset);
    TRY(ReadExactly(file.data + offset, to, size));
    return size;
  }

 private:
  TarNode& NewNode(uint32_t mode) {
    TarNode& n = nodes_.emplace_back();
    n.node.id = n.node.attr.ino = nodes_.size();
    n.node.attr.mode = mode;
    return n;
  }
  // The next header into `header`; false at the end of the archive.
  absl::StatusOr<bool> NextHeader(Header* header);
  absl::StatusOr<std::string> ReadExtension(uint64_t size);
  absl::Status AddMember(const Header& h, const Extended& extended, const std::string& path, uint64_t size);
  absl::Status Describe(TarNode& n, uint32_t type, const Header& h, const Extended& extended, const std::string& path, uint64_t size);
  static std::string LinkOf(const Header& h, const Extended& extended) { return extended.link ? *extended.link : std::string(Text(h.link)); }
  // The directory that is to hold the last part of `path`, which goes to `name`; "" if it is the root itself. Makes what is missing.
  absl::StatusOr<uint64_t> ParentOf(std::string_view path, std::string_view* name);
  absl::StatusOr<uint64_t> Resolve(std::string_view path);
  void CountLinks();

  // A deque's references would stay; ids do, too.
  std::vector<TarNode> nodes_;
  XXH3_state_t* hash_;
  uint64_t at_ = 0;
  size_t xattr_bytes_ = 0;
  size_t members_ = 0, implied_ = 0;
  // What was read ahead, so that archives of many small members take few reads.
  std::vector<uint8_t> window_;
  uint64_t window_at_ = 0;
};

absl::Status Malformed(uint64_t at, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the tar archive, at byte ", at, ": ", what));
}

absl::StatusOr<bool> TarSource::NextHeader(Header* header) {
  constexpr uint64_t kWindow = 64 << 10;
  if (at_ >= size()) return false;  // an archive may end without its two blocks of zeros
  if (at_ < window_at_ || at_ + kBlock > window_at_ + window_.size()) {
    window_.resize(std::min(kWindow, size() - at_));
    if (!ReadExactly(at_, window_.data(), window_.size()).ok()) return Malformed(at_, "cannot be read");
    window_at_ = at_;
  }
  if (window_.size() < at_ - window_at_ + kBlock) return Malformed(at_, "it ends within a header");
  memcpy(header, window_.data() + (at_ - window_at_), kBlock);
  auto* bytes = reinterpret_cast<const uint8_t*>(header);
  if (std::all_of(bytes, bytes + kBlock, [](uint8_t b) { return b == 0; })) return false;
  if (!ChecksumFits(*header)) return Malformed(at_, "the checksum of a header is wrong");
  XXH3_64bits_update(hash_, header, kBlock);
  return true;
}

absl::StatusOr<std::string> TarSource::ReadExtension(uint64_t size) {
  if (size > kMaxExtended) return Malformed(at_, "a name or an extended header is too large");
  std::string text(size, '\0');
  if (!ReadExactly(at_ + kBlock, text.data(), size).ok()) return Malformed(at_, "it ends within an extended header");
  XXH3_64bits_update(hash_, text.data(), text.size());
  return text;
}

absl::Status TarSource::Index() {
  Extended next, ignored;  // a global header is checked only
  while (true) {
    Header h;
    absl::StatusOr<bool> more = NextHeader(&h);
    if (!more.ok()) return more.status();
    if (!*more) break;
    std::optional<uint64_t> length = Number(h.size);
    if (!length) return Malformed(at_, "the size of a member is malformed");
    uint64_t size = *length;
    bool extension = h.type == 'x' || h.type == 'g' || h.type == 'L' || h.type == 'K';
    // Links and nodes may carry a size that means nothing.
    bool has_data = h.type == '0' || h.type == '\0' || h.type == '7';
    if (extension) {
      absl::StatusOr<std::string> text = ReadExtension(size);
      if (!text.ok()) return text.status();
      if (h.type == 'L') next.path = std::string(text->c_str());
      if (h.type == 'K') next.link = std::string(text->c_str());
      if (h.type == 'x' || h.type == 'g') {
        absl::Status parsed = ParsePax(*text, h.type == 'x' ? &next : &ignored);
        if (!parsed.ok()) return Malformed(at_, parsed.message());
      }
    } else {
      std::string path = next.path ? *next.path : std::string(Text(h.name));
      if (!next.path && memcmp(h.magic, "ustar\0", 6) == 0 && h.prefix[0] != '\0') path = absl::StrCat(Text(h.prefix), "/", path);
      if (has_data) size = next.size.value_or(size);
      if (!has_data) size = 0;
      if (size > this->size() || at_ + kBlock > this->size() - size) return Malformed(at_, absl::StrCat("it ends within ", path));
      if (absl::Status s = AddMember(h, next, path, size); !s.ok()) return s;
      next = Extended();
    }
    at_ += kBlock + (size + kBlock - 1) / kBlock * kBlock;
  }
  CountLinks();
  window_ = {};
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> TarSource::ParentOf(std::string_view path, std::string_view* name) {
  if (path.size() >= kPathMax || path.find('\0') != path.npos) return Malformed(at_, "a path is too long or holds a zero");
  uint64_t at = 1;
  *name = "";
  while (true) {
    while (absl::ConsumePrefix(&path, "/")) {
    }
    if (path.empty()) return at;
    std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(part.size());
    if (part == ".") continue;
    if (part == "..") return Malformed(at_, "a path leads up (\"..\")");
    if (part.size() > NAME_MAX) return Malformed(at_, "a name is too long");
    if (!name->empty()) {
      // There is more below: this one is a directory.
      auto it = nodes_[at - 1].children.find(*name);
      if (it != nodes_[at - 1].children.end()) {
        if (!S_ISDIR(nodes_[it->second - 1].node.attr.mode))
          return Malformed(at_, absl::StrCat("something lies below ", *name, ", which is no directory"));
        at = it->second;
      } else {
        // Directories that no member names: a few for each that there is.
        if (nodes_.size() >= kMaxNodes || ++implied_ > 1024 + 16 * members_) return Malformed(at_, "too many directories without a member");
        uint64_t made = NewNode(S_IFDIR | 0755).node.id;
        nodes_[at - 1].children.emplace(*name, made);
        at = made;
      }
    }
    *name = part;
  }
}

absl::StatusOr<uint64_t> TarSource::Resolve(std::string_view path) {
  std::string_view name;
  absl::StatusOr<uint64_t> dir = ParentOf(path, &name);
  if (!dir.ok()) return dir;
  auto it = nodes_[*dir - 1].children.find(name);
  if (it == nodes_[*dir - 1].children.end()) return Malformed(at_, absl::StrCat("a hard link leads to ", path, ", which does not come before it"));
  return it->second;
}

absl::Status TarSource::AddMember(const Header& h, const Extended& extended, const std::string& path, uint64_t size) {
  uint32_t type;
  switch (h.type) {
    case '0':
    case '\0':
    case '7': type = path.ends_with('/') ? S_IFDIR : S_IFREG; break;
    case '1': type = 0; break;
    case '2': type = S_IFLNK; break;
    case '3': type = S_IFCHR; break;
    case '4': type = S_IFBLK; break;
    case '5': type = S_IFDIR; break;
    case '6': type = S_IFIFO; break;
    case 'S': return Malformed(at_, absl::StrCat(path, " is sparse, which is not supported: make the archive without --sparse"));
    default: return Malformed(at_, absl::StrCat(path, " is of an unknown kind ('", std::string(1, h.type), "')"));
  }
  ++members_;
  std::string_view name;
  absl::StatusOr<uint64_t> dir = ParentOf(path, &name);
  if (!dir.ok()) return dir.status();
  if (type == 0) {
    absl::StatusOr<uint64_t> target = Resolve(LinkOf(h, extended));
    if (!target.ok()) return target.status();
    if (name.empty() || S_ISDIR(nodes_[*target - 1].node.attr.mode)) return Malformed(at_, absl::StrCat(path, " is a hard link to a directory"));
    nodes_[*dir - 1].children[std::string(name)] = *target;
    return absl::OkStatus();
  }
  // A directory that is there already only changes its attributes.
  uint64_t id = name.empty() ? 1 : 0;
  auto& children = nodes_[*dir - 1].children;
  if (auto it = children.find(name); it != children.end() && type == S_IFDIR && S_ISDIR(nodes_[it->second - 1].node.attr.mode)) id = it->second;
  if (name.empty() && type != S_IFDIR) return Malformed(at_, "the root is no directory");
  if (id == 0) {
    if (nodes_.size() >= kMaxNodes) return Malformed(at_, "too many members");
    id = NewNode(type).node.id;
    nodes_[*dir - 1].children[std::string(name)] = id;
  }
  return Describe(nodes_[id - 1], type, h, extended, path, size);
}

absl::Status TarSource::Describe(TarNode& n, uint32_t type, const Header& h, const Extended& extended, const std::string& path, uint64_t size) {
  auto mode = Number(h.mode), uid = Number(h.uid), gid = Number(h.gid), mtime = Number(h.mtime), major = Number(h.major), minor = Number(h.minor);
  if (extended.uid) uid = extended.uid;
  if (extended.gid) gid = extended.gid;
  if (!mode || !uid || !gid || *uid >= UINT32_MAX || *gid >= UINT32_MAX) {
    return Malformed(at_, absl::StrCat("mode or owner of ", path, " is malformed"));
  }
  Attr& a = n.node.attr;
  a.mode = type | (*mode & 07777);
  a.uid = static_cast<uint32_t>(*uid);
  a.gid = static_cast<uint32_t>(*gid);
  a.mtime = extended.mtime ? *extended.mtime : timespec{static_cast<time_t>(std::min<uint64_t>(mtime.value_or(0), INT64_MAX)), 0};
  a.atime = a.ctime = a.btime = a.mtime;
  if (type == S_IFREG) {
    a.size = size;
    a.blocks = (size + 4095) / 4096 * 8;
    n.node.data = at_ + kBlock;
  }
  if (type == S_IFLNK) {
    std::string link = LinkOf(h, extended);
    if (link.empty() || link.size() >= kPathMax) return Malformed(at_, absl::StrCat("the symbolic link ", path, " leads nowhere"));
    n.target = std::move(link);
    a.size = n.target.size();
  }
  if (type == S_IFCHR || type == S_IFBLK) {
    if (!major || !minor || *major > 0xfff || *minor > 0xfffff) return Malformed(at_, absl::StrCat("the device number of ", path, " is malformed"));
    a.rdev = makedev(static_cast<unsigned>(*major), static_cast<unsigned>(*minor));
  }
  n.xattrs = extended.xattrs;
  n.node.xattr_size = static_cast<uint32_t>(n.xattrs.size());
  for (const auto& [key, value] : n.xattrs) xattr_bytes_ += key.size() + value.size();
  if (xattr_bytes_ > kMaxXattrBytes) return Malformed(at_, "too many extended attributes");
  return absl::OkStatus();
}

void TarSource::CountLinks() {
  for (TarNode& n : nodes_) n.node.attr.nlink = S_ISDIR(n.node.attr.mode) ? 2 : 0;
  for (TarNode& n : nodes_) {
    for (const auto& [name, id] : n.children) {
      Attr& child = nodes_[id - 1].node.attr;
      if (S_ISDIR(child.mode)) {
        ++n.node.attr.nlink;
      } else {
        ++child.nlink;
      }
    }
  }
}

}  // namespace

bool LooksLikeTar(std::span<const uint8_t> head) {
  Header h;
  if (head.size() < sizeof(h)) return false;
  memcpy(&h, head.data(), sizeof(h));
  return ChecksumFits(h) && Number(h.size).has_value();
}

absl::StatusOr<std::unique_ptr<ImageSource>> OpenTar(UniqueFd fd, uint64_t size) {
  auto source = std::make_unique<TarSource>(std::move(fd), size);
  if (absl::Status s = source->Index(); !s.ok()) return s;
  return std::unique_ptr<ImageSource>(std::move(source));
}

}  // namespace amber
