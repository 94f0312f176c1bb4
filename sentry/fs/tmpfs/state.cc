// Save and restore of tmpfs.
#include <algorithm>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/fs/tmpfs/tmpfs.pb.h"

namespace amber {

std::string TmpfsFileSystem::Save(state::Saver& saver) const {
  tmpfs_state::FileSystem m;
  m.set_size(options_.size);
  m.set_inodes(options_.inodes);
  m.set_mode(options_.mode);
  m.set_uid(options_.uid);
  m.set_gid(options_.gid);
  m.set_unlimited(options_.unlimited);
  m.set_next_ino(next_ino_);
  m.set_salt(salt_);
  return SaveBase(saver, m.SerializeAsString());
}

bool TmpfsFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  tmpfs_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  options_ = {m.size(), m.inodes(), m.mode(), m.uid(), m.gid(), m.unlimited()};
  next_ino_ = m.next_ino();
  if (m.salt() != 0) salt_ = m.salt();
  return true;
}

std::string TmpfsInode::Save(state::Saver& saver) const {
  tmpfs_state::Inode m;
  m.set_base(SaveBase(saver));
  for (const auto& [name, child] : children_) {
    auto* c = m.add_children();
    c->set_name(name);
    c->set_inode(saver.Ref(child));
  }
  m.set_target(target_);
  for (const auto& [name, value] : xattrs_) {
    auto* x = m.add_xattrs();
    x->set_name(name);
    x->set_value(value);
  }
  m.set_small(small_);
  if (memfd_.valid()) m.set_file(saver.File(memfd_.get(), attr_.size));
  m.set_seals(seals_ + 1);
  m.set_unnamed(unnamed_);
  m.set_flags(flags_);
  return m.SerializeAsString();
}

bool TmpfsInode::Load(state::Loader& loader, std::string_view bytes) {
  tmpfs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<TmpfsFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  tmpfs().by_number_[attr_.ino] = this;
  tmpfs().inodes_ += IsDir() ? 1 : std::max<uint64_t>(attr_.nlink, 1);
  for (const auto& c : m.children()) {
    RefPtr<TmpfsInode> child = loader.GetRef<TmpfsInode>(c.inode());
    if (!child) return false;
    children_[c.name()] = std::move(child);
  }
  target_ = m.target();
  for (const auto& x : m.xattrs()) {
    xattrs_[x.name()] = x.value();
    if (!ReadAcl(x.name()).ok()) return loader.Fail("an access control list is malformed");
  }
  charge_ = ChargeOf(XattrBytes());
  small_ = m.small();
  if (small_.size() > attr_.size) return loader.Fail("a tmpfs file is larger than its size");
  seals_ = m.seals() - 1;
  unnamed_ = m.unnamed();
  flags_ = m.flags();
  if (binding_flags() != 0) ++restriction::flagged;
  if (m.file() != 0) {
    memfd_.reset(loader.OpenFile(m.file()));
    if (!memfd_.valid()) return loader.Fail("the contents of a tmpfs file are missing");
  }
  Account();
  return true;
}

bool TmpfsInode::AfterLoad(state::Loader& loader) {
  bool own = std::ranges::all_of(children_, [this](const auto& c) { return &c.second->fs() == &fs(); });
  if (own && IsDir()) std::ranges::for_each(children_, [this](const Entry& c) { SetHome(c); });
  return own || loader.Fail("a directory holds an inode of another file system");
}

}  // namespace amber
