#include "sentry/kernel/user_namespace.h"

#include <linux/capability.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/user_namespace.pb.h"

namespace amber {
namespace {

constexpr uint32_t kInvalid = UserNamespace::kInvalidId;

uint32_t Down(const std::vector<IdExtent>& map, uint32_t id) {
  for (const IdExtent& e : map) {
    if (id >= e.first && id - e.first < e.count) return e.kernel_first + (id - e.first);
  }
  return kInvalid;
}

uint32_t Up(const std::vector<IdExtent>& map, uint32_t id) {
  for (const IdExtent& e : map) {
    if (id >= e.kernel_first && id - e.kernel_first < e.count) return e.first + (id - e.kernel_first);
  }
  return kInvalid;
}

// The range [id, id + count) of `ns` as one range of the initial namespace; kInvalid if it is not wholly in one extent.
uint32_t DownRange(const UserNamespace* ns, bool groups, uint32_t id, uint32_t count) {
  if (ns == nullptr) return id;
  for (const IdExtent& e : groups ? ns->gids() : ns->uids()) {
    if (id >= e.first && id - e.first < e.count && count <= e.count - (id - e.first)) return e.kernel_first + (id - e.first);
  }
  return kInvalid;
}

bool Overlap(uint32_t a, uint32_t b, uint32_t a_count, uint32_t b_count) {
  uint64_t a_last = uint64_t{a} + a_count - 1, b_last = uint64_t{b} + b_count - 1;
  return a <= b_last && b <= a_last;
}

// Three numbers and nothing else.
bool ParseLine(std::string_view line, IdExtent* out) {
  uint32_t values[3];
  size_t at = 0;
  auto skip = [&] {
    size_t before = at;
    while (at < line.size() && (line[at] == ' ' || line[at] == '\t')) ++at;
    return at != before;
  };
  for (int i = 0; i < 3; ++i) {
    if (!skip() && i > 0) return false;
    auto [end, error] = std::from_chars(line.data() + at, line.data() + line.size(), values[i]);
    if (error != std::errc()) return false;
    at = static_cast<size_t>(end - line.data());
  }
  skip();
  if (at != line.size()) return false;
  *out = {values[0], values[1], values[2]};
  return true;
}

// map_write(): the lines of a map; kernel_first is the id in the parent namespace still.
ErrnoOr<std::vector<IdExtent>> ParseMap(std::string_view text) {
  std::vector<IdExtent> map;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size());
    IdExtent e;
    if (!ParseLine(text.substr(0, end), &e)) return Errno(EINVAL);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (e.first == kInvalid || e.kernel_first == kInvalid) return Errno(EINVAL);
    if (e.first + e.count <= e.first || e.kernel_first + e.count <= e.kernel_first) return Errno(EINVAL);
    for (const IdExtent& other : map) {
      if (Overlap(e.first, other.first, e.count, other.count)) return Errno(EINVAL);
      if (Overlap(e.kernel_first, other.kernel_first, e.count, other.count)) return Errno(EINVAL);
    }
    if (map.size() == UserNamespace::kMaxExtents) return Errno(EINVAL);
    map.push_back(e);
  }
  if (map.empty()) return Errno(EINVAL);
  return map;
}

}  // namespace

uint32_t ToKernelUid(const UserNamespace* ns, uint32_t id) { return ns == nullptr ? id : Down(ns->uids(), id); }
uint32_t ToKernelGid(const UserNamespace* ns, uint32_t id) { return ns == nullptr ? id : Down(ns->gids(), id); }
uint32_t FromKernelUid(const UserNamespace* ns, uint32_t id) { return ns == nullptr ? id : Up(ns->uids(), id); }
uint32_t FromKernelGid(const UserNamespace* ns, uint32_t id) { return ns == nullptr ? id : Up(ns->gids(), id); }
uint32_t ShownUid(const UserNamespace* ns, uint32_t id) {
  uint32_t shown = FromKernelUid(ns, id);
  return shown == kInvalid ? UserNamespace::kOverflowId : shown;
}
uint32_t ShownGid(const UserNamespace* ns, uint32_t id) {
  uint32_t shown = FromKernelGid(ns, id);
  return shown == kInvalid ? UserNamespace::kOverflowId : shown;
}

bool IsWithin(const UserNamespace* ns, const UserNamespace* outer) {
  while (ns != outer && ns != nullptr) ns = ns->parent();
  return ns == outer;
}

// cap_capable() of security/commoncap.c.
bool Credentials::HasIn(const UserNamespace* ns, int capability) const {
  for (;; ns = ns->parent()) {
    if (ns == user_ns.get()) return HasOwn(capability);
    if (LevelOf(ns) <= LevelOf(user_ns.get())) return false;
    // Who made a namespace has all capabilities in it, if he is in the parent.
    if (ns->parent() == user_ns.get() && ns->creator_uid() == euid) return true;
  }
}

UserNamespace::UserNamespace(RefPtr<UserNamespace> parent, const Credentials& creator)
    : Namespace(parent), parent_(std::move(parent)), level_(LevelOf(parent_.get()) + 1), creator_uid_(creator.euid), creator_gid_(creator.egid),
      creator_had_setfcap_(creator.HasOwn(CAP_SETFCAP)), setgroups_allowed_(!parent_ || parent_->setgroups_allowed_) {}

UserNamespace::~UserNamespace() = default;

int UserNamespace::type() const { return CLONE_NEWUSER; }

ErrnoOr<void> UserNamespace::SetSetgroups(bool allow) {
  if (allow) return setgroups_allowed_ ? Ok() : ErrnoOr<void>(Errno(EPERM));
  if (!gids_.empty()) return Errno(EPERM);
  setgroups_allowed_ = false;
  return Ok();
}

std::string UserNamespace::MapText(bool groups, const UserNamespace* reader) const {
  // A reader in the namespace itself sees the parent's ids, any other one its own (uid_m_show).
  const UserNamespace* lower = reader == this ? parent_.get() : reader;
  std::string out;
  for (const IdExtent& e : groups ? gids_ : uids_) {
    uint32_t to = groups ? FromKernelGid(lower, e.kernel_first) : FromKernelUid(lower, e.kernel_first);
    char line[64];
    snprintf(line, sizeof(line), "%10u %10u %10u\n", e.first, to, e.count);
    out += line;
  }
  return out;
}

// new_idmap_permitted().
bool UserNamespace::MayWriteMap(bool groups, const Credentials& writer, const std::vector<IdExtent>& wanted) const {
  bool maps_root = std::ranges::any_of(wanted, [](const IdExtent& e) { return e.kernel_first == 0; });
  if (!groups && maps_root) {
    // File capabilities of the parent's root: verify_root_map().
    bool may = writer.user_ns.get() == this ? creator_had_setfcap_ : writer.HasIn(parent_.get(), CAP_SETFCAP);
    if (!may) return false;
  }
  if (wanted.size() == 1 && wanted[0].count == 1 && creator_uid_ == writer.euid) {
    uint32_t id = wanted[0].kernel_first;
    if (!groups && ToKernelUid(parent_.get(), id) == writer.euid) return true;
    if (groups && !setgroups_allowed_ && ToKernelGid(parent_.get(), id) == writer.egid) return true;
  }
  return writer.HasIn(parent_.get(), groups ? CAP_SETGID : CAP_SETUID);
}

ErrnoOr<void> UserNamespace::WriteMap(bool groups, const Credentials& writer, std::string_view text) {
  std::vector<IdExtent>& map = groups ? gids_ : uids_;
  if (writer.user_ns.get() != this && writer.user_ns.get() != parent_.get()) return Errno(EPERM);
  if (!map.empty()) return Errno(EPERM);
  if (!writer.HasIn(this, CAP_SYS_ADMIN)) return Errno(EPERM);
  std::vector<IdExtent> wanted = TRY(ParseMap(text));
  if (!MayWriteMap(groups, writer, wanted)) return Errno(EPERM);
  for (IdExtent& e : wanted) {
    e.kernel_first = DownRange(parent_.get(), groups, e.kernel_first, e.count);
    if (e.kernel_first == kInvalid) return Errno(EPERM);
  }
  map = std::move(wanted);
  return Ok();
}

std::string UserNamespace::Save(state::Saver& saver) const {
  proto::UserNamespace m;
  m.set_ino(ino());
  m.set_parent(saver.Ref(parent_));
  m.set_creator_uid(creator_uid_);
  m.set_creator_gid(creator_gid_);
  m.set_creator_had_setfcap(creator_had_setfcap_);
  m.set_setgroups_denied(!setgroups_allowed_);
  auto save = [](const std::vector<IdExtent>& map, auto* out) {
    for (const IdExtent& e : map) {
      proto::IdExtent* x = out->Add();
      x->set_first(e.first);
      x->set_kernel_first(e.kernel_first);
      x->set_count(e.count);
    }
  };
  save(uids_, m.mutable_uids());
  save(gids_, m.mutable_gids());
  m.set_level(static_cast<uint32_t>(level_));
  return m.SerializeAsString();
}

bool UserNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::UserNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a user namespace is malformed");
  parent_ = loader.GetRef<UserNamespace>(m.parent());
  if (m.parent() != 0 && !parent_) return false;
  if (!LoadCommon(loader, m.ino(), m.parent())) return false;
  level_ = static_cast<int>(m.level());
  if (level_ < 1 || level_ > kMaxLevel || (level_ == 1) != (parent_ == nullptr)) return loader.Fail("a user namespace is too deep");
  creator_uid_ = m.creator_uid();
  creator_gid_ = m.creator_gid();
  creator_had_setfcap_ = m.creator_had_setfcap();
  setgroups_allowed_ = !m.setgroups_denied();
  auto load = [](const auto& in, std::vector<IdExtent>* map) {
    for (const proto::IdExtent& e : in) {
      map->push_back({e.first(), e.kernel_first(), e.count()});
      if (e.first() + e.count() <= e.first() || e.kernel_first() + e.count() <= e.kernel_first()) return false;
    }
    return map->size() <= kMaxExtents;
  };
  if (!load(m.uids(), &uids_) || !load(m.gids(), &gids_)) return loader.Fail("a user namespace's maps are malformed");
  return true;
}

// Levels that go down by one are no circle.
bool UserNamespace::AfterLoad(state::Loader& loader) {
  return level_ == LevelOf(parent_.get()) + 1 || loader.Fail("a user namespace is at a wrong level");
}

}  // namespace amber
