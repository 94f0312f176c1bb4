// Fuzzes the server with packets of a hostile peer. Half of the inputs are raw packets, half describe well-formed
// requests with odd contents, several to a run. The attach point has a neighbour: its inodes must never show up in an
// answer, and descriptors must be of regular files.
//
// Run with: bazel run --config=fuzz //gofer:gofer_fuzz -- -max_total_time=60
#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <kj/exception.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gofer/client.h"
#include "gofer/gofer.capnp.h"
#include "gofer/session.h"
#include "sentry/base/check.h"

namespace amber::gofer {
namespace {

// The files. Kept from run to run, made anew from time to time.
struct World {
  std::string directory = "/tmp/gofer_fuzz.XXXXXX";
  UniqueFd working_directory{open(".", O_PATH | O_CLOEXEC)};
  uint64_t secret = 0;
  int age = 0;

  World() {
    AMBER_CHECK(mkdtemp(directory.data()) != nullptr);
    mkdir((directory + "/out").c_str(), 0755);
    std::ofstream(directory + "/out/file") << "secret";
    struct stat st;
    AMBER_CHECK(stat((directory + "/out/file").c_str(), &st) == 0);
    secret = st.st_ino;
  }
  ~World() { std::filesystem::remove_all(directory); }
  static World& Get() {
    static World world;
    return world;
  }
  void Refresh() {
    if (age++ % 500 != 0) return;
    std::filesystem::remove_all(directory + "/in");
    for (const char* name : {"/in", "/in/a", "/in/a/b"}) mkdir((directory + name).c_str(), 0755);
    std::ofstream(directory + "/in/file") << "content";
    std::ofstream(directory + "/in/a/file") << "content";
    (void)!symlink("../out/file", (directory + "/in/link").c_str());
    (void)!symlink("../out", (directory + "/in/a/link").c_str());
  }
};

// A server without nodes; the thread's working directory is its own while it lives.
struct Gofer {
  std::unique_ptr<Server> server;

  Gofer() {
    World& world = World::Get();
    world.Refresh();
    std::vector<AttachPoint> points(2);
    points[0].name = "root";
    points[1].name = "frozen";
    points[1].read_only = true;
    for (AttachPoint& point : points) {
      point.root.reset(open((world.directory + "/in").c_str(), O_PATH | O_CLOEXEC));
    }
    server = std::make_unique<Server>(std::move(points), OpenProcSelfFd().value(), 64);
    AMBER_CHECK(server->PrepareThread().ok());
  }
  ~Gofer() { AMBER_CHECK(fchdir(World::Get().working_directory.get()) == 0); }
};

std::string Name(FuzzedDataProvider& data) {
  static const char* const kNames[] = {"a", "b", "file", "link", "new", "other", "..", ".", "", "/", "a/../.."};
  if (data.ConsumeBool()) return kNames[data.ConsumeIntegralInRange<size_t>(0, std::size(kNames) - 1)];
  return data.ConsumeRandomLengthString(300);
}

NodeId NodeOf(FuzzedDataProvider& data) {
  if (data.ConsumeIntegralInRange(0, 9) == 0) return data.ConsumeIntegral<uint64_t>();
  return uint64_t{data.ConsumeIntegralInRange<uint32_t>(0, 1)} << 32 | data.ConsumeIntegralInRange<uint32_t>(1, 8);
}

uint32_t Flags(FuzzedDataProvider& data) {
  return data.ConsumeBool() ? data.ConsumeIntegralInRange<uint32_t>(0, 2) : data.ConsumeIntegral<uint32_t>();
}

void Fill(FuzzedDataProvider& data, wire::NewInode::Builder b) {
  b.setMode(data.ConsumeIntegralInRange<uint32_t>(0, 010000));
  b.setUid(data.ConsumeBool() ? 0 : data.ConsumeIntegral<uint32_t>());
  b.setGid(data.ConsumeBool() ? 0 : data.ConsumeIntegral<uint32_t>());
}

void Fill(FuzzedDataProvider& data, wire::SetAttr::Builder b) {
  b.setNode(NodeOf(data));
  b.setMask(data.ConsumeIntegralInRange<uint32_t>(0, 511));
  b.setMode(data.ConsumeIntegralInRange<uint32_t>(0, 010000));
  b.setSize(data.ConsumeIntegralInRange<uint64_t>(0, 100000));
  b.setMtimeNs(data.ConsumeIntegral<uint32_t>());
}

void FillChange(FuzzedDataProvider& data, wire::Request::Builder r, int kind) {
  switch (kind) {
    case 0: {
      auto b = r.initCreate();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      b.setFlags(Flags(data));
      Fill(data, b.initInode());
      return;
    }
    case 1: {
      auto b = r.initMkDir();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      Fill(data, b.initInode());
      return;
    }
    case 2: {
      auto b = r.initSymlink();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      b.setTarget(AsData(data.ConsumeBool() ? "../out" : data.ConsumeRandomLengthString(64)));
      return;
    }
    case 3: {
      auto b = r.initRename();
      b.setOldParent(NodeOf(data));
      b.setOldName(AsData(Name(data)));
      b.setNewParent(NodeOf(data));
      b.setNewName(AsData(Name(data)));
      b.setFlags(Flags(data));
      return;
    }
    case 4: {
      auto b = r.initUnlink();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      b.setFlags(data.ConsumeBool() ? AT_REMOVEDIR : 0);
      return;
    }
    case 5: {
      auto b = r.initLink();
      b.setNode(NodeOf(data));
      b.setNewParent(NodeOf(data));
      b.setNewName(AsData(Name(data)));
      return;
    }
    case 6: {
      auto b = r.initMkNod();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      b.setType(data.ConsumeIntegralInRange<uint32_t>(0, 15) << 12);
      b.setRdev(data.ConsumeIntegral<uint16_t>());
      Fill(data, b.initInode());
      return;
    }
    case 7: {
      auto b = r.initBindSocket();
      b.setParent(NodeOf(data));
      b.setName(AsData(Name(data)));
      b.setType(data.ConsumeIntegralInRange<uint32_t>(0, 6));
      Fill(data, b.initInode());
      return;
    }
    case 8: {
      auto b = r.initConnect();
      b.setNode(NodeOf(data));
      b.setType(data.ConsumeIntegralInRange<uint32_t>(0, 6));
      b.setUid(data.ConsumeIntegral<uint32_t>());
      b.setGid(data.ConsumeIntegral<uint32_t>());
      auto groups = b.initGroups(data.ConsumeIntegralInRange<unsigned>(0, 3));
      for (unsigned i = 0; i < groups.size(); ++i) groups.set(i, data.ConsumeIntegral<uint32_t>());
      return;
    }
    default: return Fill(data, r.initSetAttr());
  }
}

void FillRead(FuzzedDataProvider& data, wire::Request::Builder r, int kind) {
  switch (kind) {
    case 0: {
      auto b = r.initWalk();
      b.setParent(NodeOf(data));
      auto names = b.initNames(data.ConsumeIntegralInRange<unsigned>(0, 5));
      for (unsigned i = 0; i < names.size(); ++i) names.set(i, AsData(Name(data)));
      b.setAttributesOnly(data.ConsumeBool());
      b.setOpen(data.ConsumeBool());
      b.setOpenFlags(Flags(data));
      return;
    }
    case 1: {
      auto b = r.initOpen();
      b.setNode(NodeOf(data));
      b.setFlags(Flags(data));
      return;
    }
    case 2: {
      auto b = r.initReadDir();
      b.setNode(NodeOf(data));
      b.setPlus(data.ConsumeBool());
      b.setContinue(data.ConsumeBool());
      if (data.ConsumeBool()) b.setName(AsData(Name(data)));
      b.setLook(data.ConsumeBool());
      return;
    }
    case 3: return r.setGetAttr(NodeOf(data));
    case 4: return r.setReadLink(NodeOf(data));
    case 5: return r.setStatFs(NodeOf(data));
    case 6: {
      auto b = r.initSetXattr();
      b.setNode(NodeOf(data));
      b.setName(AsData("user." + data.ConsumeRandomLengthString(8)));
      b.setValue(AsData(data.ConsumeRandomLengthString(64)));
      return;
    }
    case 7: return r.setListXattr(NodeOf(data));
    case 8: {
      auto b = r.initOpenSeveral();
      b.setParent(NodeOf(data));
      auto names = b.initNames(data.ConsumeIntegralInRange<unsigned>(0, kMaxDescriptors + 1));
      for (unsigned i = 0; i < names.size(); ++i) names.set(i, AsData(Name(data)));
      return;
    }
    default: r.initAttach().setName(AsData(data.ConsumeBool() ? "root" : "frozen"));
  }
}

void CheckAnswer(int socket, WireBuffer& wire) {
  std::vector<UniqueFd> fds;
  auto answer = wire.Receive(socket, &fds);
  if (!answer.ok()) return;
  uint64_t secret = World::Get().secret;
  for (const UniqueFd& fd : fds) {
    struct stat st;
    AMBER_CHECK(fstat(fd.get(), &st) == 0);
    AMBER_CHECK(S_ISSOCK(st.st_mode) || (S_ISREG(st.st_mode) && st.st_ino != secret));
    AMBER_CHECK((fcntl(fd.get(), F_GETFL) & O_PATH) == 0);
  }
  auto response = answer.value()->getRoot<wire::Response>();
  if (response.getError() == 0 && response.isWalk()) {
    for (auto node : response.getWalk().getFound()) AMBER_CHECK(node.getAttributes().getIno() != secret);
  }
}

void RunRaw(Server& server, const uint8_t* bytes, size_t size) {
  ChannelPair pair = MakeChannel().value();
  Session session(server, pair.server.get());
  WireBuffer wire;
  if (send(pair.client.get(), bytes, size, MSG_NOSIGNAL) < 0) return;
  session.HandleOne();
  CheckAnswer(pair.client.get(), wire);
}

void RunRequests(Server& server, FuzzedDataProvider& data) {
  ChannelPair pair = MakeChannel().value();
  Session session(server, pair.server.get());
  WireBuffer wire;
  wire.NewMessage().initRoot<wire::Request>().initAttach().setName(AsData("root"));
  if (!wire.Send(pair.client.get()).ok()) return;
  AMBER_CHECK(session.HandleOne());
  CheckAnswer(pair.client.get(), wire);
  for (int i = 0; i < 16 && data.remaining_bytes() > 0; ++i) {
    auto request = wire.NewMessage().initRoot<wire::Request>();
    if (data.ConsumeBool()) {
      FillRead(data, request, data.ConsumeIntegralInRange(0, 9));
    } else {
      FillChange(data, request, data.ConsumeIntegralInRange(0, 9));
    }
    if (data.ConsumeIntegralInRange(0, 7) == 0) Fill(data, request.initBefore());
    if (data.ConsumeIntegralInRange(0, 7) == 0) request.initForget(1).set(0, NodeOf(data));
    if (!wire.Send(pair.client.get()).ok()) return;
    AMBER_CHECK(session.HandleOne());
    CheckAnswer(pair.client.get(), wire);
  }
}

}  // namespace
}  // namespace amber::gofer

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace amber::gofer;
  if (size < 2 || size > kMaxPacket) return 0;
  Gofer gofer;
  if (bytes[0] % 2 == 0) {
    RunRaw(*gofer.server, bytes + 1, size - 1);
  } else {
    FuzzedDataProvider data(bytes + 1, size - 1);
    RunRequests(*gofer.server, data);
  }
  return 0;
}
