// Intrusive reference counts, only for what Linux itself counts (files, dentries, address spaces, ...).
//
// RefCounted<T> starts at one reference, which Adopt() or MakeRef() takes over. Counting is atomic, so that a
// reference may be dropped on any thread; the last Drop() deletes through T's virtual destructor or ~T().
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "sentry/base/check.h"

namespace amber {

template <typename T>
class RefCounted {
 public:
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  void Ref() const { refs_.fetch_add(1, std::memory_order_relaxed); }
  void Unref() const {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete static_cast<const T*>(this);
  }
  // A reference for somebody who knows only that the object is not destroyed yet: false if its last one has gone.
  [[nodiscard]] bool TryRef() const {
    int32_t n = refs_.load(std::memory_order_relaxed);
    while (n > 0) {
      if (refs_.compare_exchange_weak(n, n + 1, std::memory_order_relaxed)) return true;
    }
    return false;
  }
  int32_t ref_count() const { return refs_.load(std::memory_order_relaxed); }

 protected:
  RefCounted() = default;
  ~RefCounted() = default;

 private:
  mutable std::atomic<int32_t> refs_{1};
};

template <typename T>
class RefPtr {
 public:
  RefPtr() = default;
  RefPtr(std::nullptr_t) {}  // NOLINT: implicit by design
  // Shares `p`: adds a reference.
  explicit RefPtr(T* p) : p_(p) {
    if (p_ != nullptr) p_->Ref();
  }
  // Takes over the reference that the caller holds.
  static RefPtr Adopt(T* p) {
    RefPtr r;
    r.p_ = p;
    return r;
  }
  RefPtr(const RefPtr& o) : RefPtr(o.p_) {}
  RefPtr(RefPtr&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  template <typename U>
    requires std::is_convertible_v<U*, T*>
  RefPtr(const RefPtr<U>& o) : RefPtr(o.get()) {}  // NOLINT: implicit by design
  template <typename U>
    requires std::is_convertible_v<U*, T*>
  RefPtr(RefPtr<U>&& o) noexcept : p_(o.release()) {}  // NOLINT: implicit by design
  RefPtr& operator=(RefPtr o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~RefPtr() {
    if (p_ != nullptr) p_->Unref();
  }
  T* get() const { return p_; }
  T* operator->() const {
    AMBER_CHECK(p_ != nullptr);
    return p_;
  }
  T& operator*() const {
    AMBER_CHECK(p_ != nullptr);
    return *p_;
  }
  explicit operator bool() const { return p_ != nullptr; }
  // Gives the reference to the caller.
  T* release() { return std::exchange(p_, nullptr); }
  void reset() { *this = RefPtr(); }
  friend bool operator==(const RefPtr& a, const RefPtr& b) { return a.p_ == b.p_; }
  friend bool operator==(const RefPtr& a, const T* b) { return a.p_ == b; }
  friend auto operator<=>(const RefPtr& a, const RefPtr& b) { return a.p_ <=> b.p_; }

 private:
  T* p_ = nullptr;
};

template <typename T, typename... Args>
RefPtr<T> MakeRef(Args&&... args) {
  return RefPtr<T>::Adopt(new T(std::forward<Args>(args)...));
}

}  // namespace amber
