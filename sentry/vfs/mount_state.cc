// What the image keeps of mounts and namespaces, and how /proc shows them.
#include <sys/sysmacros.h>

#include <unordered_map>
#include <vector>

#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/propagation.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

// Blanks and backslashes are octal in /proc/mounts.
std::string Mangle(const std::string& s) {
  std::string out;
  for (char c : s) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\\' || c == '#') {
      char buf[5] = {'\\', static_cast<char>('0' + ((c >> 6) & 3)), static_cast<char>('0' + ((c >> 3) & 7)), static_cast<char>('0' + (c & 7)), 0};
      out += buf;
    } else {
      out += c;
    }
  }
  return out;
}

std::string MountOptions(uint32_t flags) {
  std::string s = (flags & MS_RDONLY) != 0 ? "ro" : "rw";
  if ((flags & MS_NOSUID) != 0) s += ",nosuid";
  if ((flags & MS_NODEV) != 0) s += ",nodev";
  if ((flags & MS_NOEXEC) != 0) s += ",noexec";
  if ((flags & MS_NOATIME) != 0) s += ",noatime";
  if ((flags & MS_NODIRATIME) != 0) s += ",nodiratime";
  if ((flags & MS_NOATIME) == 0) s += ",relatime";
  if ((flags & kNoSymFollow) != 0) s += ",nosymfollow";
  return s;
}

std::string DeviceOf(const Mount& m) { return m.source().empty() ? "none" : Mangle(m.source()); }

// The optional fields of mountinfo.
std::string Propagation(const Mount& m) {
  std::string s;
  if (m.peers() != nullptr) s += " shared:" + std::to_string(m.peers()->id());
  if (m.master() != nullptr) s += " master:" + std::to_string(m.master()->id());
  if (m.unbindable()) s += " unbindable";
  return s;
}

// What is longer ends there: names may be as deep as a program likes, and mounts many.
constexpr size_t kLongestText = 16 << 20;

}  // namespace

std::string MountNamespace::FormatMounts(const VfsPath& root) const {
  std::string out;
  MountReach reach(root);
  for (Mount* m : All()) {
    if (!reach.Reaches(*m)) continue;
    if (out.size() > kLongestText) break;
    VfsPath place{RefPtr<Mount>(m), m->root()};
    uint32_t flags = m->flags() | (m->fs().read_only() ? MS_RDONLY : 0);
    out += DeviceOf(*m) + ' ' + Mangle(PathName(place, root)) + ' ' + Mangle(m->fs().type_name()) + ' ' + MountOptions(flags) +
           m->fs().ShowOptions() + " 0 0\n";
  }
  return out;
}

std::string MountNamespace::FormatMountInfo(const VfsPath& root) const {
  std::string out;
  MountReach reach(root);
  for (Mount* m : All()) {
    if (!reach.Reaches(*m)) continue;
    if (out.size() > kLongestText) break;
    VfsPath place{RefPtr<Mount>(m), m->root()};
    int parent = m->parent() != nullptr ? m->parent()->id() : m->id();
    out += std::to_string(m->id()) + ' ' + std::to_string(parent) + ' ' + std::to_string(major(m->fs().dev())) + ':' +
           std::to_string(minor(m->fs().dev())) + ' ' + Mangle(PathInside(*m->root())) + ' ' + Mangle(PathName(place, root)) + ' ' +
           MountOptions(m->flags()) + Propagation(*m) + " - " + Mangle(m->fs().type_name()) + ' ' + DeviceOf(*m) + ' ' +
           (m->fs().read_only() ? "ro" : "rw") + m->fs().ShowOptions() + '\n';
  }
  return out;
}

std::string Mount::Save(state::Saver& saver) const {
  vfs_state::Mount m;
  m.set_id(id_);
  m.set_fs(saver.Ref(fs_));
  m.set_root(saver.Ref(root_));
  m.set_flags(flags_);
  m.set_source(source_);
  m.set_parent(saver.Ref(parent_));
  m.set_mountpoint(saver.Ref(mountpoint_));
  m.set_ns(saver.Ref(ns_));
  if (peers_) m.set_peers(peers_->id());
  if (master_) m.set_master(master_->id());
  m.set_unbindable(unbindable_);
  m.set_locked(locked_);
  m.set_locked_flags(locked_flags_);
  return m.SerializeAsString();
}

bool Mount::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::Mount m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  id_ = m.id();
  NoteLoadedId(id_);
  fs_ = loader.GetRef<FileSystem>(m.fs());
  root_ = loader.GetRef<Dentry>(m.root());
  flags_ = m.flags() & kMountFlags;
  source_ = m.source();
  parent_ = loader.Get<Mount>(m.parent());
  mountpoint_ = loader.GetRef<Dentry>(m.mountpoint());
  ns_ = loader.Get<MountNamespace>(m.ns());
  // Groups come back with the first mount that names them.
  auto group = [](int number) {
    PeerGroup* known = PeerGroup::Find(number);
    return known != nullptr ? RefPtr<PeerGroup>(known) : MakeRef<PeerGroup>(number);
  };
  if (m.peers() < 0 || m.master() < 0 || (m.peers() != 0 && m.peers() == m.master())) return loader.Fail("a mount's peers are malformed");
  if (m.peers() != 0) JoinPeers(group(m.peers()));
  if (m.master() != 0) JoinMaster(group(m.master()));
  unbindable_ = m.unbindable();
  locked_ = m.locked();
  locked_flags_ = m.locked_flags() & kMountFlags;
  return fs_ && root_ && (parent_ != nullptr) == static_cast<bool>(mountpoint_);
}

bool Mount::AfterLoad(state::Loader& loader) {
  if (&root_->fs() != fs_.get() || root_->negative()) return loader.Fail("a mount shows another file system than its own");
  if (ns_ != listed_in_) return loader.Fail("a mount is not in its namespace");
  if (ns_ != nullptr) NoteMounted();
  if (parent_ == nullptr) return true;
  if (ns_ == nullptr || parent_->ns_ != ns_) return loader.Fail("a mount lies on one of another namespace");
  bool there = &mountpoint_->fs() == parent_->fs_.get() && !mountpoint_->negative();
  return there || loader.Fail("a mount lies on a place that its parent does not have");
}

std::string MountNamespace::Save(state::Saver& saver) const {
  vfs_state::MountNamespace m;
  m.set_root(saver.Ref(root_));
  for (const auto& mount : mounts_) m.add_mounts(saver.Ref(mount));
  m.set_ino(ino());
  m.set_owner(SaveOwner(saver));
  return m.SerializeAsString();
}

bool MountNamespace::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::MountNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  root_ = loader.GetRef<Mount>(m.root());
  if (static_cast<size_t>(m.mounts_size()) > kMaxMounts) return loader.Fail("a namespace has too many mounts");
  for (uint64_t id : m.mounts()) {
    RefPtr<Mount> mount = loader.GetRef<Mount>(id);
    if (!mount) return false;
    if (mount->listed_in_ != nullptr) return loader.Fail("a mount is listed twice");
    mount->listed_in_ = this;
    mounts_.push_back(std::move(mount));
  }
  return root_ && LoadCommon(loader, m.ino(), m.owner());
}

bool MountNamespace::AfterLoad(state::Loader& loader) {
  std::unordered_map<const Mount*, std::vector<const Mount*>> children;
  for (const auto& m : mounts_) {
    if (m->ns_ != this) return loader.Fail("a mount is in two namespaces");
    children[m->parent_].push_back(m.get());
    if (m->parent_ == nullptr) continue;
    if (!on_.emplace(std::pair(m->parent_, m->mountpoint_.get()), m.get()).second) {
      return loader.Fail("two mounts are at one place");
    }
    ++m->mountpoint_->mounts_here;
  }
  // Whoever walks up must arrive: every mount is above the root, none on a ring of its own.
  std::vector<const Mount*> reached = children[nullptr];
  if (reached.size() != 1 || reached[0] != root_.get()) return loader.Fail("a namespace's root is not the lowest mount");
  for (size_t i = 0; i < reached.size(); ++i) {
    const std::vector<const Mount*>& on_it = children[reached[i]];
    reached.insert(reached.end(), on_it.begin(), on_it.end());
  }
  return reached.size() == mounts_.size() || loader.Fail("mounts lie on each other");
}

}  // namespace amber
