// The ioctls of /dev/net/tun (__tun_chr_ioctl()).
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <string.h>

#include <algorithm>

#include "sentry/fs/tun/tun_file.h"
#include "sentry/kernel/task.h"
#include "sentry/net/ip/stack.h"

namespace amber {
namespace {

constexpr uint32_t kSocketRange = 0x89;
// What can be asked for of what the header knows.
constexpr uint32_t kFeatures = IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR;
constexpr uint32_t kOffloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
constexpr int kSmallestHeader = 10, kLargestHeader = 256;

bool MayUse(Task& task, const NetNamespace& net, const net::TunLink& link) {
  const auto& creds = task.creds();
  bool others =
      (link.owner != net::TunLink::kNobody && link.owner != creds.euid) || (link.group != net::TunLink::kNobody && !creds.InGroup(link.group));
  return !others || creds.HasIn(net.owner(), CAP_NET_ADMIN);
}

}  // namespace

uint32_t TunFile::InterfaceFlags() const {
  return (link_->tap() ? IFF_TAP : IFF_TUN) | (link_->packet_info ? 0 : IFF_NO_PI) | (link_->vnet_header ? IFF_VNET_HDR : 0) |
         (link_->persistent ? IFF_PERSIST : 0);
}

ErrnoOr<void> TunFile::AttachTo(Task& task, net::Link& found, uint32_t flags) {
  auto* link = dynamic_cast<net::TunLink*>(&found);
  if ((flags & IFF_TUN_EXCL) != 0) return Errno(EBUSY);
  if (link == nullptr || ((flags & IFF_TAP) != 0) != link->tap()) return Errno(EINVAL);
  if (!MayUse(task, *home_, *link)) return Errno(EPERM);
  if (link->reader() != nullptr) return Errno(EBUSY);
  link_ = RefPtr<net::TunLink>(link);
  return Ok();
}

// tun_set_iff()
ErrnoOr<uint64_t> TunFile::SetInterface(Task& task, uint64_t argument) {
  ifreq r = TRY(task.CopyIn(UserPtr<ifreq>(argument)));
  if (link_) return Errno(EEXIST);
  r.ifr_name[IFNAMSIZ - 1] = '\0';
  auto flags = static_cast<uint16_t>(r.ifr_flags);
  bool tap = (flags & IFF_TAP) != 0;
  net::Stack& stack = home_->stack();
  net::Stack::Batch batch(stack);
  std::string_view wanted(r.ifr_name);
  net::Link* found = wanted.empty() ? nullptr : stack.FindLink(wanted);
  // One queue is all there is.
  if ((flags & IFF_MULTI_QUEUE) != 0) return Errno(EINVAL);
  if (found != nullptr) {
    TRY(AttachTo(task, *found, flags));
  } else {
    if (!task.creds().HasIn(home_->owner(), CAP_NET_ADMIN)) return Errno(EPERM);
    if (tap == ((flags & IFF_TUN) != 0)) return Errno(EINVAL);
    if (wanted == "." || wanted == ".." || wanted.find_first_of("/: \t\n") != wanted.npos) return Errno(EINVAL);
    if (stack.links().size() >= net::Stack::kMaxLinks) return Errno(ENOBUFS);
    std::string name = stack.FreeName(!wanted.empty() ? wanted : tap ? "tap%d" : "tun%d");
    if (name.empty()) return Errno(ENFILE);
    link_ = MakeRef<net::TunLink>(name, tap);
    if (tap) link_->set_hardware(net::RandomHardware(stack.Random()));
  }
  bool made = found == nullptr;
  link_->packet_info = (flags & IFF_NO_PI) == 0;
  link_->vnet_header = (flags & IFF_VNET_HDR) != 0;
  link_->no_carrier = made && (static_cast<uint16_t>(r.ifr_flags) & 0x0040) != 0;  // IFF_NO_CARRIER
  if (made) link_->RestoreReader(this);
  if (made) stack.AddLink(link_, wanted_index_);
  if (!made) link_->Attach(this);
  stack.LinkChanged(*link_);
  memset(r.ifr_name, 0, sizeof(r.ifr_name));
  memcpy(r.ifr_name, link_->name().data(), std::min<size_t>(link_->name().size(), IFNAMSIZ - 1));
  TRY(task.CopyOut(UserPtr<ifreq>(argument), r));
  queue_.Notify(POLLOUT | POLLWRNORM);
  return uint64_t{0};
}

// Those whose argument is the number itself.
ErrnoOr<uint64_t> TunFile::SetNumber(Task& task, uint32_t command, uint64_t value) {
  switch (command) {
    case TUNSETNOCSUM:
    case TUNSETDEBUG: return uint64_t{0};
    case TUNSETPERSIST: link_->persistent = value != 0; return uint64_t{0};
    case TUNSETOWNER:
    case TUNSETGROUP: {
      auto id = static_cast<uint32_t>(value);
      uint32_t known = command == TUNSETOWNER ? ToKernelUid(task.creds().user_ns.get(), id) : ToKernelGid(task.creds().user_ns.get(), id);
      if (known == net::TunLink::kNobody) return Errno(EINVAL);
      (command == TUNSETOWNER ? link_->owner : link_->group) = known;
      return uint64_t{0};
    }
    case TUNSETOFFLOAD: return (value & ~uint64_t{kOffloads}) != 0 ? Errno(EINVAL) : ErrnoOr<uint64_t>(uint64_t{0});
    // Other kinds of hardware than the two that there are.
    case TUNSETLINK: return link_->up() ? Errno(EBUSY) : Errno(EINVAL);
    default: return Errno(EINVAL);
  }
}

// Those that point to one.
ErrnoOr<uint64_t> TunFile::SetPointed(Task& task, uint32_t command, uint64_t argument) {
  UserPtr<int> at(argument);
  int value = 0;
  switch (command) {
    case TUNGETSNDBUF: value = send_buffer_; break;
    case TUNGETVNETHDRSZ: value = static_cast<int>(header_size_); break;
    case TUNGETVNETLE: value = 1; break;
    case TUNGETVNETBE: value = 0; break;
    case TUNSETSNDBUF:
      value = TRY(task.CopyIn(at));
      if (value <= 0) return Errno(EINVAL);
      send_buffer_ = value;
      return uint64_t{0};
    case TUNSETVNETHDRSZ:
      value = TRY(task.CopyIn(at));
      if (value < kSmallestHeader || value > kLargestHeader) return Errno(EINVAL);
      header_size_ = static_cast<uint32_t>(value);
      return uint64_t{0};
    case TUNSETVNETLE: return TRY(task.CopyIn(at)) != 0 ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(EINVAL);
    case TUNSETVNETBE: return TRY(task.CopyIn(at)) == 0 ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(EINVAL);
    case TUNSETCARRIER:
      link_->no_carrier = TRY(task.CopyIn(at)) == 0;
      link_->CarrierMayHaveChanged();
      return uint64_t{0};
    default: return Errno(EINVAL);
  }
  TRY(task.CopyOut(at, value));
  return uint64_t{0};
}

ErrnoOr<uint64_t> TunFile::Hardware(Task& task, uint32_t command, uint64_t argument) {
  ifreq r = TRY(task.CopyIn(UserPtr<ifreq>(argument)));
  if (command == SIOCGIFHWADDR) {
    memset(&r.ifr_hwaddr, 0, sizeof(r.ifr_hwaddr));
    r.ifr_hwaddr.sa_family = link_->type();
    memcpy(r.ifr_hwaddr.sa_data, link_->hardware().data(), 6);
    TRY(task.CopyOut(UserPtr<ifreq>(argument), r));
    return uint64_t{0};
  }
  if (!link_->tap()) return Errno(EOPNOTSUPP);
  net::HardwareAddress hardware;
  memcpy(hardware.data(), r.ifr_hwaddr.sa_data, hardware.size());
  if (r.ifr_hwaddr.sa_family != ARPHRD_ETHER) return Errno(EINVAL);
  if ((hardware[0] & 1) != 0 || hardware == net::HardwareAddress{}) return Errno(EADDRNOTAVAIL);
  link_->set_hardware(hardware);
  if (link_->stack() != nullptr) link_->stack()->LinkChanged(*link_);
  return uint64_t{0};
}

ErrnoOr<uint64_t> TunFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command == TUNGETFEATURES) {
    TRY(task.CopyOut(UserPtr<uint32_t>(argument), kFeatures));
    return uint64_t{0};
  }
  if (command == TUNSETQUEUE) return Errno(EINVAL);
  if (command == TUNSETIFF) return SetInterface(task, argument);
  if (command == TUNSETIFINDEX) {
    if (link_) return Errno(EPERM);
    int index = TRY(task.CopyIn(UserPtr<int>(argument)));
    if (index < 0) return Errno(EINVAL);
    wanted_index_ = index;
    return uint64_t{0};
  }
  if (!link_) return Errno(EBADFD);
  switch (command) {
    case TUNGETIFF: {
      ifreq r{};
      memcpy(r.ifr_name, link_->name().data(), std::min<size_t>(link_->name().size(), IFNAMSIZ - 1));
      r.ifr_flags = static_cast<int16_t>(InterfaceFlags());
      TRY(task.CopyOut(UserPtr<ifreq>(argument), r));
      return uint64_t{0};
    }
    case SIOCGIFHWADDR:
    case SIOCSIFHWADDR: return Hardware(task, command, argument);
    case TUNSETNOCSUM:
    case TUNSETDEBUG:
    case TUNSETPERSIST:
    case TUNSETOWNER:
    case TUNSETGROUP:
    case TUNSETOFFLOAD:
    case TUNSETLINK: return SetNumber(task, command, argument);
    default: break;
  }
  if ((command >> 8 & 0xff) == kSocketRange) return Errno(EINVAL);
  return SetPointed(task, command, argument);
}

}  // namespace amber
