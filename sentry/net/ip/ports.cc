#include "sentry/net/ip/ports.h"

#include <cerrno>

namespace amber::net {
namespace {

bool Covers(const PortBinding& wild, const IpAddress& other) {
  if (!wild.address.any()) return wild.address == other;
  if (wild.address.v4()) return other.v4();
  return !other.v4() || !wild.v6only;
}

}  // namespace

bool AddressesOverlap(const PortBinding& a, const PortBinding& b) { return Covers(a, b.address) || Covers(b, a.address); }

void PortBinding::Remove() {
  if (table_ == nullptr) return;
  if (next_ != nullptr) next_->prev_ = prev_;
  if (prev_ != nullptr) {
    prev_->next_ = next_;
  } else if (next_ != nullptr) {
    table_->heads_[port] = next_;
  } else {
    table_->heads_.erase(port);
  }
  table_ = nullptr;
  next_ = prev_ = nullptr;
}

PortTable::~PortTable() {
  while (!heads_.empty()) heads_.begin()->second->Remove();
}

PortBinding* PortTable::First(uint16_t port) const {
  auto it = heads_.find(port);
  return it == heads_.end() ? nullptr : it->second;
}

void PortTable::Link(PortBinding& b) {
  PortBinding*& head = heads_[b.port];
  b.prev_ = nullptr;
  b.next_ = head;
  if (head != nullptr) head->prev_ = &b;
  head = &b;
  b.table_ = this;
}

bool PortTable::Conflicts(const PortBinding& b, uint16_t port, bool strict) const {
  for (const PortBinding* o = First(port); o != nullptr; o = o->next_) {
    if (o == &b) continue;
    if (o->device != 0 && b.device != 0 && o->device != b.device) continue;
    if (!AddressesOverlap(*o, b)) continue;
    if (strict) return true;
    if (b.reuse_port && o->reuse_port && b.uid == o->uid) continue;
    if (b.reuse && o->reuse && (datagram_ || !o->listening)) continue;
    return true;
  }
  return false;
}

ErrnoOr<void> PortTable::Bind(PortBinding& b, uint16_t port, uint32_t random) {
  if (port != 0) {
    if (Conflicts(b, port, false)) return Errno(EADDRINUSE);
    b.port = port;
    Link(b);
    return Ok();
  }
  uint32_t count = uint32_t{high_} - low_ + 1;
  for (uint32_t i = 0; i < count; ++i) {
    auto candidate = static_cast<uint16_t>(low_ + (random + i) % count);
    if (Conflicts(b, candidate, true)) continue;
    b.port = candidate;
    Link(b);
    return Ok();
  }
  return Errno(EADDRINUSE);
}

ErrnoOr<void> PortTable::BindForConnect(PortBinding& b, uint32_t random, const std::function<bool(uint16_t)>& free) {
  uint32_t count = uint32_t{high_} - low_ + 1;
  for (uint32_t i = 0; i < count; ++i) {
    auto candidate = static_cast<uint16_t>(low_ + (random + i) % count);
    bool taken = false;
    for (const PortBinding* o = First(candidate); o != nullptr && !taken; o = o->next_) {
      taken = !o->by_connect && AddressesOverlap(*o, b);
    }
    if (taken || !free(candidate)) continue;
    b.port = candidate;
    b.by_connect = true;
    Link(b);
    return Ok();
  }
  return Errno(EADDRNOTAVAIL);
}

void PortTable::Share(PortBinding& b) {
  b.Remove();
  Link(b);
}

ErrnoOr<void> PortTable::CheckListen(const PortBinding& b) const {
  for (const PortBinding* o = First(b.port); o != nullptr; o = o->next_) {
    if (o == &b || !o->listening || !AddressesOverlap(*o, b)) continue;
    if (o->device != 0 && b.device != 0 && o->device != b.device) continue;
    if (b.reuse_port && o->reuse_port && b.uid == o->uid) continue;
    return Errno(EADDRINUSE);
  }
  return Ok();
}

}  // namespace amber::net
