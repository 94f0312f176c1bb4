#include "sentry/control/channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sentry/control/client.h"
#include "sentry/control/spec_codec.h"

namespace amber::control {
namespace {

class Channel : public ::testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    near_.reset(ends[0]);
    far_.reset(ends[1]);
  }
  UniqueFd near_, far_;
};

TEST_F(Channel, CarriesShortAndLongMessages) {
  for (size_t size : {size_t{1}, kInlineBytes, kInlineBytes + 1, size_t{5} << 20}) {
    std::string sent(size, 'm');
    sent[size / 2] = '\0';
    ASSERT_TRUE(SendPacket(near_.get(), sent).ok()) << size;
    absl::StatusOr<Packet> packet = ReceivePacket(far_.get());
    ASSERT_TRUE(packet.ok()) << packet.status();
    EXPECT_EQ(packet->bytes, sent);
    EXPECT_TRUE(packet->fds.empty());
  }
}

TEST_F(Channel, CarriesDescriptorsInOrder) {
  UniqueFd a(memfd_create("a", MFD_CLOEXEC)), b(memfd_create("b", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(a.get(), 10), 0);
  ASSERT_EQ(ftruncate(b.get(), 20), 0);
  for (size_t size : {size_t{5}, kInlineBytes * 2}) {
    ASSERT_TRUE(SendPacket(near_.get(), std::string(size, 'x'), std::vector<int>{a.get(), b.get()}).ok());
    absl::StatusOr<Packet> packet = ReceivePacket(far_.get());
    ASSERT_TRUE(packet.ok());
    ASSERT_EQ(packet->fds.size(), 2u);
    EXPECT_EQ(lseek(packet->fds[0].get(), 0, SEEK_END), 10);
    EXPECT_EQ(lseek(packet->fds[1].get(), 0, SEEK_END), 20);
    EXPECT_NE(fcntl(packet->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST_F(Channel, TellsTheEnd) {
  near_.reset();
  EXPECT_TRUE(absl::IsUnavailable(ReceivePacket(far_.get()).status()));
  EXPECT_TRUE(absl::IsUnavailable(SendPacket(far_.get(), "x")));
}

TEST_F(Channel, ASideThatEndedBeforeTheRequestIsStillHeard) {
  Reply reason;
  reason.set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
  reason.set_error("there is nothing to start with");
  ASSERT_TRUE(SendPacket(far_.get(), reason.SerializeAsString()).ok());
  far_.reset();
  Client client(std::move(near_));
  Request request;
  absl::Status status = client.Call(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "there is nothing to start with");
}

TEST_F(Channel, ASideThatDiesWithMessagesUnreadIsStillHeard) {
  ASSERT_TRUE(SendPacket(near_.get(), "never read").ok());
  ASSERT_TRUE(SendPacket(far_.get(), "last words").ok());
  far_.reset();
  absl::StatusOr<Packet> packet = ReceivePacket(near_.get());
  ASSERT_TRUE(packet.ok()) << packet.status();
  EXPECT_EQ(packet->bytes, "last words");
  EXPECT_TRUE(absl::IsUnavailable(ReceivePacket(near_.get()).status()));
}

TEST_F(Channel, RefusesWhatIsNotAMessage) {
  for (std::string_view bytes : {std::string_view("\x01"), std::string_view("\x01lie"), std::string_view("\x07zzz")}) {
    ASSERT_GT(send(near_.get(), bytes.data(), bytes.size(), 0), 0);
    EXPECT_TRUE(absl::IsInvalidArgument(ReceivePacket(far_.get()).status()));
  }
  std::string huge(kInlineBytes + 2, '\0');
  ASSERT_GT(send(near_.get(), huge.data(), huge.size(), 0), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(ReceivePacket(far_.get()).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SendPacket(near_.get(), std::string(kMaxMessageBytes + 1, 'x'))));
}

TEST_F(Channel, DoesNotBlockOnAReaderThatSleeps) {
  absl::Status status;
  for (int i = 0; i < 100000 && status.ok(); ++i) status = SendPacket(near_.get(), std::string(1000, 'x'), {}, /*wait=*/false);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST(ListenAndConnect, InADeepDirectory) {
  std::string path = ::testing::TempDir() + "/control-XXXXXX";
  ASSERT_NE(mkdtemp(path.data()), nullptr);
  for (int i = 0; i < 10; ++i) {
    path += "/a-directory-with-a-long-name";
    ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
  }
  path += "/control.sock";
  EXPECT_TRUE(absl::IsUnavailable(Client::Connect(path).status()));
  absl::StatusOr<UniqueFd> listener = Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(Client::Connect(path).ok());
  EXPECT_FALSE(Client::Connect("/does/not/exist/control.sock").ok());
}

TEST(Codec, KeepsEverything) {
  ContainerSpec spec;
  spec.id = "id";
  spec.process.argv = {"a", std::string("b\xff")};
  spec.process.env = {"X=1"};
  spec.process.cwd = "/w";
  spec.process.uid = 4294967294u;
  spec.process.groups = {1, 2};
  spec.process.umask = 077;
  spec.process.capabilities.ambient = 1ull << 40;
  spec.process.rlimits = {{7, 1, ~0ull}};
  spec.process.terminal = true;
  spec.process.window = {24, 80};
  spec.process.oom_score_adj = -5;
  spec.overlay = OverlayKind::kMemory;
  spec.mounts = {{.destination = "/d", .type = "bind", .source = "/s", .options = {"ro"}, .attach = "mount0", .read_only = true}};
  spec.devices = {{.path = "/dev/x", .type = 'b', .major = 1, .minor = 2}};
  spec.sysctls["a"] = "b";
  spec.annotations["k"] = "v";
  spec.masked_paths = {"/proc/kcore"};
  spec.pids_limit = 9;
  Container message;
  Encode(spec, &message);
  Container copy;
  ASSERT_TRUE(copy.ParseFromString(message.SerializeAsString()));
  ContainerSpec back = Decode(copy);
  EXPECT_EQ(back.process.argv, spec.process.argv);
  EXPECT_EQ(back.process.uid, spec.process.uid);
  EXPECT_EQ(back.process.groups, spec.process.groups);
  EXPECT_EQ(back.process.umask, 077u);
  EXPECT_EQ(back.process.capabilities.ambient, 1ull << 40);
  EXPECT_EQ(back.process.rlimits[0].hard, ~0ull);
  EXPECT_EQ(back.process.window.columns, 80);
  EXPECT_EQ(back.process.oom_score_adj, -5);
  EXPECT_EQ(back.overlay, OverlayKind::kMemory);
  EXPECT_EQ(back.mounts[0].attach, "mount0");
  EXPECT_TRUE(back.mounts[0].read_only);
  EXPECT_EQ(back.devices[0].type, 'b');
  EXPECT_EQ(back.sysctls, spec.sysctls);
  EXPECT_EQ(back.masked_paths, spec.masked_paths);
  EXPECT_EQ(back.pids_limit, 9u);
  copy.set_overlay(77);
  EXPECT_EQ(Decode(copy).overlay, OverlayKind::kNone);
}

}  // namespace
}  // namespace amber::control
