// Time namespaces: offsets of the monotonic clocks, wherever programs see these.
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr int kNewTime = 0x80;
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kMonotonic = 1'000'000, kBoottime = 3'000'000;  // seconds
const char kOffsets[] = "/proc/self/timens_offsets";

// So many seconds, and what a slow machine may add. CLOCK_MONOTONIC_RAW drifts.
#define EXPECT_NEAR_SECONDS(ns, seconds)                               \
  do {                                                                 \
    const int64_t guest_ns_ = (ns), guest_from_ = (seconds) * kSecond; \
    EXPECT_GE(guest_ns_, guest_from_ - 60 * kSecond);                  \
    EXPECT_LT(guest_ns_, guest_from_ + 600 * kSecond);                 \
  } while (0)

int64_t CallNs(clockid_t clock) {
  timespec t{};
  MUST(syscall(SYS_clock_gettime, clock, &t));
  return t.tv_sec * kSecond + t.tv_nsec;
}

// One write(2), as the file wants it; 0 or the error.
int WriteOffsets(const char* text) {
  const int fd = MUST(open(kOffsets, O_WRONLY));
  const int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
  close(fd);
  return error;
}

void ExpectOffsets(const char* expected) {
  char text[256] = {};
  ReadFile(kOffsets, text, sizeof(text));
  EXPECT_STREQ(text, expected);
}

// By the vDSO and by calls.
void ExpectShift(int64_t monotonic_before, int64_t boottime_before, int64_t monotonic, int64_t boottime) {
  for (const bool call : {false, true}) {
    auto now = [=](clockid_t clock) { return call ? CallNs(clock) : NowNs(clock); };
    EXPECT_NEAR_SECONDS(now(CLOCK_MONOTONIC) - monotonic_before, monotonic);
    EXPECT_NEAR_SECONDS(now(CLOCK_MONOTONIC_RAW) - monotonic_before, monotonic);
    EXPECT_NEAR_SECONDS(now(CLOCK_MONOTONIC_COARSE) - monotonic_before, monotonic);
    EXPECT_NEAR_SECONDS(now(CLOCK_BOOTTIME) - boottime_before, boottime);
  }
}

void NeedTimeNamespaces() {
  if (geteuid() != 0) Skip("needs root");
  if (access("/proc/self/ns/time", F_OK) != 0) Skip("no time namespaces here");
}

// From here on children have other clocks.
void UnshareWithOffsets() {
  MUST(unshare(kNewTime));
  EXPECT_EQ(WriteOffsets("monotonic 1000000 0\nboottime 3000000 500000000\n"), 0);
}

}  // namespace

GUEST_TEST(TimeNamespace, OffsetsFile) {
  NeedTimeNamespaces();
  ExpectOffsets("monotonic           0         0\nboottime            0         0\n");
  EXPECT_EQ(WriteOffsets("monotonic 1 0\n"), EACCES);  // The initial one's are settled.
  MUST(unshare(kNewTime));
  EXPECT_EQ(WriteOffsets("realtime 1 0\n"), EINVAL);
  EXPECT_EQ(WriteOffsets("monotonic 1\n"), EINVAL);
  EXPECT_EQ(WriteOffsets("monotonic 1 1000000000\n"), EINVAL);
  EXPECT_EQ(WriteOffsets("monotonic 1 -1\n"), EINVAL);
  EXPECT_EQ(WriteOffsets("\n"), EINVAL);
  EXPECT_EQ(WriteOffsets("monotonic -9000000000 0\n"), ERANGE);
  EXPECT_EQ(WriteOffsets("monotonic 9000000000 0\n"), ERANGE);
  EXPECT_EQ(WriteOffsets("monotonic 99999999999999 0\n"), ERANGE);
  EXPECT_EQ(WriteOffsets("1 -2 500000000\n"), ((NowNs() < 2 * kSecond) ? ERANGE : 0));
  EXPECT_EQ(WriteOffsets("7 12 34"), 0);
  ExpectOffsets("monotonic          -2 500000000\nboottime           12        34\n");
  CheckpointHere();
  ExpectOffsets("monotonic          -2 500000000\nboottime           12        34\n");
  EXPECT_EQ(WriteOffsets("boottime 5 0\nmonotonic 7 8\n"), 0);
  ExpectOffsets("monotonic           7         8\nboottime            5         0\n");
  JOIN_OK(Fork([] {}));
  EXPECT_EQ(WriteOffsets("boottime 5 0\n"), EACCES);  // Somebody has entered.
  // Another one begins with these.
  MUST(unshare(kNewTime));
  ExpectOffsets("monotonic           7         8\nboottime            5         0\n");
  EXPECT_EQ(WriteOffsets("boottime 6 0\n"), 0);
}

GUEST_TEST(TimeNamespace, ChildrenHaveOtherClocks) {
  NeedTimeNamespaces();
  const int64_t monotonic = NowNs(), boottime = NowNs(CLOCK_BOOTTIME);
  UnshareWithOffsets();
  ExpectShift(monotonic, boottime, 0, 0);
  JOIN_OK(Fork([=] {
    ExpectShift(monotonic, boottime, kMonotonic, kBoottime);
    const int64_t before = NowNs(), real = NowNs(CLOCK_REALTIME);
    EXPECT(real > 1'600'000'000 * kSecond);
    CheckpointHere();
    // They go on where they were.
    EXPECT(NowNs() >= before);
    EXPECT(NowNs() - before < 600 * kSecond);
    EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - NowNs(), 0);
    EXPECT_NEAR_SECONDS(CallNs(CLOCK_BOOTTIME) - NowNs(CLOCK_BOOTTIME), 0);
    JOIN_OK(Fork([] { EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - NowNs(), 0); }));
  }));
  // Its parent keeps its own.
  EXPECT(NowNs() - monotonic < 600 * kSecond);
}

GUEST_TEST(TimeNamespace, AbsoluteTimes) {
  NeedTimeNamespaces();
  UnshareWithOffsets();
  JOIN_OK(Fork([] {
    // What is in the past here would be far in the future there.
    const int64_t start = NowNs();
    timespec at = Ns(start + 200 * kMs);
    EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr), 0);
    const int64_t slept = NowNs() - start;
    EXPECT(slept >= 200 * kMs && slept < 60 * kSecond);
    at = {};
    EXPECT_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr), 0);

    const int fd = MUST(timerfd_create(CLOCK_BOOTTIME, 0));
    itimerspec spec{.it_interval = {}, .it_value = Ns(NowNs(CLOCK_BOOTTIME) + 300 * kMs)};
    MUST(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, nullptr));
    itimerspec left{};
    MUST(timerfd_gettime(fd, &left));
    EXPECT(left.it_value.tv_sec == 0);
    CheckpointHere();
    uint64_t ticks = 0;
    EXPECT_EQ(read(fd, &ticks, sizeof(ticks)), 8);
    EXPECT_EQ(ticks, 1u);
    close(fd);

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    spec.it_value = Ns(NowNs() + 100 * kMs);
    MUST(timer_settime(timer, TIMER_ABSTIME, &spec, nullptr));
    const timespec limit = {.tv_sec = 60, .tv_nsec = 0};
    EXPECT_EQ(sigtimedwait(&set, nullptr, &limit), SIGUSR1);

    // FUTEX_WAIT_BITSET takes absolute times.
    int word = 0;
    const int64_t before = NowNs();
    at = Ns(before + 100 * kMs);
    EXPECT_ERRNO(Call(SYS_futex, &word, 9 /* FUTEX_WAIT_BITSET */, 0, &at, nullptr, ~0u), ETIMEDOUT);
    EXPECT(NowNs() - before >= 100 * kMs && NowNs() - before < 60 * kSecond);
  }));
}

GUEST_TEST(TimeNamespace, TimeSinceTheStart) {
  NeedTimeNamespaces();
  UnshareWithOffsets();
  JOIN_OK(Fork([] {
    const int64_t boottime = NowNs(CLOCK_BOOTTIME) / kSecond;
    struct sysinfo info;
    MUST(sysinfo(&info));
    EXPECT(info.uptime >= boottime && info.uptime < boottime + 600);
    char text[256] = {};
    ReadFile("/proc/uptime", text, sizeof(text));
    EXPECT(atoll(text) >= boottime && atoll(text) < boottime + 600);
    // When it began: the 22nd field, in ticks.
    char stat[1024] = {};
    ReadFile("/proc/self/stat", stat, sizeof(stat));
    const char* at = strrchr(stat, ')');
    for (int field = 2; at != nullptr && field < 22; ++field) at = strchr(at + 1, ' ');
    EXPECT(at != nullptr && atoll(at) / sysconf(_SC_CLK_TCK) > kBoottime);
  }));
}

GUEST_HELPER(ExecedInto) {
  const int64_t before = atoll(getenv("BEFORE"));
  EXPECT_NEAR_SECONDS(NowNs() - before, kMonotonic);
  EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - before, kMonotonic);
  CheckpointHere();
  EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - NowNs(), 0);
  EXPECT_EQ(WriteOffsets("boottime 5 0\n"), EACCES);
  ExitWithVerdict();
}

GUEST_TEST(TimeNamespace, ExecEnters) {
  NeedTimeNamespaces();
  Str now("BEFORE=%lld", static_cast<long long>(NowNs()));
  const pid_t pid = Fork([&] {
    UnshareWithOffsets();
    const char* arguments[] = {SelfPath(), "@ExecedInto", nullptr};
    const char* environment[] = {now, nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), const_cast<char**>(environment));
    _exit(120);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(TimeNamespace, Setns) {
  NeedTimeNamespaces();
  const int64_t monotonic = NowNs(), boottime = NowNs(CLOCK_BOOTTIME);
  const int initial = MUST(open("/proc/self/ns/time", O_RDONLY));
  UnshareWithOffsets();
  const int other = MUST(open("/proc/self/ns/time_for_children", O_RDONLY));
  JOIN_OK(Fork([=] {
    EXPECT_OK(setns(initial, kNewTime));
    ExpectShift(monotonic, boottime, 0, 0);
    EXPECT_OK(setns(other, 0));
    ExpectShift(monotonic, boottime, kMonotonic, kBoottime);
    CheckpointHere();
    EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - NowNs(), 0);
    JOIN_OK(Fork([=] { ExpectShift(CallNs(CLOCK_MONOTONIC), CallNs(CLOCK_BOOTTIME), 0, 0); }));
    Thread thread([] { SleepMs(1000); });
    thread.tid();
    EXPECT_ERRNO(setns(initial, kNewTime), EUSERS);
  }));
}

GUEST_TEST(TimeNamespace, ThreadsStay) {
  NeedTimeNamespaces();
  const int64_t before = NowNs();
  UnshareWithOffsets();
  Thread thread([=] {
    EXPECT_NEAR_SECONDS(NowNs() - before, 0);
    EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - before, 0);
  });
  thread.Join();
}

// More than get a page of their own for the vDSO.
GUEST_TEST(TimeNamespace, Many) {
  NeedTimeNamespaces();
  constexpr int kCount = 80;
  const int64_t before = NowNs();
  Gate end;
  pid_t children[kCount];
  Pipe ready;
  for (int i = 0; i < kCount; ++i) {
    MUST(unshare(kNewTime));
    EXPECT_EQ(WriteOffsets(Str("monotonic %d 0\n", (i + 1) * 1000)), 0);
    children[i] = Fork([&] {
      EXPECT_NEAR_SECONDS(NowNs() - before, (i + 1) * 1000);
      EXPECT_NEAR_SECONDS(CallNs(CLOCK_MONOTONIC) - before, (i + 1) * 1000);
      MUST(write(ready.w, "r", 1));
      pause();
    });
    char byte;
    MUST(read(ready.r, &byte, 1));
  }
  for (const pid_t child : children) {
    MUST(kill(child, SIGKILL));
    EXPECT_KILLED(WaitStatus(child), SIGKILL);
  }
}
