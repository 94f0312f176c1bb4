// Where read-like calls put bytes and write-like calls get them from: guest memory or a buffer of the kernel's own.
//
// A Sink or Source moves forward with each call. Guest bytes are copied exactly once; a fault gives a short count, and
// EFAULT only if nothing at all was moved (Linux's partial semantics).
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "sentry/base/errno_or.h"

namespace amber {

class Sink {
 public:
  virtual ~Sink() = default;
  // Bytes that may still be put.
  virtual size_t remaining() const = 0;
  // Takes up to `size` bytes of `data`; returns how many, or EFAULT if none could be.
  virtual ErrnoOr<size_t> Put(const void* data, size_t size) = 0;
};

class Source {
 public:
  virtual ~Source() = default;
  virtual size_t remaining() const = 0;
  // Fetches up to `size` bytes; returns how many, or EFAULT if none could be.
  virtual ErrnoOr<size_t> Take(void* data, size_t size) = 0;
  // Gives back the end of what the last Take() fetched: `data` has been copied already and is what comes next.
  virtual void PutBack(const void* data, size_t size) = 0;
  // Moves past `size` bytes, which an earlier round of the same call has taken.
  virtual ErrnoOr<void> Skip(size_t size) {
    char scratch[512];
    while (size > 0) {
      auto r = Take(scratch, std::min(size, sizeof(scratch)));
      if (!r.ok()) return r.error();
      if (*r == 0) return Errno(EFAULT);
      size -= *r;
    }
    return Ok();
  }
};

class BufferSink final : public Sink {
 public:
  BufferSink(void* data, size_t size) : data_(static_cast<uint8_t*>(data)), left_(size) {}
  size_t remaining() const override { return left_; }
  ErrnoOr<size_t> Put(const void* data, size_t size) override {
    size = std::min(size, left_);
    memcpy(data_, data, size);
    data_ += size;
    left_ -= size;
    return size;
  }

 private:
  uint8_t* data_;
  size_t left_;
};

class BufferSource final : public Source {
 public:
  BufferSource(const void* data, size_t size) : data_(static_cast<const uint8_t*>(data)), left_(size) {}
  size_t remaining() const override { return left_; }
  ErrnoOr<size_t> Take(void* data, size_t size) override {
    size = std::min(size, left_);
    memcpy(data, data_, size);
    data_ += size;
    left_ -= size;
    return size;
  }
  void PutBack(const void* /*data*/, size_t size) override {
    data_ -= size;
    left_ += size;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

}  // namespace amber
