#include "sentry/base/check.h"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "sentry/base/sandbox_log.h"

// Where this program begins, by the linker.
extern "C" const char __executable_start;  // NOLINT(bugprone-reserved-identifier)

namespace amber {
namespace {

constexpr int kMaxNotes = 500;

int g_log = -1;
std::atomic<int> g_notes{0};

// "FILE:LINE: KIND TEXT\n", cut at its length, in one piece, so that lines of several threads do not mix.
class Line {
 public:
  void Add(const char* text) {
    while (*text != 0 && size_ < sizeof(buffer_) - 1) buffer_[size_++] = *text++;
  }
  void Add(uint64_t number, uint64_t base = 10) {
    char digits[24];
    char* p = digits + sizeof(digits);
    *--p = 0;
    do {
      *--p = "0123456789abcdef"[number % base];
      number /= base;
    } while (number > 0);
    Add(p);
  }
  void WriteTo(int fd) {
    buffer_[size_] = '\n';
    if (fd >= 0) (void)!write(fd, buffer_, size_ + 1);
  }

 private:
  char buffer_[1000];
  size_t size_ = 0;
};

Line Compose(const char* file, unsigned number, const char* kind, const char* text) {
  Line line;
  line.Add(file);
  line.Add(":");
  line.Add(number);
  line.Add(": ");
  line.Add(kind);
  line.Add(text);
  return line;
}

uint64_t FrameAbove(const void* frame) { return *static_cast<const uint64_t*>(frame); }

// Where the calls on a stack return to, for `llvm-symbolizer --obj=sandbox`: a line of its own, since a broken stack may be the end of this. Frames have
// pointers to the one above; anything else ends the walk.
void LogFrames(uint64_t ip, uint64_t frame) {
  Line line;
  constexpr int kMost = 32;
  constexpr uint64_t kLargestFrame = 1 << 16;
  const uint64_t start = reinterpret_cast<uint64_t>(&__executable_start);
  line.Add("at");
  for (int i = 0; i < kMost; ++i) {
    line.Add(" ");
    line.Add(ip - start, 16);
    if (frame % 8 != 0 || frame < kLargestFrame) break;
    const auto* words = reinterpret_cast<const uint64_t*>(frame);
    if (words[0] <= frame || words[0] - frame > kLargestFrame) break;
    ip = words[1];
    frame = words[0];
  }
  line.WriteTo(g_log);
}

[[noreturn]] void Terminated() {
  Compose("an exception", 0, "", "nobody caught it").WriteTo(g_log);
  LogFrames(reinterpret_cast<uint64_t>(__builtin_return_address(0)), FrameAbove(__builtin_frame_address(0)));
  abort();
}

// SA_RESETHAND: the instruction is executed again, and ends the process as it would have.
void OnCrash(int signal, siginfo_t* info, void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Line line = Compose("signal", static_cast<unsigned>(signal), "", "crashed, address ");
  line.Add(reinterpret_cast<uint64_t>(info->si_addr), 16);
  line.WriteTo(g_log);
  LogFrames(static_cast<uint64_t>(registers[REG_RIP]), static_cast<uint64_t>(registers[REG_RBP]));
}

}  // namespace

void SetCheckLog(int fd) { g_log = fd; }

void LogCrashes() {
  std::set_terminate(&Terminated);
  struct sigaction action = {};
  action.sa_sigaction = &OnCrash;
  action.sa_flags = SA_SIGINFO | SA_RESETHAND;
  for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
    struct sigaction before = {};
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_DFL) sigaction(signal, &action, nullptr);
  }
}

void CheckFailed(const char* file, int line, const char* text) {
  Line message = Compose(file, static_cast<unsigned>(line), "check failed: ", text);
  message.WriteTo(STDERR_FILENO);
  message.WriteTo(g_log);
  LogFrames(reinterpret_cast<uint64_t>(__builtin_return_address(0)), FrameAbove(__builtin_frame_address(0)));
  abort();
}

void LogNote(const char* text, std::source_location where) {
  if (g_log < 0 || g_notes.fetch_add(1, std::memory_order_relaxed) >= kMaxNotes) return;
  Compose(where.file_name(), where.line(), "", text).WriteTo(g_log);
}

}  // namespace amber
