// The guest test framework: the smallest thing that can run named tests and say which failed.
//
// A guest test program is one static binary per family. It runs natively, inside the sandbox, and
// inside the sandbox with checkpoints in the middle, so it must start fast and ask little of the
// kernel: `--no-fork` needs nothing beyond what the C library's own start-up needs, plus write and
// exit_group. No exceptions, no iostreams, no heap.
//
// Output, one line per test: `ok Family.Name`, `skip Family.Name: reason` or `FAIL Family.Name:
// file:line: text` (one FAIL line per failed check, so a test can have several), then a summary.
// README.md has the flags.
//
// Every test runs in a forked child of its own, the leader of a fresh process group, with default
// signal dispositions, an empty mask and umask 022. Checks may be made from any thread and from
// forked children; a child made by Fork() turns failed checks into exit status 1, which JoinOk()
// reports.
#ifndef AMBER_TEST_HARNESS_GUEST_TEST_H_
#define AMBER_TEST_HARNESS_GUEST_TEST_H_

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <type_traits>

// Tests pass odd arguments on purpose. (A flag would come before -Wall.)
#pragma clang diagnostic ignored "-Wnonnull"

namespace guest {

struct Test {
  const char* family;
  const char* name;
  void (*body)();
  const char* file;
};

// A program that tests execute: `BINARY @Name args…` runs it instead of the tests.
struct Helper {
  const char* name;
  int (*body)(int argc, char** argv);
};

// One failed check. Prints the FAIL line and counts; `fatal` ends the test at once.
[[gnu::format(printf, 4, 5)]] void Fail(const char* file, int line, bool fatal, const char* format, ...);

// Ends the test without a verdict on what it tests. Not from a thread or forked child.
[[noreturn, gnu::format(printf, 1, 2)]] void Skip(const char* format, ...);

// Failed checks in this process so far.
int Failures();

// Ends a process that Fork() did not make, with the status that says whether its checks held.
[[noreturn]] void ExitWithVerdict();

// The path that this program was started by (absolute when the runner starts it).
const char* SelfPath();

// A point at which a checkpoint is worth taking: state is set up that must survive. Without a
// checkpoint channel this does nothing. With one it writes "@checkpoint N Family.Name\n" to the
// channel's output and waits for one byte on its input; the outside checkpoints, kills, restores
// and then sends the byte. See README.md.
void CheckpointHere();

const char* ErrnoName(int error);

enum class Op { kEq, kNe, kLt, kLe, kGt, kGe };
void CheckCompare(const char* file, int line, bool fatal, const char* left_text, const char* right_text, __int128 left, Op op, __int128 right);
void CheckStrings(const char* file, int line, bool fatal, const char* left_text, const char* left, const char* right);
void CheckErrno(const char* file, int line, const char* text, bool failed, int error, int expected);

template <typename T>
__int128 Wide(const T& value) {
  if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else if constexpr (std::is_pointer_v<std::decay_t<T>>) {  // Arrays too.
    return static_cast<__int128>(reinterpret_cast<uintptr_t>(value));
  } else {
    return static_cast<__int128>(value);
  }
}

template <typename T>
bool IsFailure(const T& value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<intptr_t>(value) == -1;
  } else {
    return value == static_cast<T>(-1);
  }
}

// The value of a call that has to succeed; ends the test if it does not.
template <typename T>
T Must(const char* file, int line, const char* text, T value) {
  if (IsFailure(value)) Fail(file, line, /*fatal=*/true, "%s failed: %s", text, ErrnoName(errno));
  return value;
}

}  // namespace guest

#define GUEST_TEST(family, name)                                                                                      \
  static void GuestTest_##family##_##name();                                                                          \
  [[gnu::used, gnu::retain, gnu::section("guest_tests")]] static const ::guest::Test guest_test_##family##_##name = { \
      #family, #name, &GuestTest_##family##_##name, __FILE__};                                                        \
  static void GuestTest_##family##_##name()

#define GUEST_HELPER(name)                                                                                                                   \
  static int GuestHelper_##name(int argc, char** argv);                                                                                      \
  [[gnu::used, gnu::retain, gnu::section("guest_helpers")]] static const ::guest::Helper guest_helper_##name = {#name, &GuestHelper_##name}; \
  static int GuestHelper_##name([[maybe_unused]] int argc, [[maybe_unused]] char** argv)

// EXPECT_ records a failure and goes on; ASSERT_ ends the test.
#define GUEST_CHECK_(fatal, condition)                                                    \
  do {                                                                                    \
    if (!(condition)) ::guest::Fail(__FILE__, __LINE__, fatal, "not so: %s", #condition); \
  } while (0)
#define EXPECT(condition) GUEST_CHECK_(false, condition)
#define ASSERT(condition) GUEST_CHECK_(true, condition)

#define GUEST_COMPARE_(fatal, left, op, right) \
  ::guest::CheckCompare(__FILE__, __LINE__, fatal, #left, #right, ::guest::Wide(left), ::guest::Op::op, ::guest::Wide(right))
#define EXPECT_EQ(left, right) GUEST_COMPARE_(false, left, kEq, right)
#define EXPECT_NE(left, right) GUEST_COMPARE_(false, left, kNe, right)
#define EXPECT_LT(left, right) GUEST_COMPARE_(false, left, kLt, right)
#define EXPECT_LE(left, right) GUEST_COMPARE_(false, left, kLe, right)
#define EXPECT_GT(left, right) GUEST_COMPARE_(false, left, kGt, right)
#define EXPECT_GE(left, right) GUEST_COMPARE_(false, left, kGe, right)
#define ASSERT_EQ(left, right) GUEST_COMPARE_(true, left, kEq, right)
#define ASSERT_NE(left, right) GUEST_COMPARE_(true, left, kNe, right)
#define ASSERT_GE(left, right) GUEST_COMPARE_(true, left, kGe, right)
#define ASSERT_GT(left, right) GUEST_COMPARE_(true, left, kGt, right)
#define EXPECT_STREQ(left, right) ::guest::CheckStrings(__FILE__, __LINE__, false, #left, left, right)

// A call in the C library's convention: -1 (or MAP_FAILED) and errno.
#define EXPECT_OK(call)                                                                                                        \
  do {                                                                                                                         \
    errno = 0;                                                                                                                 \
    if (::guest::IsFailure(call)) ::guest::Fail(__FILE__, __LINE__, false, "%s failed: %s", #call, ::guest::ErrnoName(errno)); \
  } while (0)
#define EXPECT_ERRNO(call, expected)                                                \
  do {                                                                              \
    errno = 0;                                                                      \
    const bool guest_failed_ = ::guest::IsFailure(call);                            \
    ::guest::CheckErrno(__FILE__, __LINE__, #call, guest_failed_, errno, expected); \
  } while (0)
#define MUST(call) ::guest::Must(__FILE__, __LINE__, #call, call)

#endif  // AMBER_TEST_HARNESS_GUEST_TEST_H_
