// The part of the CUDA driver interface that test programs use, with the numbers of the public headers. libcuda.so.1 of fakecuda.cc implements it.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
int cuInit(unsigned flags);
int cuDeviceGetCount(int* count);
int cuDeviceTotalMem_v2(size_t* bytes, int device);
int cuMemGetInfo_v2(size_t* free, size_t* total);
int cuMemAlloc_v2(uint64_t* address, size_t size);
int cuMemFree_v2(uint64_t address);
int cuMemHostRegister_v2(void* memory, size_t size, unsigned flags);
int cuMemHostUnregister(void* memory);
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size);
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t size);
int cuMemsetD32_v2(uint64_t to, unsigned value, size_t count);
int cuCtxSynchronize();

// The fake's one kernel: adds `value` to `count` words.
int fakeAdd(uint64_t to, unsigned value, size_t count);
// A kernel that runs so long; nobody waits for it but what drains the device.
int fakeSpin(unsigned milliseconds);
// Which GPU the process is on.
int fakeWhere(uint8_t* uuid, unsigned* minor);

int cuCheckpointProcessGetState(int pid, int* state);
int cuCheckpointProcessGetRestoreThreadId(int pid, int* tid);
int cuCheckpointProcessLock(int pid, void* arguments);
int cuCheckpointProcessCheckpoint(int pid, void* arguments);
int cuCheckpointProcessRestore(int pid, void* arguments);
int cuCheckpointProcessUnlock(int pid, void* arguments);
}

enum : int {
  kCudaOk = 0,
  kCudaInvalidValue = 1,
  kCudaOutOfMemory = 2,
  kCudaNotInitialized = 3,
  kCudaOperatingSystem = 304,
  kCudaIllegalState = 401,
  kCudaNotReady = 600,
};
enum : int { kRunning = 0, kLocked = 1, kCheckpointed = 2, kFailed = 3 };
