#include "sentry/net/ip/frame.h"

#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if_arp.h>

namespace amber::net {
namespace {

class TestLink final : public Link {
 public:
  TestLink() : Link("test0", ARPHRD_ETHER, 1500) {}
  void Send(Packet, const IpAddress&) override {}
};

Packet Datagram(std::string_view text, bool v4 = true) {
  Packet p;
  p.source = v4 ? IpAddress::V4(0x0a000001) : IpAddress::Loopback(false);
  p.destination = v4 ? IpAddress::V4(0x0a000002) : IpAddress::Loopback(false);
  p.protocol = kUdp;
  p.udp = {7, 9, 0};
  p.payload = Slice::Copy(text);
  return p;
}

TEST(FrameTest, ComesBackAsItWent) {
  TestLink link;
  for (bool v4 : {true, false}) {
    Slice frame = FrameOf(Datagram("hello", v4), link);
    EXPECT_EQ(frame.size, kFrameHeader + (v4 ? 20u : 40u) + 8 + 5);
    Packet back = ParseFrame(frame, link);
    EXPECT_FALSE(back.only_a_frame);
    EXPECT_EQ(back.payload.view(), "hello");
    EXPECT_EQ(back.udp.destination_port, 9);
    EXPECT_EQ(back.frame_protocol, v4 ? ETH_P_IP : ETH_P_IPV6);
    EXPECT_EQ(FrameOf(back, link).view(), frame.view());
  }
}

TEST(FrameTest, WhatIpDoesNotTakeIsAFrameAlone) {
  TestLink link;
  std::string good(FrameOf(Datagram("hello"), link).view());
  auto parse = [&](std::string bytes) { return ParseFrame(Slice::Copy(bytes), link); };
  std::string other = good;
  other[0] = 2;
  EXPECT_TRUE(parse(other).only_a_frame);
  EXPECT_EQ(parse(other).frame_type, PACKET_OTHERHOST);
  other[0] = 1;
  EXPECT_EQ(parse(other).frame_type, PACKET_MULTICAST);
  EXPECT_FALSE(parse(other).only_a_frame);
  std::string checksum = good;
  checksum[kFrameHeader + 10] ^= 1;
  EXPECT_TRUE(parse(checksum).only_a_frame);
  std::string family = good;  // six in the one header, four in the other
  family[12] = static_cast<char>(ETH_P_IPV6 >> 8);
  family[13] = static_cast<char>(ETH_P_IPV6 & 0xff);
  EXPECT_TRUE(parse(family).only_a_frame);
  for (size_t size = 0; size < good.size(); ++size) EXPECT_TRUE(parse(good.substr(0, size)).only_a_frame) << size;
  Packet loopback = Datagram("hello");
  loopback.destination = IpAddress::Loopback(true);
  EXPECT_TRUE(ParseFrame(FrameOf(loopback, link), link).only_a_frame);
}

TEST(FrameTest, LengthsAreNoProtocols) {
  TestLink link;
  std::string bytes(20, '\0');
  bytes[13] = 6;
  EXPECT_EQ(ParseFrame(Slice::Copy(bytes), link).frame_protocol, ETH_P_802_2);
  bytes[14] = bytes[15] = '\xff';
  EXPECT_EQ(ParseFrame(Slice::Copy(bytes), link).frame_protocol, ETH_P_802_3);
}

TEST(FrameTest, FiltersLeaveTheHeader) {
  TestLink link;
  auto keep = [&](uint32_t bytes) {
    auto filter = MakeRef<SocketFilter>(BpfProgram{BPF_STMT(BPF_RET | BPF_K, bytes)});
    Packet p = Datagram("hello");
    return FilterPayload(filter.get(), &link, &p) ? static_cast<int>(p.payload.size) : -1;
  };
  EXPECT_EQ(keep(0), -1);
  EXPECT_EQ(keep(1), 0);
  EXPECT_EQ(keep(10), 2);
  EXPECT_EQ(keep(UINT32_MAX), 5);
}

// What a queue counts is what it keeps: a program that lets one byte through does not keep the packet.
TEST(FrameTest, WhatIsCutOffIsNotKept) {
  Slice whole = Slice::Copy(std::string(60000, 'x'));
  Slice most = whole, little = whole;
  CutTo(&most, 50000);
  EXPECT_EQ(most.size, 50000u);
  EXPECT_EQ(most.buffer, whole.buffer);
  CutTo(&little, 1);
  EXPECT_EQ(little.view(), "x");
  EXPECT_NE(little.buffer, whole.buffer);
  CutTo(&little, 5);
  EXPECT_EQ(little.size, 1u);
}

}  // namespace
}  // namespace amber::net
