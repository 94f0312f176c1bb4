#include "sentry/base/check.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "sentry/base/sandbox_log.h"

namespace amber {
namespace {

constexpr int kMaxNotes = 500;

int g_log = -1;
std::atomic<int> g_notes{0};

// "FILE:LINE: KIND TEXT\n", cut at 500 bytes, in one piece, so that lines of several threads do not mix.
class Line {
 public:
  void Add(const char* text) {
    while (*text != 0 && size_ < sizeof(buffer_) - 1) buffer_[size_++] = *text++;
  }
  void Add(unsigned number) {
    char digits[12];
    char* p = digits + sizeof(digits);
    *--p = 0;
    do {
      *--p = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number > 0);
    Add(p);
  }
  void WriteTo(int fd) {
    buffer_[size_] = '\n';
    if (fd >= 0) (void)!write(fd, buffer_, size_ + 1);
  }

 private:
  char buffer_[500];
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

}  // namespace

void SetCheckLog(int fd) { g_log = fd; }

void CheckFailed(const char* file, int line, const char* text) {
  Line message = Compose(file, static_cast<unsigned>(line), "check failed: ", text);
  message.WriteTo(STDERR_FILENO);
  message.WriteTo(g_log);
  abort();
}

void LogNote(const char* text, std::source_location where) {
  if (g_log < 0 || g_notes.fetch_add(1, std::memory_order_relaxed) >= kMaxNotes) return;
  Compose(where.file_name(), where.line(), "", text).WriteTo(g_log);
}

}  // namespace amber
