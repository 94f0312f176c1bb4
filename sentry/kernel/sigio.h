// Signals of readiness: fcntl F_SETOWN, F_SETSIG and O_ASYNC (fs/fcntl.c).
//
// Owned by the File. Watches the file's queue while O_ASYNC is set. Guarded by the kernel lock.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_owner.h"

namespace amber {

class SigioOwner final : public FileOwner, public Waiter {
 public:
  enum class Kind : int { kThread = 0, kProcess = 1, kGroup = 2 };  // F_OWNER_*

  // That of `file`, made if there is none; null without `make`.
  static SigioOwner* Of(File& file, bool make);
  ~SigioOwner() override;

  // F_SETOWN: `id` 0 means nobody.
  void SetOwner(Task& by, Kind kind, int id);
  Kind owner_kind() const { return kind_; }
  int id() const { return id_; }
  uid_t uid() const { return uid_; }
  uid_t euid() const { return euid_; }
  int signo() const { return signo_; }
  void set_signo(int signo) { signo_ = signo; }
  // O_ASYNC is set, by way of descriptor `fd`, or taken away.
  void Arm(File& file, int fd);
  void Disarm() { Remove(); }

  void OnEvent(uint32_t events) override;

  std::string Save(state::Saver& saver) const;
  static bool Load(state::Loader& loader, File& file, const std::string& bytes);

 private:
  void Deliver(Task& to, const SigInfo& info) const;

  RefPtr<PidNamespace> pids_;
  Kind kind_ = Kind::kProcess;
  int id_ = 0;
  uid_t uid_ = 0, euid_ = 0;
  int signo_ = 0;  // 0: SIGIO without details
  int fd_ = -1;
};

}  // namespace amber
