#include "runsc-cli/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace amber::cli {
namespace {

using ::testing::ElementsAre;

TEST(Cgroup, ReadsMountsOfAllKinds) {
  auto hierarchies = ParseCgroupMounts(
      "30 1 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n"
      "31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
      "32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct\n"
      "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
      "34 30 0:28 / /other/place rw - cgroup cgroup rw,cpu,cpuacct\n"
      "nonsense\n36 - cgroup\n");
  ASSERT_EQ(hierarchies.size(), 3u);
  EXPECT_TRUE(hierarchies[0].v2);
  EXPECT_EQ(hierarchies[0].mount_point, "/sys/fs/cgroup/unified");
  EXPECT_THAT(hierarchies[1].controllers, ElementsAre("cpu", "cpuacct"));
  EXPECT_THAT(hierarchies[2].controllers, ElementsAre("name=systemd"));
}

TEST(Cgroup, PathsStayBelowTheMount) {
  EXPECT_EQ(*CgroupPath("/docker/abc", "id", false), "/docker/abc");
  EXPECT_EQ(*CgroupPath("rel/x", "id", false), "/rel/x");
  EXPECT_EQ(*CgroupPath("", "id", false), "/sandbox-id");
  EXPECT_EQ(*CgroupPath("/../../etc/./x//y", "id", false), "/etc/x/y");
  EXPECT_FALSE(CgroupPath("/", "id", false).ok());
  EXPECT_FALSE(CgroupPath("/a/..", "id", false).ok());
}

TEST(Cgroup, SystemdNames) {
  EXPECT_EQ(*CgroupPath("system.slice:docker:abc", "id", true), "/system.slice/docker-abc.scope");
  EXPECT_EQ(*CgroupPath("kubepods-burstable-pod1.slice:cri:x", "id", true),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-x.scope");
  EXPECT_EQ(*CgroupPath("::x", "id", true), "/system.slice/x.scope");
  EXPECT_FALSE(CgroupPath("/a/b", "id", true).ok());
}

}  // namespace
}  // namespace amber::cli
