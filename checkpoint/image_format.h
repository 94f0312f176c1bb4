// The bytes of an image: one file in pages of 4 KiB. README.md has the picture. All numbers are little endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace amber::checkpoint {

inline constexpr size_t kImagePage = 4096;
inline constexpr char kHeaderMagic[8] = {'A', 'M', 'B', 'E', 'R', 'I', 'M', 'G'};
inline constexpr char kTrailerMagic[8] = {'A', 'M', 'B', 'E', 'R', 'E', 'N', 'D'};
// Of the layout in this file. A reader takes its own version and older ones.
inline constexpr uint32_t kFormatVersion = 1;
// Of the messages in image.proto and of the kernel objects: raised when a reader of the old schema would misunderstand a new image.
inline constexpr uint32_t kSchemaVersion = 1;

// Part of the file with a checksum (XXH3, 64 bits) of its bytes.
struct Section {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint64_t checksum = 0;
};

// At offset 0, the rest of its page is zero. Written last: a file without it was not finished.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_size;  // sizeof(Header)
  uint64_t file_size;
  uint64_t pages_offset;  // guest pages; in whole pages
  uint64_t pages_size;
  Section manifest;   // proto Manifest
  Section objects;    // proto Objects
  Section index;      // proto Index
  uint64_t checksum;  // of the bytes before
};
static_assert(sizeof(Header) == 120);

// The last page of the file begins with it.
struct Trailer {
  char magic[8];
  uint64_t file_size;
  uint64_t header_checksum;
  uint64_t checksum;  // of the bytes before
};
static_assert(sizeof(Trailer) == 32);

// Page data is checked in pieces of this size (the last may be shorter).
inline constexpr size_t kChecksumChunk = 1 << 20;

// Limits that a reader insists on before it allocates memory.
inline constexpr uint64_t kMaxManifest = 16 << 20;
inline constexpr uint64_t kMaxObjects = 1 << 30;
inline constexpr uint64_t kMaxIndex = 1 << 30;

}  // namespace amber::checkpoint
