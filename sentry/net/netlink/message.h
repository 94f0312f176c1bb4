// Netlink messages: reading and writing headers and attributes (netlink(7)). Bytes to be read may be hostile.
#pragma once

#include <linux/netlink.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace amber {

// Writes messages one after the other.
class NetlinkWriter {
 public:
  NetlinkWriter(uint32_t sequence, uint32_t port) : sequence_(sequence), port_(port) {}

  template <typename T>
  void Begin(uint16_t type, uint16_t flags, const T& body) {
    End();
    start_ = bytes_.size();
    open_ = true;
    nlmsghdr h{0, type, flags, sequence_, port_};
    Append(&h, sizeof(h));
    Append(&body, sizeof(body));
  }
  // More of the body.
  void Body(std::string_view rest) { Append(rest.data(), rest.size()); }
  void Attribute(uint16_t type, const void* data, size_t size) {
    nlattr a{static_cast<uint16_t>(sizeof(nlattr) + size), type};
    Append(&a, sizeof(a));
    Append(data, size);
  }
  template <typename T>
  void Attribute(uint16_t type, const T& value) {
    Attribute(type, &value, sizeof(value));
  }
  void Attribute(uint16_t type, const std::string& text) { Attribute(type, text.c_str(), text.size() + 1); }
  size_t BeginNested(uint16_t type) {
    size_t at = bytes_.size();
    Attribute(type, nullptr, 0);
    return at;
  }
  void EndNested(size_t at) {
    auto size = static_cast<uint16_t>(bytes_.size() - at);
    memcpy(bytes_.data() + at, &size, sizeof(size));
  }
  void End() {
    if (!open_) return;
    open_ = false;
    auto size = static_cast<uint32_t>(bytes_.size() - start_);
    memcpy(bytes_.data() + start_, &size, sizeof(size));
  }
  // --- a dump, which comes in parts: each goes through the objects anew, behind those that were told already ---
  // The one that begins behind `told` objects, and ends when it has `room` bytes.
  void BeginPart(uint64_t told, size_t room) { told_ = told, room_ = room; }
  // One more object of the dump: true if it is to be written now.
  bool Next() {
    if (full_ || bytes_.size() >= room_) return full_ = true, false;
    return ++seen_ > told_;
  }
  // There are more objects than those that were told.
  bool full() const { return full_; }
  uint64_t seen() const { return seen_; }
  // What was written, all messages complete.
  std::string& Take() {
    End();
    return bytes_;
  }

 private:
  void Append(const void* data, size_t size) {
    if (size > 0) bytes_.append(static_cast<const char*>(data), size);
    bytes_.resize((bytes_.size() + 3) & ~size_t{3});
  }

  uint32_t sequence_, port_;
  std::string bytes_;
  size_t start_ = 0;
  bool open_ = false;
  uint64_t told_ = 0, seen_ = 0;
  size_t room_ = SIZE_MAX;
  bool full_ = false;
};

// A message's body: a structure, then attributes.
class NetlinkReader {
 public:
  explicit NetlinkReader(std::string_view body) : rest_(body) {}
  // The structure; nothing if the message is too short for it.
  template <typename T>
  std::optional<T> Structure() {
    if (rest_.size() < sizeof(T)) return std::nullopt;
    T out;
    memcpy(&out, rest_.data(), sizeof(T));
    rest_.remove_prefix(std::min(rest_.size(), (sizeof(T) + 3) & ~size_t{3}));
    return out;
  }
  // The data of attribute `type`; the last one wins.
  std::optional<std::string_view> Find(uint16_t type) const {
    std::optional<std::string_view> found;
    std::string_view at = rest_;
    while (at.size() >= sizeof(nlattr)) {
      nlattr a;
      memcpy(&a, at.data(), sizeof(a));
      if (a.nla_len < sizeof(a) || a.nla_len > at.size()) break;
      if ((a.nla_type & NLA_TYPE_MASK) == type) found = at.substr(sizeof(a), a.nla_len - sizeof(a));
      at.remove_prefix(std::min<size_t>(at.size(), (a.nla_len + 3u) & ~3u));
    }
    return found;
  }
  template <typename T>
  std::optional<T> Value(uint16_t type) const {
    auto data = Find(type);
    if (!data || data->size() < sizeof(T)) return std::nullopt;
    T out;
    memcpy(&out, data->data(), sizeof(T));
    return out;
  }

 private:
  std::string_view rest_;
};

}  // namespace amber
