#include "sentry/host/gpu_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "nvproxy/host_rules.h"
#include "sentry/host/seccomp.h"

namespace amber {
namespace {

GpuOptions Real() {
  GpuOptions options;
  options.enabled = true;
  options.version = "580.159.04";
  return options;
}

TEST(GpuCalls, OnlyForAKnownDriver) {
  EXPECT_TRUE(GpuHostCalls({}).empty());
  GpuOptions options = Real();
  EXPECT_EQ(GpuHostCalls(options).size(), 1u);
  options.fake = true;
  EXPECT_TRUE(GpuHostCalls(options).empty());
  options = Real();
  options.version = "1.2.3";
  EXPECT_TRUE(GpuHostCalls(options).empty());
}

TEST(GpuCalls, EqualTheReviewedList) {
  std::ifstream file("sentry/host/gpu_calls.golden.txt");
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(nvproxy::DescribeHostIoctls(*nvproxy::FindBranch(580), 3), golden.str())
      << "What a sandbox may ask the NVIDIA driver has changed. Have it reviewed, then put the text above into sentry/host/gpu_calls.golden.txt.";
}

// The errno of one ioctl in a child under the filter; 70 if the filter stopped it.
int Try(int fd, unsigned command) {
  pid_t child = fork();
  if (child == 0) {
    int null = open("/dev/null", O_RDWR);
    if (fd < 0 || dup2(null, fd) != fd || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(99);
    if (!InstallHostCallFilter(false, GpuHostCalls(Real())).ok()) _exit(98);
    char block[4096] = {};
    _exit(ioctl(fd, command, block) == 0 ? 0 : errno);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(GpuCalls, ALiveFilterLetsOutWhatTheTableHas) {
  constexpr int kGpu = nvproxy::kHostFdBase + 7, kOther = 300;
  const nvproxy::Branch& branch = *nvproxy::FindBranch(580);
  for (const nvproxy::HostIoctlRule& rule : nvproxy::HostIoctlRules(branch, 3)) {
    // They reach /dev/null, which has none of them.
    EXPECT_EQ(Try(kGpu, rule.value), ENOTTY) << rule.name;
  }
  EXPECT_EQ(Try(kGpu, 0xc01046d3), 70);    // the envelope
  EXPECT_EQ(Try(kGpu, 0xc024462a), 70);    // RM_CONTROL of another size
  EXPECT_EQ(Try(kGpu, 0x4d), 70);          // a number that UVM's table has not
  EXPECT_EQ(Try(kOther, 0xc020462a), 70);  // a descriptor of another kind
  EXPECT_EQ(Try(kOther, 0x25), 70);
}

}  // namespace
}  // namespace amber
