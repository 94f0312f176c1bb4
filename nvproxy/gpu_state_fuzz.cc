// The GPU state of an image that anybody may have written: a file, its clients and their objects, made anew on a driver. What must hold: nothing forbidden
// reaches the driver, what was refused leaves nothing behind on it, and what was taken is the driver's and can be used, saved and restored again.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>

#include "nvproxy/state.pb.h"
#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

constexpr char kVersion[] = "580.159.04";

void Must(bool good) {
  if (!good) std::abort();
}

// Of a GPU that the machine of the image had, and this one has not.
constexpr Uuid kGone = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

std::string SomeUuid(FuzzedDataProvider& in, const Proxy& proxy) {
  if (in.ConsumeIntegralInRange(0, 3) == 0) return std::string(kGone.begin(), kGone.end());
  const Uuid& own = proxy.gpus()[in.ConsumeIntegralInRange<size_t>(0, 1)].uuid;
  return in.ConsumeBool() ? std::string(own.begin(), own.end()) : in.ConsumeRandomLengthString(20);
}

void AddClient(FuzzedDataProvider& in, const Proxy& proxy, proto::File* file) {
  proto::Client* client = file->add_clients();
  client->set_handle(in.ConsumeBool() ? 0xc1d00001 + in.ConsumeIntegral<uint8_t>() % 4 : in.ConsumeIntegral<uint32_t>());
  client->set_process(in.ConsumeIntegral<uint8_t>());
  client->set_pid(in.ConsumeIntegral<uint32_t>());
  constexpr uint32_t kClasses[] = {0x80, 0x2080, 0x41, 0x40, 0x3e, 0x79, 0xa06c, 0x90f1, 0x0, 0xffffffff};
  for (int i = in.ConsumeIntegralInRange(0, 6); i > 0; --i) {
    proto::Object* object = client->add_objects();
    object->set_handle(in.ConsumeBool() ? 0x100 + in.ConsumeIntegral<uint8_t>() % 4 : in.ConsumeIntegral<uint32_t>());
    object->set_parent(in.ConsumeBool() ? client->handle() : 0x100 + in.ConsumeIntegral<uint8_t>() % 4);
    object->set_number(in.PickValueInArray(kClasses));
    const Entry* entry = FindEntry(proxy.branch().classes, object->number());
    bool fits = entry != nullptr && entry->size != kUnknownSize && in.ConsumeBool();
    std::string params = fits ? in.ConsumeBytesAsString(entry->size) : in.ConsumeRandomLengthString(64);
    if (fits) params.resize(entry->size);
    object->set_params(params);
    object->set_gpu_uuid(SomeUuid(in, proxy));
  }
}

// An image's record: one that is built of parts that mean something, or any bytes.
std::string Record(FuzzedDataProvider& in, const Proxy& proxy) {
  if (in.ConsumeIntegralInRange(0, 7) == 0) return in.ConsumeRandomLengthString(400);
  proto::File file;
  file.set_driver(in.ConsumeIntegralInRange(0, 15) == 0 ? in.ConsumeRandomLengthString(12) : kVersion);
  file.set_node(in.ConsumeIntegralInRange<uint32_t>(0, in.ConsumeBool() ? 2 : ~0u));
  file.set_minor(in.ConsumeIntegralInRange<uint32_t>(0, in.ConsumeBool() ? 1 : ~0u));
  file.set_access(in.ConsumeIntegralInRange<uint32_t>(0, in.ConsumeBool() ? 2 : ~0u));
  file.set_id(in.ConsumeIntegral<uint8_t>() % 4);
  file.set_linked(in.ConsumeIntegral<uint8_t>() % 4);
  file.set_process(in.ConsumeIntegral<uint8_t>());
  file.set_gpu_uuid(SomeUuid(in, proxy));
  for (int i = in.ConsumeIntegralInRange(0, 4); i > 0; --i) AddClient(in, proxy, &file);
  std::string bytes = file.SerializeAsString();
  if (in.ConsumeIntegralInRange(0, 7) == 0 && !bytes.empty())
    bytes[in.ConsumeIntegral<uint16_t>() % bytes.size()] ^= static_cast<char>(in.ConsumeIntegral<uint8_t>());
  return bytes;
}

void Agree(World& world, Proxy& proxy) {
  Must(world.host.violations().empty());
  Must(proxy.Describe() == world.host.Graph(1000));
}

// A process takes the file over: its own calls work, or are refused.
void Use(Proxy& proxy, const std::shared_ptr<OpenFile>& file, FuzzedDataProvider& in) {
  TestProcess p(proxy, file->session(), 64 << 10);
  int fd = p.Adopt(file);
  uint32_t client = 0xc1d00001 + in.ConsumeIntegral<uint8_t>() % 4, object = 0x100 + in.ConsumeIntegral<uint8_t>() % 4;
  std::vector<uint8_t> params(4);
  p.Control(fd, client, object, 0x20800111, params);
  p.Memory(fd, client, object, 0x500, 4096);
  if (in.ConsumeBool()) p.Free(fd, client, in.ConsumeBool() ? client : object);
}

}  // namespace
}  // namespace amber::nvproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace amber::nvproxy;
  FuzzedDataProvider in(data, size);
  World world(TwoGpus(kVersion));
  Proxy& proxy = world.Sandbox({.memory_limit = 1 << 30, .max_clients = 8, .max_objects = 64});
  if (in.ConsumeBool()) proxy.SetReplacements({{kGone, in.ConsumeIntegralInRange<uint32_t>(0, 2)}});
  {
    std::vector<std::shared_ptr<OpenFile>> files;
    for (int i = in.ConsumeIntegralInRange(1, 4); i > 0; --i) {
      size_t host_files = world.host.file_count(), host_clients = world.host.client_count();
      std::string error;
      auto file = proxy.RestoreFile(Record(in, proxy), &error);
      Must((file == nullptr) == !error.empty());
      if (file == nullptr) {
        Must(world.host.file_count() == host_files && world.host.client_count() == host_clients);
      } else {
        files.push_back(std::move(file));
      }
      Agree(world, proxy);
    }
    for (const auto& file : files) Use(proxy, file, in);
    Agree(world, proxy);
    // What can be saved now can be restored elsewhere.
    bool whole = true;
    for (const auto& file : files) whole = whole && proxy.CannotSave(*file).empty();
    World there(TwoGpus(kVersion));
    Proxy& other = there.Sandbox({.memory_limit = 1 << 30, .max_clients = 8, .max_objects = 64});
    std::vector<std::shared_ptr<OpenFile>> again;
    for (const auto& file : files) {
      std::string error;
      again.push_back(other.RestoreFile(proxy.SaveFile(*file), &error));
      if (whole) Must(again.back() != nullptr);
    }
    if (whole) Must(other.Describe() == proxy.Describe());
    Agree(there, other);
  }
  Must(world.host.client_count() == 0 && world.host.file_count() == 0 && proxy.ledger().used(0) == 0);
  return 0;
}
