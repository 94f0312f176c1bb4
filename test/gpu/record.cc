// Records what a program and its children say to the NVIDIA driver: natively on a machine with a card, and inside a sandbox, where it is a guest like any.
//
//   record FILE PROGRAM [ARGUMENT...]
//
// A tracer by ptrace(2), so that calls which bypass the C library are seen, too. FILE gets a line a call, words separated by spaces, bytes in hexadecimal,
// "-" where there are none:
//   driver VERSION
//   open PROCESS PATH RESULT                        RESULT and descriptors as the program sees them, -errno for errors
//   close PROCESS DESCRIPTOR
//   fork PROCESS CHILD
//   mmap PROCESS DESCRIPTOR LENGTH OFFSET PROT RESULT
//   ioctl PROCESS DESCRIPTOR NODE COMMAND RESULT MICROSECONDS IN OUT NESTED_IN NESTED_OUT
// The nested bytes are the parameters of RM_CONTROL and RM_ALLOC; what those lead to is not followed. Ends with the program's status.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "nvproxy/abi.h"
#include "nvproxy/tables.h"

namespace {

using namespace amber::nvproxy;
using Bytes = std::vector<unsigned char>;

constexpr size_t kMostBytes = 1 << 20;

struct Thread {
  pid_t process = 0;
  uint64_t number = 0, args[6] = {};
  bool inside = false;
  double begin = 0;
  Bytes in, nested_in;
  uint64_t nested = 0;
  std::string path;
};

FILE* out;
const Branch* branch;
std::map<pid_t, Thread> threads;
std::set<pid_t> known;  // processes whose beginning is written

double Microseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

Bytes Read(pid_t tid, uint64_t address, size_t size) {
  Bytes bytes(std::min(size, kMostBytes));
  if (bytes.empty() || address == 0) return {};
  iovec local{bytes.data(), bytes.size()}, remote{reinterpret_cast<void*>(address), bytes.size()};
  ssize_t n = process_vm_readv(tid, &local, 1, &remote, 1, 0);
  bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return bytes;
}

std::string ReadString(pid_t tid, uint64_t address) {
  std::string text;
  while (text.size() < 256) {
    Bytes one = Read(tid, address + text.size(), 1);
    if (one.empty() || one[0] == 0) break;
    text += static_cast<char>(one[0]);
  }
  return text;
}

uint32_t Word(const Bytes& bytes, size_t at) {
  uint32_t value = 0;
  if (at + 4 <= bytes.size()) memcpy(&value, bytes.data() + at, 4);
  return value;
}
uint64_t Long(const Bytes& bytes, size_t at) { return Word(bytes, at) | uint64_t{Word(bytes, at + 4)} << 32; }

std::string Hex(const Bytes& bytes) {
  if (bytes.empty()) return "-";
  std::string text;
  for (unsigned char b : bytes) {
    char two[3];
    snprintf(two, sizeof(two), "%02x", b);
    text += two;
  }
  return text;
}

// The node that a descriptor is open on; "" if it is none of the driver's.
std::string NodeOf(pid_t process, int fd) {
  char path[64], target[128];
  snprintf(path, sizeof(path), "/proc/%d/fd/%d", process, fd);
  ssize_t n = readlink(path, target, sizeof(target) - 1);
  if (n <= 0) return "";
  target[n] = 0;
  return strncmp(target, "/dev/nvidia", 11) == 0 ? target + 5 : "";
}

size_t BlockSize(const std::string& node, uint32_t command) {
  if (node != "nvidia-uvm") return command >> 16 & 0x3fff;
  const Entry* entry = FindEntry(branch->uvm, command);
  return entry != nullptr ? entry->size : 0;
}

void EnterIoctl(pid_t tid, Thread& t) {
  std::string node = NodeOf(t.process, static_cast<int>(t.args[0]));
  if (node.empty()) return;
  t.path = node;
  auto command = static_cast<uint32_t>(t.args[1]);
  t.in = Read(tid, t.args[2], BlockSize(node, command));
  t.nested = 0;
  size_t size = 0;
  if (node != "nvidia-uvm" && (command & 0xff) == 0x2a) {
    t.nested = Long(t.in, offsetof(RmControl, params));
    size = Word(t.in, offsetof(RmControl, paramsSize));
  } else if (node != "nvidia-uvm" && (command & 0xff) == 0x2b) {
    // The driver takes the size from the class.
    const Entry* entry = FindEntry(branch->classes, Word(t.in, offsetof(RmAlloc, hClass)));
    t.nested = Long(t.in, offsetof(RmAlloc, pAllocParms));
    size = entry != nullptr && entry->size != kUnknownSize ? entry->size : 0;
  }
  t.nested_in = Read(tid, t.nested, size);
}

void Enter(pid_t tid, Thread& t, const __ptrace_syscall_info& info) {
  t.inside = true;
  t.number = info.entry.nr;
  memcpy(t.args, info.entry.args, sizeof(t.args));
  t.path.clear();
  if (t.number == SYS_ioctl) EnterIoctl(tid, t);
  if (t.number == SYS_openat) t.path = ReadString(tid, t.args[1]);
  if (t.number == SYS_open) t.path = ReadString(tid, t.args[0]);
  // Before: afterwards nobody knows what it was.
  if (t.number == SYS_close) t.path = NodeOf(t.process, static_cast<int>(t.args[0]));
  if (t.number == SYS_mmap && static_cast<int>(t.args[4]) >= 0 && (t.args[3] & MAP_ANONYMOUS) == 0)
    t.path = NodeOf(t.process, static_cast<int>(t.args[4]));
  t.begin = Microseconds();
}

void Leave(pid_t tid, Thread& t, int64_t result) {
  double took = Microseconds() - t.begin;
  t.inside = false;
  if (t.path.empty()) return;
  switch (t.number) {
    case SYS_open:
    case SYS_openat:
      if (t.path.starts_with("/dev/nvidia")) fprintf(out, "open %d %s %lld\n", t.process, t.path.c_str(), static_cast<long long>(result));
      break;
    case SYS_close: fprintf(out, "close %d %d\n", t.process, static_cast<int>(t.args[0])); break;
    case SYS_mmap:
      fprintf(out, "mmap %d %d %llu %llu %d %lld\n", t.process, static_cast<int>(t.args[4]), static_cast<unsigned long long>(t.args[1]),
              static_cast<unsigned long long>(t.args[5]), static_cast<int>(t.args[2]), static_cast<long long>(result < 0 ? result : 0));
      break;
    case SYS_ioctl:
      fprintf(out, "ioctl %d %d %s %#x %lld %.0f %s %s %s %s\n", t.process, static_cast<int>(t.args[0]), t.path.c_str(),
              static_cast<uint32_t>(t.args[1]), static_cast<long long>(result), took, Hex(t.in).c_str(),
              Hex(Read(tid, t.args[2], t.in.size())).c_str(), Hex(t.nested_in).c_str(), Hex(Read(tid, t.nested, t.nested_in.size())).c_str());
      break;
    default: break;
  }
}

void OnSyscall(pid_t tid, Thread& t) {
  __ptrace_syscall_info info{};
  if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) <= 0) return;
  if (info.op == PTRACE_SYSCALL_INFO_ENTRY) Enter(tid, t, info);
  if (info.op == PTRACE_SYSCALL_INFO_EXIT && t.inside) Leave(tid, t, info.exit.rval);
}

// A number of /proc/TID/status, by its word there.
pid_t StatusOf(pid_t tid, const char* format) {
  char path[64], line[128];
  snprintf(path, sizeof(path), "/proc/%d/status", tid);
  FILE* file = fopen(path, "r");
  pid_t value = 0;
  while (file != nullptr && fgets(line, sizeof(line), file) != nullptr) {
    if (sscanf(line, format, &value) == 1) break;
  }
  if (file != nullptr) fclose(file);
  return value;
}

// Parent and child may be seen in either order.
void NoteFork(pid_t parent, pid_t child) {
  if (known.insert(child).second) fprintf(out, "fork %d %d\n", parent, child);
}

void OnEvent(pid_t tid, const Thread& t, int event) {
  if (event != PTRACE_EVENT_FORK && event != PTRACE_EVENT_VFORK) return;
  unsigned long child = 0;
  if (ptrace(PTRACE_GETEVENTMSG, tid, 0, &child) == 0) NoteFork(t.process, static_cast<pid_t>(child));
}

void OnNew(pid_t tid, Thread& t) {
  t.process = StatusOf(tid, "Tgid: %d");
  if (t.process == 0) t.process = tid;
  if (t.process == tid) NoteFork(StatusOf(tid, "PPid: %d"), tid);
}

int Trace(pid_t first) {
  constexpr long kOptions =
      PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  int status = 0, end = 1;
  if (waitpid(first, &status, 0) != first || !WIFSTOPPED(status) || ptrace(PTRACE_SETOPTIONS, first, 0, kOptions) != 0) return 1;
  threads[first].process = first;
  known.insert(first);
  ptrace(PTRACE_SYSCALL, first, 0, 0);
  for (;;) {
    pid_t tid = waitpid(-1, &status, __WALL);
    if (tid < 0) return errno == ECHILD ? end : 1;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (tid == first) end = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      threads.erase(tid);
      continue;
    }
    Thread& t = threads[tid];
    bool fresh = t.process == 0;
    if (fresh) OnNew(tid, t);
    int signal = WSTOPSIG(status), event = status >> 16;
    if (signal == (SIGTRAP | 0x80)) {
      OnSyscall(tid, t);
      signal = 0;
    } else if (event != 0) {
      OnEvent(tid, t, event);
      signal = 0;
    } else if (signal == SIGTRAP || (fresh && signal == SIGSTOP)) {
      signal = 0;
    }
    ptrace(PTRACE_SYSCALL, tid, 0, signal);
  }
}

std::string DriverVersion() {
  char text[512] = {};
  FILE* file = fopen("/proc/driver/nvidia/version", "r");
  if (file != nullptr) {
    if (fgets(text, sizeof(text), file) == nullptr) text[0] = 0;
    fclose(file);
  }
  for (char* word = strtok(text, " \t\n"); word != nullptr; word = strtok(nullptr, " \t\n")) {
    if (word[0] >= '0' && word[0] <= '9' && strchr(word, '.') != nullptr) return word;
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s FILE PROGRAM [ARGUMENT...]\n", argv[0]);
    return 2;
  }
  std::string version = DriverVersion();
  std::string_view error;
  branch = BranchForVersion(version, true, &error);
  if (branch == nullptr) {
    fprintf(stderr, "record: NVIDIA driver \"%s\": %.*s\n", version.c_str(), static_cast<int>(error.size()), error.data());
    return 2;
  }
  out = fopen(argv[1], "we");
  if (out == nullptr) {
    perror(argv[1]);
    return 2;
  }
  fprintf(out, "driver %s\n", version.c_str());
  fflush(out);
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    _exit(127);
  }
  int status = Trace(child);
  if (fclose(out) != 0) status = 2;
  return status;
}
