// The sentry's error type: a Linux errno, or a value.
//
// Errno holds a positive Linux error number, or one of the kernel-internal restart codes below, which never
// reach a guest: the dispatcher turns them into a restart or into EINTR, exactly as include/linux/errno.h of
// Linux describes. No strings and no allocation. "-errno" is formed only in the dispatcher.
#pragma once

#include <cstdint>
#include <expected>
#include <utility>

#include "sentry/base/check.h"

namespace amber {

class [[nodiscard]] Errno {
 public:
  // `number` is positive: EINVAL, not -EINVAL.
  constexpr explicit Errno(int number) : number_(number) {}
  constexpr int number() const { return number_; }
  friend constexpr bool operator==(Errno a, Errno b) = default;

 private:
  int number_;
};

// Restart codes (include/linux/errno.h).
inline constexpr Errno kErestartsys{512};           // restart if the handler has SA_RESTART, else EINTR
inline constexpr Errno kErestartnointr{513};        // always restart
inline constexpr Errno kErestartnohand{514};        // restart only if no handler runs
inline constexpr Errno kErestartRestartblock{516};  // restart through restart_syscall, EINTR if a handler runs
// The call registered what it waits for (Task::Block) and is to be executed again when that happens.
inline constexpr Errno kBlocked{600};
// The answer is delivered by somebody else (a continuation, a frame that was edited): nothing to send.
inline constexpr Errno kNoAnswer{601};

template <typename T>
class [[nodiscard]] ErrnoOr {
 public:
  ErrnoOr(T value) : value_(std::move(value)) {}            // NOLINT: implicit by design
  ErrnoOr(Errno error) : value_(std::unexpected(error)) {}  // NOLINT: implicit by design
  bool ok() const { return value_.has_value(); }
  Errno error() const {
    AMBER_CHECK(!ok());
    return value_.error();
  }
  // True if this holds the error `number`.
  bool Is(int number) const { return !ok() && value_.error().number() == number; }
  T& value() & {
    AMBER_CHECK(ok());
    return *value_;
  }
  const T& value() const& {
    AMBER_CHECK(ok());
    return *value_;
  }
  T&& value() && {
    AMBER_CHECK(ok());
    return std::move(*value_);
  }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::expected<T, Errno> value_;
};

template <>
class [[nodiscard]] ErrnoOr<void> {
 public:
  ErrnoOr() = default;
  ErrnoOr(Errno error) : number_(error.number()) {}  // NOLINT: implicit by design
  bool ok() const { return number_ == 0; }
  Errno error() const {
    AMBER_CHECK(!ok());
    return Errno(number_);
  }
  bool Is(int number) const { return number_ == number; }
  void value() const { AMBER_CHECK(ok()); }

 private:
  int number_ = 0;
};

inline ErrnoOr<void> Ok() { return {}; }

}  // namespace amber

// Evaluates to the value of an ErrnoOr, or returns its error from the enclosing function:
//   int fd = TRY(task.files().Allocate(file));
// May be nested: each use has a variable of its own.
#define AMBER_TRY_CAT2(a, b) a##b
#define AMBER_TRY_CAT(a, b) AMBER_TRY_CAT2(a, b)
#define AMBER_TRY(expression, result)        \
  ({                                         \
    auto result = (expression);              \
    if (!result.ok()) return result.error(); \
    std::move(result).value();               \
  })
#define TRY(expression) AMBER_TRY(expression, AMBER_TRY_CAT(try_result_, __COUNTER__))
