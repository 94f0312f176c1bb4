// What the image keeps of every inode.
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/state_util.h"

namespace amber {

std::string Inode::SaveBase(state::Saver& saver) const {
  vfs_state::Inode m;
  m.set_fs(saver.Ref(fs_));
  SaveAttr(attr_, m.mutable_attr());
  if (locks_) locks_->Save(saver, &m);
  if (special_) m.set_special(saver.Ref(special_->saveable()));
  return m.SerializeAsString();
}

bool Inode::LoadBase(state::Loader& loader, std::string_view bytes) {
  vfs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  fs_ = loader.Get<FileSystem>(m.fs());
  if (fs_ == nullptr) return false;
  attr_ = LoadAttr(m.attr());
  if ((attr_.mode & S_IFMT) == 0) return loader.Fail("an inode has no type");
  if ((m.locks_size() > 0 || m.write_hint() != 0) && !locks().Load(loader, m)) return false;
  if (m.special() != 0) special_ = RefPtr<SpecialState>(loader.Get<SpecialState>(m.special()));
  return true;
}

}  // namespace amber
