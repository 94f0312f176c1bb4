// The one table of system calls: dispatch, --strace, docs/syscalls.md and the check that every entry has a test are
// derived from it.
//
// A handler is an ordinary function with typed arguments:
//
//   ErrnoOr<uint64_t> Pipe2(Task& task, UserPtr<int[2]> fds, int flags);
//
// Full<&Pipe2>("pipe2") makes a table entry of it: a generated adaptor turns the six registers into the handler's types
// (int takes the low 32 bits, as Linux's own wrappers do), and the types say how --strace prints them. Handlers run with
// the kernel lock held; see task.h for how they block. `-errno` is formed by the dispatcher alone.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "sentry/base/errno_or.h"
#include "sentry/base/user_ptr.h"

namespace amber {

class Task;

inline constexpr int kMaxSyscall = 472;

enum class ArgKind : uint8_t { kNone, kInt, kUnsigned, kHex, kPointer, kString };

enum class Support : uint8_t {
  kNone,     // ENOSYS, counted
  kPartial,  // `note` names what is missing
  kFull,
  kRefused,  // the errno that Linux gives on a machine without the feature; `note` says why
};

using SyscallHandler = ErrnoOr<uint64_t> (*)(Task& task, const uint64_t (&args)[6]);

struct SyscallEntry {
  const char* name = nullptr;
  SyscallHandler handler = nullptr;
  Support support = Support::kNone;
  const char* note = "";
  int arg_count = 0;
  ArgKind args[6] = {};
};

// The entry for `number`, or null if Linux has none there.
const SyscallEntry* FindSyscall(uint64_t number);

namespace syscall_internal {

template <typename T>
struct ArgTraits {
  static_assert(std::is_integral_v<T>);
  static constexpr ArgKind kKind = std::is_signed_v<T> ? ArgKind::kInt : sizeof(T) == 8 ? ArgKind::kHex : ArgKind::kUnsigned;
  static T Decode(uint64_t raw) { return static_cast<T>(raw); }
};
template <typename T>
struct ArgTraits<UserPtr<T>> {
  static constexpr ArgKind kKind = std::is_same_v<T, const char> ? ArgKind::kString : ArgKind::kPointer;
  static UserPtr<T> Decode(uint64_t raw) { return UserPtr<T>(raw); }
};

template <auto Handler>
struct Adaptor;
template <typename... Args, ErrnoOr<uint64_t> (*Handler)(Task&, Args...)>
struct Adaptor<Handler> {
  static_assert(sizeof...(Args) <= 6);
  static ErrnoOr<uint64_t> Call(Task& task, const uint64_t (&args)[6]) {
    return [&]<size_t... I>(std::index_sequence<I...>) {
      (void)args;
      return Handler(task, ArgTraits<Args>::Decode(args[I])...);
    }(std::index_sequence_for<Args...>());
  }
  static constexpr SyscallEntry Entry(const char* name, Support support, const char* note) {
    SyscallEntry e{name, &Call, support, note, sizeof...(Args), {}};
    int i = 0;
    ((e.args[i++] = ArgTraits<Args>::kKind), ...);
    return e;
  }
};

}  // namespace syscall_internal

template <auto Handler>
constexpr SyscallEntry Full(const char* name) {
  return syscall_internal::Adaptor<Handler>::Entry(name, Support::kFull, "");
}
template <auto Handler>
constexpr SyscallEntry Partial(const char* name, const char* note) {
  return syscall_internal::Adaptor<Handler>::Entry(name, Support::kPartial, note);
}
constexpr SyscallEntry Missing(const char* name) { return SyscallEntry{name, nullptr, Support::kNone, "", 0, {}}; }

}  // namespace amber
