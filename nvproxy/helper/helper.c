// The checkpoint helper: a CUDA program that asks the driver's library to drain another process's GPU state into that process's memory, and back.
//
// Runs inside the container, on the container's own libcuda.so.1 and C library, so it is linked with next to nothing: any glibc from 2.17 on. The
// sentry starts it, never guests, and speaks with it in lines: "VERB PID [MILLISECONDS | OLD=NEW...]", answered by "RESULT STATE MICROSECONDS"
// with RESULT as in CUresult and STATE as in CUprocessState, -1 if unknown. VERB is state, lock, checkpoint, restore or unlock. At the start it
// says "ready RESULT" of cuInit(), or "no WORD" and ends. It ends when its input does.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// The versions that every x86-64 glibc has, wherever it keeps them.
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");

// CUcheckpointLockArgs, ...RestoreArgs and so on: 64 bytes whose live fields never moved.
union Arguments {
  struct {
    uint32_t timeout_ms;
  } lock;
  struct {
    const void* pairs;
    uint32_t count;
  } restore;
  uint64_t words[8];
};

struct Pair {
  uint8_t from[16], to[16];
};

enum { kMaxPairs = 64 };

static int (*init)(unsigned);
static int (*get_state)(int, int*);
static int (*lock)(int, union Arguments*);
static int (*checkpoint)(int, union Arguments*);
static int (*restore)(int, union Arguments*);
static int (*unlock)(int, union Arguments*);

static void Say(const char* text) {
  size_t size = strlen(text);
  while (size > 0) {
    ssize_t n = write(1, text, size);
    if (n <= 0) exit(1);
    text += n;
    size -= (size_t)n;
  }
}

static int Digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

// 32 hexadecimal digits.
static int Uuid(const char** text, uint8_t* out) {
  for (int i = 0; i < 16; ++i) {
    int high = Digit((*text)[0]), low = high < 0 ? -1 : Digit((*text)[1]);
    if (low < 0) return 0;
    out[i] = (uint8_t)(high << 4 | low);
    *text += 2;
  }
  return 1;
}

// "OLD=NEW OLD=NEW ...": how many, -1 if malformed.
static int Pairs(const char* text, struct Pair* pairs) {
  int count = 0;
  for (;;) {
    while (*text == ' ') ++text;
    if (*text == 0) return count;
    if (count == kMaxPairs || !Uuid(&text, pairs[count].from) || *text++ != '=' || !Uuid(&text, pairs[count].to)) return -1;
    ++count;
  }
}

static int Run(const char* verb, int pid, char* rest) {
  static struct Pair pairs[kMaxPairs];
  union Arguments arguments;
  memset(&arguments, 0, sizeof(arguments));
  if (strcmp(verb, "state") == 0) return 0;
  if (strcmp(verb, "lock") == 0) {
    arguments.lock.timeout_ms = (uint32_t)strtoul(rest, NULL, 10);
    return lock(pid, &arguments);
  }
  if (strcmp(verb, "checkpoint") == 0) return checkpoint(pid, &arguments);
  if (strcmp(verb, "unlock") == 0) return unlock(pid, &arguments);
  if (strcmp(verb, "restore") != 0) return 1;
  int count = Pairs(rest, pairs);
  if (count < 0) return 1;
  arguments.restore.pairs = count > 0 ? pairs : NULL;
  arguments.restore.count = (uint32_t)count;
  return restore(pid, &arguments);
}

static int64_t Microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void Answer(char* line) {
  char* rest = line + strcspn(line, " ");
  if (*rest != 0) *rest++ = 0;
  int pid = (int)strtol(rest, &rest, 10);
  int64_t begin = Microseconds();
  int result = Run(line, pid, rest), state = -1, known = get_state(pid, &state);
  if (known != 0) state = -1;
  if (strcmp(line, "state") == 0) result = known;
  char text[96];
  snprintf(text, sizeof(text), "%d %d %lld\n", result, state, (long long)(Microseconds() - begin));
  Say(text);
}

static int Find(void* library, const char* name, void* out) {
  void* symbol = dlsym(library, name);
  memcpy(out, &symbol, sizeof(symbol));
  return symbol != NULL;
}

__attribute__((used)) static int Main(void) {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) {
    Say("no library\n");
    return 1;
  }
  int all = Find(library, "cuInit", &init) && Find(library, "cuCheckpointProcessGetState", &get_state) &&
            Find(library, "cuCheckpointProcessLock", &lock) && Find(library, "cuCheckpointProcessCheckpoint", &checkpoint) &&
            Find(library, "cuCheckpointProcessRestore", &restore) && Find(library, "cuCheckpointProcessUnlock", &unlock);
  if (!all) {
    Say("no verbs\n");
    return 1;
  }
  char text[4096 + 128];
  snprintf(text, sizeof(text), "ready %d\n", init(0));
  Say(text);
  size_t have = 0;
  for (;;) {
    ssize_t n = read(0, text + have, sizeof(text) - 1 - have);
    if (n <= 0) return 0;
    have += (size_t)n;
    text[have] = 0;
    char* end;
    while ((end = strchr(text, '\n')) != NULL) {
      *end++ = 0;
      Answer(text);
      have -= (size_t)(end - text);
      memmove(text, end, have + 1);
    }
    if (have == sizeof(text) - 1) return 1;
  }
}

// Not the C library's start, which old versions and new ones have by different names; the loader has set the library up.
__asm__(
    ".globl _start\n"
    "_start:\n"
    "  xorl %ebp, %ebp\n"
    "  andq $-16, %rsp\n"
    "  call Main\n"
    "  movl %eax, %edi\n"
    "  call exit@PLT\n"
    "  ud2\n");
