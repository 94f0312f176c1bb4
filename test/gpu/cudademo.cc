// A CUDA program for whole-sandbox tests, on fakecuda's libcuda.so.1.
//
//   cudademo             one round: memory, copies, a kernel, registered host memory
//   cudademo races       the same, and memory that is unmapped while it is registered
//   cudademo hold [MIB]  fills MIB of device memory and registers host memory, says "ready", computes until a line comes on standard input, then
//                        checks all of it and says "held"
//   cudademo zeros [MIB] as hold, with device memory that is all zeros but for a word at its end
//   cudademo touch       as hold, while a second thread keeps on reading device memory by its address
//   cudademo gone        as touch, with the first thread ended
//   cudademo spin MS     as hold, with a kernel of that length on the device from "ready" on
//   cudademo several N [K FAIL]
//                        as hold, with N children that hold as well; the Kth has FAKECUDA_FAIL=FAIL
//   cudademo idle        starts CUDA, says "ready", waits for a line and then does one round
//   cudademo fork        as hold, with a child that runs no other program
//   cudademo starts      as hold, with children that start, hold for a moment and end, one after the other
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "test/gpu/fakecuda.h"

namespace {

int failures = 0;

void Expect(bool good, const char* name, long got = 0) {
  if (!good) {
    printf("FAIL %s: %ld\n", name, got);
    ++failures;
  } else {
    printf("ok %s\n", name);
  }
}

unsigned Pattern(size_t i) { return static_cast<unsigned>(i * 2654435761u + 17); }

// Host memory in the middle of a private mapping, as cudaHostRegister() gets it.
struct Host {
  static constexpr size_t kSize = 3 << 20, kFrom = 1 << 20, kRegistered = 1 << 20;
  char* all = nullptr;

  void Make() {
    all = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kSize / 4; ++i) reinterpret_cast<unsigned*>(all)[i] = Pattern(i);
    int result = cuMemHostRegister_v2(all + kFrom, kRegistered, 0);
    Expect(result == kCudaOk, "register host memory", result);
  }
  bool Good() const {
    for (size_t i = 0; i < kSize / 4; ++i) {
      if (reinterpret_cast<unsigned*>(all)[i] != Pattern(i)) return false;
    }
    return true;
  }
};

// A child has a copy of its own, and its parent does not see what it writes.
void Fork(Host& host) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    bool good = host.Good();
    memset(host.all, 0xee, Host::kSize);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  Expect(status == 0, "a child sees its parent's bytes", status);
  Expect(host.Good(), "and writes to its own");
}

// Neighbours of what was registered stay one private mapping to whoever reads the list.
void Maps(Host& host) {
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[512];
  bool shared = false;
  while (maps != nullptr && fgets(line, sizeof(line), maps) != nullptr) {
    unsigned long start, end;
    char prot[8];
    if (sscanf(line, "%lx-%lx %7s", &start, &end, prot) != 3) continue;
    auto at = reinterpret_cast<unsigned long>(host.all) + Host::kFrom;
    if (start <= at && at < end && prot[3] == 's') shared = true;
  }
  if (maps != nullptr) fclose(maps);
  Expect(!shared, "registered memory is private in /proc/self/maps");
}

// Registered memory moves and shrinks as memory does; it does not grow, nor leave anything behind, since a device has its pages.
void Remap() {
  constexpr size_t kSize = 2 << 20;
  char* memory = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t i = 0; i < kSize / 4; ++i) reinterpret_cast<unsigned*>(memory)[i] = Pattern(i);
  Expect(cuMemHostRegister_v2(memory, kSize, 0) == kCudaOk, "register what is remapped");
  Expect(mremap(memory, kSize, kSize * 2, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOMEM, "registered memory does not grow", errno);
  Expect(mremap(memory, 0, kSize, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL, "nor is it seen twice", errno);
  Expect(mremap(memory, kSize, kSize, MREMAP_MAYMOVE | MREMAP_DONTUNMAP) == MAP_FAILED && errno == ENOMEM, "nor does it leave its place behind",
         errno);
  void* place = mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* moved = static_cast<char*>(mremap(memory, kSize, kSize / 2, MREMAP_MAYMOVE | MREMAP_FIXED, place));
  bool good = moved == place;
  for (size_t i = 0; good && i < kSize / 8; ++i) good = reinterpret_cast<unsigned*>(moved)[i] == Pattern(i);
  Expect(good, "it moves and shrinks", errno);
  Expect(cuMemHostUnregister(memory) == kCudaOk, "unregister what was remapped");
  if (good) munmap(moved, kSize / 2);
}

volatile bool stop = false;

void* Count(void* word) {
  auto* count = static_cast<volatile unsigned long*>(word);
  while (!stop) *count = *count + 1;
  return nullptr;
}

// Another thread writes to the memory while it is registered: nothing is lost.
void Race() {
  constexpr size_t kSize = 32 << 20;
  char* memory = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  auto* word = reinterpret_cast<volatile unsigned long*>(memory + kSize / 2);
  pthread_t thread;
  pthread_create(&thread, nullptr, Count, memory + kSize / 2);
  while (*word < 1000) usleep(100);
  int result = cuMemHostRegister_v2(memory, kSize, 0);
  unsigned long before = *word;
  for (int i = 0; i < 5000 && *word <= before; ++i) usleep(1000);
  stop = true;
  pthread_join(thread, nullptr);
  Expect(result == kCudaOk, "register what another thread writes to", result);
  Expect(before >= 1000 && *word > before, "its writes stay", static_cast<long>(*word));
  Expect(cuMemHostUnregister(memory) == kCudaOk, "unregister");
  munmap(memory, kSize);
}

void* Unmap(void* argument) {
  auto* memory = static_cast<char* volatile*>(argument);
  // A descriptor for each that the other thread's unmapping gave back: what is registered must never be another file's memory.
  while (!stop) {
    char* at = __atomic_exchange_n(memory, nullptr, __ATOMIC_ACQ_REL);
    if (at == nullptr) continue;
    munmap(at, 1 << 20);
    int fd = static_cast<int>(syscall(SYS_memfd_create, "other", MFD_CLOEXEC));
    if (fd >= 0 && ftruncate(fd, 1 << 20) == 0) {
      void* other = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      if (other != MAP_FAILED) munmap(other, 1 << 20);
    }
    close(fd);
  }
  return nullptr;
}

// Memory that is unmapped while it is registered: registered, or not there; and nothing breaks.
void Unmapped() {
  char* volatile shared = nullptr;
  stop = false;
  pthread_t thread;
  pthread_create(&thread, nullptr, Unmap, const_cast<char**>(&shared));
  int wrong = 0, registered = 0;
  for (int i = 0; i < 300; ++i) {
    auto* memory = static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    __atomic_store_n(&shared, memory, __ATOMIC_RELEASE);
    int result = cuMemHostRegister_v2(memory, 1 << 20, 0);
    if (result == kCudaOk) {
      ++registered;
      if (cuMemHostUnregister(memory) != kCudaOk) ++wrong;
    } else if (result != kCudaOperatingSystem) {
      ++wrong;
    }
    while (__atomic_load_n(&shared, __ATOMIC_ACQUIRE) != nullptr) sched_yield();
  }
  stop = true;
  pthread_join(thread, nullptr);
  stop = false;
  printf("registered %d of 300\n", registered);
  Expect(wrong == 0, "memory that is unmapped meanwhile", wrong);
}

int Round(bool races) {
  size_t free = 0, total = 0;
  Expect(cuMemGetInfo_v2(&free, &total) == kCudaOk && total >= free && free > 0, "memory info");
  printf("total %zu MiB\n", total >> 20);
  uint64_t memory = 0;
  int result = cuMemAlloc_v2(&memory, 4 << 20);
  Expect(result == kCudaOk, "allocate", result);
  if (result != kCudaOk) return 1;
  Expect(cuMemsetD32_v2(memory, 40, 1024) == kCudaOk && fakeAdd(memory, 2, 1024) == kCudaOk, "kernel");
  unsigned words[1024];
  Expect(cuMemcpyDtoH_v2(words, memory, sizeof(words)) == kCudaOk && words[0] == 42 && words[1023] == 42, "copy", words[0]);
  Host host;
  host.Make();
  Expect(host.Good(), "registered memory keeps its bytes");
  Maps(host);
  Fork(host);
  Race();
  Remap();
  if (races) Unmapped();
  Expect(cuMemHostUnregister(host.all + Host::kFrom) == kCudaOk, "unregister");
  Expect(host.Good(), "and after");
  Expect(cuMemFree_v2(memory) == kCudaOk, "free");
  printf("%s\n", failures == 0 ? "PASS" : "FAILED");
  return failures != 0;
}

bool LineWaits() {
  pollfd p = {0, POLLIN, 0};
  return poll(&p, 1, 0) > 0;
}

uint64_t touched = 0;

void* Touch(void*) {
  unsigned sum = 0;
  while (!stop) {
    sum += *reinterpret_cast<volatile unsigned*>(touched);
    usleep(200);
  }
  return reinterpret_cast<void*>(static_cast<uintptr_t>(sum));
}

// What the process sees of GPUs, for tests to compare.
void Describe() {
  int count = 0;
  unsigned minor = 0;
  uint8_t uuid[16] = {};
  cuDeviceGetCount(&count);
  fakeWhere(uuid, &minor);
  printf("sees %d GPUs, is on %02x%02x minor %u;", count, uuid[0], uuid[1], minor);
  for (const char* folder : {"/dev", "/proc/driver/nvidia/gpus", "/sys/bus/pci/devices"}) {
    char names[32][64];
    int n = 0;
    if (DIR* dir = opendir(folder); dir != nullptr) {
      while (const dirent* entry = readdir(dir)) {
        bool node = strncmp(entry->d_name, "nvidia", 6) == 0 && entry->d_name[6] >= '0' && entry->d_name[6] <= '9';
        if (n < 32 && (node || entry->d_name[0] == '0')) snprintf(names[n++], sizeof(names[0]), "%s", entry->d_name);
      }
      closedir(dir);
    }
    qsort(names, static_cast<size_t>(n), sizeof(names[0]),
          [](const void* a, const void* b) { return strcmp(static_cast<const char*>(a), static_cast<const char*>(b)); });
    for (int i = 0; i < n; ++i) printf(" %s", names[i]);
  }
  struct stat st;
  printf("\nhelpers %ld\n", stat("/tmp/fakecuda-helpers", &st) == 0 ? static_cast<long>(st.st_size) : 0);
}

// Another of these programs, with pipes for its standard input and output.
struct Child {
  pid_t pid = -1;
  int in = -1;
  FILE* out = nullptr;

  void Start(const char* fail, const char* how) {
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return;
    char path[256] = {};
    if (readlink("/proc/self/exe", path, sizeof(path) - 1) < 0) return;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      setenv("FAKECUDA_FAIL", fail, 1);
      execl(path, path, how, "4", nullptr);
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    in = to[1];
    out = fdopen(from[0], "r");
  }
  // What it says up to a line with `word`; false if there is none.
  bool ReadUntil(const char* word) {
    char line[256];
    while (out != nullptr && fgets(line, sizeof(line), out) != nullptr) {
      if (strstr(line, "FAIL") != nullptr) printf("child %d: %s", pid, line);
      if (strncmp(line, word, strlen(word)) == 0) return true;
    }
    return false;
  }
  int Finish() {
    if (write(in, "go on\n", 6) == 6) ReadUntil("held");
    int status = -1;
    waitpid(pid, &status, 0);
    close(in);
    fclose(out);
    return status;
  }
};

constexpr int kMostChildren = 8;
Child children[kMostChildren];
int child_count = 0, child_lost = -1;

void StartChildren(int count, int failing, const char* fail) {
  child_count = count < kMostChildren ? count : kMostChildren;
  for (int i = 0; i < child_count; ++i) {
    children[i].Start(i + 1 == failing ? fail : "", "hold");
    Expect(children[i].ReadUntil("ready"), "a child is ready", i);
  }
  // One that cannot be restored is lost.
  if (strncmp(fail, "restore", 7) == 0 || strstr(fail, "lost") != nullptr) child_lost = failing - 1;
}

void FinishChildren() {
  for (int i = 0; i < child_count; ++i) {
    if (i == child_lost) {
      kill(children[i].pid, SIGKILL);
      waitpid(children[i].pid, nullptr, 0);
      continue;
    }
    int status = children[i].Finish();
    Expect(status == 0, "a child has held", status);
  }
}

void* KeepStarting(void*) {
  while (!stop) {
    Child child;
    child.Start("", "hold");
    Expect(child.ReadUntil("ready"), "a child is ready");
    int status = child.Finish();
    Expect(status == 0, "a child has held", status);
    ++child_count;
  }
  return nullptr;
}

// A child that runs no program of its own and holds what it has inherited.
void Fork() {
  fflush(stdout);
  Child& child = children[child_count++];
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0) return;
  child.pid = fork();
  if (child.pid == 0) {
    char c;
    close(pipes[1]);
    _exit(read(pipes[0], &c, 1) == 1 ? 0 : 1);
  }
  close(pipes[0]);
  child.in = pipes[1];
}

void EndFork() {
  Child& child = children[0];
  int status = -1;
  Expect(write(child.in, ".", 1) == 1 && waitpid(child.pid, &status, 0) == child.pid && status == 0, "a child without a program", status);
}

enum class Mode { kFork, kPlain, kZeros, kTouch, kSpin, kStarts };

int Hold(size_t mib, Mode mode, unsigned milliseconds = 0) {
  bool touch = mode == Mode::kTouch, zeros = mode == Mode::kZeros;
  size_t words = mib << 18;
  uint64_t memory = 0, counter = 0;
  int result = cuMemAlloc_v2(&memory, words * 4);
  if (result != kCudaOk || cuMemAlloc_v2(&counter, 4096) != kCudaOk) {
    printf("FAIL allocate: %d\n", result);
    return 1;
  }
  auto room = [&] { return static_cast<unsigned*>(mmap(nullptr, words * 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)); };
  unsigned* host = room();
  auto word = [&](size_t i) { return zeros && i + 1 < words ? 0 : Pattern(i); };
  for (size_t i = 0; i < words; ++i) host[i] = word(i);
  cuMemcpyHtoD_v2(memory, host, words * 4);
  // Its own copy is not what a checkpoint is to keep.
  munmap(host, words * 4);
  cuMemsetD32_v2(counter, 0, 1);
  Host registered;
  registered.Make();
  touched = counter;
  pthread_t thread;
  if (touch) pthread_create(&thread, nullptr, Touch, nullptr);
  if (mode == Mode::kStarts) pthread_create(&thread, nullptr, KeepStarting, nullptr);
  if (mode == Mode::kSpin) fakeSpin(milliseconds);
  if (mode == Mode::kFork) Fork();
  printf("ready\n");
  fflush(stdout);
  unsigned added = 0;
  for (; !LineWaits(); usleep(1000), ++added) fakeAdd(counter, 1, 1);
  unsigned counted = 0;
  cuMemcpyDtoH_v2(&counted, counter, 4);
  Expect(counted == added, "kernels ran once each", counted);
  host = room();
  cuMemcpyDtoH_v2(host, memory, words * 4);
  size_t wrong = 0;
  for (size_t i = 0; i < words; ++i) wrong += host[i] != word(i);
  Expect(wrong == 0, "device memory", static_cast<long>(wrong));
  Expect(registered.Good(), "registered memory");
  stop = true;
  if (touch || mode == Mode::kStarts) pthread_join(thread, nullptr);
  if (mode == Mode::kStarts) printf("started %d\n", child_count);
  if (mode == Mode::kPlain) FinishChildren();
  if (mode == Mode::kFork) EndFork();
  Describe();
  printf("held\n");
  return failures != 0;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  int result = cuInit(0);
  Expect(result == kCudaOk, "cuInit", result);
  if (result != kCudaOk) return 1;
  if (argc == 1) return Round(false);
  const char* how = argv[1];
  if (strcmp(how, "races") == 0) return Round(true);
  size_t number = argc > 2 ? strtoul(argv[2], nullptr, 10) : 16;
  if (strcmp(how, "several") == 0) {
    StartChildren(static_cast<int>(number), argc > 4 ? atoi(argv[3]) : 0, argc > 4 ? argv[4] : "");
    return Hold(4, Mode::kPlain);
  }
  if (strcmp(how, "gone") == 0) {
    pthread_t thread;
    pthread_create(&thread, nullptr, [](void*) -> void* { exit(Hold(4, Mode::kTouch)); }, nullptr);
    pthread_exit(nullptr);
  }
  if (strcmp(how, "idle") == 0) {
    printf("ready\n");
    while (!LineWaits()) usleep(1000);
    int status = Round(false);
    printf("held\n");
    return status;
  }
  if (strcmp(how, "spin") == 0) return Hold(4, Mode::kSpin, static_cast<unsigned>(number));
  if (strcmp(how, "fork") == 0) return Hold(4, Mode::kFork);
  if (strcmp(how, "starts") == 0) return Hold(4, Mode::kStarts);
  return Hold(number, strcmp(how, "touch") == 0 ? Mode::kTouch : strcmp(how, "zeros") == 0 ? Mode::kZeros : Mode::kPlain);
}
