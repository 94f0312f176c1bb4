#include "sentry/net/ip/wire.h"

#include <gtest/gtest.h>

namespace amber::net {
namespace {

Packet Between(bool v4, uint8_t protocol, std::string_view payload) {
  Packet p;
  p.source = p.destination = IpAddress::Loopback(v4);
  p.protocol = protocol;
  p.payload = Slice::Copy(payload);
  return p;
}

TEST(Wire, OtherProtocolsArePayloadAlone) {
  Packet out;
  ASSERT_EQ(ParsePacket(SerializePacket(Between(true, 47, "payload")), &out), ParseError::kNone);
  EXPECT_EQ(out.protocol, 47);
  EXPECT_EQ(out.payload.view(), "payload");
}

TEST(Wire, IcmpOfTheOtherFamilyHasNoHeader) {
  for (bool v4 : {true, false}) {
    Packet out;
    ASSERT_EQ(ParsePacket(SerializePacket(Between(v4, v4 ? kIcmp6 : kIcmp, "payload")), &out), ParseError::kNone);
    EXPECT_EQ(out.payload.view(), "payload");
  }
}

TEST(Wire, TcpOptionsComeBack) {
  Packet p = Between(true, kTcp, "data");
  p.tcp.mss = 1460;
  p.tcp.window_scale = 7;
  p.tcp.sack_permitted = true;
  p.tcp.has_timestamp = true;
  p.tcp.timestamp = 5, p.tcp.timestamp_echo = 6;
  p.tcp.sack_count = 4;
  Packet out;
  std::string bytes = SerializePacket(p);
  ASSERT_EQ(ParsePacket(bytes, &out), ParseError::kNone);
  EXPECT_EQ(out.tcp.mss, 1460);
  EXPECT_EQ(out.tcp.window_scale, 7);
  EXPECT_EQ(out.tcp.timestamp_echo, 6u);
  EXPECT_EQ(out.tcp.sack_count, 2);  // no more fit
  EXPECT_EQ(out.payload.view(), "data");
  bytes[bytes.size() - 1] ^= 1;
  EXPECT_EQ(ParsePacket(bytes, &out), ParseError::kBadChecksum);
  EXPECT_EQ(ParsePacket(bytes.substr(0, 30), &out), ParseError::kTruncated);
}

}  // namespace
}  // namespace amber::net
