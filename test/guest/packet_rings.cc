// PACKET_RX_RING (packet(7)): frames in memory that a packet socket shares with its program, in all three versions.
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr uint16_t kOurs = 0x88b6;  // for experiments (IEEE 802)
constexpr uint32_t kBlock = 4096;

// A socket that hears our own protocol on lo, and one that sends it.
struct Sockets {
  explicit Sockets(int type = SOCK_RAW) : listener(Open(type, kOurs)), sender(Open(SOCK_RAW, 0)) {}
  static int Open(int type, uint16_t protocol) {
    const int fd = socket(AF_PACKET, type, 0);
    if (fd < 0 && errno == EPERM) Skip("needs CAP_NET_RAW");
    MUST(fd);
    sockaddr_ll a = {};
    a.sll_family = AF_PACKET;
    a.sll_protocol = htons(protocol);
    a.sll_ifindex = 1;
    MUST(bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof(a)));
    return fd;
  }
  void Send(const char* text, size_t size = 0) const {
    char frame[3000] = {};
    frame[12] = static_cast<char>(kOurs >> 8);
    frame[13] = static_cast<char>(kOurs & 0xff);
    strcpy(frame + 14, text);
    MUST(send(sender, frame, 14 + (size != 0 ? size : strlen(text)), 0));
  }
  int Version(int version) const { return setsockopt(listener, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) < 0 ? -errno : 0; }
  int Ring(tpacket_req3 r, socklen_t size = sizeof(tpacket_req3)) const {
    return setsockopt(listener, SOL_PACKET, PACKET_RX_RING, &r, size) < 0 ? -errno : 0;
  }
  char* Map(uint32_t size) const {
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, listener, 0);
    MUST(at == MAP_FAILED ? -1 : 0);
    return static_cast<char*>(at);
  }
  bool Readable(int ms = 0) const {
    pollfd p = {listener, POLLIN, 0};
    return MUST(poll(&p, 1, ms)) == 1;
  }
  int listener, sender;
};

tpacket_req3 Request(uint32_t blocks, uint32_t frame = 1024) {
  tpacket_req3 r = {};
  r.tp_block_size = kBlock;
  r.tp_block_nr = blocks;
  r.tp_frame_size = frame;
  r.tp_frame_nr = kBlock / frame * blocks;
  return r;
}

template <typename T>
T Read(const char* at) {
  T out;
  memcpy(&out, at, sizeof(out));
  return out;
}

uint32_t Status(const char* at) { return __atomic_load_n(reinterpret_cast<const uint32_t*>(at), __ATOMIC_ACQUIRE); }
void SetStatus(char* at, uint32_t value) { __atomic_store_n(reinterpret_cast<uint32_t*>(at), value, __ATOMIC_RELEASE); }

}  // namespace

GUEST_TEST(PacketRing, SizesAreChecked) {
  const Sockets s;
  tpacket_req3 r = Request(2);
  auto bad = [&](tpacket_req3 request) { EXPECT_EQ(s.Ring(request), -EINVAL); };
  EXPECT_EQ(s.Ring(r, sizeof(tpacket_req) - 1), -EINVAL);
  r.tp_block_size = 100, bad(r);
  r = Request(2), r.tp_frame_size = 1000, bad(r);
  r = Request(2), r.tp_frame_size = 32, bad(r);
  r = Request(2), r.tp_frame_nr = 7, bad(r);
  r = Request(2), r.tp_block_nr = 0, bad(r);
  EXPECT_EQ(s.Ring({}), 0);
  EXPECT_EQ(s.Ring(Request(2)), 0);
  CheckpointHere();
  EXPECT_EQ(s.Ring(Request(2)), -EBUSY);
  EXPECT_EQ(s.Version(TPACKET_V2), -EBUSY);
  EXPECT_EQ(s.Ring({}), 0);
  EXPECT_EQ(s.Version(TPACKET_V3), 0);
  EXPECT_EQ(s.Ring(Request(2), sizeof(tpacket_req)), -EINVAL);
  r = Request(2), r.tp_sizeof_priv = kBlock, bad(r);
  EXPECT_EQ(s.Ring(Request(2)), 0);
}

GUEST_TEST(PacketRing, MapsAllOrNothing) {
  const Sockets s;
  EXPECT_ERRNO(Call(SYS_mmap, 0, kBlock, PROT_READ, MAP_SHARED, s.listener, 0), EINVAL);
  MUST(s.Ring(Request(2)));
  EXPECT_ERRNO(Call(SYS_mmap, 0, kBlock, PROT_READ, MAP_SHARED, s.listener, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_mmap, 0, kBlock, PROT_READ, MAP_SHARED, s.listener, kBlock), EINVAL);
  s.Map(2 * kBlock);
  EXPECT_EQ(s.Ring({}), -EBUSY);
}

GUEST_TEST(PacketRing, SlotsOfVersion1) {
  const Sockets s;
  MUST(s.Ring(Request(1)));
  char* ring = s.Map(kBlock);
  EXPECT(!s.Readable());
  s.Send("first");
  CheckpointHere();
  EXPECT(s.Readable());
  const auto h = Read<tpacket_hdr>(ring);
  EXPECT(h.tp_status & TP_STATUS_USER);
  EXPECT_EQ(h.tp_len, 19u);
  EXPECT_EQ(h.tp_snaplen, 19u);
  EXPECT_EQ(h.tp_net, h.tp_mac + 14);
  EXPECT_EQ(h.tp_mac, 66);
  EXPECT(h.tp_sec > 0);
  EXPECT_STREQ(ring + h.tp_mac + 14, "first");
  const auto from = Read<sockaddr_ll>(ring + TPACKET_ALIGN(sizeof(h)));
  EXPECT_EQ(from.sll_family, AF_PACKET);
  EXPECT_EQ(ntohs(from.sll_protocol), kOurs);
  EXPECT_EQ(from.sll_ifindex, 1);
  char byte;
  EXPECT_ERRNO(recv(s.listener, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

GUEST_TEST(PacketRing, SlotsOfVersion2ComeRound) {
  const Sockets s;
  MUST(s.Version(TPACKET_V2));
  MUST(s.Ring(Request(1)));
  char* ring = s.Map(kBlock);
  for (int i = 0; i < 6; ++i) s.Send(Str("frame %d", i));  // Two find no room.
  CheckpointHere();
  for (int i = 0; i < 4; ++i) {
    const auto h = Read<tpacket2_hdr>(ring + 1024 * i);
    EXPECT(h.tp_status & TP_STATUS_USER);
    EXPECT_STREQ(ring + 1024 * i + h.tp_net, Str("frame %d", i));
    SetStatus(ring + 1024 * i, TP_STATUS_KERNEL);
  }
  EXPECT(!s.Readable());
  s.Send("again", 1500);  // Longer than a slot.
  CheckpointHere();
  EXPECT(s.Readable());
  const auto h = Read<tpacket2_hdr>(ring);
  EXPECT(h.tp_status & TP_STATUS_LOSING);
  EXPECT_EQ(h.tp_len, 1514u);
  EXPECT_EQ(h.tp_snaplen, 1024u - h.tp_mac);
  tpacket_stats stats = {};
  socklen_t size = sizeof(stats);
  EXPECT_OK(getsockopt(s.listener, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
  EXPECT_EQ(stats.tp_packets, 7u);
  EXPECT_EQ(stats.tp_drops, 2u);
}

GUEST_TEST(PacketRing, DatagramsHaveNoLinkHeader) {
  const Sockets s(SOCK_DGRAM);
  MUST(s.Version(TPACKET_V2));
  MUST(s.Ring(Request(1)));
  char* ring = s.Map(kBlock);
  s.Send("bare");
  const auto h = Read<tpacket2_hdr>(ring);
  EXPECT_EQ(h.tp_len, 4u);
  EXPECT_EQ(h.tp_mac, h.tp_net);
  EXPECT_EQ(h.tp_net, 80);
  EXPECT_STREQ(ring + h.tp_net, "bare");
}

GUEST_TEST(PacketRing, BlocksOfVersion3) {
  const Sockets s;
  MUST(s.Version(TPACKET_V3));
  tpacket_req3 r = Request(2);
  r.tp_retire_blk_tov = 50;
  r.tp_sizeof_priv = 12;
  MUST(s.Ring(r));
  char* ring = s.Map(2 * kBlock);
  s.Send("one");
  s.Send("three");
  EXPECT(!s.Readable());  // Not full, and its time has not come.
  CheckpointHere();
  EXPECT(s.Readable(10'000));
  const auto block = Read<tpacket_block_desc>(ring);
  EXPECT_EQ(block.hdr.bh1.block_status, TP_STATUS_USER | TP_STATUS_BLK_TMO);
  EXPECT_EQ(block.hdr.bh1.num_pkts, 2u);
  EXPECT_EQ(block.offset_to_priv, 48u);
  EXPECT_EQ(block.hdr.bh1.offset_to_first_pkt, 64u);
  EXPECT_EQ(block.hdr.bh1.seq_num, 1u);
  const char* frame = ring + block.hdr.bh1.offset_to_first_pkt;
  auto h = Read<tpacket3_hdr>(frame);
  EXPECT_EQ(h.tp_len, 17u);
  EXPECT_STREQ(frame + h.tp_net, "one");
  EXPECT_EQ(h.tp_mac, 82);
  EXPECT(h.tp_next_offset >= h.tp_mac + 17u && h.tp_next_offset % 8 == 0);
  const auto from = Read<sockaddr_ll>(frame + TPACKET_ALIGN(sizeof(h)));
  EXPECT_EQ(ntohs(from.sll_protocol), kOurs);
  const uint32_t next = h.tp_next_offset;
  frame += next;
  h = Read<tpacket3_hdr>(frame);
  EXPECT_STREQ(frame + h.tp_net, "three");
  EXPECT_EQ(h.tp_next_offset, 0u);
  EXPECT_EQ(block.hdr.bh1.blk_len, 64 + 2 * next);
  EXPECT_EQ(Read<tpacket_block_desc>(ring + kBlock).hdr.bh1.seq_num, 2u);
}

GUEST_TEST(PacketRing, FullBlocksOfVersion3) {
  const Sockets s;
  MUST(s.Version(TPACKET_V3));
  tpacket_req3 r = Request(2);
  r.tp_retire_blk_tov = 60'000;
  MUST(s.Ring(r));
  char* ring = s.Map(2 * kBlock);
  const size_t status = offsetof(tpacket_block_desc, hdr.bh1.block_status);
  for (int i = 0; i < 4; ++i) s.Send(Str("frame %d", i), 1500);  // Two to a block.
  EXPECT(s.Readable());
  EXPECT_EQ(Status(ring + status), static_cast<uint32_t>(TP_STATUS_USER));
  EXPECT_EQ(Read<tpacket_block_desc>(ring).hdr.bh1.num_pkts, 2u);
  CheckpointHere();
  s.Send("lost", 1500);  // Closes the second block, and there is no third.
  s.Send("lost", 1500);
  EXPECT_EQ(Status(ring + kBlock + status), static_cast<uint32_t>(TP_STATUS_USER));
  SetStatus(ring + status, TP_STATUS_KERNEL);
  s.Send("found", 1500);
  CheckpointHere();
  const auto block = Read<tpacket_block_desc>(ring);
  EXPECT_EQ(block.hdr.bh1.num_pkts, 1u);
  EXPECT_EQ(block.hdr.bh1.seq_num, 3u);
  const char* frame = ring + block.hdr.bh1.offset_to_first_pkt;
  EXPECT_STREQ(frame + Read<tpacket3_hdr>(frame).tp_net, "found");
  tpacket_stats_v3 stats = {};
  socklen_t size = sizeof(stats);
  EXPECT_OK(getsockopt(s.listener, SOL_PACKET, PACKET_STATISTICS, &stats, &size));
  EXPECT_EQ(size, sizeof(stats));
  EXPECT_EQ(stats.tp_packets, 7u);
  EXPECT_EQ(stats.tp_drops, 2u);
  EXPECT_EQ(stats.tp_freeze_q_cnt, 1u);
}

// The program owns the memory as much as the kernel does.
GUEST_TEST(PacketRing, SurvivesRubbish) {
  const Sockets s;
  MUST(s.Version(TPACKET_V3));
  MUST(s.Ring(Request(4)));
  char* ring = s.Map(4 * kBlock);
  for (int i = 0; i < 200; ++i) {
    memset(ring, i % 7 == 0 ? 0 : i, 4 * kBlock);
    s.Send("x", static_cast<size_t>(1 + i * 13));
  }
  CheckpointHere();
  memset(ring, 0xff, 4 * kBlock);
  s.Send("x", 100);
  s.Readable();
}
