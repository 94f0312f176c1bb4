#include "runsc-cli/gpu_host.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace amber::cli {
namespace {

class GpuHost : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/gpu-host-" + std::to_string(getpid());
    std::filesystem::create_directories(root_ + "/proc/driver/nvidia/gpus/0000:41:00.0");
    std::filesystem::create_directories(root_ + "/dev");
    Write("/proc/driver/nvidia/params", "ModifyDeviceFiles: 1\n");
    Write("/proc/driver/nvidia/gpus/0000:41:00.0/information", "GPU UUID: GPU-1\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) { std::ofstream(root_ + path) << text; }
  std::string Find() { return std::string(FindGpuHost(root_, &options_, &keep_).message()); }

  std::string root_;
  GpuOptions options_;
  std::vector<UniqueFd> keep_;
};

constexpr char kVersion[] = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@host)\nGCC version: 12.2.0\n";

TEST(GpuDriverVersion, OfBothKindsOfModule) {
  EXPECT_EQ(GpuDriverVersion(kVersion), "580.159.04");
  EXPECT_EQ(GpuDriverVersion("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.288.01  Tue\n"), "535.288.01");
  EXPECT_EQ(GpuDriverVersion("NVRM version: nothing\nGCC version: 12.2.0\n"), "");
  EXPECT_EQ(GpuDriverVersion("GCC version: 12.2.0\n"), "");
}

TEST_F(GpuHost, SaysWhatIsMissing) {
  EXPECT_NE(Find().find("no NVIDIA driver"), std::string::npos);
  Write("/proc/driver/nvidia/version", "garbage");
  EXPECT_NE(Find().find("does not tell"), std::string::npos);
  Write("/proc/driver/nvidia/version", kVersion);
  EXPECT_NE(Find().find("nvidia-modprobe"), std::string::npos);
  Write("/dev/nvidiactl", "a file");
  EXPECT_NE(Find().find("is not a device"), std::string::npos);
}

// Where nodes can be made: any character device will do here.
TEST_F(GpuHost, FindsNodesAndTexts) {
  Write("/proc/driver/nvidia/version", kVersion);
  for (const char* name : {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia7", "/dev/nvidia-modeset", "/dev/nvidia300"}) {
    if (mknod((root_ + name).c_str(), S_IFCHR | 0600, makedev(1, 3)) != 0) GTEST_SKIP() << "cannot make device nodes";
  }
  EXPECT_EQ(Find(), "");
  EXPECT_EQ(options_.version, "580.159.04");
  EXPECT_EQ(options_.info.size(), 3u);
  ASSERT_EQ(options_.nodes.size(), 4u);
  EXPECT_EQ(keep_.size(), 4u);
  EXPECT_EQ(options_.nodes[0].kind, GpuNode::Kind::kControl);
  EXPECT_EQ(options_.nodes[1].kind, GpuNode::Kind::kUvm);
  EXPECT_EQ(options_.nodes[2].minor + options_.nodes[3].minor, 7u);
}

}  // namespace
}  // namespace amber::cli
