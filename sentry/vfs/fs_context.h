// Root, working directory and umask (Linux: struct fs_struct), shared by tasks that cloned with CLONE_FS. Guarded by the
// kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/mount.h"

namespace amber {

class FsContext final : public RefCounted<FsContext>, public state::Saveable {
 public:
  FsContext() = default;  // for Loader
  FsContext(VfsPath root, VfsPath cwd, uint32_t umask) : root_(std::move(root)), cwd_(std::move(cwd)), umask_(umask) {}
  ~FsContext() override = default;

  const VfsPath& root() const { return root_; }
  const VfsPath& cwd() const { return cwd_; }
  uint32_t umask() const { return umask_; }
  void set_root(VfsPath root) { root_ = std::move(root); }
  void set_cwd(VfsPath cwd) { cwd_ = std::move(cwd); }
  void set_umask(uint32_t umask) { umask_ = umask & 0777; }
  // A copy for fork or unshare(CLONE_FS).
  RefPtr<FsContext> Clone() const;

  state::Kind kind() const override { return state::Kind::kFsContext; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  VfsPath root_;
  VfsPath cwd_;
  uint32_t umask_ = 0022;
};

}  // namespace amber
