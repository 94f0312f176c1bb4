// A libcuda.so.1 for tests: a little CUDA on the driver's own calls, and the six checkpoint verbs with the states and results of the real ones.
//
// As in the real library a thread of the target does the work of the verbs, which callers in other processes ask for; here over an abstract Unix
// socket. Calls of a locked process wait. $FAKECUDA_FAIL of the target makes verbs go wrong: "lock=600,restore=2,checkpoint=hang,checkpoint=exit", and
// "checkpoint=lost" fails with the process lost, "checkpoint=keep" leaves all with the driver and says that it has gone well.
// $FAKECUDA_HELPER makes the checkpoint helper go wrong instead, which asks for them: "lock=exit" before it asks, "lock=late" when it has, "lock=hang", of
// "init" and each verb; once, unless a "!" follows.
#include "test/gpu/fakecuda.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "test/gpu/fakecuda_device.h"

namespace fakecuda {
namespace {

enum Verb : int { kGetState, kLock, kCheckpoint, kRestore, kUnlock };
constexpr const char* kNames[] = {"state", "lock", "checkpoint", "restore", "unlock"};

struct Request {
  int verb;
  unsigned timeout_ms;
  unsigned pairs;
  GpuPair pair[kMostGpus];
};
struct Reply {
  int result, state, tid;
};

constexpr int kLost = 10000, kKeep = 10001;  // of Injected()

pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
Device device;
int state = kRunning;
bool initialized = false;
bool kept = false;     // "checkpoint=keep" was done
bool locking = false;  // calls wait while it is waited for what runs on the device
long busy_until = 0;   // a kernel runs there; as Milliseconds()

long Milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
bool Busy() { return Milliseconds() < busy_until; }

// One call of the interface: waits while the process is locked.
class Call {
 public:
  Call() {
    pthread_mutex_lock(&mu);
    while (state != kRunning || locking) pthread_cond_wait(&changed, &mu);
  }
  ~Call() { pthread_mutex_unlock(&mu); }
};

// What $FAKECUDA_FAIL says of a verb: -1 nothing.
int Injected(int verb) {
  const char* text = getenv("FAKECUDA_FAIL");
  size_t length = strlen(kNames[verb]);
  for (const char* at = text; at != nullptr && *at != 0; at = strchr(at, ',') != nullptr ? strchr(at, ',') + 1 : nullptr) {
    if (strncmp(at, kNames[verb], length) != 0 || at[length] != '=') continue;
    at += length + 1;
    if (strncmp(at, "hang", 4) == 0) {
      for (;;) pause();
    }
    if (strncmp(at, "exit", 4) == 0) _exit(9);
    if (strncmp(at, "lost", 4) == 0) return kLost;
    if (strncmp(at, "keep", 4) == 0) return kKeep;
    return atoi(at);
  }
  return -1;
}

bool IsHelper() {
  char name[16] = {};
  int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, name, sizeof(name) - 1) : -1;
  if (fd >= 0) close(fd);
  return n > 0 && strcmp(name, "gpu-checkpoint") == 0;
}

// What $FAKECUDA_HELPER says of a step, done if this is its moment.
void HelperFails(const char* step, bool late) {
  const char* text = getenv("FAKECUDA_HELPER");
  if (text == nullptr || !IsHelper()) return;
  size_t length = strlen(step);
  for (const char* at = text; at != nullptr && *at != 0; at = strchr(at, ',') != nullptr ? strchr(at, ',') + 1 : nullptr) {
    if (strncmp(at, step, length) != 0 || at[length] != '=') continue;
    const char* what = at + length + 1;
    if (late != (strncmp(what, "late", 4) == 0)) continue;
    char mark[64];
    snprintf(mark, sizeof(mark), "/tmp/fakecuda-%s", step);
    size_t word = strcspn(what, ",");
    if (what[word - 1] != '!' && open(mark, O_CREAT | O_EXCL | O_WRONLY, 0600) < 0) continue;
    while (strncmp(what, "hang", 4) == 0) pause();
    _exit(9);
  }
}

int Transition(int from, int to, int result) {
  if (state != from) return kCudaIllegalState;
  if (result != kCudaOk) return result;
  state = to;
  pthread_cond_broadcast(&changed);
  return kCudaOk;
}

// What runs on the device ends first, in the time that there is.
int Lock(unsigned timeout_ms) {
  locking = true;
  for (long begin = Milliseconds(); Busy() && (timeout_ms == 0 || Milliseconds() - begin < timeout_ms);) {
    pthread_mutex_unlock(&mu);
    usleep(1000);
    pthread_mutex_lock(&mu);
  }
  locking = false;
  pthread_cond_broadcast(&changed);
  return Busy() ? kCudaNotReady : Transition(kRunning, kLocked, kCudaOk);
}

int Run(const Request& request, int injected) {
  if (request.verb == kGetState) return kCudaOk;
  if (injected == kLost) {
    state = kFailed;
    return kCudaOperatingSystem;
  }
  if (injected == kKeep) {
    kept = true;
    return Transition(kLocked, kCheckpointed, kCudaOk);
  }
  if (request.verb == kRestore && kept) {
    kept = false;
    return Transition(kCheckpointed, kLocked, kCudaOk);
  }
  if (injected >= 0) return injected;
  switch (request.verb) {
    case kLock: return Lock(request.timeout_ms);
    case kUnlock: return Transition(kLocked, kRunning, kCudaOk);
    case kCheckpoint: {
      if (state != kLocked) return kCudaIllegalState;
      int result = device.Drain();
      if (result != kCudaOk) state = kFailed;
      return result == kCudaOk ? Transition(kLocked, kCheckpointed, kCudaOk) : result;
    }
    case kRestore: {
      if (state != kCheckpointed) return kCudaIllegalState;
      int result = device.Refill(request.pair, request.pairs);
      // As with the real library, a process that could not be restored is lost.
      if (result != kCudaOk) state = kFailed;
      return result == kCudaOk ? Transition(kCheckpointed, kLocked, kCudaOk) : result;
    }
    default: return kCudaInvalidValue;
  }
}

socklen_t AddressOf(int pid, sockaddr_un* address) {
  memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  int n = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "fakecuda-checkpoint-%d", pid);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<size_t>(n));
}

// The target's thread that the verbs run on.
void* Serve(void* argument) {
  int listener = static_cast<int>(reinterpret_cast<intptr_t>(argument));
  prctl(PR_SET_NAME, "cuda00001400006");
  for (;;) {
    int peer = accept(listener, nullptr, nullptr);
    if (peer < 0) continue;
    Request request;
    if (recv(peer, &request, sizeof(request), MSG_WAITALL) == sizeof(request)) {
      int injected = request.verb > kGetState && request.verb <= kUnlock ? Injected(request.verb) : -1;
      pthread_mutex_lock(&mu);
      int result = request.pairs <= kMostGpus ? Run(request, injected) : kCudaInvalidValue;
      Reply reply{result, state, static_cast<int>(syscall(SYS_gettid))};
      pthread_mutex_unlock(&mu);
      send(peer, &reply, sizeof(reply), MSG_NOSIGNAL);
    }
    close(peer);
  }
}

int Ask(int pid, const Request& request, Reply* reply) {
  int verb = request.verb;
  sockaddr_un address;
  socklen_t size = AddressOf(pid, &address);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // Nobody there: not a process that uses CUDA.
  int result = kCudaNotInitialized;
  HelperFails(kNames[verb], false);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), size) == 0) {
    bool good =
        send(fd, &request, sizeof(request), MSG_NOSIGNAL) == sizeof(request) && recv(fd, reply, sizeof(*reply), MSG_WAITALL) == sizeof(*reply);
    result = good ? reply->result : kCudaOperatingSystem;
  }
  if (fd >= 0) close(fd);
  HelperFails(kNames[verb], true);
  return result;
}

int Verbatim(int pid, int verb, void* arguments) {
  Request request{};
  request.verb = verb;
  if (arguments != nullptr && verb == kLock) memcpy(&request.timeout_ms, arguments, sizeof(request.timeout_ms));
  if (arguments != nullptr && verb == kRestore) {
    const GpuPair* pairs;
    memcpy(&pairs, arguments, sizeof(pairs));
    memcpy(&request.pairs, static_cast<char*>(arguments) + 8, sizeof(request.pairs));
    if (request.pairs > kMostGpus) return kCudaInvalidValue;
    if (request.pairs > 0) memcpy(request.pair, pairs, request.pairs * sizeof(GpuPair));
  }
  Reply reply{};
  return Ask(pid, request, &reply);
}

// Counts the checkpoint helpers that have started CUDA.
void CountHelper() {
  if (!IsHelper()) return;
  int fd = open("/tmp/fakecuda-helpers", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd >= 0 && write(fd, ".", 1) != 1) perror("fakecuda-helpers");
  if (fd >= 0) close(fd);
}

int Initialize() {
  if (initialized) return kCudaOk;
  if (int result = device.Open(); result != kCudaOk) return result;
  sockaddr_un address;
  socklen_t size = AddressOf(getpid(), &address);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  pthread_t thread;
  bool good = listener >= 0 && bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(listener, 4) == 0 &&
              pthread_create(&thread, nullptr, Serve, reinterpret_cast<void*>(static_cast<intptr_t>(listener))) == 0;
  initialized = good;
  return good ? kCudaOk : kCudaOperatingSystem;
}

}  // namespace
}  // namespace fakecuda

using fakecuda::device;

extern "C" {

int cuInit(unsigned) {
  fakecuda::HelperFails("init", false);
  fakecuda::CountHelper();
  fakecuda::Call call;
  return fakecuda::Initialize();
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
  fakecuda::Call call;
  return device.Info(free, total);
}

int cuDeviceTotalMem_v2(size_t* bytes, int) {
  size_t free;
  return cuMemGetInfo_v2(&free, bytes);
}

int cuMemAlloc_v2(uint64_t* address, size_t size) {
  fakecuda::Call call;
  return device.Allocate(size, address);
}

int cuMemFree_v2(uint64_t address) {
  fakecuda::Call call;
  return device.Free(address);
}

int cuMemHostRegister_v2(void* memory, size_t size, unsigned) {
  fakecuda::Call call;
  return device.Register(memory, size);
}

int cuMemHostUnregister(void* memory) {
  fakecuda::Call call;
  return device.Free(reinterpret_cast<uint64_t>(memory));
}

int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size) {
  fakecuda::Call call;
  memcpy(reinterpret_cast<void*>(to), from, size);
  return kCudaOk;
}

int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size) {
  fakecuda::Call call;
  memcpy(to, reinterpret_cast<void*>(from), size);
  return kCudaOk;
}

int cuMemsetD32_v2(uint64_t to, unsigned value, size_t count) {
  fakecuda::Call call;
  auto* words = reinterpret_cast<unsigned*>(to);
  for (size_t i = 0; i < count; ++i) words[i] = value;
  return kCudaOk;
}

int fakeAdd(uint64_t to, unsigned value, size_t count) {
  fakecuda::Call call;
  auto* words = reinterpret_cast<unsigned*>(to);
  for (size_t i = 0; i < count; ++i) words[i] += value;
  return kCudaOk;
}

int fakeSpin(unsigned milliseconds) {
  fakecuda::Call call;
  fakecuda::busy_until = fakecuda::Milliseconds() + static_cast<long>(milliseconds);
  return kCudaOk;
}

int fakeWhere(uint8_t* uuid, unsigned* minor) {
  fakecuda::Call call;
  fakecuda::Uuid own = device.uuid();
  memcpy(uuid, &own, sizeof(own));
  *minor = device.minor();
  return kCudaOk;
}

int cuDeviceGetCount(int* count) {
  fakecuda::Call call;
  *count = device.seen();
  return kCudaOk;
}

int cuCtxSynchronize() {
  fakecuda::Call call;
  return kCudaOk;
}

int cuCheckpointProcessGetState(int pid, int* state) {
  fakecuda::Reply reply{};
  int result = fakecuda::Ask(pid, {}, &reply);
  if (result == kCudaOk) *state = reply.state;
  return result;
}

int cuCheckpointProcessGetRestoreThreadId(int pid, int* tid) {
  fakecuda::Reply reply{};
  int result = fakecuda::Ask(pid, {}, &reply);
  if (result == kCudaOk) *tid = reply.tid;
  return result;
}

int cuCheckpointProcessLock(int pid, void* arguments) { return fakecuda::Verbatim(pid, fakecuda::kLock, arguments); }
int cuCheckpointProcessCheckpoint(int pid, void* arguments) { return fakecuda::Verbatim(pid, fakecuda::kCheckpoint, arguments); }
int cuCheckpointProcessRestore(int pid, void* arguments) { return fakecuda::Verbatim(pid, fakecuda::kRestore, arguments); }
int cuCheckpointProcessUnlock(int pid, void* arguments) { return fakecuda::Verbatim(pid, fakecuda::kUnlock, arguments); }

}  // extern "C"
