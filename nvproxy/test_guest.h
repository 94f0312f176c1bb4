// Guest processes for tests: memory, descriptors, and the calls that a CUDA program makes, on a proxy over a fake host.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nvproxy/abi.h"
#include "nvproxy/fake/fake_host.h"
#include "nvproxy/open_file.h"
#include "nvproxy/proxy.h"
#include "nvproxy/status.h"

namespace amber::nvproxy {

// The fields of a UVM block that hold the client and the object, as the tables have them.
struct UvmOffsets {
  uint16_t client = 0, object = 0, fd = 0;
};

class TestProcess : public Caller {
 public:
  static constexpr uint64_t kBase = 0x10000;

  // Of `memory` the second half, at most a MiB of it, is for PutBytes().
  TestProcess(Proxy& proxy, Session session, size_t memory = 4 << 20)
      : proxy_(proxy), session_(session), memory_(memory), scratch_(std::min<size_t>(memory / 2, 1 << 20)) {}
  TestProcess(const TestProcess&) = delete;
  TestProcess& operator=(const TestProcess&) = delete;
  ~TestProcess() override {
    if (shared_ >= 0) close(shared_);
  }

  // --- Caller ---
  Session session() const override { return session_; }
  bool Read(uint64_t address, void* out, size_t size) override {
    if (!Inside(address, size)) return false;
    if (size > 0) std::memcpy(out, memory_.data() + (address - kBase), size);
    return true;
  }
  bool Write(uint64_t address, const void* in, size_t size) override {
    if (!Inside(address, size)) return false;
    if (size > 0) std::memcpy(memory_.data() + (address - kBase), in, size);
    return true;
  }
  std::shared_ptr<OpenFile> FileOf(int fd) override {
    auto it = files_.find(fd);
    return it == files_.end() ? nullptr : it->second;
  }
  ErrnoOr<std::vector<MemoryPiece>> Share(uint64_t address, uint64_t size, bool write) override {
    if (!Inside(address, 1) || (write && read_only_.contains(address))) return Errno(EFAULT);
    if (shared_ < 0) {
      shared_ = memfd_create("test", MFD_CLOEXEC);
      if (ftruncate(shared_, 64 << 20) != 0) return Errno(ENOMEM);
    }
    return std::vector<MemoryPiece>{{shared_, address - kBase, size}};
  }
  bool IsMapped(const OpenFile&, uint64_t address, uint64_t) override { return !unmapped_.contains(address); }

  // --- memory ---
  template <typename T>
  uint64_t Put(const T& value) {
    uint64_t at = next_;
    next_ += (sizeof(T) + 15) & ~size_t{15};
    if (next_ > kBase + memory_.size() - scratch_) next_ = kBase;
    Write(at, &value, sizeof(value));
    return at;
  }
  uint64_t PutBytes(const std::vector<uint8_t>& bytes) {
    uint64_t at = kBase + memory_.size() - scratch_;
    Write(at, bytes.data(), bytes.size());
    return at;
  }
  template <typename T>
  T Get(uint64_t address) {
    T value{};
    Read(address, &value, sizeof(value));
    return value;
  }
  const std::vector<uint8_t>& memory() const { return memory_; }
  void MarkUnmapped(uint64_t address) { unmapped_[address] = true; }
  void MarkReadOnly(uint64_t address) { read_only_.insert(address); }

  // --- calls ---
  int Open(NodeKind kind, uint32_t minor = 0) {
    auto file = proxy_.Open({kind, minor}, O_RDWR, session_);
    if (!file.ok()) return -file.error().number();
    while (files_.contains(next_fd_)) ++next_fd_;
    files_[next_fd_] = *file;
    return next_fd_++;
  }
  int Adopt(std::shared_ptr<OpenFile> file) {
    files_[next_fd_] = std::move(file);
    return next_fd_++;
  }
  void Close(int fd) { files_.erase(fd); }
  void Inherit(int fd, TestProcess& from) {
    files_[fd] = from.FileOf(fd);
    next_fd_ = std::max(next_fd_, fd + 1);
  }
  void InheritAll(TestProcess& from) {
    for (const auto& [fd, file] : from.files_) Inherit(fd, from);
  }
  void Move(int from, int to) {
    if (from == to) return;
    std::shared_ptr<OpenFile> file = FileOf(from);
    files_.erase(from);
    files_[to] = std::move(file);
  }
  // 0, or -errno.
  int Raw(int fd, uint32_t command, uint64_t argument) {
    auto result = proxy_.Ioctl(FileOf(fd), *this, command, argument);
    return result.ok() ? 0 : -result.error().number();
  }
  template <typename T>
  int Frontend(int fd, uint32_t number, T& block) {
    uint64_t at = Put(block);
    int result = Raw(fd, 0xc0004600u | static_cast<uint32_t>(sizeof(T)) << 16 | number, at);
    block = Get<T>(at);
    return result;
  }
  // A UVM call with a block of bytes; the status, or -errno.
  int64_t Uvm(int fd, uint32_t number, std::vector<uint8_t>& block) {
    uint64_t at = PutBytes(block);
    int result = Raw(fd, number, at);
    if (result != 0) return result;
    Read(at, block.data(), block.size());
    const Entry* entry = FindEntry(proxy_.branch().uvm, number);
    uint32_t status = 0;
    if (entry != nullptr && entry->status != kNoStatus) std::memcpy(&status, block.data() + entry->status, 4);
    return status;
  }
  static UvmOffsets Offsets(const Proxy& proxy, uint32_t number) {
    UvmOffsets out;
    for (const Field& field : FieldsOf(*FindEntry(proxy.branch().uvm, number))) {
      if (field.role == Role::kClient) out.client = field.offset;
      if (field.role == Role::kObject) out.object = field.offset;
      if (field.role == Role::kFd) out.fd = field.offset;
    }
    return out;
  }
  uint32_t Client(int fd) {
    RmAlloc block{.hClass = 0x41};
    Frontend(fd, 0x2b, block);
    return block.status == kNvOk ? block.hObjectNew : 0;
  }
  // A status.
  uint32_t Alloc(int fd, uint32_t client, uint32_t parent, uint32_t handle, uint32_t number, const std::vector<uint8_t>& params = {},
                 std::vector<uint8_t>* out = nullptr) {
    RmAlloc block{.hRoot = client, .hObjectParent = parent, .hObjectNew = handle, .hClass = number};
    uint64_t at = 0;
    if (!params.empty()) block.pAllocParms = at = PutBytes(params);
    int result = Frontend(fd, 0x2b, block);
    if (out != nullptr && at != 0) {
      out->resize(params.size());
      Read(at, out->data(), out->size());
    }
    return result == 0 ? block.status : 0xffff0000u | static_cast<uint32_t>(-result);
  }
  uint32_t Free(int fd, uint32_t client, uint32_t handle) {
    RmFree block{.hRoot = client, .hObjectOld = handle};
    Frontend(fd, 0x29, block);
    return block.status;
  }
  uint32_t Control(int fd, uint32_t client, uint32_t object, uint32_t command, std::vector<uint8_t>& params) {
    RmControl block{.hClient = client, .hObject = object, .cmd = command, .paramsSize = static_cast<uint32_t>(params.size())};
    if (!params.empty()) block.params = PutBytes(params);
    int result = Frontend(fd, 0x2a, block);
    if (!params.empty()) Read(block.params, params.data(), params.size());
    return result == 0 ? block.status : 0xffff0000u | static_cast<uint32_t>(-result);
  }
  // Memory of the GPU, as class 0x40 under `parent`.
  uint32_t Memory(int fd, uint32_t client, uint32_t parent, uint32_t handle, uint64_t size, uint32_t number = 0x40, uint32_t attr = 0) {
    std::vector<uint8_t> params(FindEntry(proxy_.branch().classes, number)->size);
    std::memcpy(params.data() + offsetof(MemoryParams, size), &size, 8);
    std::memcpy(params.data() + offsetof(MemoryParams, attr), &attr, 4);
    return Alloc(fd, client, parent, handle, number, params);
  }
  // The size of a class's parameters.
  size_t SizeOf(uint32_t number) { return FindEntry(proxy_.branch().classes, number)->size; }

  // What every CUDA program has: ctl, gpu, client, device and subdevice.
  struct Basic {
    int ctl = -1, gpu = -1;
    uint32_t client = 0, device = 0x5c000001, subdevice = 0x5c000002;
  };
  Basic Start(uint32_t minor = 0, uint32_t instance = 0) {
    Basic b;
    b.ctl = Open(NodeKind::kControl);
    b.gpu = Open(NodeKind::kGpu, minor);
    Frontend(b.gpu, 0xc9, b.ctl);
    b.client = Client(b.ctl);
    std::vector<uint8_t> params(56);
    std::memcpy(params.data(), &instance, 4);
    if (Alloc(b.ctl, b.client, b.client, b.device, 0x80, params) != kNvOk) b.device = 0;
    if (Alloc(b.ctl, b.client, b.device, b.subdevice, 0x2080, std::vector<uint8_t>(4)) != kNvOk) b.subdevice = 0;
    return b;
  }

 private:
  bool Inside(uint64_t address, size_t size) const { return address >= kBase && size <= memory_.size() && address - kBase <= memory_.size() - size; }

  Proxy& proxy_;
  const Session session_;
  std::vector<uint8_t> memory_;
  const size_t scratch_;
  uint64_t next_ = kBase;
  std::map<int, std::shared_ptr<OpenFile>> files_;
  std::map<uint64_t, bool> unmapped_;
  std::set<uint64_t> read_only_;
  int next_fd_ = 3;
  int shared_ = -1;
};

inline FakeConfig TwoGpus(const char* version = "580.159.04") {
  FakeConfig config;
  std::string error;
  ParseFakeConfig(
      "gpu minor=0 uuid=GPU-6f2d1c00-1111-2222-3333-444455556666 pci=0000:41:00.0\n"
      "gpu minor=1 uuid=GPU-7f2d1c00-1111-2222-3333-444455556666 pci=0000:42:00.0\n",
      &config, &error);
  config.version = version;
  return config;
}

// A fake host with sandboxes on it.
class World {
 public:
  explicit World(FakeConfig config = TwoGpus()) : host(std::move(config)) {}
  Proxy& Sandbox(Options options = {}) {
    drivers_.push_back(std::make_unique<FakeDriver>(host, 1000 + drivers_.size()));
    std::string error;
    proxies_.push_back(Proxy::Create(*drivers_.back(), options, [this](const std::string& line) { log.push_back(line); }, &error));
    AMBER_CHECK(proxies_.back() != nullptr);
    return *proxies_.back();
  }

  std::vector<std::string> log;
  FakeHost host;

 private:
  std::vector<std::unique_ptr<FakeDriver>> drivers_;
  std::vector<std::unique_ptr<Proxy>> proxies_;
};

}  // namespace amber::nvproxy
