// Saving and restoring what is left of a GPU when its programs have put their state into ordinary memory: open files, and the clients, devices
// and subdevices that NVML holds. They are made anew with the handles that they had.
#include <fcntl.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nvproxy/call.h"
#include "nvproxy/state.pb.h"

namespace amber::nvproxy {
namespace {

std::string_view Bytes(const Uuid& uuid) { return {reinterpret_cast<const char*>(uuid.data()), uuid.size()}; }

// What can be made again, parents before children: devices and subdevices, which are two levels. A check whether a sandbox could be saved comes here with
// others too, as deep as a guest likes.
void SaveObjects(Proxy& proxy, const Object& parent, proto::Client* out) {
  for (const Object* object : parent.children) {
    if (!object->params) continue;
    auto* o = out->add_objects();
    o->set_handle(object->handle);
    o->set_parent(parent.handle);
    o->set_number(object->number);
    o->set_params(object->params.value_or(""));
    if (object->gpu >= 0) o->set_gpu_uuid(std::string(Bytes(proxy.gpus()[static_cast<size_t>(object->gpu)].uuid)));
    SaveObjects(proxy, *object, out);
  }
}

uint32_t Command(uint32_t number, size_t size) { return 0xc0004600u | static_cast<uint32_t>(size) << 16 | number; }

// The status, or ~0 for an errno.
uint32_t Replay(Proxy& proxy, HostFile file, RmAlloc block, std::string* params) {
  HostBuffer nested[1];
  size_t count = 0;
  if (params != nullptr && !params->empty()) {
    block.pAllocParms = reinterpret_cast<uint64_t>(params->data());
    block.paramsSize = static_cast<uint32_t>(params->size());
    nested[count++] = {params->data(), params->size()};
  }
  uint32_t wanted = block.hObjectNew;
  if (proxy.HostIoctl(file, Command(0x2b, sizeof(block)), std::as_writable_bytes(std::span(&block, 1)), std::span(nested, count)) != 0) return ~0u;
  return block.status == kNvOk && block.hObjectNew != wanted ? ~0u : block.status;
}

}  // namespace

std::vector<std::string> Proxy::CannotSave(OpenFile& file) {
  std::vector<std::string> out;
  {
    absl::MutexLock lock(&file.mu);
    if (file.uvm_initialized) out.push_back("process " + std::to_string(file.session().pid) + " uses /dev/nvidia-uvm");
    if (file.pending) out.push_back("a mapping of GPU memory is about to be made");
    if (file.exports) out.push_back("GPU memory was exported to a descriptor");
    if (file.attached) out.push_back("GPUs are attached to a descriptor");
  }
  for (const auto& client : ClientsOf([&](const Client& c) { return c.MadeOn(file.weak_from_this()); })) {
    ClientLock lock(client);
    for (const auto& [handle, object] : client->objects()) {
      if (object->params || out.size() >= 8) continue;
      char text[160];
      std::snprintf(text, sizeof(text), "process %u still has a GPU object of class %#x (%s, handle %#x of client %#x)", client->session().pid,
                    object->number, object->origin, handle, client->handle());
      out.emplace_back(text);
    }
  }
  return out;
}

std::set<uint64_t> Proxy::BusyProcesses() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  // Who has a call in the driver for longer does more than ask about the GPU.
  const absl::Time deadline = absl::Now() + absl::Milliseconds(100);
  std::set<uint64_t> out;
  for (const auto& client : ClientsOf([](const Client&) { return true; })) {
    bool held = client->mu().TryLock();
    while (!held && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
      held = client->mu().TryLock();
    }
    bool busy = !held;
    if (held) {
      busy = !client->dead() && std::ranges::any_of(client->objects(), [](const auto& o) { return !o.second->params; });
      client->mu().Unlock();
    }
    if (busy) out.insert(client->session().process);
  }
  return out;
}

std::string Proxy::SaveFile(OpenFile& file) {
  proto::File out;
  out.set_driver(version_);
  out.set_node(static_cast<uint32_t>(file.node().kind));
  out.set_minor(file.node().minor);
  out.set_access(static_cast<uint32_t>(file.access()));
  out.set_id(file.id());
  out.set_process(file.session().process);
  out.set_uid(file.session().uid);
  out.set_pid(file.session().pid);
  for (const Gpu& gpu : gpus_) {
    if (file.node().kind == NodeKind::kGpu && gpu.minor == file.node().minor) out.set_gpu_uuid(std::string(Bytes(gpu.uuid)));
  }
  {
    absl::MutexLock lock(&file.mu);
    if (file.linked != nullptr) out.set_linked(file.linked->id());
  }
  for (const auto& client : ClientsOf([&](const Client& c) { return c.MadeOn(file.weak_from_this()); })) {
    ClientLock lock(client);
    if (client->dead()) continue;
    auto* c = out.add_clients();
    c->set_handle(client->handle());
    c->set_process(client->session().process);
    c->set_uid(client->session().uid);
    c->set_pid(client->session().pid);
    SaveObjects(*this, *client->root(), c);
  }
  return out.SerializeAsString();
}

const Gpu* Proxy::Replacement(std::string_view uuid) const {
  Uuid old;
  if (uuid.size() != old.size()) return nullptr;
  std::memcpy(old.data(), uuid.data(), old.size());
  auto it = replacements_.find(old);
  return it != replacements_.end() && it->second < gpus_.size() ? &gpus_[it->second] : GpuByUuid(uuid.data(), {});
}

// One saved client, made anew on `file`; "" or what went wrong.
std::string Proxy::RestoreClient(const std::shared_ptr<OpenFile>& file, const proto::Client& saved) {
  char name[48];
  std::snprintf(name, sizeof(name), "GPU client %#x", saved.handle());
  RmAlloc root{.hRoot = saved.handle(), .hObjectNew = saved.handle(), .hClass = 0x41};
  if (Replay(*this, file->host(), root, nullptr) != kNvOk) {
    return std::string(name) + " cannot be made again: another process of this machine may have that number";
  }
  auto client = std::make_shared<Client>(saved.handle(), Session{.process = saved.process(), .uid = saved.uid(), .pid = saved.pid()}, file, objects_);
  ClientLock lock(client);
  for (const proto::Object& object : saved.objects()) {
    const Entry* entry = FindEntry(branch_->classes, object.number());
    Object* parent = client->Find(object.parent());
    if (Full(*client)) return std::string(name) + " has more objects than a client may have";
    std::string params = object.params();
    bool good = entry != nullptr && Allows(*entry) && parent != nullptr && (params.empty() || params.size() == entry->size) &&
                (entry->category == Category::kDevice || entry->category == Category::kSubdevice);
    if (!good) return std::string(name) + " is malformed in the image";
    const Gpu* gpu = Replacement(object.gpu_uuid());
    if (gpu == nullptr) return std::string(name) + " is of a GPU that the sandbox does not have";
    if (entry->kind == Kind::kDevice && params.size() >= 4) std::memcpy(params.data(), &gpu->instance, 4);
    RmAlloc block{.hRoot = saved.handle(), .hObjectParent = object.parent(), .hObjectNew = object.handle(), .hClass = object.number()};
    if (Replay(*this, file->host(), block, &params) != kNvOk)
      return std::string(name) + ": an object of class " + entry->name + " cannot be made again";
    Object* made = client->Add(object.handle(), object.number(), entry, parent);
    if (made == nullptr) return std::string(name) + " is malformed in the image";
    made->gpu = IndexOf(*gpu);
    made->params = std::move(params);
    made->origin = entry->name;
  }
  return AddClient(client) ? "" : std::string(name) + " is there twice";
}

std::shared_ptr<OpenFile> Proxy::RestoreFile(std::string_view bytes, std::string* error) {
  proto::File saved;
  bool good = saved.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) && saved.node() <= 2 && saved.access() <= O_RDWR;
  // Clients are made on control files alone.
  if (!good || (saved.clients_size() > 0 && saved.node() != static_cast<uint32_t>(NodeKind::kControl))) {
    *error = "a GPU's file is malformed in the image";
    return nullptr;
  }
  if (saved.driver() != version_) {
    *error = "the image was made with NVIDIA driver " + saved.driver() + ", and this machine has " + version_;
    return nullptr;
  }
  Node node{static_cast<NodeKind>(saved.node()), saved.minor()};
  if (node.kind == NodeKind::kGpu) {
    const Gpu* gpu = Replacement(saved.gpu_uuid());
    if (gpu == nullptr) {
      *error = "a GPU that the sandbox had open is not there";
      return nullptr;
    }
    node.minor = gpu->minor;
  }
  auto file = Open(node, static_cast<int>(saved.access()), {.process = saved.process(), .uid = saved.uid(), .pid = saved.pid()});
  if (!file.ok()) {
    *error = "a GPU that the sandbox had open is not there";
    return nullptr;
  }
  // A device can be made only by a process that has its GPU's node open, and the guest's own may come later.
  std::vector<HostFile> held;
  for (const Gpu& g : gpus_) {
    if (auto opened = host_.Open({NodeKind::kGpu, g.minor}, O_RDWR); opened.ok()) held.push_back(*opened);
  }
  for (const proto::Client& client : saved.clients()) {
    if (error->empty()) *error = RestoreClient(*file, client);
  }
  for (HostFile opened : held) host_.Close(opened);
  if (!error->empty()) return nullptr;
  *error = LinkRestored(saved.id(), saved.linked(), *file);
  return error->empty() ? *file : nullptr;
}

// Registers files with their control files, whichever of the two is restored first; "" or what went wrong.
std::string Proxy::LinkRestored(uint64_t id, uint64_t linked, const std::shared_ptr<OpenFile>& file) {
  std::vector<std::pair<std::shared_ptr<OpenFile>, std::shared_ptr<OpenFile>>> pairs;
  {
    absl::MutexLock lock(&mu_);
    restored_[id] = file;
    if (linked != 0) unlinked_.emplace_back(file, linked);
    std::erase_if(unlinked_, [&](auto& u) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      auto it = restored_.find(u.second);
      std::shared_ptr<OpenFile> control = it == restored_.end() ? nullptr : it->second.lock();
      std::shared_ptr<OpenFile> from = u.first.lock();
      if (from == nullptr) return true;
      if (control == nullptr) return false;
      pairs.emplace_back(std::move(from), std::move(control));
      return true;
    });
  }
  std::vector<std::shared_ptr<OpenFile>> linked_now;
  for (auto& [from, control] : pairs) {
    // As RegisterFdCall() has it. Files that hold each other, as an image may say, would never close.
    bool good = from->is_frontend() && control->node().kind == NodeKind::kControl && from != control;
    if (good) {
      absl::MutexLock lock(&control->mu);
      good = control->linked == nullptr;
      if (good) control->has_links = true;
    }
    if (good) {
      absl::MutexLock lock(&from->mu);
      good = from->linked == nullptr && !from->has_links;
      if (good) from->linked = control;
    }
    if (!good) {
      // What is refused must not live on by a link from a file that was taken before.
      for (const std::shared_ptr<OpenFile>& done : linked_now) {
        absl::MutexLock lock(&done->mu);
        done->linked = nullptr;
      }
      return "the links of GPUs' files are malformed in the image";
    }
    linked_now.push_back(from);
    int32_t fd = control->host();
    HostIoctl(from->host(), Command(0xc9, sizeof(fd)), std::as_writable_bytes(std::span(&fd, 1)));
  }
  return "";
}

}  // namespace amber::nvproxy
