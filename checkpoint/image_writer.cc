#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "checkpoint/image.h"
#include "checkpoint/image.pb.h"

namespace amber::checkpoint {
namespace {

// Chunks are checksummed and written whole; a few are in flight so that the guest's memory is read while the disk writes.
constexpr size_t kChunk = 4 * kChecksumChunk;
constexpr size_t kChunks = 4;

absl::Status WriteError(int error) {
  std::string text = absl::StrCat("cannot write the image: ", strerrordesc_np(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
}

absl::Status WriteAll(int fd, const void* data, size_t size, uint64_t offset) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    ssize_t n = pwrite(fd, p, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return WriteError(n < 0 ? errno : ENOSPC);
    p += n;
    size -= static_cast<size_t>(n);
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

uint64_t PageUp(uint64_t n) { return (n + kImagePage - 1) & ~uint64_t{kImagePage - 1}; }

}  // namespace

// The thread that writes full chunks.
class ImageWriter::Pump {
 public:
  explicit Pump(int fd) : fd_(fd) {
    for (size_t i = 0; i < kChunks; ++i) {
      void* p = mmap(nullptr, kChunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) {
        status_ = absl::ResourceExhaustedError("no memory for writing the image");
        break;
      }
      buffers_.push_back(static_cast<char*>(p));
    }
    free_.assign(buffers_.begin(), buffers_.end());
    if (status_.ok()) thread_ = std::thread([this] { Run(); });
  }
  ~Pump() {
    Stop();
    for (char* b : buffers_) munmap(b, kChunk);
  }

  uint64_t position() const { return offset_ + used_; }

  // Copies `size` bytes, or zeros if `data` is null.
  absl::Status Add(const char* data, size_t size) {
    while (size > 0) {
      if (current_ == nullptr) {
        if (absl::Status s = Take(); !s.ok()) return s;
      }
      size_t n = std::min(size, kChunk - used_);
      if (data != nullptr) {
        memcpy(current_ + used_, data, n);
        data += n;
      } else {
        memset(current_ + used_, 0, n);
      }
      used_ += n;
      size -= n;
      if (used_ == kChunk) Give();
    }
    return absl::OkStatus();
  }

  // Writes what is left and waits for all of it.
  absl::Status Drain() {
    if (current_ != nullptr && used_ > 0) Give();
    Stop();
    absl::MutexLock lock(&mu_);
    return status_;
  }
  const std::vector<uint64_t>& checksums() const { return checksums_; }

 private:
  struct Job {
    char* buffer;
    size_t size;
    uint64_t offset;
  };

  absl::Status Take() {
    absl::MutexLock lock(&mu_);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !free_.empty() || !status_.ok(); };
    mu_.Await(absl::Condition(&ready));
    if (!status_.ok()) return status_;
    current_ = free_.back();
    free_.pop_back();
    return absl::OkStatus();
  }

  void Give() {
    absl::MutexLock lock(&mu_);
    jobs_.push_back({current_, used_, offset_});
    offset_ += used_;
    current_ = nullptr;
    used_ = 0;
  }

  void Stop() {
    {
      absl::MutexLock lock(&mu_);
      stop_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  void Run() {
    while (true) {
      Job job;
      {
        absl::MutexLock lock(&mu_);
        auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !jobs_.empty() || stop_; };
        mu_.Await(absl::Condition(&ready));
        if (jobs_.empty()) return;
        job = jobs_.front();
        jobs_.pop_front();
      }
      // Piece by piece, so that what was read for the checksum is still in the CPU's cache when the kernel copies it.
      absl::Status status;
      for (size_t at = 0; at < job.size; at += kChecksumChunk) {
        size_t size = std::min(kChecksumChunk, job.size - at);
        checksums_.push_back(XXH3_64bits(job.buffer + at, size));
        if (status.ok()) status = WriteAll(fd_, job.buffer + at, size, job.offset + at);
      }
      // Starts the disk without waiting for it, so that the final fsync finds little to do. Advice: failure means nothing.
      if (status.ok()) sync_file_range(fd_, static_cast<off_t>(job.offset), static_cast<off_t>(job.size), SYNC_FILE_RANGE_WRITE);
      absl::MutexLock lock(&mu_);
      if (!status.ok() && status_.ok()) status_ = status;
      free_.push_back(job.buffer);
    }
  }

  const int fd_;
  std::vector<char*> buffers_;
  char* current_ = nullptr;
  size_t used_ = 0;
  uint64_t offset_ = kImagePage;     // of `current_` in the file
  std::vector<uint64_t> checksums_;  // the thread's until Drain()
  absl::Mutex mu_;
  std::vector<char*> free_ ABSL_GUARDED_BY(mu_);
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

ImageWriter::ImageWriter(int fd) : fd_(fd), pump_(std::make_unique<Pump>(fd)) {}
ImageWriter::~ImageWriter() = default;

uint64_t ImageWriter::position() const { return pump_->position(); }

absl::Status ImageWriter::Append(const void* pages, size_t size) {
  if (size % kImagePage != 0) return absl::InternalError("pages of an image must be whole");
  return pump_->Add(static_cast<const char*>(pages), size);
}

absl::Status ImageWriter::AppendZeros(size_t size) {
  if (size % kImagePage != 0) return absl::InternalError("pages of an image must be whole");
  return pump_->Add(nullptr, size);
}

absl::Status ImageWriter::WriteSection(const std::string& bytes, uint64_t* at, Section* section) {
  *section = {*at, bytes.size(), XXH3_64bits(bytes.data(), bytes.size())};
  *at = PageUp(*at + bytes.size());
  return WriteAll(fd_, bytes.data(), bytes.size(), section->offset);
}

namespace {

void AddExtents(const std::vector<ImageExtent>& extents, google::protobuf::RepeatedPtrField<proto::Extent>* out) {
  for (const ImageExtent& e : extents) {
    proto::Extent* x = out->Add();
    x->set_page(e.start / kImagePage);
    x->set_count(e.size / kImagePage);
    x->set_image_page(e.offset / kImagePage);
  }
}

std::string EncodeIndex(const ImageIndex& index, const std::vector<uint64_t>& checksums) {
  proto::Index out;
  for (const SpaceIndex& s : index.spaces) {
    proto::Space* space = out.add_spaces();
    space->set_object(s.object);
    AddExtents(s.extents, space->mutable_extents());
  }
  for (const FileIndex& f : index.files) {
    proto::File* file = out.add_files();
    file->set_id(f.id);
    file->set_size(f.size);
    AddExtents(f.extents, file->mutable_extents());
  }
  out.mutable_page_checksums()->Add(checksums.begin(), checksums.end());
  return out.SerializeAsString();
}

std::string EncodeObjects(const std::vector<state::Saver::Record>& objects) {
  proto::Objects out;
  for (const state::Saver::Record& r : objects) {
    proto::Object* o = out.add_objects();
    o->set_id(r.id);
    o->set_kind(static_cast<uint32_t>(r.kind));
    o->set_bytes(r.bytes);
  }
  return out.SerializeAsString();
}

}  // namespace

absl::Status ImageWriter::Finish(proto::Manifest& manifest, const std::vector<state::Saver::Record>& objects, const ImageIndex& index) {
  Header header = {};
  header.pages_offset = kImagePage;
  header.pages_size = pump_->position() - kImagePage;
  if (absl::Status s = pump_->Drain(); !s.ok()) return s;
  manifest.set_schema(kSchemaVersion);
  manifest.set_object_count(objects.size());

  uint64_t at = header.pages_offset + header.pages_size;
  if (absl::Status s = WriteSection(EncodeObjects(objects), &at, &header.objects); !s.ok()) return s;
  if (absl::Status s = WriteSection(EncodeIndex(index, pump_->checksums()), &at, &header.index); !s.ok()) return s;
  if (absl::Status s = WriteSection(manifest.SerializeAsString(), &at, &header.manifest); !s.ok()) return s;
  if (header.objects.size > kMaxObjects || header.index.size > kMaxIndex || header.manifest.size > kMaxManifest) {
    return absl::ResourceExhaustedError("the sandbox has more kernel objects or memory ranges than an image can hold");
  }
  memcpy(header.magic, kHeaderMagic, sizeof(header.magic));
  header.version = kFormatVersion;
  header.header_size = sizeof(header);
  header.file_size = at + kImagePage;
  header.checksum = XXH3_64bits(&header, offsetof(Header, checksum));

  char page[kImagePage] = {};
  Trailer trailer = {};
  memcpy(trailer.magic, kTrailerMagic, sizeof(trailer.magic));
  trailer.file_size = header.file_size;
  trailer.header_checksum = header.checksum;
  trailer.checksum = XXH3_64bits(&trailer, offsetof(Trailer, checksum));
  memcpy(page, &trailer, sizeof(trailer));
  if (absl::Status s = WriteAll(fd_, page, sizeof(page), at); !s.ok()) return s;

  memset(page, 0, sizeof(page));
  memcpy(page, &header, sizeof(header));
  file_size_ = header.file_size;
  return WriteAll(fd_, page, sizeof(page), 0);
}

absl::Status ImageWriter::Sync() { return fsync(fd_) == 0 ? absl::OkStatus() : WriteError(errno); }

}  // namespace amber::checkpoint
