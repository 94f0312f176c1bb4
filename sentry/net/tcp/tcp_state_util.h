// Parts of messages that several classes save.
#pragma once

#include <cstring>
#include <string>

#include "sentry/net/ip/ports.h"

namespace amber::net {

template <typename M>
void SaveEndpoint(const Endpoint& e, M* out) {
  out->set_address(std::string(reinterpret_cast<const char*>(e.address.bytes.data()), 16));
  out->set_port(e.port);
  out->set_scope(e.scope);
}

inline bool LoadAddress(const std::string& bytes, IpAddress* out) {
  if (bytes.size() != 16) return false;
  memcpy(out->bytes.data(), bytes.data(), 16);
  return true;
}

template <typename M>
bool LoadEndpoint(const M& in, Endpoint* out) {
  if (in.port() > 65535 || !LoadAddress(in.address(), &out->address)) return false;
  out->port = static_cast<uint16_t>(in.port());
  out->scope = in.scope();
  return true;
}

template <typename M>
void SaveBinding(const PortBinding& b, M* out) {
  out->set_address(std::string(reinterpret_cast<const char*>(b.address.bytes.data()), 16));
  out->set_port(b.port);
  out->set_v6only(b.v6only);
  out->set_reuse(b.reuse);
  out->set_reuse_port(b.reuse_port);
  out->set_listening(b.listening);
  out->set_by_connect(b.by_connect);
  out->set_device(b.device);
  out->set_uid(b.uid);
  out->set_bound(b.bound());
}

// Whether it was bound, `*bound` says; PortTable::Share() binds it again.
template <typename M>
bool LoadBinding(const M& in, PortBinding* out, bool* bound) {
  if (in.port() > 65535 || !LoadAddress(in.address(), &out->address)) return false;
  out->port = static_cast<uint16_t>(in.port());
  out->v6only = in.v6only();
  out->reuse = in.reuse();
  out->reuse_port = in.reuse_port();
  out->listening = in.listening();
  out->by_connect = in.by_connect();
  out->device = in.device();
  out->uid = in.uid();
  *bound = in.bound();
  return true;
}

}  // namespace amber::net
