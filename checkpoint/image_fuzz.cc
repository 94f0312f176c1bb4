// Feeds the image reader files whose checksums are made to fit, so that what lies behind them is reached, too.
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint/image.h"

namespace {

using amber::checkpoint::Header;
using amber::checkpoint::ImageReader;
using amber::checkpoint::Section;
using amber::checkpoint::Trailer;

void FixSection(std::string& bytes, Section& section) {
  if (section.offset > bytes.size() || section.size > bytes.size() - section.offset) return;
  section.checksum = XXH3_64bits(bytes.data() + section.offset, section.size);
}

void FixChecksums(std::string& bytes) {
  bytes.resize((bytes.size() + 4095) / 4096 * 4096);
  if (bytes.size() < 8192) bytes.resize(8192);
  Header h;
  memcpy(&h, bytes.data(), sizeof(h));
  memcpy(h.magic, amber::checkpoint::kHeaderMagic, 8);
  h.version = 1;
  h.header_size = sizeof(h);
  h.file_size = bytes.size();
  FixSection(bytes, h.manifest);
  FixSection(bytes, h.objects);
  FixSection(bytes, h.index);
  h.checksum = XXH3_64bits(&h, offsetof(Header, checksum));
  memcpy(bytes.data(), &h, sizeof(h));
  Trailer t = {};
  memcpy(t.magic, amber::checkpoint::kTrailerMagic, 8);
  t.file_size = h.file_size;
  t.header_checksum = h.checksum;
  t.checksum = XXH3_64bits(&t, offsetof(Trailer, checksum));
  memcpy(bytes.data() + bytes.size() - 4096, &t, sizeof(t));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1 || size > 1 << 20) return 0;
  std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if ((data[0] & 1) != 0) FixChecksums(bytes);
  static int fd = memfd_create("image", MFD_CLOEXEC);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return 0;
  auto reader = ImageReader::Open(fd);
  if (!reader.ok()) return 0;
  (void)(*reader)->VerifyPages();
  for (const auto& file : (*reader)->index().files) {
    if (file.size < 1 << 22) (void)(*reader)->OpenFile(file.id);
  }
  return 0;
}
