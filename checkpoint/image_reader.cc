#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "checkpoint/image.h"
#include "checkpoint/image.pb.h"

namespace amber::checkpoint {
namespace {

// Guest addresses and file sizes beyond this make no sense; sums below cannot overflow.
// Files may be as long as offsets are, with data at their very end.
constexpr uint64_t kMaxPages = uint64_t{1} << 51;

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(absl::StrCat("the image is damaged: ", what, "; restore another copy of it"));
}

absl::Status ReadAll(int fd, void* data, size_t size, uint64_t offset) {
  char* p = static_cast<char*>(data);
  while (size > 0) {
    ssize_t n = pread(fd, p, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::UnavailableError(absl::StrCat("cannot read the image: ", strerrordesc_np(errno)));
    if (n == 0) return Damaged("it ends too early");
    p += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace

ImageReader::~ImageReader() = default;

absl::StatusOr<std::unique_ptr<ImageReader>> ImageReader::Open(int fd) {
  std::unique_ptr<ImageReader> reader(new ImageReader());
  reader->fd_ = fd;
  if (absl::Status s = reader->ReadHeader(); !s.ok()) return s;
  if (absl::Status s = reader->ReadManifest(); !s.ok()) return s;
  if (absl::Status s = reader->ReadObjects(); !s.ok()) return s;
  if (absl::Status s = reader->ReadIndex(); !s.ok()) return s;
  return reader;
}

absl::Status ImageReader::ReadHeader() {
  struct stat st;
  if (fstat(fd_, &st) != 0) return absl::UnavailableError("cannot read the image");
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError("the image is not a regular file");
  uint64_t size = static_cast<uint64_t>(st.st_size);
  if (size < sizeof(Header)) {
    return size == 0 ? absl::InvalidArgumentError("the image is empty: the checkpoint that should have written it did not finish")
                     : absl::InvalidArgumentError("the file is not an image of a sandbox: it is too short");
  }
  if (absl::Status s = ReadAll(fd_, &header_, sizeof(header_), 0); !s.ok()) return s;
  if (memcmp(header_.magic, kHeaderMagic, sizeof(kHeaderMagic)) != 0) {
    static constexpr char kNothing[8] = {};
    if (memcmp(header_.magic, kNothing, 8) == 0) {
      return absl::InvalidArgumentError("the file is not a complete image: the checkpoint that wrote it did not finish");
    }
    return absl::InvalidArgumentError("the file is not an image of a sandbox");
  }
  // Before the checksum, which a newer version may compute otherwise.
  if (header_.version > kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the image has format ", header_.version, ", this program reads formats up to ", kFormatVersion,
                                                      ": restore it with the version that wrote it, or a newer one"));
  }
  if (header_.version == 0 || header_.header_size != sizeof(Header) || header_.checksum != XXH3_64bits(&header_, offsetof(Header, checksum))) {
    return Damaged("its header does not fit its checksum");
  }
  if (header_.file_size != size) {
    return Damaged(absl::StrCat("the file has ", size, " bytes and should have ", header_.file_size));
  }
  Trailer trailer;
  if (size < 2 * kImagePage || size % kImagePage != 0) return Damaged("its size makes no sense");
  if (absl::Status s = ReadAll(fd_, &trailer, sizeof(trailer), size - kImagePage); !s.ok()) return s;
  if (memcmp(trailer.magic, kTrailerMagic, sizeof(kTrailerMagic)) != 0 || trailer.file_size != size || trailer.header_checksum != header_.checksum ||
      trailer.checksum != XXH3_64bits(&trailer, offsetof(Trailer, checksum))) {
    return Damaged("its end is not what it should be");
  }
  if (header_.pages_offset % kImagePage != 0 || header_.pages_size % kImagePage != 0 || header_.pages_offset < kImagePage ||
      header_.pages_offset > size || header_.pages_size > size - header_.pages_offset) {
    return Damaged("its header places the pages outside of the file");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ImageReader::ReadSection(const Section& section, const char* name, uint64_t limit) const {
  if (section.offset % kImagePage != 0 || section.size > limit || section.offset > header_.file_size ||
      section.size > header_.file_size - section.offset) {
    return Damaged(absl::StrCat("its header places the ", name, " outside of the file"));
  }
  std::string bytes(section.size, 0);
  if (absl::Status s = ReadAll(fd_, bytes.data(), bytes.size(), section.offset); !s.ok()) return s;
  if (XXH3_64bits(bytes.data(), bytes.size()) != section.checksum) {
    return Damaged(absl::StrCat("its ", name, " does not fit its checksum"));
  }
  return bytes;
}

absl::Status ImageReader::ReadManifest() {
  absl::StatusOr<std::string> bytes = ReadSection(header_.manifest, "manifest", kMaxManifest);
  if (!bytes.ok()) return bytes.status();
  manifest_ = std::make_unique<proto::Manifest>();
  if (!manifest_->ParseFromString(*bytes)) return Damaged("its manifest cannot be parsed");
  if (manifest_->schema() > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the image was written by version ", manifest_->creator(), " with schema ", manifest_->schema(),
                                                      ", this program reads schemas up to ", kSchemaVersion,
                                                      ": restore it with that version, or a newer one"));
  }
  return absl::OkStatus();
}

absl::Status ImageReader::ReadObjects() {
  absl::StatusOr<std::string> bytes = ReadSection(header_.objects, "list of objects", kMaxObjects);
  if (!bytes.ok()) return bytes.status();
  proto::Objects in;
  if (!in.ParseFromString(*bytes)) return Damaged("its list of objects cannot be parsed");
  objects_.reserve(static_cast<size_t>(in.objects_size()));
  for (proto::Object& o : *in.mutable_objects()) {
    objects_.push_back({o.id(), static_cast<state::Kind>(o.kind()), std::move(*o.mutable_bytes())});
  }
  if (objects_.size() != manifest_->object_count()) return Damaged("its manifest counts other objects than it has");
  return absl::OkStatus();
}

namespace {

// Fills `out`; false if the ranges are out of order, too large, or lie outside of the pages.
bool ReadExtents(const Header& header, const google::protobuf::RepeatedPtrField<proto::Extent>& in, std::vector<ImageExtent>* out) {
  uint64_t first = header.pages_offset / kImagePage, last = first + header.pages_size / kImagePage;
  uint64_t next = 0;
  out->reserve(static_cast<size_t>(in.size()));
  for (const proto::Extent& e : in) {
    if (e.count() == 0 || e.count() > kMaxPages || e.page() > kMaxPages - e.count() || e.page() < next) return false;
    if (e.image_page() < first || e.image_page() > last || e.count() > last - e.image_page()) return false;
    next = e.page() + e.count();
    out->push_back({e.page() * kImagePage, e.count() * kImagePage, e.image_page() * kImagePage});
  }
  return true;
}

}  // namespace

absl::Status ImageReader::ReadIndex() {
  absl::StatusOr<std::string> bytes = ReadSection(header_.index, "memory index", kMaxIndex);
  if (!bytes.ok()) return bytes.status();
  proto::Index in;
  if (!in.ParseFromString(*bytes)) return Damaged("its memory index cannot be parsed");
  std::unordered_set<uint64_t> spaces, files;
  for (const proto::Space& s : in.spaces()) {
    SpaceIndex space;
    space.object = s.object();
    if (!spaces.insert(s.object()).second || !ReadExtents(header_, s.extents(), &space.extents)) {
      return Damaged("its memory index makes no sense");
    }
    index_.spaces.push_back(std::move(space));
  }
  for (const proto::File& f : in.files()) {
    FileIndex file;
    file.id = f.id();
    file.size = f.size();
    if (f.size() > INT64_MAX || !files.insert(f.id()).second || !ReadExtents(header_, f.extents(), &file.extents)) {
      return Damaged("its memory index makes no sense");
    }
    uint64_t end = file.extents.empty() ? 0 : file.extents.back().start + file.extents.back().size;
    if (end > file.size + kImagePage - 1) return Damaged("a file in its memory index is longer than it is");
    index_.files.push_back(std::move(file));
  }
  page_checksums_.assign(in.page_checksums().begin(), in.page_checksums().end());
  if (page_checksums_.size() != (header_.pages_size + kChecksumChunk - 1) / kChecksumChunk) {
    return Damaged("its memory index has too few checksums");
  }
  return absl::OkStatus();
}

absl::Status ImageReader::VerifyPages() const {
  std::string buffer(kChecksumChunk, 0);
  for (size_t i = 0; i < page_checksums_.size(); ++i) {
    uint64_t at = i * kChecksumChunk;
    size_t size = static_cast<size_t>(std::min<uint64_t>(kChecksumChunk, header_.pages_size - at));
    if (absl::Status s = ReadAll(fd_, buffer.data(), size, header_.pages_offset + at); !s.ok()) return s;
    if (XXH3_64bits(buffer.data(), size) != page_checksums_[i]) {
      return Damaged(absl::StrCat("the pages at offset ", header_.pages_offset + at, " do not fit their checksum"));
    }
  }
  return absl::OkStatus();
}

const SpaceIndex* ImageReader::FindSpace(uint64_t object) const {
  for (const SpaceIndex& s : index_.spaces) {
    if (s.object == object) return &s;
  }
  return nullptr;
}

const FileIndex* ImageReader::FindFile(uint64_t id) const {
  for (const FileIndex& f : index_.files) {
    if (f.id == id) return &f;
  }
  return nullptr;
}

absl::StatusOr<UniqueFd> ImageReader::OpenFile(uint64_t id) const {
  const FileIndex* file = FindFile(id);
  if (file == nullptr) return Damaged(absl::StrCat("the contents of file ", id, " are missing"));
  UniqueFd fd(memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(file->size)) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot make a memory file of ", file->size, " bytes: ", strerrordesc_np(errno)));
  }
  for (const ImageExtent& e : file->extents) {
    uint64_t size = std::min(e.size, file->size - e.start);
    // From the page cache in one copy; the whole of a shared file is needed as soon as any of its users writes.
    void* p = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd_, static_cast<off_t>(e.offset));
    if (p == MAP_FAILED) return absl::ResourceExhaustedError("cannot map the image");
    uint64_t done = 0;
    while (done < size) {
      ssize_t n = pwrite(fd.get(), static_cast<char*>(p) + done, size - done, static_cast<off_t>(e.start + done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      done += static_cast<uint64_t>(n);
    }
    munmap(p, size);
    if (done < size) return absl::ResourceExhaustedError("no memory for the sandbox's shared memory and memory files");
  }
  return fd;
}

}  // namespace amber::checkpoint
