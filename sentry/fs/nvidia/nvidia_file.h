// An open /dev/nvidiactl, /dev/nvidiaN or /dev/nvidia-uvm of a guest.
//
// The kernel's side of nvproxy::OpenFile. Kernel lock. The proxy's locks come before it, and the driver may hold a call for long, so ioctls and the last
// close are done elsewhere (driver_work.h); only Open, Map and Poll of the proxy, which take no client's lock, are called from here.
#pragma once

#include <memory>

#include "nvproxy/open_file.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/moved.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

class Kernel;

inline constexpr uint32_t kNvidiaMajor = 195, kNvidiaControlMinor = 255;
// Linux gives UVM a dynamic number; /proc/devices tells it.
inline constexpr uint32_t kUvmMajor = 509;
// Kinds 180 to 189 of saved objects are the GPU's.
inline constexpr state::Kind kNvidiaFileKind = kDeviceFileKind;

class NvidiaFile final : public VfsFile {
 public:
  NvidiaFile() = default;  // for Loader
  NvidiaFile(VfsPath path, int flags, Kernel& kernel, std::shared_ptr<nvproxy::OpenFile> file);
  ~NvidiaFile() override;

  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }

  const std::shared_ptr<nvproxy::OpenFile>& file() const { return file_; }

  state::Kind kind() const override { return kNvidiaFileKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;
  std::string CannotSave() const override;

 private:
  // What the driver's announcements find the file by, as long as it lives.
  struct Waker {
    NvidiaFile* file;
  };
  // Takes what the host's poll told once, for whoever asks next, and wakes them.
  class Relay final : public Waiter {
   public:
    explicit Relay(NvidiaFile& file) : file_(file) {}
    void OnEvent(uint32_t events) override;

   private:
    NvidiaFile& file_;
  };
  void Bind(Kernel& kernel, std::shared_ptr<nvproxy::OpenFile> file);

  Kernel* kernel_ = nullptr;
  std::shared_ptr<nvproxy::OpenFile> file_;
  std::shared_ptr<Waker> waker_;
  WaitQueue queue_;
  // Of a real file, whose descriptor the host waits for.
  WaitQueue host_queue_;
  std::unique_ptr<HostPoll::Source> source_;
  Relay relay_{*this};
  // At load: what Save() wrote, until AfterLoad().
  std::string saved_;
};

// Enters the devices into the table of special.h.
void RegisterNvidiaDevices();

}  // namespace amber
