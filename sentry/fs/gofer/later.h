// The change of attributes that a file system has answered and not made yet: later.cc. Kernel lock.
#pragma once

#include <memory>

#include "gofer/client.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/kernel/clock.h"

namespace amber {

class Kernel;

// One for each file system; one change at most waits in the whole sandbox.
class LaterChange {
 public:
  explicit LaterChange(GoferFileSystem& fs) : fs_(fs) {}
  ~LaterChange() {
    if (with_one_ == &fs_) Flush();
  }
  LaterChange(const LaterChange&) = delete;
  LaterChange& operator=(const LaterChange&) = delete;

  // Makes what waits.
  static void Flush();
  static bool Waits(uint64_t dev, uint64_t ino);
  static bool Waits(const GoferInode& inode);
  // What waits is about times, which a write would change, too.
  static bool ChangesTimes();

  // The tree lies on a file system that keeps whatever owner, mode and times it is given (vfat refuses some modes).
  void set_ordinary(bool on) { ordinary_ = on; }
  // A change was made at once: others of its kind may wait.
  void Worked(const GoferInode& inode, const gofer::AttributeChange& change);
  // False: the change is to be made at once.
  bool Take(Kernel& kernel, GoferInode& inode, const gofer::AttributeChange& change);

 private:
  bool MayWait(const GoferInode& inode, const gofer::AttributeChange& change) const;
  void Done(const ErrnoOr<gofer::Attributes>& result);
  void OnTimer();

  static GoferFileSystem* with_one_;

  GoferFileSystem& fs_;
  RefPtr<GoferInode> inode_;
  gofer::AttributeChange change_;
  int64_t since_ = 0;
  bool ordinary_ = false;
  uint64_t dev_ = 0;    // of the host
  uint32_t kinds_ = 0;  // SetAttrMask (gofer/protocol.h): what that device has taken
  Kernel* kernel_ = nullptr;
  std::unique_ptr<Timer> timer_;
};

}  // namespace amber
