// Latency of calls to a gofer in a process of its own, confined where the machine allows it. The host's own cost of the
// same work stands beside it.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "gofer/client.h"
#include "gofer/main.h"
#include "sentry/base/check.h"

namespace amber::gofer {
namespace {

class Gofer {
 public:
  Gofer() {
    directory_ = "/tmp/gofer_bench.XXXXXX";
    AMBER_CHECK(mkdtemp(directory_.data()) != nullptr);
    std::filesystem::create_directories(directory_ + "/usr/lib/deep");
    std::ofstream(directory_ + "/usr/lib/deep/file") << "content";
    for (int i = 0; i < 1000; ++i) std::ofstream(directory_ + "/usr/" + std::to_string(i));
    GoferConfig config;
    config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = geteuid() == 0;
    MountConfig mount;
    mount.name = "root";
    mount.path = directory_;
    config.mounts.push_back(std::move(mount));
    std::vector<UniqueFd> ends;
    for (int i = 0; i < 4; ++i) {
      ChannelPair pair = MakeChannel().value();
      ends.push_back(std::move(pair.client));
      config.channels.push_back(std::move(pair.server));
    }
    pid_ = StartGofer(std::move(config)).value();
    client_ = std::make_unique<Client>(std::move(ends));
    root_ = client_->Attach("root").value().root.id;
    usr_ = Walk({"usr"}).found[0].id;
    file_ = Walk({"usr", "lib", "deep", "file"}).found[3].id;
  }
  ~Gofer() {
    client_.reset();
    waitpid(pid_, nullptr, 0);
    std::filesystem::remove_all(directory_);
  }
  WalkResult Walk(std::vector<std::string_view> names, WalkOptions options = {}) { return client_->Walk(root_, names, options).value(); }
  Client& client() { return *client_; }
  NodeId root() const { return root_; }
  NodeId usr() const { return usr_; }
  NodeId file() const { return file_; }
  const std::string& directory() const { return directory_; }

  static Gofer& Get() {
    static Gofer gofer;
    return gofer;
  }

 private:
  std::string directory_;
  pid_t pid_ = 0;
  std::unique_ptr<Client> client_;
  NodeId root_ = 0, usr_ = 0, file_ = 0;
};

void GetAttr(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) benchmark::DoNotOptimize(g.client().GetAttr(g.file()).ok());
}
BENCHMARK(GetAttr)->UseRealTime()->Threads(1)->Threads(2);

void WalkOne(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) g.client().Forget(g.Walk({"usr"}).found[0].id);
}
BENCHMARK(WalkOne)->UseRealTime();

void WalkFour(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) {
    WalkResult walk = g.Walk({"usr", "lib", "deep", "file"});
    NodeId ids[] = {walk.found[0].id, walk.found[1].id, walk.found[2].id, walk.found[3].id};
    g.client().Forget(ids);
  }
}
BENCHMARK(WalkFour)->UseRealTime();

void WalkMissing(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) benchmark::DoNotOptimize(g.Walk({"missing"}).found.size());
}
BENCHMARK(WalkMissing)->UseRealTime();

void Open(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) benchmark::DoNotOptimize(g.client().Open(g.file(), O_RDONLY).ok());
}
BENCHMARK(Open)->UseRealTime();

void WalkFourAndOpen(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) {
    WalkResult walk = g.Walk({"usr", "lib", "deep", "file"}, {.open_flags = O_RDONLY});
    NodeId ids[] = {walk.found[0].id, walk.found[1].id, walk.found[2].id, walk.found[3].id};
    g.client().Forget(ids);
  }
}
BENCHMARK(WalkFourAndOpen)->UseRealTime();

void CreateAndUnlink(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) {
    auto created = g.client().Create(g.root(), "new", O_RDWR, {0644, geteuid(), getegid()});
    g.client().Forget(created->node.id);
    AMBER_CHECK(g.client().Unlink(g.root(), "new").ok());
  }
}
BENCHMARK(CreateAndUnlink)->UseRealTime();

void ReadDir1000(benchmark::State& state) {
  Gofer& g = Gofer::Get();
  for (auto _ : state) benchmark::DoNotOptimize(g.client().ReadDir(g.usr(), state.range(0) != 0)->size());
}
BENCHMARK(ReadDir1000)->Arg(0)->Arg(1)->UseRealTime();

// From the fork to the first answer, and the end. Argument: namespaces and root of its own, too.
void StartAndAttach(benchmark::State& state) {
  for (auto _ : state) {
    GoferConfig config;
    config.new_mount_namespace = config.new_other_namespaces = config.new_pid_namespace = state.range(0) != 0;
    MountConfig mount;
    mount.name = "root";
    mount.path = "/";
    mount.read_only = true;
    config.mounts.push_back(std::move(mount));
    std::vector<UniqueFd> ends;
    for (int i = 0; i < 4; ++i) {
      ChannelPair pair = MakeChannel().value();
      ends.push_back(std::move(pair.client));
      config.channels.push_back(std::move(pair.server));
    }
    pid_t pid = StartGofer(std::move(config)).value();
    {
      Client client(std::move(ends));
      if (!client.Attach("root").ok()) state.SkipWithError("the gofer did not start");
      state.PauseTiming();
    }
    waitpid(pid, nullptr, 0);
    state.ResumeTiming();
  }
}
BENCHMARK(StartAndAttach)->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMicrosecond);

void NativeStat(benchmark::State& state) {
  std::string path = Gofer::Get().directory() + "/usr/lib/deep/file";
  for (auto _ : state) {
    struct stat st;
    benchmark::DoNotOptimize(stat(path.c_str(), &st));
  }
}
BENCHMARK(NativeStat)->UseRealTime();

void NativeOpenClose(benchmark::State& state) {
  std::string path = Gofer::Get().directory() + "/usr/lib/deep/file";
  for (auto _ : state) close(open(path.c_str(), O_RDONLY));
}
BENCHMARK(NativeOpenClose)->UseRealTime();

void NativeCreateAndUnlink(benchmark::State& state) {
  std::string path = Gofer::Get().directory() + "/new";
  for (auto _ : state) {
    close(open(path.c_str(), O_CREAT | O_EXCL | O_RDWR, 0644));
    unlink(path.c_str());
  }
}
BENCHMARK(NativeCreateAndUnlink)->UseRealTime();

}  // namespace
}  // namespace amber::gofer

BENCHMARK_MAIN();
