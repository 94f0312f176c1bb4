// The parts of a FakeHost, for its own files.
#pragma once

#include <cstring>

#include "nvproxy/fake/fake_host.h"

namespace amber::nvproxy {

struct FakeHost::Bytes {
  uint64_t* counter;
  uint64_t size;
  UniqueFd memory;  // what a mapping shows, made when first asked for
  ~Bytes() { *counter -= size; }
};

struct FakeHost::Object {
  uint32_t number = 0, parent = 0;
  int gpu = -1;
  std::vector<uint32_t> needs;
  std::shared_ptr<Bytes> bytes, context;
  std::vector<SharePolicy> shares;
  bool shared = false;
};

struct FakeHost::Client {
  uint32_t handle = 0;
  uint64_t process = 0;
  HostFile file = 0;
  std::map<uint32_t, Object> objects;
  std::vector<SharePolicy> inherited;
  uint32_t next_handle = 0xcaf00000;
};

struct FakeHost::File {
  Node node;
  uint64_t process = 0;
  HostFile linked = -1;
  bool attached = false;
  struct Pending {
    std::weak_ptr<Bytes> bytes;  // a context does not keep memory alive
    uint64_t offset, length;
    bool whole;
  };
  std::optional<Pending> pending;
  uint32_t events = 0;
  int os_events = 0;                     // that arrive here
  std::map<uint64_t, uint64_t> managed;  // UVM: what was mapped, base to size; unmapping is not told
  std::function<void()> on_ready;
  // UVM
  bool initialized = false;
  uint64_t flags = 0;
  std::map<uint64_t, uint64_t> ranges;
  std::multimap<uint64_t, std::shared_ptr<Bytes>> externals;
  UniqueFd memory;
};

struct FakeHost::Args {
  uint64_t process;
  HostFile handle;
  File& file;
  uint32_t number;
  std::span<std::byte> block;
  std::span<const HostBuffer> nested;
  template <typename T>
  T& As() {
    return *reinterpret_cast<T*>(block.data());
  }
  uint32_t Word(size_t offset) const {
    uint32_t value = 0;
    if (offset + 4 <= block.size()) std::memcpy(&value, block.data() + offset, 4);
    return value;
  }
};

}  // namespace amber::nvproxy
