// Bytes become a sequence of calls of two processes. What must hold whatever they are: nothing forbidden reaches the driver, and the proxy's objects are
// the driver's.
#include <cstdlib>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Byte() { return empty() ? 0 : data_[at_++]; }
  uint32_t Word() { return Byte() | static_cast<uint32_t>(Byte()) << 8; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

const Entry& Choose(std::span<const Entry> section, Input& in) { return section[in.Word() % section.size()]; }

// Puts words of the input, half of them handles that mean something, over a block.
void Perturb(std::vector<uint8_t>& block, Input& in, const TestProcess::Basic* b) {
  for (int i = in.Byte() % 6; i > 0 && block.size() >= 4; --i) {
    size_t at = in.Word() % (block.size() - 3);
    uint32_t choice[] = {b[0].client, b[1].client, b[0].device, 0x100u + in.Byte() % 4, in.Word(), ~0u, 0, 0x10000};
    std::memcpy(block.data() + (at & ~size_t{3}), &choice[in.Byte() % 8], std::min<size_t>(4, block.size() - (at & ~size_t{3})));
  }
}

void Step(Input& in, Proxy& proxy, TestProcess& p, const TestProcess::Basic* b, int me, int uvm) {
  const Branch& branch = proxy.branch();
  switch (in.Byte() % 5) {
    case 0: {
      const Entry& entry = Choose(branch.frontend, in);
      size_t size = entry.size == kUnknownSize ? in.Byte() : entry.size;
      std::vector<uint8_t> block(size + 16);
      Perturb(block, in, b);
      p.Raw(in.Byte() % 2 != 0 ? b[me].ctl : b[me].gpu, 0xc0004600u | static_cast<uint32_t>(size) << 16 | entry.number, p.PutBytes(block));
      break;
    }
    case 1: {
      const Entry& entry = Choose(branch.controls, in);
      std::vector<uint8_t> params(entry.size == kUnknownSize ? in.Byte() : entry.size);
      Perturb(params, in, b);
      p.Control(b[me].ctl, b[in.Byte() % 8 == 0 ? 1 - me : me].client, in.Byte() % 2 != 0 ? b[me].subdevice : b[me].client, entry.number, params);
      break;
    }
    case 2: {
      const Entry& entry = Choose(branch.classes, in);
      std::vector<uint8_t> params(entry.size == kUnknownSize ? 0 : entry.size);
      Perturb(params, in, b);
      uint32_t parents[] = {b[me].client, b[me].device, b[me].subdevice, 0x100u + in.Byte() % 4};
      p.Alloc(b[me].ctl, b[me].client, parents[in.Byte() % 4], 0x100 + in.Byte() % 4, entry.number, params);
      break;
    }
    case 3: {
      const Entry& entry = Choose(branch.uvm, in);
      std::vector<uint8_t> block(entry.size);
      Perturb(block, in, b);
      p.Uvm(uvm, entry.number, block);
      break;
    }
    default: p.Free(b[me].ctl, b[me].client, 0x100 + in.Byte() % 4); break;
  }
}

}  // namespace
}  // namespace amber::nvproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace amber::nvproxy;
  Input in(data, size);
  const char* versions[] = {"535.288.01", "580.159.04", "620.06.00"};
  World world(TwoGpus(versions[in.Byte() % 3]));
  Proxy& proxy = world.Sandbox({.capabilities = in.Byte(), .memory_limit = 1 << 30, .max_clients = 8, .max_objects = 64});
  constexpr size_t kMemory = 128 << 10;  // room for the largest block, and quick to make
  TestProcess processes[2] = {{proxy, {.process = 1, .pid = 1}, kMemory}, {proxy, {.process = 2, .pid = 2}, kMemory}};
  TestProcess::Basic basics[2] = {processes[0].Start(), processes[1].Start()};
  int uvms[2] = {processes[0].Open(NodeKind::kUvm), processes[1].Open(NodeKind::kUvm)};
  for (int i = 0; i < 64 && !in.empty(); ++i) {
    int me = in.Byte() % 2;
    Step(in, proxy, processes[me], basics, me, uvms[me]);
  }
  if (!world.host.violations().empty() || proxy.Describe() != world.host.Graph(1000)) std::abort();
  return 0;
}
