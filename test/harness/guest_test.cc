#include "test/harness/guest_test.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

// The linker gathers all tests and helpers of a binary between these.
extern "C" {
extern const guest::Test __start_guest_tests[];
extern const guest::Test __stop_guest_tests[];
[[gnu::weak]] extern const guest::Helper __start_guest_helpers[];
[[gnu::weak]] extern const guest::Helper __stop_guest_helpers[];
}

namespace guest {
namespace {

constexpr int kFailedStatus = 1;
constexpr int kSkippedStatus = 77;

struct Options {
  bool list = false;
  bool fork = true;
  unsigned timeout_s = 60;
  const char* filter = "*";
};

struct Counts {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
};

const char* self_path = "";
const Test* current = nullptr;
int failures = 0;            // In this process.
bool skipped = false;        // In this process.
bool unforked = false;       // The test runs in the process of main().
pid_t main_pid = 0;          // Known only when unforked.
sigjmp_buf unforked_return;  // Where a fatal failure goes when unforked.
volatile sig_atomic_t timed_out = 0;

// One write per line, so that lines of several processes do not mix.
[[gnu::format(printf, 1, 0)]] void PrintV(const char* format, va_list arguments) {
  char line[1024];
  int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
  if (length > static_cast<int>(sizeof(line)) - 2) length = sizeof(line) - 2;
  line[length++] = '\n';
  for (int done = 0; done < length;) {
    const ssize_t written = write(STDOUT_FILENO, line + done, length - done);
    if (written <= 0 && errno != EINTR && errno != EAGAIN) return;
    if (written > 0) done += written;
  }
}

[[gnu::format(printf, 1, 2)]] void Print(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  PrintV(format, arguments);
  va_end(arguments);
}

[[noreturn]] void EndTest() {
  if (unforked && getpid() == main_pid) siglongjmp(unforked_return, 1);
  _exit(skipped && failures == 0 ? kSkippedStatus : failures != 0 ? kFailedStatus : 0);
}

// `*` and `?` as in the shell; several patterns with ':' between them.
bool Matches(const char* pattern, const char* text) {
  for (; *pattern != '\0' && *pattern != ':'; ++pattern, ++text) {
    if (*pattern == '*') {
      for (const char* rest = text;; ++rest) {
        if (Matches(pattern + 1, rest)) return true;
        if (*rest == '\0') return false;
      }
    }
    if (*text == '\0' || (*pattern != '?' && *pattern != *text)) return false;
  }
  return *text == '\0';
}

bool Selected(const Options& options, const Test& test) {
  char full_name[256];
  snprintf(full_name, sizeof(full_name), "%s.%s", test.family, test.name);
  for (const char* pattern = options.filter; pattern != nullptr;) {
    if (Matches(pattern, full_name)) return true;
    pattern = strchr(pattern, ':');
    if (pattern != nullptr) ++pattern;
  }
  return false;
}

void RunUnforked(const Test& test, Counts& counts) {
  failures = 0;
  skipped = false;
  unforked = true;
  main_pid = getpid();
  if (sigsetjmp(unforked_return, 0) == 0) test.body();
  if (failures != 0) {
    ++counts.failed;
  } else if (skipped) {
    ++counts.skipped;
  } else {
    ++counts.passed;
    Print("ok %s.%s", test.family, test.name);
  }
}

[[noreturn]] void RunInChild(const Test& test) {
  setpgid(0, 0);
  for (int signal_number = 1; signal_number < NSIG; ++signal_number) {
    if (signal_number == SIGKILL || signal_number == SIGSTOP || signal_number == 32 || signal_number == 33) continue;
    struct sigaction old = {};
    if (sigaction(signal_number, nullptr, &old) == 0 && old.sa_handler != SIG_DFL) signal(signal_number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  umask(022);
  test.body();
  EndTest();
}

void ReportChild(const Test& test, int status, const Options& options, Counts& counts) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    ++counts.passed;
    Print("ok %s.%s", test.family, test.name);
    return;
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == kSkippedStatus) {
    ++counts.skipped;
    return;
  }
  ++counts.failed;
  if (timed_out != 0) {
    Print("FAIL %s.%s: %s:0: still running after %u s", test.family, test.name, test.file, options.timeout_s);
  } else if (WIFSIGNALED(status)) {
    Print("FAIL %s.%s: %s:0: killed by signal %d", test.family, test.name, test.file, WTERMSIG(status));
  } else if (WEXITSTATUS(status) != kFailedStatus) {
    Print("FAIL %s.%s: %s:0: exited with status %d", test.family, test.name, test.file, WEXITSTATUS(status));
  }
}

void RunForked(const Test& test, const Options& options, Counts& counts) {
  timed_out = 0;
  const pid_t child = fork();
  if (child == 0) RunInChild(test);
  if (child < 0) {
    ++counts.failed;
    Print("FAIL %s.%s: %s:0: fork: %s", test.family, test.name, test.file, ErrnoName(errno));
    return;
  }
  alarm(options.timeout_s);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    if (timed_out == 0) continue;
    kill(-child, SIGKILL);
    kill(child, SIGKILL);
  }
  alarm(0);
  kill(-child, SIGKILL);  // What the test left behind in its group.
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
  ReportChild(test, status, options, counts);
}

bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const char* argument = argv[i];
    if (strcmp(argument, "--list") == 0) {
      options.list = true;
    } else if (strcmp(argument, "--no-fork") == 0) {
      options.fork = false;
    } else if (strncmp(argument, "--filter=", 9) == 0) {
      options.filter = argument + 9;
    } else if (strncmp(argument, "--timeout=", 10) == 0) {
      options.timeout_s = static_cast<unsigned>(atoi(argument + 10));
    } else if (strncmp(argument, "--checkpoint=", 13) == 0) {
      // In the environment, so that programs which a test executes have the channel too.
      setenv("AMBER_CKPT", argument + 13, 1);
    } else {
      Print(
          "usage: %s [--list] [--filter=GLOB[:GLOB…]] [--no-fork] [--timeout=SECONDS] "
          "[--checkpoint=OUT,IN]",
          argv[0]);
      return false;
    }
  }
  return true;
}

int RunTests(const Options& options) {
  Counts counts;
  if (options.fork && !options.list) {
    struct sigaction on_alarm = {};
    on_alarm.sa_handler = [](int) { timed_out = 1; };
    sigaction(SIGALRM, &on_alarm, nullptr);  // No SA_RESTART: waitpid has to return.
  }
  for (const Test* test = __start_guest_tests; test != __stop_guest_tests; ++test) {
    if (!Selected(options, *test)) continue;
    current = test;
    if (options.list) {
      Print("%s.%s", test->family, test->name);
    } else if (options.fork) {
      RunForked(*test, options, counts);
    } else {
      RunUnforked(*test, counts);
    }
  }
  if (options.list) return 0;
  Print("summary: %d passed, %d failed, %d skipped", counts.passed, counts.failed, counts.skipped);
  return counts.failed != 0 ? 1 : 0;
}

}  // namespace

void Fail(const char* file, int line, bool fatal, const char* format, ...) {
  char text[768];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
  const char* base = strrchr(file, '/');
  Print("FAIL %s.%s: %s:%d: %s", current->family, current->name, base != nullptr ? base + 1 : file, line, text);
  if (fatal) EndTest();
}

void Skip(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (failures == 0) Print("skip %s.%s: %s", current->family, current->name, text);
  skipped = true;
  EndTest();
}

int Failures() { return __atomic_load_n(&failures, __ATOMIC_RELAXED); }

void ExitWithVerdict() { _exit(Failures() != 0 ? kFailedStatus : 0); }

const char* SelfPath() { return self_path; }

void CheckCompare(const char* file, int line, bool fatal, const char* left_text, const char* right_text, __int128 left, Op op, __int128 right) {
  bool holds = false;
  const char* sign = "";
  switch (op) {
    case Op::kEq:
      holds = left == right;
      sign = "==";
      break;
    case Op::kNe:
      holds = left != right;
      sign = "!=";
      break;
    case Op::kLt:
      holds = left < right;
      sign = "<";
      break;
    case Op::kLe:
      holds = left <= right;
      sign = "<=";
      break;
    case Op::kGt:
      holds = left > right;
      sign = ">";
      break;
    case Op::kGe:
      holds = left >= right;
      sign = ">=";
      break;
  }
  if (holds) return;
  Fail(file, line, fatal, "not so: %s %s %s (%lld = %#llx and %lld = %#llx)", left_text, sign, right_text, static_cast<long long>(left),
       static_cast<unsigned long long>(left), static_cast<long long>(right), static_cast<unsigned long long>(right));
}

void CheckStrings(const char* file, int line, bool fatal, const char* left_text, const char* left, const char* right) {
  if (strcmp(left, right) != 0) Fail(file, line, fatal, "%s is \"%s\", not \"%s\"", left_text, left, right);
}

void CheckErrno(const char* file, int line, const char* text, bool failed, int error, int expected) {
  if (!failed) {
    Fail(file, line, false, "%s succeeded, expected %s", text, ErrnoName(expected));
  } else if (error != expected) {
    Fail(file, line, false, "%s failed with %s, expected %s", text, ErrnoName(error), ErrnoName(expected));
  }
}

const char* ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : "an unnamed errno";
}

void CheckpointHere() {
  static int number = 0;
  const char* channel = getenv("AMBER_CKPT");
  int out = -1;
  int in = -1;
  if (channel == nullptr || sscanf(channel, "%d,%d", &out, &in) != 2) return;
  char line[256];
  const int length = snprintf(line, sizeof(line), "@checkpoint %d %s.%s\n", ++number, current != nullptr ? current->family : "",
                              current != nullptr ? current->name : "");
  if (write(out, line, length) != length) {
    Fail(__FILE__, __LINE__, true, "the checkpoint channel's output failed: %s", ErrnoName(errno));
  }
  char byte = 0;
  ssize_t got = 0;
  do {
    got = read(in, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) Fail(__FILE__, __LINE__, true, "the checkpoint channel's input ended");
}

}  // namespace guest

int main(int argc, char** argv) {
  guest::self_path = argv[0];
  if (argc > 1 && argv[1][0] == '@') {
    static const guest::Test helper_test = {"Helper", argv[1] + 1, nullptr, __FILE__};
    guest::current = &helper_test;
    for (const guest::Helper* helper = __start_guest_helpers; helper != __stop_guest_helpers; ++helper) {
      if (strcmp(helper->name, argv[1] + 1) == 0) return helper->body(argc, argv);
    }
    return 126;
  }
  guest::Options options;
  if (!guest::Parse(argc, argv, options)) return 2;
  return guest::RunTests(options);
}
