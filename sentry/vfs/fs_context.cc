#include "sentry/vfs/fs_context.h"

#include "sentry/vfs/state_util.h"

namespace amber {

RefPtr<FsContext> FsContext::Clone() const { return MakeRef<FsContext>(root_, cwd_, umask_); }

std::string FsContext::Save(state::Saver& saver) const {
  vfs_state::FsContext m;
  SavePath(saver, root_, m.mutable_root());
  SavePath(saver, cwd_, m.mutable_cwd());
  m.set_umask(umask_);
  return m.SerializeAsString();
}

bool FsContext::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::FsContext m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  umask_ = m.umask() & 0777;
  return LoadPath(loader, m.root(), &root_) && LoadPath(loader, m.cwd(), &cwd_);
}

bool FsContext::AfterLoad(state::Loader& loader) { return CheckPath(loader, root_) && CheckPath(loader, cwd_); }

}  // namespace amber
