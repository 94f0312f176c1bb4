#include "sentry/fs/fifo/fifo.h"

#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

ErrnoOr<RefPtr<File>> OpenFifo(const VfsContext& ctx, const VfsPath& path, int flags) {
  if (ctx.task == nullptr) return Errno(ENXIO);
  Inode& inode = *path.inode();
  auto* state = dynamic_cast<FifoState*>(inode.special());
  if (state == nullptr) {
    auto fresh = MakeRef<FifoState>();
    fresh->Init();
    state = fresh.get();
    inode.set_special(std::move(fresh));
  }
  RefPtr<File> end = TRY(state->pipe().Open(*ctx.task, flags));
  return RefPtr<File>(MakeRef<FifoFile>(path, std::move(end), flags));
}

}  // namespace

void RegisterFifos() { SetFifoOpener(OpenFifo); }

std::string FifoState::Save(state::Saver& saver) const {
  vfs_state::Fifo m;
  m.set_pipe(saver.Ref(pipe_));
  return m.SerializeAsString();
}

bool FifoState::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::Fifo m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  pipe_ = loader.GetRef<Pipe>(m.pipe());
  return static_cast<bool>(pipe_);
}

std::string FifoFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, 0, saver.Ref(end_), ""); }

bool FifoFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  end_ = loader.GetRef<PipeEnd>(m.data_inode());
  return static_cast<bool>(end_);
}

}  // namespace amber
