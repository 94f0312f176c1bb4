// /dev/net/tun: the program's end of a tun or tap interface. Guarded by the kernel lock.
#pragma once

#include <net/if.h>

#include "sentry/kernel/wait_queue.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

inline constexpr state::Kind kTunFileKind = static_cast<state::Kind>(210);

class TunFile final : public VfsFile, public net::TunReader {
 public:
  TunFile() = default;  // for Loader
  TunFile(VfsPath path, int flags, RefPtr<NetNamespace> home) : VfsFile(std::move(path), flags), home_(std::move(home)) {}
  ~TunFile() override;

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string FdInfo() const override;

  void OnTunPacket() override;
  void OnTunGone() override;

  state::Kind kind() const override { return kTunFileKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  ErrnoOr<uint64_t> SetInterface(Task& task, uint64_t argument);
  ErrnoOr<void> AttachTo(Task& task, net::Link& link, uint32_t flags);
  ErrnoOr<uint64_t> SetNumber(Task& task, uint32_t command, uint64_t value);
  ErrnoOr<uint64_t> SetPointed(Task& task, uint32_t command, uint64_t argument);
  ErrnoOr<uint64_t> Hardware(Task& task, uint32_t command, uint64_t argument);
  uint32_t InterfaceFlags() const;

  RefPtr<NetNamespace> home_;
  RefPtr<net::TunLink> link_;  // null: not attached
  uint32_t header_size_ = 10;  // of struct virtio_net_hdr
  int send_buffer_ = INT32_MAX;
  int wanted_index_ = 0;
  WaitQueue queue_;
  // From an image, until AfterLoad().
  RefPtr<NetNamespace> load_net_;
  int load_index_ = 0;
};

void RegisterTun();

}  // namespace amber
