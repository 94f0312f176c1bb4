#include "sentry/net/filter/socket_filter.h"

#include <gtest/gtest.h>

namespace amber {
namespace {

constexpr sock_filter kReturnA = BPF_STMT(BPF_RET | BPF_A, 0);

RefPtr<const SocketFilter> Make(BpfProgram program) {
  return SocketFilter::FromBytes(std::string_view(reinterpret_cast<const char*>(program.data()), program.size() * sizeof(sock_filter)));
}

// Of an Ethernet frame with IPv4 and UDP, seen from the transport header on.
class SocketFilterTest : public testing::Test {
 protected:
  SocketFilterTest() {
    frame_.assign(12, '\0');
    frame_ += std::string("\x08\x00", 2);
    frame_ += std::string("\x45\0\0\x20\0\0\0\0\x40\x11\0\0\x7f\0\0\x01\x7f\0\0\x01", 20);
    frame_ += std::string("\x12\x34\0\x35\0\x0c\0\0abcd", 12);
    packet_.bytes = frame_;
    packet_.data = 34;
    packet_.network = 14;
    packet_.has_link = packet_.inet = true;
    packet_.protocol = 0x800;
    packet_.interface = 1;
    packet_.hardware = 772;
    packet_.mark = 7;
  }
  // What is left in the accumulator.
  uint32_t Result(BpfProgram program) {
    program.push_back(kReturnA);
    RefPtr<const SocketFilter> filter = Make(std::move(program));
    EXPECT_TRUE(filter);
    return filter ? filter->Run(packet_) : 0xdead;
  }
  uint32_t Load(int size, uint32_t k) { return Result({BPF_STMT(static_cast<uint16_t>(BPF_LD | size | BPF_ABS), k)}); }
  uint32_t Ask(uint32_t what) { return Load(BPF_W, static_cast<uint32_t>(SKF_AD_OFF) + what); }

  std::string frame_;
  FilterPacket packet_;
};

TEST_F(SocketFilterTest, HeadersMayBeMissing) {
  packet_.bytes = packet_.bytes.substr(0, 1);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0)}), 0u);
  EXPECT_EQ(Load(BPF_B, 0), 0u);
  EXPECT_EQ(Ask(SKF_AD_NLATTR), 0u);
  EXPECT_EQ(Ask(SKF_AD_NLATTR_NEST), 0u);
  EXPECT_EQ(Ask(SKF_AD_PAY_OFFSET), 0u);
}

TEST_F(SocketFilterTest, ReadsThePacketInNetworkOrder) {
  EXPECT_EQ(Load(BPF_H, 0), 0x1234u);
  EXPECT_EQ(Load(BPF_B, 8), 'a');
  EXPECT_EQ(Load(BPF_W, 8), 0x61626364u);
  EXPECT_EQ(Load(BPF_W, 9), 0u);  // not all of it is there: the program ends
  EXPECT_EQ(Result({BPF_STMT(BPF_LDX | BPF_IMM, 6), BPF_STMT(BPF_LD | BPF_B | BPF_IND, 3)}), 'b');
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0)}), 12u);
}

TEST_F(SocketFilterTest, HeadersLieBelowZero) {
  auto net = static_cast<uint32_t>(SKF_NET_OFF), link = static_cast<uint32_t>(SKF_LL_OFF);
  EXPECT_EQ(Load(BPF_B, net + 9), 17u);
  EXPECT_EQ(Load(BPF_H, link + 12), 0x800u);
  EXPECT_EQ(Load(BPF_B, link - 1), 0u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, net), BPF_STMT(BPF_MISC | BPF_TXA, 0)}), 20u);
  packet_.has_link = false;
  EXPECT_EQ(Load(BPF_H, link + 12), 0u);
}

TEST_F(SocketFilterTest, KnowsWhatLiesBesideThePacket) {
  EXPECT_EQ(Ask(SKF_AD_PROTOCOL), 0x800u);
  EXPECT_EQ(Ask(SKF_AD_IFINDEX), 1u);
  EXPECT_EQ(Ask(SKF_AD_HATYPE), 772u);
  EXPECT_EQ(Ask(SKF_AD_MARK), 7u);
  EXPECT_EQ(Ask(SKF_AD_PAY_OFFSET), 8u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 6), BPF_STMT(BPF_LDX | BPF_IMM, 3),
                    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_ALU_XOR_X)}),
            5u);
  EXPECT_FALSE(Make({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_MAX), kReturnA}));
  packet_.interface = 0;
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + SKF_AD_HATYPE), BPF_STMT(BPF_LD | BPF_IMM, 9)}), 0u);
}

TEST_F(SocketFilterTest, FindsNetlinkAttributes) {
  std::string message("\x08\0\x05\0abcd\x0c\0\x06\0\x08\0\x07\0efgh", 20);
  packet_ = {};
  packet_.bytes = message;
  auto find = [&](uint32_t from, uint32_t type, uint32_t what) {
    return Result({BPF_STMT(BPF_LDX | BPF_IMM, type), BPF_STMT(BPF_LD | BPF_IMM, from),
                   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF) + what)});
  };
  EXPECT_EQ(find(0, 5, SKF_AD_NLATTR), 0u);
  EXPECT_EQ(find(0, 6, SKF_AD_NLATTR), 8u);
  EXPECT_EQ(find(0, 9, SKF_AD_NLATTR), 0u);
  EXPECT_EQ(find(8, 7, SKF_AD_NLATTR_NEST), 12u);
  EXPECT_EQ(find(18, 7, SKF_AD_NLATTR), 0u);
}

TEST_F(SocketFilterTest, DividingByZeroDrops) {
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 4)}), 3u);
  EXPECT_EQ(Result({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ALU | BPF_MOD | BPF_X, 0), BPF_STMT(BPF_LD | BPF_IMM, 7)}), 0u);
}

TEST_F(SocketFilterTest, ImagesHoldProgramsOnly) {
  EXPECT_FALSE(SocketFilter::FromBytes(""));
  EXPECT_FALSE(SocketFilter::FromBytes("1234567"));
  RefPtr<const SocketFilter> filter = Make({kReturnA});
  EXPECT_TRUE(SocketFilter::FromBytes(filter->Bytes()));
}

}  // namespace
}  // namespace amber
