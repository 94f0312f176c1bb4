// Files over descriptors of the host: a container's standard input, output and error, and --preserve-fds.
//
// A HostFile owns its descriptor, which may be a pipe, terminal, socket or file that processes outside use at the same time: the
// sentry never changes its flags (O_NONBLOCK would hit them too) and never blocks on it. Readiness of pipes, terminals and sockets comes
// from HostPoll. Guarded by the kernel lock.
#pragma once

#include <cstdint>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/vfs/file.h"

namespace amber {

class HostFile final : public File {
 public:
  HostFile() = default;  // for Load()
  // `index`: which of the descriptors that the caller passes this is (0 to 2: standard streams); a restore binds the descriptor
  // passed under the same index.
  HostFile(HostPoll& poll, UniqueFd fd, int index);
  ~HostFile() override;

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Fsync(Task& task, bool data_only) override;
  ErrnoOr<void> Truncate(Task& task, uint64_t size) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  bool writes_whole() const override { return true; }
  WaitQueue* wait_queue() override { return poll_source_.registered() ? &queue_ : nullptr; }
  bool pollable() const override { return poll_source_.registered(); }
  std::string LinkName() const override;
  ErrnoOr<RefPtr<File>> Reopen(Task& task, int flags) override;
  int index() const { return index_; }
  // The index of a fifo that was opened in a directory of the host: nobody passes it again.
  static constexpr int kFifo = -1;
  // The end of what there is to read means that nobody has come yet, until somebody has.
  void AwaitWriter() { awaits_writer_ = true; }

  state::Kind kind() const override { return state::Kind::kHostFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;
  std::string CannotSave() const override;

 private:
  void Bind(HostPoll& poll, UniqueFd fd);
  // What poll(2) says right now.
  uint32_t HostReady(uint32_t events) const;

  UniqueFd fd_;
  int index_ = 0;
  mode_t type_ = 0;
  bool awaits_writer_ = false;
  WaitQueue queue_;
  HostPoll::Source poll_source_{queue_};
};

}  // namespace amber
