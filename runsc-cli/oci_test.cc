#include "runsc-cli/oci.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace amber::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kSmall[] = R"({"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/"}})";

std::string Error(std::string_view text) { return std::string(ParseConfig(text, "/b").status().message()); }

TEST(Config, SmallestOne) {
  absl::StatusOr<Bundle> bundle = ParseConfig(kSmall, "/b");
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(bundle->root, "/b/rootfs");
  EXPECT_THAT(bundle->container.process.argv, ElementsAre("sh"));
  EXPECT_EQ(bundle->container.process.capabilities.effective, 0u);
  EXPECT_TRUE(bundle->host_network);
}

TEST(Config, EverythingWeRead) {
  absl::StatusOr<Bundle> bundle = ParseConfig(R"({
    "ociVersion": "1.1.0", "hostname": "box", "unknown": {"deep": [1, null]},
    "root": {"path": "/srv/root", "readonly": true},
    "process": {"terminal": true, "consoleSize": {"height": 24, "width": 80},
      "user": {"uid": 4294967295, "gid": 5, "umask": 63, "additionalGids": [6, 7]},
      "args": ["a", "b c"], "env": ["X=1"], "cwd": "/tmp", "noNewPrivileges": true, "oomScoreAdj": -10,
      "capabilities": {"bounding": ["CAP_KILL", "CAP_FROM_THE_FUTURE"], "effective": ["CAP_CHOWN"]},
      "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}]},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
               {"destination": "data", "source": "/srv/data", "options": ["rbind", "ro"]}],
    "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod1"},
    "hooks": {"prestart": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 3}]},
    "linux": {"cgroupsPath": "/c/g", "namespaces": [{"type": "network", "path": "/run/netns/n"}, {"type": "pid"}],
      "sysctl": {"net.ipv4.ip_forward": "1"}, "maskedPaths": ["/proc/kcore"], "seccomp": {},
      "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
      "resources": {"memory": {"limit": 1048576, "swap": -1}, "pids": {"limit": 33},
                    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1"},
                    "unified": {"memory.high": "900000"}}}})",
                                              "/b");
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  const ContainerSpec& c = bundle->container;
  EXPECT_EQ(bundle->root, "/srv/root");
  EXPECT_TRUE(c.root_read_only);
  EXPECT_EQ(c.process.uid, 4294967295u);
  EXPECT_EQ(c.process.umask, 077);
  EXPECT_EQ(c.process.window.rows, 24);
  EXPECT_EQ(c.process.capabilities.bounding, uint64_t{1} << 5);
  EXPECT_EQ(c.process.capabilities.effective, 1u);
  ASSERT_EQ(c.process.rlimits.size(), 1u);
  EXPECT_EQ(c.process.rlimits[0].resource, 7);
  EXPECT_EQ(c.process.rlimits[0].hard, ~uint64_t{0});
  ASSERT_EQ(c.mounts.size(), 2u);
  EXPECT_EQ(c.mounts[1].destination, "/data");
  EXPECT_TRUE(c.mounts[1].read_only);
  EXPECT_TRUE(IsBind(c.mounts[1]));
  EXPECT_FALSE(IsBind(c.mounts[0]));
  EXPECT_FALSE(bundle->host_network);
  EXPECT_EQ(bundle->network_path, "/run/netns/n");
  EXPECT_TRUE(bundle->shares_sandbox);
  EXPECT_EQ(bundle->sandbox_id, "pod1");
  EXPECT_EQ(bundle->hooks.prestart[0].timeout_s, 3);
  EXPECT_EQ(bundle->resources.memory_swap, -1);
  EXPECT_EQ(bundle->resources.unified.at("memory.high"), "900000");
  EXPECT_EQ(c.pids_limit, 33u);
  EXPECT_EQ(bundle->warnings.size(), 1u);
}

TEST(Config, ErrorsNameTheField) {
  EXPECT_THAT(Error("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(Error("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(Error("{}"), HasSubstr("root.path"));
  EXPECT_THAT(Error(R"({"root":5})"), HasSubstr("root must be an object"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"}})"), HasSubstr("process"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":[]}})"), HasSubstr("process.args"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a",7]}})"), HasSubstr("process.args[1] must be a string"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a\u0000b"]}})"), HasSubstr("NUL"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a"],"cwd":"x"}})"), HasSubstr("process.cwd"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a"],"user":{"uid":-1}}})"), HasSubstr("process.user.uid"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a"],"user":{"uid":1e99}}})"), HasSubstr("uid"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a"],"rlimits":[{"type":"RLIMIT_FUN"}]}})"), HasSubstr("rlimits[0].type"));
  EXPECT_THAT(Error(R"({"ociVersion":"2.0","root":{"path":"r"},"process":{"args":["a"]}})"), HasSubstr("ociVersion"));
  EXPECT_THAT(Error(R"({"root":{"path":"r"},"process":{"args":["a"]},"linux":{"resources":{"unified":{"../x":"1"}}}})"), HasSubstr("cgroup file"));
}

TEST(Config, BoundsSizeAndDepth) {
  std::string deep(100000, '[');
  EXPECT_THAT(Error(absl::StrCat("{\"x\":", deep)), HasSubstr("nests deeper"));
  // Brackets in strings do not nest.
  EXPECT_TRUE(
      ParseConfig(R"({"x":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",)" + std::string(kSmall + 1), "/b").ok());
  EXPECT_THAT(Error(std::string(kMaxConfigBytes + 1, ' ')), HasSubstr("larger than"));
}

TEST(Config, MissingBundle) { EXPECT_THAT(std::string(LoadBundle("/does/not/exist").status().message()), HasSubstr("/does/not/exist")); }

TEST(Process, ReadsAProcessFile) {
  absl::StatusOr<ProcessSpec> process = ParseProcess(R"({"args":["id"],"cwd":"/","terminal":false})");
  ASSERT_TRUE(process.ok());
  EXPECT_THAT(process->argv, ElementsAre("id"));
  EXPECT_FALSE(ParseProcess("{}").ok());
}

TEST(Names, SignalsAndCapabilities) {
  EXPECT_EQ(SignalNumber("SIGTERM"), SIGTERM);
  EXPECT_EQ(SignalNumber("kill"), SIGKILL);
  EXPECT_EQ(SignalNumber("9"), 9);
  EXPECT_EQ(SignalNumber("RTMIN+3"), 37);
  EXPECT_FALSE(SignalNumber("0"));
  EXPECT_FALSE(SignalNumber("65"));
  EXPECT_FALSE(SignalNumber("NOPE"));
  EXPECT_EQ(CapabilityNumber("CAP_SYS_ADMIN"), 21);
  EXPECT_EQ(CapabilityNumber("checkpoint_restore"), 40);
  EXPECT_FALSE(CapabilityNumber("CAP_X"));
}

}  // namespace
}  // namespace amber::cli
