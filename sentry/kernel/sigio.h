// Signals of readiness: fcntl F_SETOWN, F_SETSIG and O_ASYNC (fs/fcntl.c). And record locks on what has no place in the tree.
//
// Owned by the File. Watches the file's queue while O_ASYNC is set. Guarded by the kernel lock.
//
// A signal may end a process at once, with all that it has open, and so must not be sent while a file tells its queue of something: it is noted, and
// sent by DeliverDue() when the call or callback that made the file ready is over, before anybody sees its result.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_owner.h"

namespace amber {

class DirNotify;
class FdTable;
class FileLocks;
class LandlockRuleset;
struct VfsPath;

class SigioOwner final : public FileOwner, public Waiter {
 public:
  enum class Kind : int { kThread = 0, kProcess = 1, kGroup = 2 };  // F_OWNER_*

  // It is of a kind that tells by signals that it is ready (->fasync() in Linux).
  static bool Tells(const File& file);
  // That of `file`, made if there is none; null without `make`.
  static SigioOwner* Of(File& file, bool make);
  SigioOwner();
  ~SigioOwner() override;

  // F_SETOWN: `id` 0 means nobody.
  void SetOwner(Task& by, Kind kind, int id);
  Kind owner_kind() const { return target_.kind; }
  int id() const { return target_.id; }
  uid_t uid() const { return target_.uid; }
  uid_t euid() const { return target_.euid; }
  int signo() const { return signo_; }
  void set_signo(int signo) { signo_ = signo; }
  // O_ASYNC is set, by way of descriptor `fd`, or taken away.
  void Arm(File& file, int fd);
  void Disarm() { Remove(); }
  // F_NOTIFY of a directory, by way of descriptor `fd`: `argument` has DN_* bits, or none to end it. ENOMEM: too
  // many watch it.
  ErrnoOr<void> WatchDirectory(const VfsPath& dir, int fd, uint32_t argument);

  // Locks and hint of a file that has neither an inode nor another keeper (LockKeeper): a socket, an eventfd. Linux has one inode for all of the
  // latter; here each open file has its own, so that strangers do not meet. Null without `make` if there are none.
  FileLocks* locks(bool make);
  void OnClose(Task& task) override;

  void OnEvent(uint32_t events) override;
  // SIGURG, which needs neither O_ASYNC nor F_SETSIG (send_sigurg()).
  void TellUrgent();
  // Sends the signals that are due.
  static void DeliverDue();

  std::string Save(state::Saver& saver) const;
  static bool Load(state::Loader& loader, File& file, const std::string& bytes);
  // `table` was loaded and has the file: locks that an image gives it are its own.
  void ConfirmLocks(const FdTable& table);

 private:
  // Who is to be told, and on whose behalf.
  struct Target {
    RefPtr<PidNamespace> pids;
    Kind kind = Kind::kProcess;
    int id = 0;
    uid_t uid = 0, euid = 0;
    RefPtr<LandlockRuleset> domain;  // of who set it, if it is about others
  };
  struct Due {
    SigioOwner* owner;  // null once that is gone
    Target target;
    SigInfo info;
    uint32_t code;  // its bit in due_codes_
  };
  static bool IsOwn(Task& by, Kind kind, int id);
  static std::deque<Due>& AllDue();
  static void Send(const Target& target, const SigInfo& info);
  static void Deliver(const Target& target, Task& to, const SigInfo& info);

  Target target_;
  int signo_ = 0;  // 0: SIGIO without details
  int fd_ = -1;
  std::unique_ptr<DirNotify> dir_notify_;
  std::unique_ptr<FileLocks> locks_;
  uint32_t due_codes_ = 0;  // bits 1 << si_code of its signals that are due
};

// The locks and hints of what `file` is open on: its inode's, its own keeper's (LockKeeper), or its owner's. Null without `make` if there are none.
FileLocks* LocksOf(File& file, bool make);

}  // namespace amber
