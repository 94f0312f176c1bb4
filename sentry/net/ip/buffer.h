// Bytes on their way: counted buffers and slices of them.
//
// The sender's retransmission queue and the receiver's queue share one buffer, so that a byte on loopback is copied from the guest
// once and to the guest once. Bytes of a buffer that some slice covers are never changed; free space at its end may be filled by whoever
// writes the stream. Guarded by the kernel lock.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "sentry/base/ref_ptr.h"

namespace amber::net {

class Buffer final : public RefCounted<Buffer> {
 public:
  // Rounded up, so that short messages of one stream share a buffer.
  explicit Buffer(size_t capacity);
  ~Buffer();

  uint8_t* data() { return data_; }
  size_t used() const { return used_; }
  size_t room() const { return capacity_ - used_; }
  void Fill(size_t bytes) { used_ += std::min(bytes, room()); }

  static constexpr size_t kSmall = 2048;
  static constexpr size_t kLarge = 65536;

 private:
  uint8_t* data_;
  size_t capacity_;
  size_t used_ = 0;
};

struct Slice {
  RefPtr<Buffer> buffer;
  uint32_t offset = 0;
  uint32_t size = 0;

  static Slice Copy(std::string_view bytes) {
    Slice s;
    if (bytes.empty()) return s;
    s.buffer = MakeRef<Buffer>(bytes.size());
    memcpy(s.buffer->data(), bytes.data(), bytes.size());
    s.buffer->Fill(bytes.size());
    s.size = static_cast<uint32_t>(bytes.size());
    return s;
  }
  const uint8_t* data() const { return buffer ? buffer->data() + offset : nullptr; }
  std::string_view view() const { return {reinterpret_cast<const char*>(data()), size}; }
  bool empty() const { return size == 0; }
  void DropFront(uint32_t n) {
    n = std::min(n, size);
    offset += n;
    size -= n;
  }
  Slice First(uint32_t n) const {
    Slice s = *this;
    s.size = std::min(n, size);
    return s;
  }
  // `next` continues where this ends in the same buffer.
  bool Continues(const Slice& next) const { return buffer && buffer == next.buffer && offset + size == next.offset; }
};

}  // namespace amber::net
