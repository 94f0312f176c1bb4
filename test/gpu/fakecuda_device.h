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

inline constexpr int kMostMemory = 64, kMostGpus = 32;

struct Uuid {
  uint8_t bytes[16];
};
// CUcheckpointGpuPair.
struct GpuPair {
  Uuid from, to;
};

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
  // `pairs` of all the GPUs that the process has ever seen, or none.
  int Refill(const GpuPair* pairs, unsigned count);
  // How many GPUs there are, and which one this is.
  int seen() const { return seen_count_; }
  Uuid uuid() const { return uuid_; }
  uint32_t minor() const { return minor_; }

 private:
  int Make(Memory& memory, int index);
  bool Control(uint32_t command, void* params, uint32_t size);
  bool List();
  bool Find();
  int OpenNode() const;
  uint32_t Object(uint32_t parent, uint32_t handle, uint32_t number, void* params);

  int ctl_ = -1, gpu_ = -1, uvm_ = -1;
  uint32_t client_ = 0;
  uint64_t next_ = 0;
  // Of the GPUs that there are now.
  struct Card {
    Uuid uuid;
    uint32_t minor, instance;
  } cards_[kMostGpus];
  int count_ = 0;
  Uuid seen_[kMostGpus], uuid_ = {};
  int seen_count_ = 0;
  uint32_t minor_ = 0, instance_ = 0;
  Memory memory_[kMostMemory];
};

}  // namespace fakecuda
