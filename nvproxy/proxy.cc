#include "nvproxy/proxy.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>

#include "nvproxy/call.h"
#include "nvproxy/gpu_texts.h"

namespace amber::nvproxy {

namespace {

constexpr uint32_t FrontendCommand(uint32_t number, size_t size) { return 0xc0004600u | static_cast<uint32_t>(size) << 16 | number; }

std::string Hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), "%#x", value);
  return text;
}

}  // namespace

std::string Gpu::pci() const {
  char text[32];
  std::snprintf(text, sizeof(text), "%04x:%02x:%02x.0", domain, bus, slot);
  return text;
}

std::string Gpu::uuid_text() const {
  std::string out = "GPU";
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    char text[4];
    std::snprintf(text, sizeof(text), "%02x", uuid[i]);
    out += text;
  }
  return out;
}

bool Gpu::IsNamed(std::string_view name) const {
  return name == std::to_string(index) || name == "minor:" + std::to_string(minor) || name == uuid_text();
}

Proxy::Proxy(HostDriver& host, const Options& options, std::function<void(const std::string&)> log)
    : host_(host), options_(options), log_(std::move(log)) {}

Proxy::~Proxy() = default;

std::unique_ptr<Proxy> Proxy::Create(HostDriver& host, const Options& options, std::function<void(const std::string&)> log, std::string* error) {
  std::unique_ptr<Proxy> proxy(new Proxy(host, options, std::move(log)));
  proxy->version_ = host.Version();
  if (proxy->version_.empty()) {
    *error = "there is no NVIDIA driver on this host";
    return nullptr;
  }
  std::string_view why;
  proxy->branch_ = BranchForVersion(proxy->version_, options.allow_other_driver, &why);
  if (proxy->branch_ == nullptr) {
    *error = "NVIDIA driver " + proxy->version_ + ": " + std::string(why);
    return nullptr;
  }
  *error = proxy->FindGpus();
  if (!error->empty()) return nullptr;
  proxy->ledger_ = std::make_shared<Ledger>(proxy->gpus_.size(), options.memory_limit, options.host_limit);
  return proxy;
}

ErrnoOr<std::shared_ptr<OpenFile>> Proxy::Open(const Node& node, int access, const Session& session) {
  if (node.kind == NodeKind::kGpu && std::ranges::none_of(gpus_, [&](const Gpu& g) { return g.minor == node.minor && Has(session, g); })) {
    return Errno(ENXIO);
  }
  // A container that asked for none can still make itself the nodes.
  if (GpusOf(session).empty()) return Errno(ENXIO);
  // The tools node watches other processes' UVM state; capabilities are for MIG, which is not supported.
  if (node.kind == NodeKind::kUvmTools || node.kind == NodeKind::kCapability) return Errno(ENXIO);
  // Only the access mode is given on: O_NONBLOCK makes the driver's open asynchronous and its poll deaf.
  HostFile host = TRY(host_.Open(node, access & O_ACCMODE));
  return std::make_shared<OpenFile>(*this, node, access & O_ACCMODE, session, host);
}

OpenFile::~OpenFile() { proxy_.OnFileGone(*this); }

void Proxy::OnFileGone(OpenFile& file) {
  // The clients that were made on it end with it, as in the driver.
  for (const auto& client : ClientsOf([&](const Client& c) { return c.file_gone(); })) {
    ClientLock lock(client);
    // Another file that is being closed at this moment may have found it as well.
    if (client->dead()) continue;
    client->Free(*client->root());
    RemoveClient(*client);
  }
  host_.SetReadyCallback(file.host(), {});
  host_.Close(file.host());
}

void Proxy::OnExit(uint64_t process) {
  for (const auto& client : ClientsOf([&](const Client& c) { return c.session().process == process; })) {
    std::shared_ptr<OpenFile> file = client->file();
    ClientLock lock(client);
    if (client->dead()) continue;
    if (file != nullptr) {
      RmFree block{.hRoot = client->handle(), .hObjectOld = client->handle()};
      HostIoctl(file->host(), FrontendCommand(0x29, sizeof(block)), std::as_writable_bytes(std::span(&block, 1)));
    }
    client->Free(*client->root());
    RemoveClient(*client);
  }
}

bool Proxy::HasClients(uint64_t process) {
  absl::MutexLock lock(&mu_);
  return std::ranges::any_of(clients_, [&](const auto& c) { return c.second->session().process == process; });
}

int Proxy::HostIoctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) {
  host_calls_.fetch_add(1, std::memory_order_relaxed);
  return host_.Ioctl(file, command, block, nested);
}

void Proxy::LogOnce(const std::string& line) {
  {
    absl::MutexLock lock(&mu_);
    // A guest chooses the numbers: the set must not grow without end.
    if (logged_.size() >= 1024 || !logged_.insert(line).second) return;
  }
  Log(line);
}

std::shared_ptr<Client> Proxy::FindClient(uint32_t handle) {
  absl::MutexLock lock(&mu_);
  auto it = clients_.find(handle);
  return it == clients_.end() ? nullptr : it->second;
}

std::shared_ptr<Client> Proxy::OwnClient(uint32_t handle, OpenFile& file, const Session& session) {
  std::shared_ptr<Client> client = FindClient(handle);
  if (client == nullptr || client->session().process != session.process) return nullptr;
  // Which container a restored client is in is not known: 0.
  if (client->session().container != 0 && session.container != 0 && client->session().container != session.container) return nullptr;
  std::shared_ptr<OpenFile> owner = client->file();
  // The driver lets a client be used through the control file that made it and those registered with that one; UVM does not ask, so any
  // UVM file of the process will do.
  if (file.node().kind == NodeKind::kUvm) return client;
  if (owner == nullptr) return nullptr;
  if (owner.get() == &file) return client;
  absl::MutexLock lock(&file.mu);
  return file.linked == owner ? client : nullptr;
}

bool Proxy::AddClient(std::shared_ptr<Client> client) {
  absl::MutexLock lock(&mu_);
  uint64_t process = client->session().process;
  auto same = std::ranges::count_if(clients_, [&](const auto& c) { return c.second->session().process == process; });
  if (same >= options_.max_clients || clients_.contains(client->handle())) return false;
  uint32_t handle = client->handle();
  clients_[handle] = std::move(client);
  return true;
}

void Proxy::RemoveClient(const Client& client) {
  absl::MutexLock lock(&mu_);
  // Its number may be another's by now.
  auto it = clients_.find(client.handle());
  if (it != clients_.end() && it->second.get() == &client) clients_.erase(it);
}

std::vector<std::shared_ptr<Client>> Proxy::ClientsOf(const std::function<bool(const Client&)>& wanted) {
  std::vector<std::shared_ptr<Client>> out;
  absl::MutexLock lock(&mu_);
  for (const auto& [handle, client] : clients_) {
    if (wanted(*client)) out.push_back(client);
  }
  return out;
}

const Gpu* Proxy::GpuById(uint32_t gpu_id, const Session& session) const {
  auto it = std::ranges::find_if(gpus_, [&](const Gpu& g) { return g.gpu_id == gpu_id && Has(session, g); });
  return it == gpus_.end() ? nullptr : &*it;
}

const Gpu* Proxy::GpuByInstance(uint32_t instance, const Session& session) const {
  auto it = std::ranges::find_if(gpus_, [&](const Gpu& g) { return g.instance == instance && Has(session, g); });
  return it == gpus_.end() ? nullptr : &*it;
}

const Gpu* Proxy::GpuByUuid(const void* uuid, const Session& session) const {
  auto it = std::ranges::find_if(gpus_, [&](const Gpu& g) { return std::memcmp(g.uuid.data(), uuid, 16) == 0 && Has(session, g); });
  return it == gpus_.end() ? nullptr : &*it;
}

std::vector<const Gpu*> Proxy::GpusOf(const Session& session) const {
  std::vector<const Gpu*> out;
  for (const Gpu& gpu : gpus_) {
    if (Has(session, gpu)) out.push_back(&gpu);
  }
  return out;
}

std::string Proxy::MaskOf(std::span<const std::string> wanted, std::span<const std::string> may_have, uint64_t* mask) const {
  uint64_t may = 0;
  *mask = 0;
  for (const Gpu& gpu : gpus_) {
    bool named = std::ranges::any_of(may_have, [&](const std::string& name) { return gpu.IsNamed(name); });
    if (may_have.empty() || named) may |= uint64_t{1} << IndexOf(gpu);
  }
  if (wanted.empty()) *mask = may;
  for (const std::string& name : wanted) {
    auto it = std::ranges::find_if(gpus_, [&](const Gpu& g) { return g.IsNamed(name); });
    if (it == gpus_.end()) return "the sandbox has no GPU \"" + name + "\"";
    uint64_t bit = uint64_t{1} << IndexOf(*it);
    if ((may & bit) == 0) return NotAllowed(name);
    *mask |= bit;
  }
  return *mask == 0 ? "the sandbox has none of the GPUs that --gpu-devices names" : "";
}

Proxy::Counts Proxy::counts() {
  // No client is locked for this: the driver may hold a call for long.
  Counts out{.calls = calls_, .refused = refused_, .host_calls = host_calls_, .objects = objects_};
  absl::MutexLock lock(&mu_);
  out.clients = clients_.size();
  return out;
}

std::vector<std::string> Proxy::Describe() {
  std::vector<std::string> out;
  for (const auto& client : ClientsOf([](const Client&) { return true; })) {
    ClientLock lock(client);
    for (const auto& [handle, object] : client->objects()) {
      char text[80];
      uint32_t parent = object->parent != nullptr ? object->parent->handle : 0;
      std::snprintf(text, sizeof(text), "%x: %x %x under %x", client->handle(), object->number, handle, parent);
      out.emplace_back(text);
    }
  }
  return out;
}

ErrnoOr<uint64_t> Call::Done() {
  if (block.size() > 0 && !caller.Write(argument, block.data(), block.size())) return Errno(EFAULT);
  return uint64_t{0};
}

ErrnoOr<uint64_t> Call::Refuse(uint32_t status, const char* why) {
  if (*why != 0) proxy.LogOnce(std::string("refused ") + entry.name + ": " + why);
  set_status(status);
  return Done();
}

ErrnoOr<uint64_t> Proxy::Ioctl(const std::shared_ptr<OpenFile>& file, Caller& caller, uint32_t command, uint64_t argument) {
  calls_.fetch_add(1, std::memory_order_relaxed);
  bool frontend = file->is_frontend();
  // The driver looks at the number and the size alone, so nothing else may decide here either.
  uint32_t number = frontend ? command & 0xff : command;
  const Entry* entry = FindEntry(frontend ? branch_->frontend : branch_->uvm, number);
  if (entry == nullptr || !Allows(*entry)) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    std::string name = Hex(number);
    for (const Named& named : RefusedFrontend()) {
      if (frontend && named.number == number) name = named.name;
    }
    LogOnce((frontend ? "refused ioctl " : "refused UVM ioctl ") + name);
    return Errno(EINVAL);
  }
  size_t size = frontend ? command >> 16 & 0x3fff : entry->size;
  if (frontend) {
    uint8_t here = file->node().kind == NodeKind::kControl ? kOnControl : kOnGpu;
    if ((entry->node & here) == 0) return Errno(EINVAL);
    bool list = entry->kind == Kind::kCardInfo || entry->kind == Kind::kAttachGpus;
    bool short_alloc = entry->kind == Kind::kAlloc && size == sizeof(RmAllocShort);
    if (!list && !short_alloc && entry->size != kUnknownSize && size != entry->size) return Errno(EINVAL);
    if (entry->kind == Kind::kRefuse) return Errno(EINVAL);
  }
  Block block(size);
  if (size > 0 && !caller.Read(argument, block.data(), size)) return Errno(EFAULT);
  Call call{*this, file, caller, *entry, frontend ? FrontendCommand(number, size) : number, argument, block, caller.session()};
  return frontend ? FrontendCall(call) : UvmCall(call);
}

// munmap() is not told to the proxy. Looking for it at each mmap would take ever longer, and never looking would take ever more memory.
static void ForgetUnmapped(OpenFile& file, Caller& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(file.mu) {
  std::erase_if(file.managed, [&](auto& m) { return !caller.IsMapped(file, m.first, m.second.size); });
  file.managed_most = std::max<size_t>(64, 2 * file.managed.size());
}

ErrnoOr<HostMapping> Proxy::Map(OpenFile& file, Caller& caller, uint64_t offset, uint64_t length, int prot, bool shared) {
  if (!shared || (prot & PROT_EXEC) != 0) return Errno(EINVAL);
  length = (length + 4095) & ~uint64_t{4095};
  if (file.node().kind != NodeKind::kUvm) {
    absl::MutexLock lock(&file.mu);
    if (offset != 0 || !file.pending || file.exports) return Errno(EINVAL);
    if (file.pending->whole ? length != file.pending->length : length > file.pending->length) return Errno(EINVAL);
    file.pending.reset();
    return host_.Map(file.host(), 0, length, prot);
  }
  int gpu = -1;
  {
    absl::MutexLock lock(&file.mu);
    if (!file.uvm_initialized) return Errno(EBADFD);
    if (!file.uvm_gpus.empty()) gpu = *file.uvm_gpus.begin();
    if (file.managed.size() >= file.managed_most) ForgetUnmapped(file, caller);
  }
  std::shared_ptr<Allocation> bytes;
  if (ledger_->limit() != 0 && !gpus_.empty()) {
    // Managed memory is bounded by what is left of the quota: the driver allocates it behind our back, at a fault.
    auto charge = [&] { return ledger_->Charge(static_cast<uint32_t>(std::max(gpu, 0)), Pool::kDevice, length); };
    bytes = charge();
    if (bytes == nullptr) {
      absl::MutexLock lock(&file.mu);
      ForgetUnmapped(file, caller);
    }
    if (bytes == nullptr) bytes = charge();
    if (bytes == nullptr) return Errno(ENOMEM);
  }
  HostMapping mapping = TRY(host_.Map(file.host(), offset, length, prot));
  absl::MutexLock lock(&file.mu);
  // If the guest's mmap fails, as it does over one that is there already, that one's bytes must stay counted.
  OpenFile::Managed& here = file.managed[offset];
  if (here.size < length || !caller.IsMapped(file, offset, here.size)) here = {.size = length, .bytes = std::move(bytes)};
  return mapping;
}

uint32_t Proxy::Poll(OpenFile& file) {
  uint32_t now = host_.Poll(file.host());
  absl::MutexLock lock(&file.mu);
  return std::exchange(file.events, 0) | now;
}

}  // namespace amber::nvproxy
