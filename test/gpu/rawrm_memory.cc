// Mappings of devices, as drivers' are (VM_PFNMAP or VM_MIXEDMAP, VM_DONTEXPAND), and guest memory of every kind that is registered with a device.
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#include <functional>

#include "test/gpu/rawrm.h"

namespace rawrm {
namespace {

constexpr size_t kPage = 4096, kSize = 64 * kPage;
constexpr uint32_t kReadOnly = 1u << 21;  // OS02_FLAGS_ALLOC_USER_READ_ONLY

char* Anonymous(size_t size, int prot = PROT_READ | PROT_WRITE, int flags = MAP_PRIVATE) {
  return static_cast<char*>(mmap(nullptr, size, prot, flags | MAP_ANONYMOUS, -1, 0));
}

// How a child ends that does `body`: 0, or the signal that killed it.
int InChild(const std::function<void()>& body) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

void Touch(volatile char* at) { *at = 1; }

// Memory of the device and a mapping context for it in a new file.
int Mappable(const Session& s, uint32_t handle) {
  uint32_t status = Memory(s, handle, kSize);
  int fd = open("/dev/nvidia0", O_RDWR | O_CLOEXEC);
  RmMapMemory block{};
  block.hClient = s.client;
  block.hDevice = kDevice;
  block.hMemory = handle;
  block.length = kSize;
  block.pad_fd = fd;
  Expect(status == kNvOk && Call(s.ctl, 0x4e, block) == 0 && block.status == kNvOk, "a mapping context", block.status);
  return fd;
}

void Remaps(const Session& s) {
  int fd = Mappable(s, 0x100);
  errno = 0;
  Expect(mmap(nullptr, kSize, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM, "device memory is not executed");
  auto* memory = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  Expect(memory != MAP_FAILED, "mmap");
  if (memory == MAP_FAILED) return;
  Expect(mprotect(memory, kSize, PROT_READ | PROT_EXEC) == -1 && errno == EACCES, "nor after an mprotect");
  for (size_t i = 0; i < kSize; i += kPage) memory[i] = static_cast<char>(i / kPage);
  Expect(mremap(memory, kSize, 2 * kSize, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT, "mremap: it does not grow");
  Expect(mremap(memory, kSize, 2 * kSize, 0) == MAP_FAILED && errno == EFAULT, "mremap: nor in place");
  Expect(mremap(memory, 0, kSize, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT, "mremap: it is not duplicated");
  Expect(mremap(memory, kSize, kSize, MREMAP_MAYMOVE | MREMAP_DONTUNMAP) == MAP_FAILED && errno == EINVAL, "mremap: MREMAP_DONTUNMAP");
  char* place = Anonymous(kSize, PROT_NONE);
  auto* moved = static_cast<char*>(mremap(memory, kSize, kSize, MREMAP_MAYMOVE | MREMAP_FIXED, place));
  bool same = moved == place;
  for (size_t i = 0; same && i < kSize; i += kPage) same = moved[i] == static_cast<char>(i / kPage);
  Expect(same, "mremap: it moves");
  if (moved != place) return;
  Expect(InChild([&] { Touch(memory); }) == SIGSEGV, "mremap: nothing is left behind");
  Expect(mremap(moved, kSize, kSize / 2, 0) == moved && InChild([&] { Touch(moved + kSize / 2); }) == SIGSEGV, "mremap: it shrinks");
  Expect(mprotect(moved, kPage, PROT_READ) == 0 && InChild([&] { Touch(moved); }) == SIGSEGV, "mprotect: read-only");
  Expect(mprotect(moved, kPage, PROT_READ | PROT_WRITE) == 0 && InChild([&] { moved[0] = 77; }) == 0 && moved[0] == 77,
         "a child has the mapping, too");
  Expect(mmap(moved, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST,
         "MAP_FIXED_NOREPLACE");
  Expect(mmap(moved, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == moved && moved[0] == 0 && moved[kPage] == 1,
         "MAP_FIXED over a part");
  munmap(moved, kSize);
  close(fd);
}

struct Word {
  uint32_t* at;
  int operation;
};

void* WakeLater(void* argument) {
  auto* word = static_cast<Word*>(argument);
  for (int i = 0; i < 500; ++i) {
    usleep(10000);
    if (syscall(SYS_futex, word->at, word->operation, 1, nullptr, nullptr, 0) == 1) return word;
  }
  return nullptr;
}

// The host executes futex calls. Of shared ones it wants the page, and a device's need not have one (get_futex_key()).
void Futexes(const Session& s) {
  int fd = Mappable(s, 0x101);
  auto* word = static_cast<uint32_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  if (word == MAP_FAILED) return Expect(false, "mmap");
  for (int flag : {FUTEX_PRIVATE_FLAG, 0}) {
    const char* name = flag != 0 ? "private futex in device memory" : "shared futex in device memory";
    long r = syscall(SYS_futex, word, FUTEX_WAIT | flag, 1, nullptr, nullptr, 0);
    if (r == -1 && errno == EFAULT && flag == 0) {
      Expect(true, name);
      continue;
    }
    Expect(r == -1 && errno == EAGAIN, name);
    timespec soon = {0, 1000000};
    Expect(syscall(SYS_futex, word, FUTEX_WAIT | flag, 0, &soon, nullptr, 0) == -1 && errno == ETIMEDOUT, name);
    Word wake = {word, FUTEX_WAKE | flag};
    pthread_t thread;
    pthread_create(&thread, nullptr, WakeLater, &wake);
    r = syscall(SYS_futex, word, FUTEX_WAIT | flag, 0, nullptr, nullptr, 0);
    void* woken = nullptr;
    pthread_join(thread, &woken);
    Expect(r == 0 && woken == &wake, name);
  }
  munmap(word, kSize);
  close(fd);
}

// libcuda asks directly after an mmap whether the driver took it.
void Validated() {
  constexpr uint32_t kValidate = 72;
  int fd = open("/dev/nvidia-uvm", O_RDWR | O_CLOEXEC);
  UvmInitialize init{};
  Expect(ioctl(fd, 0x30000001, &init) == 0 && init.rmStatus == kNvOk, "uvm initialize", init.rmStatus);
  char* place = Anonymous(kSize, PROT_NONE);
  UvmRange range{};
  range.base = reinterpret_cast<uint64_t>(place);
  range.length = kSize;
  Expect(ioctl(fd, kValidate, &range) == 0 && range.rmStatus == kNvInvalidAddress, "a range that is not mapped", range.rmStatus);
  void* managed = mmap(place, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(range.base));
  range.rmStatus = ~0u;
  Expect(managed == place && ioctl(fd, kValidate, &range) == 0 && range.rmStatus == kNvOk, "directly after the mmap", range.rmStatus);
  munmap(place, kSize);
  // The tools node, which looks into other processes, does not exist: its number cannot be opened either.
  struct stat node{};
  char tools[] = "/tmp/rawrm-tools";
  errno = 0;
  bool made = fd >= 0 && fstat(fd, &node) == 0 && mknod(tools, S_IFCHR | 0600, makedev(major(node.st_rdev), 1)) == 0;
  Expect(access("/dev/nvidia-uvm-tools", F_OK) == -1 && made && open(tools, O_RDWR) == -1 && errno == ENXIO, "the UVM tools node");
  unlink(tools);
  close(fd);
}

uint32_t next_handle = 0x1000;

// The status of registering [at, at + size) with the device.
uint32_t Register(const Session& s, const void* at, uint64_t size, uint32_t flags = 0) {
  RmAllocMemory block{};
  block.hRoot = s.client;
  block.hObjectParent = kDevice;
  block.hObjectNew = next_handle++;
  block.hClass = 0x71;
  block.flags = flags | 1u << 30;  // not mapped by this
  block.pMemory = reinterpret_cast<uint64_t>(at);
  block.limit = size - 1;
  block.pad_fd = -1;
  if (Call(s.gpu, 0x27, block) != 0) return ~0u;
  return block.status;
}

void ExpectRegistered(const Session& s, const void* at, uint64_t size, uint32_t flags, uint32_t wanted, const char* name) {
  uint32_t got = Register(s, at, size, flags);
  Expect(got == wanted, name, got);
}

void Protections(const Session& s) {
  char* memory = Anonymous(4 * kPage);
  for (size_t i = 0; i < 4 * kPage; ++i) memory[i] = static_cast<char>(i * 7);
  mprotect(memory, 4 * kPage, PROT_READ);
  ExpectRegistered(s, memory, 4 * kPage, 0, kNvInvalidAddress, "read-only memory, to be written");
  ExpectRegistered(s, memory, 4 * kPage, kReadOnly, kNvOk, "read-only memory, to be read");
  bool same = true;
  for (size_t i = 0; i < 4 * kPage; ++i) same = same && memory[i] == static_cast<char>(i * 7);
  Expect(same && InChild([&] { Touch(memory); }) == SIGSEGV, "it is what it was, and read-only");
  Expect(mprotect(memory, 4 * kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
  Touch(memory);
  char* none = Anonymous(2 * kPage, PROT_NONE);
  ExpectRegistered(s, none, 2 * kPage, 0, kNvInvalidAddress, "PROT_NONE");
  ExpectRegistered(s, none, 2 * kPage, kReadOnly, kNvInvalidAddress, "PROT_NONE, to be read");
  Expect(InChild([&] { Touch(none); }) == SIGSEGV, "it is PROT_NONE still");
  mprotect(none, kPage, PROT_READ | PROT_WRITE);
  ExpectRegistered(s, none, 2 * kPage, 0, kNvInvalidAddress, "half of it PROT_NONE");
  munmap(none + kPage, kPage);
  ExpectRegistered(s, none, 2 * kPage, 0, kNvInvalidAddress, "half of it unmapped");
}

void Bounds(const Session& s) {
  char* memory = Anonymous(4 * kPage);
  ExpectRegistered(s, memory + 16, kPage, 0, kNvNotSupported, "not at a page's beginning");
  ExpectRegistered(s, memory, kPage + 16, 0, kNvOk, "not to a page's end");
  ExpectRegistered(s, memory, 0, 0, kNvInvalidLimit, "2^64 bytes");
  ExpectRegistered(s, reinterpret_cast<void*>(~uint64_t{0} - kPage + 1), 2 * kPage, 0, kNvInvalidAddress, "around the end");
  ExpectRegistered(s, reinterpret_cast<void*>(uint64_t{1} << 47), kPage, 0, kNvInvalidAddress, "beyond the guest's addresses");
}

// A file with a page of each letter.
int Lettered(int fd, int pages) {
  char page[kPage];
  for (int i = 0; i < pages; ++i) {
    memset(page, 'a' + i, sizeof(page));
    if (pwrite(fd, page, sizeof(page), static_cast<off_t>(i * kPage)) != static_cast<ssize_t>(sizeof(page))) Expect(false, "write");
  }
  return fd;
}

void Files(const Session& s) {
  char name[] = "/tmp/rawrmXXXXXX";
  int file = Lettered(mkstemp(name), 4);
  auto* own = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
  own[kPage] = '!';
  ExpectRegistered(s, own, 4 * kPage, 0, kNvOk, "a file, private");
  char byte = 0;
  Expect(own[0] == 'a' && own[kPage] == '!' && own[2 * kPage] == 'c', "its bytes");
  own[0] = '?';
  Expect(pread(file, &byte, 1, 0) == 1 && byte == 'a', "the file does not change");
  auto* text = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ, MAP_PRIVATE, file, 0));
  ExpectRegistered(s, text, 4 * kPage, 0, kNvInvalidAddress, "a file, private and read-only, to be written");
  ExpectRegistered(s, text, 4 * kPage, kReadOnly, kNvOk, "the same, to be read");
  Expect(text[3 * kPage] == 'd', "its bytes");
  int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  auto* host = static_cast<char*>(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, program, 0));
  ExpectRegistered(s, host, kPage, 0, kNvInvalidAddress, "a file of the root, shared, to be written");
  ExpectRegistered(s, host, kPage, kReadOnly, kNvNotSupported, "the same, to be read");
  unlink(name);

  int memfd = Lettered(memfd_create("rawrm", MFD_CLOEXEC), 4);
  auto* shared = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
  ExpectRegistered(s, shared, 4 * kPage, 0, kNvOk, "a memfd, shared");
  shared[0] = 'z';
  Expect(pread(memfd, &byte, 1, 0) == 1 && byte == 'z' && shared[3 * kPage] == 'd', "it is the memfd still");
  Expect(ftruncate(memfd, 0) == 0 && InChild([&] { Touch(shared); }) == SIGBUS, "the memfd cut off under it");
  int half = Lettered(memfd_create("rawrm", MFD_CLOEXEC), 2);
  auto* tail = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, half, 0));
  uint32_t got = Register(s, tail, 4 * kPage);
  Expect(got == kNvInvalidAddress || got == kNvNoMemory, "beyond the end of a file", got);
  Expect(tail[kPage] == 'b' && InChild([&] { Touch(tail); }) == 0 && InChild([&] { Touch(tail + 3 * kPage); }) == SIGBUS, "which stays as it was");
  close(file), close(program), close(memfd), close(half);
}

// One registration across mappings of several kinds, and memory that is large, on a stack, or in large pages.
void Kinds(const Session& s) {
  char* memory = Anonymous(8 * kPage);
  int memfd = Lettered(memfd_create("rawrm", MFD_CLOEXEC), 2);
  auto over = [&](int page, int pages, int flags, int fd, off_t offset) {
    void* at = memory + page * kPage;
    Expect(mmap(at, pages * kPage, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset) == at, "mmap");
  };
  over(2, 2, MAP_SHARED, memfd, 0);
  over(4, 2, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  over(6, 1, MAP_PRIVATE, memfd, static_cast<off_t>(kPage));
  memory[0] = 'A', memory[4 * kPage] = 'S', memory[7 * kPage] = 'E';
  ExpectRegistered(s, memory, 8 * kPage, 0, kNvOk, "mappings of several kinds");
  Expect(memory[0] == 'A' && memory[2 * kPage] == 'a' && memory[3 * kPage] == 'b' && memory[4 * kPage] == 'S' && memory[6 * kPage] == 'b' &&
             memory[7 * kPage] == 'E',
         "their bytes");
  memory[6 * kPage] = '!';
  Expect(memory[3 * kPage] == 'b', "what was private is private");
  Expect(InChild([&] { memory[0] = 'X', memory[2 * kPage] = 'X'; }) == 0 && memory[0] == 'A' && memory[2 * kPage] == 'X',
         "a child has its own of what is private");
  constexpr size_t kLarge = 8 << 20;
  char* large = Anonymous(kLarge);
  madvise(large, kLarge, MADV_HUGEPAGE);
  memset(large, 5, kLarge);
  ExpectRegistered(s, large, kLarge, 0, kNvOk, "MADV_HUGEPAGE");
  bool same = true;
  for (size_t i = 0; i < kLarge; i += kPage) same = same && large[i] == 5;
  Expect(same, "its bytes");
  auto* pages = static_cast<char*>(mmap(nullptr, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
  if (pages != MAP_FAILED) ExpectRegistered(s, pages, 2 << 20, 0, kNvOk, "MAP_HUGETLB");
  // The device keeps the pages that a process lets go of.
  Expect(madvise(large, kPage, MADV_DONTNEED) == 0 && large[0] == 0 && large[kPage] == 5, "MADV_DONTNEED");
  large[0] = 6;
  Expect(large[0] == 6 && InChild([&] { large[0] = 7; }) == 0 && large[0] == 6, "then it is memory like any other");
  Expect(madvise(large + kPage, kPage, MADV_FREE) == 0 && large[kPage] == 5, "MADV_FREE");
  errno = 0;
  Expect(madvise(large + kPage, kPage, MADV_REMOVE) == -1 && errno == EINVAL && large[kPage] == 5, "MADV_REMOVE");
  ExpectRegistered(s, large, kLarge, 0, kNvOk, "the whole once more");
  alignas(4096) char stack[4 * kPage];
  memset(stack, 9, sizeof(stack));
  ExpectRegistered(s, stack, sizeof(stack), 0, kNvOk, "memory of the stack");
  same = true;
  for (char c : stack) same = same && c == 9;
  Expect(same, "its bytes");
  close(memfd);
}

}  // namespace

int Memories() {
  Session s = Start();
  Remaps(s);
  Futexes(s);
  Validated();
  Protections(s);
  Bounds(s);
  Files(s);
  Kinds(s);
  RmFree all{};
  all.hRoot = all.hObjectOld = s.client;
  Expect(Call(s.ctl, 0x29, all) == 0 && all.status == kNvOk, "free");
  return Verdict();
}

}  // namespace rawrm
