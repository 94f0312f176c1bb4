#include "sentry/fs/tun/tun_file.h"

#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <string.h>

#include <algorithm>

#include "sentry/fs/tun/tun.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/net/ip/stack.h"
#include "sentry/net/ip/wire.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

constexpr uint32_t kMiscMajor = 10, kTunMinor = 200;
constexpr size_t kLargest = 65535 + ETH_HLEN + 256;  // a packet, with what may stand before it
// struct virtio_net_hdr: linux/virtio_net.h is no C++.
struct VirtioHeader {
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
static_assert(sizeof(VirtioHeader) == 10);
constexpr uint8_t kNeedsChecksum = 1, kNoSegments = 0, kSegmentsTcp4 = 1, kSegmentsTcp6 = 4, kSegmentsEcn = 0x80;
constexpr uint32_t kSmallestHeader = sizeof(VirtioHeader), kLargestHeader = 256;

ErrnoOr<RefPtr<File>> OpenTun(const VfsContext& ctx, const VfsPath& path, int flags) {
  return RefPtr<File>(MakeRef<TunFile>(path, flags, RefPtr<NetNamespace>(&NetNamespace::Of(*ctx.task))));
}

uint16_t ProtocolOf(std::string_view frame, bool tap) {
  auto byte = [&](size_t at) { return static_cast<uint8_t>(at < frame.size() ? frame[at] : 0); };
  if (tap) return static_cast<uint16_t>(byte(12) << 8 | byte(13));
  return byte(0) >> 4 == 6 ? ETH_P_IPV6 : ETH_P_IP;
}

// The checksum that the program left open (skb_partial_csum_set()): false if it lies outside the packet.
bool FillChecksum(std::string* bytes, size_t start, size_t offset) {
  if (start > bytes->size() || offset > bytes->size() - start || bytes->size() - start - offset < 2) return false;
  // The field has the pseudo header's sum already.
  uint16_t sum = net::Checksum(std::string_view(*bytes).substr(start));
  if (sum == 0) sum = 0xffff;
  (*bytes)[start + offset] = static_cast<char>(sum >> 8);
  (*bytes)[start + offset + 1] = static_cast<char>(sum & 0xff);
  return true;
}

bool TakesSegments(uint8_t type) {
  type &= static_cast<uint8_t>(~kSegmentsEcn);
  return type == kNoSegments || type == kSegmentsTcp4 || type == kSegmentsTcp6;
}

}  // namespace

void RegisterTun() { RegisterCharDevice(kMiscMajor, kTunMinor, 1, OpenTun); }

TunFile::~TunFile() {
  if (!link_) return;
  RefPtr<net::TunLink> link = std::move(link_);
  link->Attach(nullptr);
  if (!link->persistent && link->stack() != nullptr) link->stack()->RemoveLink(*link);
}

void TunFile::OnTunPacket() { queue_.Notify(POLLIN | POLLRDNORM); }

void TunFile::OnTunGone() {
  link_.reset();
  queue_.Notify(POLLIN | POLLRDNORM | POLLERR | POLLHUP);
}

uint32_t TunFile::Poll(Task&) {
  if (!link_) return POLLERR;
  return POLLOUT | POLLWRNORM | (link_->has_packet() ? POLLIN | POLLRDNORM : 0);
}

// tun_put_user()
ErrnoOr<size_t> TunFile::Read(Task&, Sink& sink) {
  if (!link_) return Errno(EBADFD);
  if (!link_->has_packet()) return Errno(EAGAIN);
  net::Slice packet = link_->front();
  size_t header = link_->vnet_header ? header_size_ : 0;
  size_t before = (link_->packet_info ? sizeof(tun_pi) : 0) + header, room = sink.remaining();
  std::string out;
  if (link_->packet_info) {
    if (room < sizeof(tun_pi)) return link_->Pop(), ErrnoOr<size_t>(Errno(EINVAL));
    uint16_t protocol = ProtocolOf(packet.view(), link_->tap());
    tun_pi info{};
    info.flags = room < before + packet.size ? TUN_PKT_STRIP : 0;
    info.proto = __builtin_bswap16(protocol);
    out.assign(reinterpret_cast<const char*>(&info), sizeof(info));
  }
  if (room < before) return link_->Pop(), ErrnoOr<size_t>(Errno(EINVAL));
  out.append(header, '\0');
  out.append(packet.view().substr(0, room - before));
  link_->Pop();
  auto put = sink.Put(out.data(), out.size());
  if (!put.ok()) return put.error();
  return *put < out.size() ? ErrnoOr<size_t>(Errno(EFAULT)) : out.size();
}

// tun_get_user()
ErrnoOr<size_t> TunFile::Write(Task&, Source& source) {
  if (!link_) return Errno(EBADFD);
  if (!link_->up() || link_->stack() == nullptr) return Errno(EIO);
  size_t size = source.remaining();
  if (size > kLargest) return Errno(EINVAL);
  std::string bytes(size, '\0');
  if (size > 0 && TRY(source.Take(bytes.data(), size)) < size) return Errno(EFAULT);
  size_t at = 0;
  if (link_->packet_info) {
    if (size < sizeof(tun_pi)) return Errno(EINVAL);
    at = sizeof(tun_pi);
  }
  VirtioHeader header{};
  if (link_->vnet_header) {
    if (size - at < header_size_) return Errno(EINVAL);
    memcpy(&header, bytes.data() + at, sizeof(header));
    at += header_size_;
    if (header.hdr_len > size - at || !TakesSegments(header.gso_type)) return Errno(EINVAL);
  }
  bytes.erase(0, at);
  if (link_->tap()) {
    if (bytes.size() < ETH_HLEN) return Errno(EINVAL);
  } else {
    uint8_t version = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]) >> 4;
    // With struct tun_pi any protocol may come; those that nobody here knows go nowhere.
    if (version != 4 && version != 6) return link_->packet_info && !bytes.empty() ? ErrnoOr<size_t>(size) : Errno(EINVAL);
  }
  if ((header.flags & kNeedsChecksum) != 0 && !FillChecksum(&bytes, header.csum_start, header.csum_offset)) return Errno(EINVAL);
  link_->Inject(net::Slice::Copy(bytes));
  return size;
}

std::string TunFile::FdInfo() const { return link_ ? "iff:\t" + link_->name() + "\n" : "iff:\t\n"; }

std::string TunFile::Save(state::Saver& saver) const {
  tun_state::TunFile m;
  m.set_home(saver.Ref(home_));
  if (link_ && link_->stack() != nullptr) {
    m.set_net(saver.Ref(static_cast<const NetNamespace*>(&link_->stack()->host())));
    m.set_index(link_->index());
  }
  m.set_header_size(header_size_);
  m.set_send_buffer(send_buffer_);
  m.set_wanted_index(wanted_index_);
  return SaveOpenFile(saver, 0, 0, m.SerializeAsString());
}

bool TunFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile open;
  tun_state::TunFile m;
  if (!LoadOpenFile(loader, bytes, &open) || !m.ParseFromString(open.extra())) return false;
  home_ = loader.GetRef<NetNamespace>(m.home());
  load_net_ = loader.GetRef<NetNamespace>(m.net());
  load_index_ = m.index();
  header_size_ = std::clamp(m.header_size(), kSmallestHeader, kLargestHeader);
  send_buffer_ = m.send_buffer();
  wanted_index_ = std::max(m.wanted_index(), 0);
  return static_cast<bool>(home_);
}

bool TunFile::AfterLoad(state::Loader& loader) {
  if (load_net_) {
    auto* link = dynamic_cast<net::TunLink*>(load_net_->stack().FindLink(load_index_));
    if (link == nullptr || link->reader() != nullptr) return loader.Fail("the interface of an open /dev/net/tun is missing");
    link_ = RefPtr<net::TunLink>(link);
    link->RestoreReader(this);
    load_net_.reset();
  }
  return VfsFile::AfterLoad(loader);
}

}  // namespace amber
