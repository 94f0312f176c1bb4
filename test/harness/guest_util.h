// What guest tests keep needing: children, threads, pipes, temporary folders, signals, clocks. All
// of it ends the test with a FAIL line when the kernel refuses. No object here owns heap memory.
#ifndef AMBER_TEST_HARNESS_GUEST_UTIL_H_
#define AMBER_TEST_HARNESS_GUEST_UTIL_H_

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>
#include <utility>

#include "test/harness/guest_test.h"

namespace guest {

inline constexpr size_t kPage = 4096;
inline constexpr int64_t kMs = 1'000'000;

// Runs `body` in a forked child, which exits 0 if its checks held and 1 if not.
template <typename F>
pid_t Fork(F&& body) {
  const pid_t pid = MUST(fork());
  if (pid == 0) {
    body();
    ExitWithVerdict();
  }
  return pid;
}

// waitpid until it answers; the status word.
int WaitStatus(pid_t pid);
// Waits and checks that the child exited 0.
void JoinOkAt(const char* file, int line, pid_t pid);
#define JOIN_OK(pid) ::guest::JoinOkAt(__FILE__, __LINE__, pid)
#define EXPECT_EXITED(status, code)              \
  do {                                           \
    const int guest_status_ = (status);          \
    EXPECT(WIFEXITED(guest_status_));            \
    EXPECT_EQ(WEXITSTATUS(guest_status_), code); \
  } while (0)
#define EXPECT_KILLED(status, number)           \
  do {                                          \
    const int guest_status_ = (status);         \
    EXPECT(WIFSIGNALED(guest_status_));         \
    EXPECT_EQ(WTERMSIG(guest_status_), number); \
  } while (0)

// The state letter of a thread as /proc tells it, 0 if there is none.
char ThreadState(pid_t pid, pid_t tid);
// Waits until the thread sleeps in the kernel ('S'), or is in another state named.
void AwaitState(pid_t pid, pid_t tid, char state);
inline void AwaitAsleep(pid_t pid) { AwaitState(pid, pid, 'S'); }

int64_t NowNs(clockid_t clock = CLOCK_MONOTONIC);
// Sleeps that long, whatever signals arrive.
void SleepMs(int64_t ms);
inline timespec Ns(int64_t ns) { return {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000}; }

// A pipe; ends that are closed are -1.
struct Pipe {
  explicit Pipe(int flags = 0);
  ~Pipe() {
    CloseRead();
    CloseWrite();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void CloseRead();
  void CloseWrite();
  int r = -1;
  int w = -1;
};

// One process lets others pass. Made before the fork; a side that dies lets the other one pass,
// which then fails.
class Gate {
 public:
  void Open() { MUST(write(pipe_.w, "g", 1)); }
  void Await();

 private:
  Pipe pipe_;
};

// A thread running `body`, joined at the end of the scope at the latest.
template <typename F>
class Thread {
 public:
  explicit Thread(F body) : body_(std::move(body)) {
    const int error = pthread_create(&thread_, nullptr, &Thread::Main, this);
    if (error != 0) Fail(__FILE__, __LINE__, true, "pthread_create: %s", ErrnoName(error));
  }
  ~Thread() { Join(); }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  void Join() {
    if (!joined_) pthread_join(thread_, nullptr);
    joined_ = true;
  }
  // Waits for the thread to have started.
  pid_t tid() {
    pid_t tid = 0;
    while ((tid = __atomic_load_n(&tid_, __ATOMIC_ACQUIRE)) == 0) SleepMs(1);
    return tid;
  }
  pthread_t handle() const { return thread_; }
  // Waits until the thread sleeps in the kernel.
  void AwaitAsleep() { AwaitState(getpid(), tid(), 'S'); }

 private:
  static void* Main(void* self_pointer) {
    auto* self = static_cast<Thread*>(self_pointer);
    __atomic_store_n(&self->tid_, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
    self->body_();
    return nullptr;
  }
  F body_;
  pthread_t thread_{};
  pid_t tid_ = 0;
  bool joined_ = false;
};

// A formatted string of bounded length, mostly a path.
class Str {
 public:
  [[gnu::format(printf, 2, 3)]] explicit Str(const char* format, ...);
  operator const char*() const { return text_; }  // NOLINT: it is a path.
  const char* c_str() const { return text_; }

 private:
  char text_[1024];
};

// A fresh folder under /tmp, removed with all it contains.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const char* path() const { return path_; }
  Str operator/(const char* name) const { return Str("%s/%s", path_, name); }

 private:
  char path_[64];
};

// An unnamed file, open for reading and writing, with this content.
int TempFile(const char* content = "");
void WriteFile(const char* path, const void* data, size_t size, mode_t mode = 0644);
inline void WriteFile(const char* path, const char* text, mode_t mode = 0644) { WriteFile(path, text, strlen(text), mode); }
// Reads a file to its end (bounded by the buffer, which is then terminated); the number of bytes.
size_t ReadFile(const char* path, char* buffer, size_t size);
// The number after "NAME:" in a /proc file of that shape, -1 if absent.
int64_t ProcField(const char* path, const char* name, int base = 10);

// An address at which nothing can be mapped (vm.mmap_min_addr), and one in the kernel's half: both have to be EFAULT.
inline constexpr long kBadAddress = 8;
inline constexpr unsigned long kKernelAddress = 0xffff'8000'0000'1000;
// A bad pointer of whatever type is asked for.
struct AnyBadPointer {
  template <typename T>
  operator T*() const {  // NOLINT: that is its use.
    return reinterpret_cast<T*>(kBadAddress);
  }
};
inline constexpr AnyBadPointer kBad;

// syscall(2) of a call whose answer is an int.
int Call(long number, auto... arguments) { return static_cast<int>(syscall(number, arguments...)); }

// How many bytes wait in a pipe, terminal or socket (FIONREAD).
int Queued(int fd);
// Checks what the file has, whatever its offset.
void ExpectContent(int fd, const char* expected);
void ExpectUids(uid_t real, uid_t effective, uid_t saved);

// A message of one byte with these descriptors, 300 at most.
ssize_t SendFds(int socket, const int* fds, size_t count, int flags = 0);
inline ssize_t SendFds(int socket, std::initializer_list<int> fds) { return SendFds(socket, fds.begin(), fds.size()); }
// Receives up to 16 bytes, and up to `room` descriptors; how many came, or -1. The message's flags into `got_flags`.
int ReceiveFds(int socket, int* fds, size_t room, int flags = 0, int* got_flags = nullptr);

// Gives up root for good: this user and group, no other groups.
void BecomeUser(unsigned id = 1000);
// Runs `body` in a forked child as a user without privileges, and waits for it.
template <typename F>
void AsUserAt(const char* file, int line, F&& body) {
  const pid_t pid = Fork([&] {
    BecomeUser();
    body();
  });
  JoinOkAt(file, line, pid);
}
#define AS_USER(...) ::guest::AsUserAt(__FILE__, __LINE__, __VA_ARGS__)

// Memory shared with forked children, zeroed.
template <typename T>
T* Shared() {
  return static_cast<T*>(MUST(mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
}
// Private anonymous memory.
char* Pages(size_t count, int protection = PROT_READ | PROT_WRITE);

sigset_t Signals(std::initializer_list<int> numbers);
void Block(std::initializer_list<int> numbers);
void Unblock(std::initializer_list<int> numbers);
void Handle(int number, void (*handler)(int, siginfo_t*, void*), int flags = 0);
// A handler that counts into SignalCount() and remembers the last siginfo.
void CountSignals(int number, int flags = 0);
int SignalCount();
const siginfo_t& LastSignal();

}  // namespace guest

#endif  // AMBER_TEST_HARNESS_GUEST_UTIL_H_
