// The one table of system calls: dispatch, --strace, docs/syscalls.md and the check that every entry has a test are
// derived from it.
//
// A handler is an ordinary function with typed arguments:
//
//   ErrnoOr<uint64_t> Pipe2(Task& task, UserPtr<int[2]> fds, int flags);
//
// table.Set(SYS_pipe2, Full<&Pipe2>()) in its family's Register function enters it: a generated adaptor turns the six registers into the handler's types
// (int takes the low 32 bits, as Linux's own wrappers do), and the types say how --strace prints them. Handlers run with
// the kernel lock held; see task.h for how they block. `-errno` is formed by the dispatcher alone.
#pragma once

#include <array>
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

// The name that Linux gives to `number`, or null.
const char* SyscallName(uint64_t number);

// Built once, before the first guest runs, by the Register* functions of the families (table.cc calls them one by one).
class SyscallTable {
 public:
  // The table of this binary.
  static const SyscallTable& Get();

  // The entry for `number`; handler is null for what is missing. Null if Linux has no such call.
  const SyscallEntry* Find(uint64_t number) const {
    return number < entries_.size() && entries_[number].name != nullptr ? &entries_[number] : nullptr;
  }
  void Set(uint64_t number, SyscallEntry entry);

 private:
  SyscallTable();
  std::array<SyscallEntry, kMaxSyscall> entries_{};
};

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
  static constexpr SyscallEntry Entry(Support support, const char* note) {
    SyscallEntry e{nullptr, &Call, support, note, sizeof...(Args), {}};
    int i = 0;
    ((e.args[i++] = ArgTraits<Args>::kKind), ...);
    return e;
  }
};

}  // namespace syscall_internal

template <auto Handler>
constexpr SyscallEntry Full() {
  return syscall_internal::Adaptor<Handler>::Entry(Support::kFull, "");
}
// `note` names what is missing.
template <auto Handler>
constexpr SyscallEntry Partial(const char* note) {
  return syscall_internal::Adaptor<Handler>::Entry(Support::kPartial, note);
}
// The call fails as on a machine without the feature; `note` says why.
template <auto Handler>
constexpr SyscallEntry Refused(const char* note) {
  return syscall_internal::Adaptor<Handler>::Entry(Support::kRefused, note);
}

}  // namespace amber
