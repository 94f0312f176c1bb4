// Plays a recording of record.cc against the proxy on the driver that does not exist, and tells where it answers otherwise than the real one did.
//
//   replay RECORDING [GOLDEN]     writes the recording, normalised, to GOLDEN; prints the differences; exit status 1 if there are any
//   replay --normalise RECORDING  prints the recording, normalised, alone
//
// Normalised: what was called (by the names of the tables), in which order, with which sizes, classes and objects, and what the answer was. Nothing of a block's
// bytes is in it, so nothing that tells one machine from another; clients, descriptors and processes are numbered as they come.
#include <fcntl.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

using Bytes = std::vector<uint8_t>;

struct Line {
  std::string verb, node;
  long process = 0;
  int fd = -1;
  uint32_t command = 0;
  long long result = 0;
  uint64_t length = 0, offset = 0;
  int prot = 0;
  Bytes in, out, nested_in, nested_out;
};

Bytes Unhex(const std::string& text) {
  Bytes bytes;
  for (size_t i = 0; text != "-" && i + 1 < text.size(); i += 2) bytes.push_back(static_cast<uint8_t>(std::stoul(text.substr(i, 2), nullptr, 16)));
  return bytes;
}

bool Parse(const std::string& text, Line* line) {
  std::istringstream in(text);
  in >> line->verb;
  if (line->verb == "driver") {
    in >> line->node;
  } else if (line->verb == "open") {
    in >> line->process >> line->node >> line->result;
  } else if (line->verb == "close" || line->verb == "fork") {
    in >> line->process >> line->fd;
  } else if (line->verb == "mmap") {
    in >> line->process >> line->fd >> line->length >> line->offset >> line->prot >> line->result;
  } else if (line->verb == "ioctl") {
    std::string command, blocks[4];
    double took;
    in >> line->process >> line->fd >> line->node >> command >> line->result >> took >> blocks[0] >> blocks[1] >> blocks[2] >> blocks[3];
    if (in.fail()) return false;
    line->command = static_cast<uint32_t>(std::stoul(command, nullptr, 16));
    line->in = Unhex(blocks[0]), line->out = Unhex(blocks[1]), line->nested_in = Unhex(blocks[2]), line->nested_out = Unhex(blocks[3]);
  } else {
    return false;
  }
  return !in.fail();
}

template <typename T>
T At(const Bytes& bytes, size_t offset) {
  T value{};
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}
template <typename T>
void Set(Bytes& bytes, size_t offset, T value) {
  if (offset + sizeof(T) <= bytes.size()) std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// Numbers what is different on every run, by kind, as it comes.
class Names {
 public:
  std::string Of(char kind, uint64_t value) {
    if (value == 0) return "0";
    auto [it, fresh] = names_[kind].try_emplace(value, names_[kind].size() + 1);
    return kind + std::to_string(it->second);
  }

 private:
  std::map<char, std::map<uint64_t, size_t>> names_;
};

std::string Hex(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), "%#x", value);
  return text;
}

const Entry* EntryOf(const Branch& branch, const Line& line) {
  return line.node == "nvidia-uvm" ? FindEntry(branch.uvm, line.command) : FindEntry(branch.frontend, line.command & 0xff);
}

// One ioctl as a golden has it. `out` is the block after the call.
std::string Describe(const Branch& branch, const Line& line, long long result, const Bytes& out, Names& names) {
  const Entry* entry = EntryOf(branch, line);
  std::string text = (line.node.starts_with("nvidia-uvm") ? "uvm " : line.node == "nvidiactl" ? "ctl " : "gpu ");
  text += entry != nullptr ? entry->name : "number " + Hex(line.command);
  text += " " + std::to_string(line.in.size());
  if (entry != nullptr && entry->kind == Kind::kControl) {
    uint32_t command = At<uint32_t>(line.in, offsetof(RmControl, cmd));
    const Entry* control = FindEntry(branch.controls, command);
    text += " " + (control != nullptr ? control->name : Hex(command)) + " " + std::to_string(At<uint32_t>(line.in, offsetof(RmControl, paramsSize)));
    text += " of " + names.Of('c', At<uint32_t>(line.in, 0)) + "/" + names.Of('o', At<uint32_t>(line.in, 4));
  } else if (entry != nullptr && entry->kind == Kind::kAlloc) {
    uint32_t number = At<uint32_t>(line.in, offsetof(RmAlloc, hClass));
    const Entry* made = FindEntry(branch.classes, number);
    text += " " + (made != nullptr ? made->name : Hex(number)) + " as " + names.Of('o', At<uint32_t>(out, offsetof(RmAlloc, hObjectNew)));
    text += " under " + names.Of('o', At<uint32_t>(line.in, offsetof(RmAlloc, hObjectParent)));
  } else if (entry != nullptr) {
    for (const Field& field : FieldsOf(*entry)) {
      if (field.role == Role::kClient) text += " " + names.Of('c', At<uint32_t>(line.in, field.offset));
      if (field.role == Role::kObject || field.role == Role::kNew) text += " " + names.Of('o', At<uint32_t>(line.in, field.offset));
    }
  }
  text += " = " + std::to_string(result);
  if (result == 0 && entry != nullptr && entry->status != kNoStatus) {
    // RM_ALLOC's short form has its status elsewhere.
    size_t at = entry->kind == Kind::kAlloc && line.in.size() == sizeof(RmAllocShort) ? offsetof(RmAllocShort, status) : entry->status;
    text += " status " + Hex(At<uint32_t>(out, at));
  }
  return text;
}

// The machine that the recording was made on, as far as calls depend on it.
FakeConfig ConfigOf(const std::vector<Line>& lines) {
  FakeConfig config;
  for (const Line& line : lines) {
    if (line.verb == "driver") config.version = line.node;
    if (line.verb != "ioctl" || line.node != "nvidiactl" || (line.command & 0xff) != 0xc8 || !config.gpus.empty()) continue;
    for (size_t i = 0; (i + 1) * sizeof(CardInfo) <= line.out.size(); ++i) {
      auto card = At<CardInfo>(line.out, i * sizeof(CardInfo));
      if (card.valid == 0) continue;
      FakeGpu gpu{.minor = card.minor, .gpu_id = card.gpu_id, .domain = card.domain, .bus = card.bus, .slot = card.slot};
      char uuid[48];
      std::snprintf(uuid, sizeof(uuid), "GPU-%08x-1111-2222-3333-444455556666", 0x6f2d1c00 + card.minor);
      gpu.uuid = uuid;
      config.gpus.push_back(gpu);
    }
  }
  if (config.gpus.empty()) config.gpus = DefaultFakeConfig().gpus;
  for (const Line& line : lines) {
    // The only place where a program tells the card's uuid to the driver. Of several cards the first is taken to be the one in use.
    if (line.node != "nvidia-uvm" || line.command != 0x25 || line.in.size() < 16) continue;
    Gpu gpu;
    std::copy_n(line.in.begin(), 16, gpu.uuid.begin());
    config.gpus[0].uuid = gpu.uuid_text();
    break;
  }
  return config;
}

class Player {
 public:
  Player(const FakeConfig& config, bool allow) : world_(config), proxy_(world_.Sandbox({.allow_other_driver = allow})) {}

  const Branch& branch() { return proxy_.branch(); }
  std::vector<std::string> violations() { return world_.host.violations(); }

  void Open(const Line& line) {
    int fd = -1;
    if (line.node == "/dev/nvidiactl") fd = Of(line.process).Open(NodeKind::kControl);
    if (line.node == "/dev/nvidia-uvm") fd = Of(line.process).Open(NodeKind::kUvm);
    unsigned minor;
    char more;
    if (std::sscanf(line.node.c_str(), "/dev/nvidia%u%c", &minor, &more) == 1) fd = Of(line.process).Open(NodeKind::kGpu, minor);
    if (fd >= 0 && line.result >= 0) Of(line.process).Move(fd, static_cast<int>(line.result));
  }
  void Close(const Line& line) { Of(line.process).Close(line.fd); }
  void Fork(const Line& line) { Of(line.fd).InheritAll(Of(line.process)); }
  long long Map(const Line& line) {
    TestProcess& p = Of(line.process);
    auto file = p.FileOf(line.fd);
    if (file == nullptr) return -EBADF;
    auto mapped = proxy_.Map(*file, p, line.offset, line.length, line.prot, true);
    return mapped.ok() ? 0 : -mapped.error().number();
  }
  long long Ioctl(const Line& line, Bytes* out) {
    TestProcess& p = Of(line.process);
    if (p.FileOf(line.fd) == nullptr) return -EBADF;
    Bytes block = line.in;
    const Entry* entry = EntryOf(branch(), line);
    if (entry != nullptr) Adapt(p, *entry, line, &block);
    uint64_t at = p.PutBytes(block);
    int result = p.Raw(line.fd, line.command, at);
    out->resize(block.size());
    p.Read(at, out->data(), out->size());
    return result;
  }

 private:
  TestProcess& Of(long process) {
    auto& p = processes_[process];
    if (p == nullptr)
      p = std::make_unique<TestProcess>(proxy_, Session{.process = static_cast<uint64_t>(process), .pid = static_cast<uint32_t>(process)});
    return *p;
  }
  // Pointers lead to memory of the player's; handles that the driver chose then are asked for now.
  void Adapt(TestProcess& p, const Entry& entry, const Line& line, Bytes* block) {
    if (entry.kind == Kind::kAlloc) {
      Set<uint64_t>(*block, offsetof(RmAlloc, pAllocParms), line.nested_in.empty() ? 0 : Params(p, line.nested_in));
      if (block->size() == sizeof(RmAlloc)) Set<uint64_t>(*block, offsetof(RmAlloc, pRightsRequested), 0);
      uint32_t made = At<uint32_t>(line.out, offsetof(RmAlloc, hObjectNew)), number = At<uint32_t>(line.in, offsetof(RmAlloc, hClass));
      if (number <= 1 || number == 0x41) Set<uint32_t>(*block, 0, made);
      Set<uint32_t>(*block, offsetof(RmAlloc, hObjectNew), made);
    } else if (entry.kind == Kind::kControl) {
      Set<uint64_t>(*block, offsetof(RmControl, params), line.nested_in.empty() ? 0 : Params(p, line.nested_in));
    } else if (entry.kind == Kind::kAllocMemory) {
      if (At<uint32_t>(line.in, offsetof(RmAllocMemory, hClass)) == 0x71) Set<uint64_t>(*block, offsetof(RmAllocMemory, pMemory), TestProcess::kBase);
    } else if (entry.kind == Kind::kHeap) {
      Set<uint64_t>(*block, offsetof(RmHeap, AllocSize_address), 0);
    }
  }
  uint64_t Params(TestProcess& p, const Bytes& bytes) {
    p.Write(kParams, bytes.data(), bytes.size());
    return kParams;
  }

  static constexpr uint64_t kParams = TestProcess::kBase + (1 << 20);
  World world_;
  Proxy& proxy_;
  std::map<long, std::unique_ptr<TestProcess>> processes_;
};

bool ReadLines(const char* path, std::vector<Line>* lines) {
  std::ifstream in(path);
  std::string text;
  while (std::getline(in, text)) {
    Line line;
    if (!Parse(text, &line)) {
      std::cerr << path << ": line " << lines->size() + 1 << " makes no sense\n";
      return false;
    }
    lines->push_back(std::move(line));
  }
  return in.eof() && !lines->empty();
}

int Run(const std::vector<Line>& lines, bool play, std::ostream& golden) {
  FakeConfig config = ConfigOf(lines);
  std::string_view error;
  if (BranchForVersion(config.version, true, &error) == nullptr) {
    std::cerr << "driver " << config.version << ": " << error << "\n";
    return 2;
  }
  Player player(config, true);
  Names before, after;
  int differences = 0, calls = 0;
  auto compare = [&](const std::string& recorded, const std::string& played) {
    ++calls;
    if (!play || recorded == played) return;
    ++differences;
    std::cout << "recorded: " << recorded << "\nplayed:   " << played << "\n";
  };
  for (const Line& line : lines) {
    if (line.verb == "open") player.Open(line);
    if (line.verb == "close") player.Close(line);
    if (line.verb == "fork") player.Fork(line);
    std::string recorded;
    if (line.verb == "open") recorded = "open " + line.node + (line.result < 0 ? " = " + std::to_string(line.result) : "");
    if (line.verb == "mmap") {
      recorded = "mmap " + std::to_string(line.length) + " = " + std::to_string(line.result);
      compare(recorded, "mmap " + std::to_string(line.length) + " = " + std::to_string(player.Map(line)));
    }
    if (line.verb == "ioctl") {
      recorded = Describe(player.branch(), line, line.result, line.out, before);
      Bytes out;
      long long result = player.Ioctl(line, &out);
      compare(recorded, Describe(player.branch(), line, result, out, after));
    }
    if (!recorded.empty()) golden << before.Of('p', static_cast<uint64_t>(line.process)) << " " << recorded << "\n";
  }
  if (!play) return 0;
  for (const std::string& violation : player.violations()) std::cout << "never to be sent to a driver: " << violation << "\n";
  std::cout << calls << " calls, " << differences << " differ\n";
  return differences > 0 || !player.violations().empty();
}

}  // namespace
}  // namespace amber::nvproxy

int main(int argc, char** argv) {
  using namespace amber::nvproxy;
  bool play = argc < 2 || std::string_view(argv[1]) != "--normalise";
  const char* recording = argv[play ? 1 : 2];
  std::vector<Line> lines;
  if (recording == nullptr || !ReadLines(recording, &lines)) {
    std::cerr << "usage: replay [--normalise] RECORDING [GOLDEN]\n";
    return 2;
  }
  if (!play) return Run(lines, false, std::cout);
  std::ofstream golden(argc > 2 ? argv[2] : "/dev/null");
  return Run(lines, true, golden);
}
