// What fakecuda does on the driver: a client, a device, memory objects and registered host memory, made and torn down as a whole.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fakecuda {

struct Memory {
  uint64_t address = 0, size = 0;
  bool host = false;     // registered host memory, else the device's
  void* copy = nullptr;  // of device memory, while it is checkpointed
  int fd = -1;           // that it is mapped by
};

inline constexpr int kMostMemory = 64;

class Device {
 public:
  // A CUresult each.
  int Open();
  void Close();
  bool is_open() const { return ctl_ >= 0; }
  int Allocate(size_t size, uint64_t* address);
  int Register(void* memory, size_t size);
  int Free(uint64_t address);
  int Info(size_t* free, size_t* total);
  // Device memory into memory of the process, everything of the driver's closed, placeholders where it was.
  int Drain();
  int Refill();

 private:
  int Make(Memory& memory, int index);
  uint32_t Object(uint32_t parent, uint32_t handle, uint32_t number, void* params);

  int ctl_ = -1, gpu_ = -1, uvm_ = -1;
  uint32_t client_ = 0;
  uint64_t next_ = 0;
  Memory memory_[kMostMemory];
};

}  // namespace fakecuda
