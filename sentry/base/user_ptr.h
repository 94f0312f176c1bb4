// A guest address that cannot be dereferenced: the only way to its bytes is Task::CopyIn and CopyOut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace amber {

template <typename T>
class UserPtr {
 public:
  static_assert(std::is_void_v<T> || std::is_trivially_copyable_v<T>);
  constexpr UserPtr() = default;
  constexpr explicit UserPtr(uint64_t address) : address_(address) {}
  constexpr uint64_t address() const { return address_; }
  constexpr bool is_null() const { return address_ == 0; }
  explicit constexpr operator bool() const { return address_ != 0; }
  // The address of element `index` of the array that starts here. May wrap; CopyIn then fails with EFAULT.
  template <typename U = T>
    requires(!std::is_void_v<U>)
  constexpr UserPtr operator+(uint64_t index) const {
    return UserPtr(address_ + index * sizeof(U));
  }
  template <typename U>
  constexpr UserPtr<U> Cast() const {
    return UserPtr<U>(address_);
  }

 private:
  uint64_t address_ = 0;
};

}  // namespace amber
