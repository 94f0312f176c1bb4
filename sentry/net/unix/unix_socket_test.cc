#include "sentry/net/unix/unix_socket.h"

#include <poll.h>
#include <sys/un.h>

#include "gtest/gtest.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/kernel/test_task.h"
#include "sentry/net/unix/unix_names.h"

namespace amber {
namespace {

class UnixSocketTest : public testing::Test {
 protected:
  ErrnoOr<size_t> Send(UnixSocket& s, std::string_view text, std::vector<RefPtr<File>> rights = {}, std::string to = "") {
    BufferSource source(text.data(), text.size());
    SendRequest request{source};
    request.flags = MSG_NOSIGNAL;
    request.rights = std::move(rights);
    request.address = std::move(to);
    return s.Send(t_.task(), request);
  }
  ErrnoOr<std::string> Receive(UnixSocket& s, size_t size, int flags = 0) {
    std::string text(size, '\0');
    BufferSink sink(text.data(), size);
    ReceiveRequest request{sink};
    request.flags = flags;
    text.resize(TRY(s.Receive(t_.task(), request)));
    rights_ = std::move(request.rights);
    address_ = request.address;
    full_size_ = request.full_size;
    return text;
  }
  std::string Abstract(const std::string& name) {
    UnixName n;
    n.kind = UnixName::kAbstract;
    n.name = name;
    return n.Bytes();
  }
  TestTask t_;
  std::vector<RefPtr<File>> rights_;
  std::string address_;
  size_t full_size_ = 0;
};

TEST_F(UnixSocketTest, StreamPair) {
  auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
  EXPECT_EQ(Send(*a, "hello ").value(), 6u);
  EXPECT_EQ(Send(*a, "world").value(), 5u);
  EXPECT_EQ(Receive(*b, 3, MSG_PEEK).value(), "hel");
  EXPECT_EQ(Receive(*b, 100).value(), "hello world");
  EXPECT_TRUE(Receive(*b, 1).Is(EAGAIN));
  a.reset();
  EXPECT_EQ(Receive(*b, 1).value(), "");
  EXPECT_TRUE(Send(*b, "x").Is(EPIPE));
  EXPECT_NE(b->Poll(t_.task()) & POLLHUP, 0u);
}

TEST_F(UnixSocketTest, StreamFillsUpAndDrains) {
  auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
  std::string chunk(10000, 'x');
  size_t sent = 0;
  for (;;) {
    auto r = Send(*a, chunk);
    if (!r.ok()) {
      EXPECT_TRUE(r.Is(EAGAIN));
      break;
    }
    sent += *r;
  }
  EXPECT_GT(sent, 100000u);
  EXPECT_EQ(a->Poll(t_.task()) & POLLOUT, 0u);
  size_t got = 0;
  while (got < sent) got += Receive(*b, 65536).value().size();
  EXPECT_EQ(got, sent);
  EXPECT_NE(a->Poll(t_.task()) & POLLOUT, 0u);
}

TEST_F(UnixSocketTest, DatagramsKeepTheirBorders) {
  auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_DGRAM);
  Send(*a, "first").value();
  Send(*a, "").value();
  Send(*a, "third").value();
  EXPECT_EQ(Receive(*b, 3).value(), "fir");
  EXPECT_EQ(full_size_, 5u);
  EXPECT_EQ(Receive(*b, 10).value(), "");
  EXPECT_EQ(Receive(*b, 10).value(), "third");
}

TEST_F(UnixSocketTest, ListenConnectAccept) {
  auto server = MakeRef<UnixSocket>(SOCK_STREAM);
  auto client = MakeRef<UnixSocket>(SOCK_STREAM);
  EXPECT_TRUE(client->Connect(t_.task(), Abstract("srv")).Is(ECONNREFUSED));
  server->Bind(t_.task(), Abstract("srv")).value();
  EXPECT_TRUE(client->Bind(t_.task(), Abstract("srv")).Is(EADDRINUSE));
  EXPECT_TRUE(client->Connect(t_.task(), Abstract("srv")).Is(ECONNREFUSED));
  server->Listen(t_.task(), 5).value();
  EXPECT_TRUE(server->Accept(t_.task()).Is(EAGAIN));
  client->Connect(t_.task(), Abstract("srv")).value();
  EXPECT_TRUE(client->Connect(t_.task(), Abstract("srv")).Is(EISCONN));
  Send(*client, "early").value();
  RefPtr<Socket> accepted = server->Accept(t_.task()).value();
  auto& s = static_cast<UnixSocket&>(*accepted);
  EXPECT_EQ(Receive(s, 10).value(), "early");
  EXPECT_EQ(client->PeerAddress().value(), Abstract("srv"));
  // The name is free again when the listener goes, whatever accepted sockets say.
  server.reset();
  auto next = MakeRef<UnixSocket>(SOCK_STREAM);
  next->Bind(t_.task(), Abstract("srv")).value();
  Send(s, "still here").value();
  EXPECT_EQ(Receive(*client, 20).value(), "still here");
}

TEST_F(UnixSocketTest, ADeadListenerResetsWhoWaits) {
  auto server = MakeRef<UnixSocket>(SOCK_STREAM);
  server->Bind(t_.task(), Abstract("x")).value();
  server->Listen(t_.task(), 5).value();
  auto client = MakeRef<UnixSocket>(SOCK_STREAM);
  client->Connect(t_.task(), Abstract("x")).value();
  server.reset();
  EXPECT_TRUE(Receive(*client, 1).Is(ECONNRESET));
}

TEST_F(UnixSocketTest, UnconnectedDatagrams) {
  auto server = MakeRef<UnixSocket>(SOCK_DGRAM);
  server->Bind(t_.task(), Abstract("d")).value();
  auto client = MakeRef<UnixSocket>(SOCK_DGRAM);
  client->Bind(t_.task(), Abstract("c")).value();
  for (int i = 0; i < 11; ++i) Send(*client, "m", {}, Abstract("d")).value();
  EXPECT_TRUE(Send(*client, "m", {}, Abstract("d")).Is(EAGAIN));
  EXPECT_EQ(Receive(*server, 10).value(), "m");
  EXPECT_EQ(address_, Abstract("c"));
  Send(*client, "m", {}, Abstract("d")).value();
  server.reset();
  EXPECT_TRUE(Send(*client, "m", {}, Abstract("d")).Is(ECONNREFUSED));
}

TEST_F(UnixSocketTest, DescriptorsTravel) {
  auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
  PipePair pipe = NewPipe(t_.task(), 0);
  Send(*a, "plain").value();
  Send(*a, "with", {pipe.reader}).value();
  Send(*a, "after").value();
  EXPECT_EQ(Receive(*b, 2).value(), "pl");
  EXPECT_TRUE(rights_.empty());
  EXPECT_EQ(Receive(*b, 100).value(), "ainwith");
  ASSERT_EQ(rights_.size(), 1u);
  EXPECT_EQ(rights_[0].get(), pipe.reader.get());
  EXPECT_EQ(Receive(*b, 100).value(), "after");
}

TEST_F(UnixSocketTest, CyclesInFlightAreCollected) {
  size_t before = UnixNames::All().size();
  {
    auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
    Send(*a, "x", {RefPtr<File>(b)}).value();
    Send(*b, "y", {RefPtr<File>(a)}).value();
  }
  EXPECT_EQ(UnixNames::All().size(), before + 2);
  UnixGarbage::Collect();
  EXPECT_EQ(UnixNames::All().size(), before);
  EXPECT_EQ(UnixGarbage::sockets(), 0u);
}

TEST_F(UnixSocketTest, ReachableSocketsInFlightStay) {
  auto [a, b] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
  auto [c, d] = UnixSocket::Pair(t_.task(), SOCK_STREAM);
  Send(*c, "hidden").value();
  Send(*a, "x", {RefPtr<File>(d)}).value();
  d.reset();
  UnixGarbage::Collect();
  Receive(*b, 10).value();
  ASSERT_EQ(rights_.size(), 1u);
  EXPECT_EQ(Receive(static_cast<UnixSocket&>(*rights_[0]), 10).value(), "hidden");
}

}  // namespace
}  // namespace amber
