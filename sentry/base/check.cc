#include "sentry/base/check.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace amber {
namespace {

int g_log = -1;

void Put(const char* text) {
  (void)!write(STDERR_FILENO, text, strlen(text));
  if (g_log >= 0) (void)!write(g_log, text, strlen(text));
}

}  // namespace

void SetCheckLog(int fd) { g_log = fd; }

void CheckFailed(const char* file, int line, const char* text) {
  char digits[12];
  char* p = digits + sizeof(digits);
  *--p = 0;
  do {
    *--p = static_cast<char>('0' + line % 10);
    line /= 10;
  } while (line > 0);
  Put(file);
  Put(":");
  Put(p);
  Put(": check failed: ");
  Put(text);
  Put("\n");
  abort();
}

}  // namespace amber
