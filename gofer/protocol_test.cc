// What a hostile peer may send: packets that are no messages, messages that lie, calls in the wrong order. The server
// answers with an error or closes that channel; others go on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "gofer/gofer.capnp.h"
#include "gofer/test_gofer.h"
#include "gofer/wire.h"

namespace amber::gofer {
namespace {

class ProtocolTest : public testing::Test {
 protected:
  // Sends raw bytes as one packet.
  static void SendRaw(int socket, std::string_view bytes) {
    ASSERT_EQ(send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // True if the server closed the channel within a few seconds. Reads and ignores answers.
  static bool IsClosed(int socket) {
    std::vector<char> buffer(kMaxPacket);
    for (;;) {
      pollfd p = {socket, POLLIN, 0};
      if (poll(&p, 1, 5000) != 1) return false;
      ssize_t n = recv(socket, buffer.data(), buffer.size(), 0);
      if (n == 0 || (n < 0 && errno == ECONNRESET)) return true;
      if (n < 0) return false;
    }
  }
  // One call, written by `fill`; returns the answer's error.
  template <typename Fill>
  static int Ask(int socket, WireBuffer& wire, Fill fill, UniqueFd* fd = nullptr) {
    fill(wire.NewMessage().initRoot<wire::Request>());
    if (!wire.Send(socket).ok()) return -1;
    std::vector<UniqueFd> fds;
    auto answer = wire.Receive(socket, &fds);
    if (!answer.ok()) return -1;
    if (fd != nullptr && !fds.empty()) *fd = std::move(fds[0]);
    return answer.value()->getRoot<wire::Response>().getError();
  }
  // The bytes of a valid Walk.
  std::string ValidPacket() {
    capnp::MallocMessageBuilder message;
    auto walk = message.initRoot<wire::Request>().initWalk();
    walk.setParent(gofer_.root());
    auto names = walk.initNames(2);
    names.set(0, AsData("some"));
    names.set(1, AsData("thing"));
    auto words = capnp::messageToFlatArray(message);
    auto bytes = words.asBytes();
    return std::string(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  }
  void ExpectAlive() { EXPECT_TRUE(gofer_.client().GetAttr(gofer_.root()).ok()); }

  TestGofer gofer_{{.allow_fifos = true}};
};

TEST_F(ProtocolTest, GarbageClosesTheChannel) {
  for (std::string bytes :
       {std::string("x"), std::string(7, '\xff'), std::string(8, '\xff'), std::string(64, '\xff'), std::string(3, '\0'), std::string(4096, 'A')}) {
    UniqueFd channel = gofer_.NewChannel();
    SendRaw(channel.get(), bytes);
    EXPECT_TRUE(IsClosed(channel.get())) << bytes.size();
    ExpectAlive();
  }
}

TEST_F(ProtocolTest, TooLongPacketsCloseTheChannel) {
  UniqueFd channel = gofer_.NewChannel();
  SendRaw(channel.get(), std::string(kMaxPacket + 8, '\0'));
  EXPECT_TRUE(IsClosed(channel.get()));
  ExpectAlive();
}

TEST_F(ProtocolTest, EmptyPacketsCloseTheChannel) {
  UniqueFd channel = gofer_.NewChannel();
  ASSERT_EQ(send(channel.get(), "", 0, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(IsClosed(channel.get()));
  ExpectAlive();
}

TEST_F(ProtocolTest, TruncatedMessagesAreSurvived) {
  std::string valid = ValidPacket();
  for (size_t length = 0; length < valid.size(); ++length) {
    UniqueFd channel = gofer_.NewChannel();
    SendRaw(channel.get(), std::string_view(valid).substr(0, length));
    shutdown(channel.get(), SHUT_WR);
    EXPECT_TRUE(IsClosed(channel.get())) << length;
  }
  ExpectAlive();
}

TEST_F(ProtocolTest, FlippedBitsAreSurvived) {
  std::string valid = ValidPacket();
  for (size_t bit = 0; bit < valid.size() * 8; ++bit) {
    UniqueFd channel = gofer_.NewChannel();
    std::string packet = valid;
    packet[bit / 8] ^= static_cast<char>(1 << (bit % 8));
    SendRaw(channel.get(), packet);
    shutdown(channel.get(), SHUT_WR);
    EXPECT_TRUE(IsClosed(channel.get())) << bit;
  }
  ExpectAlive();
}

TEST_F(ProtocolTest, RandomWordsAreSurvived) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string packet = ValidPacket();
    auto* words = reinterpret_cast<uint64_t*>(packet.data());
    size_t count = packet.size() / 8;
    for (int i = 0; i < 3; ++i) words[random() % count] = random() >> (random() % 64);
    UniqueFd channel = gofer_.NewChannel();
    SendRaw(channel.get(), packet);
    shutdown(channel.get(), SHUT_WR);
    ASSERT_TRUE(IsClosed(channel.get()));
  }
  ExpectAlive();
}

TEST_F(ProtocolTest, UnknownCallsAreRefusedAndTheChannelGoesOn) {
  UniqueFd channel = gofer_.NewChannel();
  std::string packet = ValidPacket();
  // The union's tag is the first 16 bits of the root's data, behind the segment table and the root pointer.
  packet[16] = 99;
  SendRaw(channel.get(), packet);
  WireBuffer wire;
  auto answer = wire.Receive(channel.get());
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer.value()->getRoot<wire::Response>().getError(), EOPNOTSUPP);
  EXPECT_EQ(Ask(channel.get(), wire, [](wire::Request::Builder r) { r.setNone(); }), 0);
}

TEST_F(ProtocolTest, DescriptorsOfThePeerAreNotTaken) {
  UniqueFd channel = gofer_.NewChannel();
  WireBuffer wire;
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  wire.NewMessage().initRoot<wire::Request>().setNone();
  UniqueFd writer(pipes[1]);
  ASSERT_TRUE(wire.Send(channel.get(), std::span(&writer, 1)).ok());
  writer.reset();
  ASSERT_TRUE(wire.Receive(channel.get()).ok());
  char c;
  EXPECT_EQ(read(pipes[0], &c, 1), 0);  // no writer is left
  close(pipes[0]);
}

TEST_F(ProtocolTest, ReadDirOutOfOrder) {
  UniqueFd channel = gofer_.NewChannel();
  WireBuffer wire;
  auto read = [&](bool next) {
    return Ask(channel.get(), wire, [&](wire::Request::Builder r) {
      auto d = r.initReadDir();
      d.setNode(gofer_.root());
      d.setContinue(next);
    });
  };
  EXPECT_EQ(read(true), EINVAL);
  EXPECT_EQ(read(false), 0);
  EXPECT_EQ(Ask(channel.get(), wire, [](wire::Request::Builder r) { r.setNone(); }), 0);
  EXPECT_EQ(read(true), EINVAL);
}

TEST_F(ProtocolTest, HugeListsAreRefused) {
  UniqueFd channel = gofer_.NewChannel();
  WireBuffer wire;
  EXPECT_EQ(Ask(channel.get(), wire, [](wire::Request::Builder r) { r.initForget(kMaxForgets + 1); }), EINVAL);
  EXPECT_EQ(Ask(channel.get(), wire, [&](wire::Request::Builder r) { r.initForget(kMaxForgets); }), 0);
  EXPECT_EQ(Ask(channel.get(), wire,
                [&](wire::Request::Builder r) {
                  r.initWalk().setParent(gofer_.root());
                  r.getWalk().initNames(kMaxNames + 1);
                }),
            ENAMETOOLONG);
}

TEST_F(ProtocolTest, OddFieldsAreRefused) {
  UniqueFd channel = gofer_.NewChannel();
  WireBuffer wire;
  int socket = channel.get();
  NodeId root = gofer_.root();
  EXPECT_EQ(Ask(socket, wire,
                [&](wire::Request::Builder r) {
                  r.initSetAttr().setNode(root);
                  r.getSetAttr().setMask(~0u);
                }),
            EINVAL);
  EXPECT_EQ(Ask(socket, wire,
                [&](wire::Request::Builder r) {
                  auto m = r.initMkDir();
                  m.setParent(root);
                  m.setName(AsData("d"));
                  m.initInode().setUid(UINT32_MAX);
                }),
            EINVAL);
  EXPECT_EQ(Ask(socket, wire,
                [&](wire::Request::Builder r) {
                  auto u = r.initUnlink();
                  u.setParent(root);
                  u.setName(AsData("d"));
                  u.setFlags(~0u);
                }),
            EINVAL);
  // A request of nothing but defaults: attach to "".
  EXPECT_EQ(Ask(socket, wire, [](wire::Request::Builder r) { r.initAttach(); }), ENOENT);
}

}  // namespace
}  // namespace amber::gofer
