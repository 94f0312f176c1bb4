// A guest program that speaks to the GPU driver as CUDA does at its start, without CUDA: the whole way from system call to driver and back.
// Prints a line per step, "ok NAME" or "FAIL NAME: why", and ends with 1 if any failed. `rawrm hold` keeps what NVML would, says "ready", and
// goes on when a line comes on standard input; `rawrm busy` has GPU memory besides. `rawrm eat` allocates GPU memory, 256 MiB at a time, until there is no more, and tells how much.
// `rawrm orphan` wants a quota of 2 GiB, `rawrm lost` a GPU that is lost at control 0x20800111, `rawrm events` one where that control makes an event arrive,
// `rawrm blocked MILLISECONDS` and `rawrm stuck` one where it takes that long. `rawrm memory` is about mappings of devices and memory that is registered with them.
#include "test/gpu/rawrm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace rawrm;

void Mapping(const Session& s) {
  constexpr size_t kSize = 1 << 20;
  uint32_t status = Memory(s, 0x100, kSize);
  Expect(status == kNvOk, "memory", status);
  int fd = open("/dev/nvidia0", O_RDWR | O_CLOEXEC);
  RmMapMemory block{};
  block.hClient = s.client;
  block.hDevice = kDevice;
  block.hMemory = 0x100;
  block.length = kSize;
  block.pad_fd = fd;
  Expect(Call(s.ctl, 0x4e, block) == 0 && block.status == kNvOk && block.pad_fd == fd, "map memory", block.status);
  Expect(mmap(nullptr, kSize / 2, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL, "mmap of a part");
  auto* memory = static_cast<uint32_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  Expect(memory != MAP_FAILED, "mmap");
  if (memory == MAP_FAILED) return;
  for (size_t i = 0; i < kSize / 4; ++i) memory[i] = static_cast<uint32_t>(i * 2654435761u);
  uint32_t sum = 0;
  for (size_t i = 0; i < kSize / 4; ++i) sum += memory[i] - static_cast<uint32_t>(i * 2654435761u);
  Expect(sum == 0, "device memory keeps what was written");
  // A call whose buffer is the device's: its bytes, or EFAULT where the host cannot copy them, and nothing else.
  int ends[2];
  uint32_t copy[16] = {};
  bool piped = pipe(ends) == 0;
  ssize_t written = piped ? write(ends[1], memory, sizeof(copy)) : -1;
  bool same = written == sizeof(copy) && read(ends[0], copy, sizeof(copy)) == sizeof(copy) && memcmp(copy, memory, sizeof(copy)) == 0;
  Expect(same || (written == -1 && errno == EFAULT), "write from device memory", static_cast<uint64_t>(written));
  if (piped) close(ends[0]), close(ends[1]);
  Expect(munmap(memory, kSize / 2) == 0 && munmap(memory + kSize / 8, kSize / 2) == 0, "munmap in parts");
  close(fd);
}

void Uvm(const Session& s) {
  int fd = open("/dev/nvidia-uvm", O_RDWR | O_CLOEXEC);
  Expect(fd >= 0, "open uvm");
  UvmInitialize init{};
  Expect(ioctl(fd, 0x30000001, &init) == 0 && init.rmStatus == kNvOk && init.flags == 0, "uvm initialize", init.rmStatus);
  UvmRange range{};
  range.base = 0x200000000;
  range.length = 2 << 20;
  Expect(ioctl(fd, 73, &range) == 0 && range.rmStatus == kNvOk, "external range", range.rmStatus);
  void* place = mmap(nullptr, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto* managed = static_cast<char*>(mmap(place, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, reinterpret_cast<off_t>(place)));
  Expect(managed == place, "managed memory");
  if (managed == place) {
    strcpy(managed, "managed");
    Expect(strcmp(managed, "managed") == 0, "managed memory keeps what was written");
  }
  (void)s;
  close(fd);
}

void Refusals(const Session& s) {
  uint8_t params[64] = {};
  Expect(Control(s, kSubdevice, 0x20808123, params, 32) == kNvNotSupported, "firmware command refused");
  Expect(Control(s, kSubdevice, 0x20800111, params, 5) == kNvInvalidParamStruct, "wrong size refused");
  struct {
    uint32_t cmd, size;
    uint64_t pointer;
  } envelope = {0x2a, 32, 0};
  Expect(Call(s.ctl, 0xd3, envelope) == -1 && errno == EINVAL, "envelope refused");
  pollfd p = {s.gpu, POLLIN, 0};
  Expect(poll(&p, 1, 0) == 0, "no event");
  fflush(stdout);
  // A child has the files but is not the process that made the client.
  pid_t child = fork();
  if (child == 0) _exit(Control(s, s.client, 0x20800111, params, 12) == kNvInvalidClient ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  Expect(status == 0, "a child cannot use its parent's client");
}

void ReadFile(const char* path, const char* wanted) {
  char text[4096] = {};
  int fd = open(path, O_RDONLY);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
  Expect(n > 0 && strstr(text, wanted) != nullptr, path);
  if (fd >= 0) close(fd);
}

void Files() {
  ReadFile("/proc/driver/nvidia/params", "ModifyDeviceFiles: 0");
  ReadFile("/proc/driver/nvidia/version", "NVRM version");
  ReadFile("/proc/devices", "nvidia-uvm");
  ReadFile("/sys/module/nvidia/version", ".");
  ReadFile("/sys/bus/pci/devices/0000:41:00.0/vendor", "0x10de");
  ReadFile("/proc/driver/nvidia/gpus/0000:41:00.0/information", "GPU UUID");
}

int Eat() {
  Session s = Start();
  uint64_t blocks = 0;
  uint32_t status;
  while ((status = Memory(s, 0x1000 + static_cast<uint32_t>(blocks), 256 << 20)) == kNvOk) ++blocks;
  Expect(status == kNvNoMemory, "the end is NO_MEMORY", status);
  printf("allocated %llu MiB\n", static_cast<unsigned long long>(blocks * 256));
  return failures != 0;
}

// The GPU falls off the bus in the middle: errors from then on, and an end like any other.
int Lost() {
  Session s = Start();
  uint32_t status = Memory(s, 0x100, 1 << 20);
  Expect(status == kNvOk, "memory", status);
  uint8_t params[64] = {};
  status = Control(s, kSubdevice, 0x20800111, params, sizeof(params));
  Expect(status == kNvGpuIsLost, "a control of a lost GPU", status);
  status = Memory(s, 0x101, 1 << 20);
  Expect(status == kNvGpuIsLost, "memory of a lost GPU", status);
  errno = 0;
  Expect(open("/dev/nvidia0", O_RDWR) == -1 && errno == EIO, "a lost GPU cannot be opened");
  pollfd p = {s.gpu, POLLIN, 0};
  Expect(poll(&p, 1, 0) == 1 && p.revents == POLLHUP, "it has hung up", static_cast<uint64_t>(p.revents));
  RmFree all{};
  all.hRoot = all.hObjectOld = s.client;
  Expect(Call(s.ctl, 0x29, all) == 0 && all.status == kNvOk, "free", all.status);
  return Verdict();
}

// With `busy`, it also has GPU memory, which no image can hold.
int Hold(bool busy) {
  Session s = Start();
  if (busy) Expect(Memory(s, 0x200, 1 << 20) == kNvOk, "memory");
  printf("ready\n");
  fflush(stdout);
  char line[16];
  if (read(0, line, sizeof(line)) < 0) return 2;
  uint8_t params[64] = {};
  uint32_t status = Control(s, kSubdevice, 0x20800111, params, sizeof(params));
  Expect(status == kNvOk, "control of an object from before", status);
  status = Memory(s, 0x100, 1 << 20);
  Expect(status == kNvOk, "memory below a device from before", status);
  printf("held\n");
  return failures != 0;
}

// A killed process leaves a child that still has its files: its memory is given back all the same.
int Orphan() {
  constexpr uint64_t kSize = uint64_t{3} << 29;
  int ends[2];
  if (pipe(ends) != 0) return 2;
  pid_t parent = fork();
  if (parent == 0) {
    Session s = Start();
    Expect(Memory(s, 0x100, kSize) == kNvOk, "memory of a process that is killed");
    fflush(stdout);
    char byte;
    if (fork() == 0) _exit(close(ends[1]) + static_cast<int>(read(ends[0], &byte, 1)));
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(parent, &status, 0);
  Expect(WIFSIGNALED(status), "killed", static_cast<uint64_t>(status));
  Session s = Start();
  // The driver's part of an exit ends a moment after the parent has heard of it.
  uint32_t result = kNvNoMemory;
  for (int i = 0; i < 200 && result == kNvNoMemory; ++i) {
    result = Memory(s, 0x100, kSize);
    if (result == kNvNoMemory) usleep(10000);
  }
  Expect(result == kNvOk, "the memory is free again", result);
  close(ends[1]);
  return Verdict();
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc > 1 && strcmp(argv[1], "eat") == 0) return Eat();
  if (argc > 1 && strcmp(argv[1], "hold") == 0) return Hold(false);
  if (argc > 1 && strcmp(argv[1], "busy") == 0) return Hold(true);
  if (argc > 1 && strcmp(argv[1], "lost") == 0) return Lost();
  if (argc > 1 && strcmp(argv[1], "orphan") == 0) return Orphan();
  if (argc > 1 && strcmp(argv[1], "memory") == 0) return Memories();
  if (argc > 1 && strcmp(argv[1], "events") == 0) return Events();
  if (argc > 2 && strcmp(argv[1], "blocked") == 0) return Blocked(atoi(argv[2]));
  if (argc > 1 && strcmp(argv[1], "stuck") == 0) return Stuck();
  if (argc > 1 && strcmp(argv[1], "nothing") == 0) return 0;
  Session s = Start();
  Files();
  Mapping(s);
  Uvm(s);
  Refusals(s);
  RmFree all{};
  all.hRoot = all.hObjectOld = s.client;
  Expect(Call(s.ctl, 0x29, all) == 0 && all.status == kNvOk, "free");
  return Verdict();
}
