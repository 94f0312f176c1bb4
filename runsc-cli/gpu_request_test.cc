#include "runsc-cli/gpu_request.h"

#include "gtest/gtest.h"

namespace amber::cli {
namespace {

Bundle Docker(std::vector<std::string> env) {
  Bundle bundle;
  bundle.container.process.env = std::move(env);
  bundle.hooks.prestart.push_back({.path = "/usr/bin/nvidia-container-runtime-hook", .args = {"nvidia-container-runtime-hook", "prestart"}});
  return bundle;
}

Bundle Cdi() {
  Bundle bundle;
  bundle.container.devices = {{.path = "/dev/nvidia1", .major = 195, .minor = 1},
                              {.path = "/dev/nvidiactl", .major = 195, .minor = 255},
                              {.path = "/dev/nvidia-uvm", .major = 511},
                              {.path = "/dev/nvidia-uvm-tools", .major = 511, .minor = 1}};
  return bundle;
}

TEST(GpuRequest, TheVariablesOfAnImageAreNotARequest) {
  Bundle bundle;
  bundle.container.process.env = {"NVIDIA_VISIBLE_DEVICES=all", "CUDA_VERSION=13.0"};
  auto request = ReadGpuRequest(bundle);
  ASSERT_TRUE(request.ok());
  EXPECT_FALSE(request->wanted);
}

TEST(GpuRequest, VisibleDevices) {
  struct Row {
    const char* value;  // null: not set
    bool wanted, all;
    std::vector<std::string> devices;
  };
  for (const Row& row : std::vector<Row>{{nullptr, false, false, {}},
                                         {"", false, false, {}},
                                         {"void", false, false, {}},
                                         {"none", true, false, {}},
                                         {"all", true, true, {}},
                                         {"0", true, false, {"0"}},
                                         {"1,0", true, false, {"1", "0"}},
                                         {"GPU-6f2d1c00-1111", true, false, {"GPU-6f2d1c00-1111"}}}) {
    std::vector<std::string> env{"PATH=/bin"};
    if (row.value != nullptr) env.push_back(std::string("NVIDIA_VISIBLE_DEVICES=") + row.value);
    auto request = ReadGpuRequest(Docker(env));
    ASSERT_TRUE(request.ok()) << row.value;
    EXPECT_EQ(request->wanted, row.wanted) << row.value;
    EXPECT_EQ(request->legacy_hook, row.wanted) << row.value;
    EXPECT_EQ(request->all, row.all) << row.value;
    EXPECT_EQ(request->devices, row.devices) << row.value;
  }
}

TEST(GpuRequest, TheLastVariableCountsButForATrailingVoid) {
  auto request = ReadGpuRequest(Docker({"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=1"}));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->devices, std::vector<std::string>{"1"});
  request = ReadGpuRequest(Docker({"NVIDIA_VISIBLE_DEVICES=1", "NVIDIA_VISIBLE_DEVICES=void"}));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->devices, std::vector<std::string>{"1"});
}

TEST(GpuRequest, RefusesWhatItCannotDo) {
  for (const char* value : {"MIG-1234", "0:1", "first", "0,nonsense"}) {
    EXPECT_FALSE(ReadGpuRequest(Docker({std::string("NVIDIA_VISIBLE_DEVICES=") + value})).ok()) << value;
  }
  EXPECT_FALSE(ReadGpuRequest(Docker({"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,magic"})).ok());
  EXPECT_FALSE(ReadGpuRequest(Docker({"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=display"})).ok());
}

TEST(GpuRequest, Capabilities) {
  auto of = [](std::vector<std::string> env) {
    env.push_back("NVIDIA_VISIBLE_DEVICES=all");
    auto request = ReadGpuRequest(Docker(env));
    return request.ok() ? request->capabilities : uint8_t{0xff};
  };
  EXPECT_EQ(of({}), 3);
  EXPECT_EQ(of({"NVIDIA_DRIVER_CAPABILITIES="}), 3);
  EXPECT_EQ(of({"NVIDIA_DRIVER_CAPABILITIES=compute"}), 1);
  EXPECT_EQ(of({"NVIDIA_DRIVER_CAPABILITIES=utility,video"}), 10);
  EXPECT_EQ(of({"NVIDIA_DRIVER_CAPABILITIES=all"}), 15);
  EXPECT_EQ(of({"CUDA_VERSION=9.0"}), 15);
  EXPECT_EQ(of({"CUDA_VERSION=12.0", "NVIDIA_REQUIRE_CUDA=cuda>=12"}), 3);
}

TEST(GpuRequest, Cdi) {
  auto request = ReadGpuRequest(Cdi());
  ASSERT_TRUE(request.ok());
  EXPECT_TRUE(request->wanted);
  EXPECT_FALSE(request->all);
  EXPECT_FALSE(request->legacy_hook);
  EXPECT_EQ(request->devices, std::vector<std::string>{"minor:1"});
  // The variable, which images have, does not widen what the nodes say.
  Bundle bundle = Cdi();
  bundle.container.process.env = {"NVIDIA_VISIBLE_DEVICES=all"};
  request = ReadGpuRequest(bundle);
  ASSERT_TRUE(request.ok());
  EXPECT_FALSE(request->all);
}

TEST(GpuRequest, NodesOfAnotherDriverAreNone) {
  Bundle bundle;
  bundle.container.devices = {{.path = "/dev/nvidia0", .major = 1, .minor = 3}, {.path = "/dev/nvidiactl", .major = 195, .minor = 0}};
  auto request = ReadGpuRequest(bundle);
  ASSERT_TRUE(request.ok());
  EXPECT_FALSE(request->wanted);
  EXPECT_EQ(request->warnings.size(), 2u);
}

TEST(GpuRequest, Annotations) {
  Bundle bundle = Cdi();
  bundle.container.annotations = {{kGpuMemoryAnnotation, "8GiB"}};
  auto request = ReadGpuRequest(bundle);
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->memory_limit, uint64_t{8} << 30);
  bundle.container.annotations[kGpuMemoryAnnotation] = "much";
  EXPECT_FALSE(ReadGpuRequest(bundle).ok());
}

TEST(GpuRequest, FlagsBoundWhatContainersAskFor) {
  GpuOptions flags;
  auto apply = [&](std::vector<std::string> env, GpuOptions* options) {
    auto request = ReadGpuRequest(Docker(env));
    *options = flags;
    return request.ok() ? ApplyGpuRequest(*request, options) : request.status();
  };
  GpuOptions got;
  ASSERT_TRUE(apply({"NVIDIA_VISIBLE_DEVICES=1", "NVIDIA_DRIVER_CAPABILITIES=all"}, &got).ok());
  EXPECT_TRUE(got.enabled);
  EXPECT_EQ(got.wanted, std::vector<std::string>{"1"});
  EXPECT_TRUE(got.devices.empty());
  EXPECT_EQ(got.capabilities, 3);
  flags.devices = {"0", "GPU-1"};
  ASSERT_TRUE(apply({"NVIDIA_VISIBLE_DEVICES=1"}, &got).ok());
  EXPECT_EQ(got.wanted, std::vector<std::string>{"1"});
  EXPECT_EQ(got.devices, flags.devices);
  ASSERT_TRUE(apply({"NVIDIA_VISIBLE_DEVICES=all"}, &got).ok());
  EXPECT_TRUE(got.wanted.empty());
  EXPECT_EQ(got.devices, flags.devices);
  flags.devices.clear();
  EXPECT_FALSE(apply({"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=graphics"}, &got).ok());
  flags.capabilities = 7;
  ASSERT_TRUE(apply({"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=graphics"}, &got).ok());
  EXPECT_EQ(got.capabilities, 4);
  EXPECT_TRUE(got.wanted.empty());
  ASSERT_TRUE(apply({"NVIDIA_VISIBLE_DEVICES=none"}, &got).ok());
  EXPECT_FALSE(got.enabled);
  flags.memory_limit = 4 << 20;
  Bundle bundle = Cdi();
  bundle.container.annotations[kGpuMemoryAnnotation] = "8GiB";
  got = flags;
  ASSERT_TRUE(ApplyGpuRequest(*ReadGpuRequest(bundle), &got).ok());
  EXPECT_EQ(got.memory_limit, 4u << 20);
}

TEST(GpuRequest, HooksThatAreReplaced) {
  EXPECT_TRUE(IsReplacedHook({.path = "/usr/bin/nvidia-container-runtime-hook"}));
  EXPECT_TRUE(IsReplacedHook({.path = "/usr/bin/nvidia-cdi-hook", .args = {"nvidia-cdi-hook", "disable-device-node-modification"}}));
  EXPECT_TRUE(IsReplacedHook({.path = "/usr/bin/nvidia-ctk", .args = {"nvidia-ctk", "hook", "disable-device-node-modification"}}));
  EXPECT_FALSE(IsReplacedHook({.path = "/usr/bin/nvidia-cdi-hook", .args = {"nvidia-cdi-hook", "update-ldcache"}}));
  EXPECT_FALSE(IsReplacedHook({.path = "/usr/bin/my-nvidia-container-runtime-hook"}));
}

// What three generations of NVIDIA's toolkit leave in a bundle, and what is made of it, as text.
TEST(GpuRequest, GenerationsOfTheToolkit) {
  auto hook = [](const char* path, std::vector<std::string> args) { return Hook{.path = path, .args = std::move(args)}; };
  auto dump = [](const Bundle& bundle) {
    auto request = ReadGpuRequest(bundle);
    if (!request.ok()) return std::string(request.status().message());
    std::string out = request->all ? "all GPUs;" : "GPUs";
    for (const std::string& d : request->devices) out += " " + d;
    out += request->legacy_hook ? "; the driver's files are ours to mount" : "; hooks";
    for (const Hook& h : bundle.hooks.create_container) {
      if (!IsReplacedHook(h)) out += " " + h.args[h.path.ends_with("nvidia-ctk") ? 2 : 1];
    }
    return out;
  };
  std::vector<DeviceSpec> nodes = {{.path = "/dev/nvidia0", .major = 195, .minor = 0},
                                   {.path = "/dev/nvidia-modeset", .major = 195, .minor = 254},
                                   {.path = "/dev/nvidia-uvm", .major = 510},
                                   {.path = "/dev/nvidia-uvm-tools", .major = 510, .minor = 1},
                                   {.path = "/dev/nvidiactl", .major = 195, .minor = 255},
                                   {.path = "/dev/dri/card1", .major = 226, .minor = 1}};
  // The prestart hook alone, with the engine's variables.
  Bundle legacy = Docker({"NVIDIA_VISIBLE_DEVICES=GPU-6f2d1c00-1111-2222-3333-444455556666", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"});
  EXPECT_EQ(dump(legacy), "GPUs GPU-6f2d1c00-1111-2222-3333-444455556666; the driver's files are ours to mount");
  // CDI by the big tool: nvidia-ctk hook VERB.
  Bundle ctk;
  ctk.container.devices = nodes;
  ctk.container.process.env = {"NVIDIA_VISIBLE_DEVICES=void"};
  ctk.hooks.create_container = {hook("/usr/bin/nvidia-ctk", {"nvidia-ctk", "hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/libcuda.so"}),
                                hook("/usr/bin/nvidia-ctk", {"nvidia-ctk", "hook", "update-ldcache", "--folder", "/usr/lib"}),
                                hook("/usr/bin/nvidia-ctk", {"nvidia-ctk", "hook", "chmod", "--mode", "755"})};
  EXPECT_EQ(dump(ctk), "GPUs minor:0; hooks create-symlinks update-ldcache chmod");
  // CDI by a program of its own: nvidia-cdi-hook VERB, with one that covers what guests see without it.
  Bundle cdi = ctk;
  cdi.hooks.create_container = {hook("/usr/bin/nvidia-cdi-hook", {"nvidia-cdi-hook", "create-symlinks"}),
                                hook("/usr/bin/nvidia-cdi-hook", {"nvidia-cdi-hook", "enable-cuda-compat", "--host-driver-version=580.159.04"}),
                                hook("/usr/bin/nvidia-cdi-hook", {"nvidia-cdi-hook", "update-ldcache"}),
                                hook("/usr/bin/nvidia-cdi-hook", {"nvidia-cdi-hook", "disable-device-node-modification"})};
  EXPECT_EQ(dump(cdi), "GPUs minor:0; hooks create-symlinks enable-cuda-compat update-ldcache");
  // Both at once, as an engine that adds the hook to a CDI container: the nodes say which, and nothing is mounted twice.
  Bundle both = cdi;
  both.hooks.prestart = legacy.hooks.prestart;
  both.container.process.env = {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"};
  EXPECT_TRUE(ReadGpuRequest(both).ok());
  EXPECT_FALSE(ReadGpuRequest(both)->all);
  EXPECT_EQ(ReadGpuRequest(both)->devices, std::vector<std::string>{"minor:0"});
}

TEST(GpuRequest, Sizes) {
  EXPECT_EQ(ParseGpuBytes("8GiB"), uint64_t{8} << 30);
  EXPECT_EQ(ParseGpuBytes("512M"), uint64_t{512} << 20);
  EXPECT_EQ(ParseGpuBytes("4096"), 4096u);
  for (const char* bad : {"", "G", "-1", "8X", "1.5G", "99999999999999999999", "40000000GiB"}) EXPECT_EQ(ParseGpuBytes(bad), 0u) << bad;
}

TEST(GpuRequest, DriverMounts) {
  auto mounts = GpuDriverMounts("/dev/nvidia0\n/usr/bin/nvidia-smi\n/usr/lib/x/libcuda.so.580.1\n/usr/lib/x/libcuda.so.580.1\nnot a path\n");
  ASSERT_EQ(mounts.size(), 5u);
  EXPECT_EQ(mounts[0].destination, "/usr/bin/nvidia-smi");
  EXPECT_EQ(mounts[1].destination, "/usr/lib/x/libcuda.so.580.1");
  EXPECT_EQ(mounts[2].destination, "/usr/lib/x/libcuda.so.1");
  EXPECT_EQ(mounts[2].source, "/usr/lib/x/libcuda.so.580.1");
  EXPECT_EQ(mounts[3].destination, "/usr/local/nvidia/lib64/libcuda.so.580.1");
  EXPECT_EQ(mounts[4].destination, "/usr/local/nvidia/lib64/libcuda.so.1");
  EXPECT_EQ(mounts[4].source, "/usr/lib/x/libcuda.so.580.1");
  for (const MountSpec& m : mounts) EXPECT_TRUE(m.read_only);
}

TEST(GpuRequest, LibrariesWithoutLdconfig) {
  auto with = [](std::vector<std::string> environment) {
    AddGpuLibraries(&environment);
    return environment;
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(with({"A=1"}), (List{"A=1", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64"}));
  EXPECT_EQ(with({"LD_LIBRARY_PATH="}), List{"LD_LIBRARY_PATH=/usr/local/nvidia/lib64"});
  EXPECT_EQ(with({"LD_LIBRARY_PATH=/x"}), List{"LD_LIBRARY_PATH=/x:/usr/local/nvidia/lib64"});
  EXPECT_EQ(with({"LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64"}),
            List{"LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64"});
  EXPECT_EQ(with({"LD_LIBRARY_PATH=/x", "LD_LIBRARY_PATH=/y"}), (List{"LD_LIBRARY_PATH=/x", "LD_LIBRARY_PATH=/y:/usr/local/nvidia/lib64"}));
}

}  // namespace
}  // namespace amber::cli
