// Fifos in file systems (fifo(7)): the inode keeps a pipe; an open file is an end of it that also has a place in the tree.
//
// Kernel lock. RegisterFifos() enters the opener into special.h.
#pragma once

#include "sentry/fs/pipe/pipe.h"
#include "sentry/vfs/special.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

// The pipe behind a fifo's inode, from the first open on.
class FifoState final : public SpecialState, public state::Saveable {
 public:
  FifoState() = default;
  ~FifoState() override = default;
  Pipe& pipe() { return *pipe_; }
  void Init() { pipe_ = MakeRef<Pipe>(); }
  const state::Saveable* saveable() const override { return this; }

  state::Kind kind() const override { return state::Kind::kPipeInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<Pipe> pipe_;
};

class FifoFile final : public VfsFile {
 public:
  FifoFile() = default;  // for Loader
  FifoFile(VfsPath path, RefPtr<File> end, int flags) : VfsFile(std::move(path), flags), end_(std::move(end)) {}

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override { return end_->Read(task, sink); }
  ErrnoOr<size_t> Write(Task& task, Source& source) override { return end_->Write(task, source); }
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override { return end_->Ioctl(task, command, argument); }
  ErrnoOr<uint64_t> Fcntl(Task& task, int command, uint64_t argument) override { return end_->Fcntl(task, command, argument); }
  uint32_t Poll(Task& task) override { return end_->Poll(task); }
  WaitQueue* wait_queue() override { return end_->wait_queue(); }
  bool pollable() const override { return true; }
  bool writes_whole() const override { return true; }

  state::Kind kind() const override { return state::Kind::kFifoFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<File> end_;
};

void RegisterFifos();

}  // namespace amber
