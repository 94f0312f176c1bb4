// Rounds of long calls (rw_util.h).

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/served_call.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

// Of a file whose server is a guest: the record of a round is gone through for each of its requests.
constexpr uint64_t kServedPiece = 1 << 20;
// As no other read or write waits, so that it is known again.
constexpr Errno kDeviceRound = kErestartnohand;

}  // namespace

Errno GoOn(Task& task, Errno on_signal) {
  // What this round has asked others is used up: the next one asks anew.
  task.extras().served.reset();
  task.syscall().deadline = kNever;
  // Whoever waits for the kernel lock needs as long to wake up; without it the timer, which is awake, has the lock first each time.
  return task.Block({}, task.kernel().clocks().Monotonic() + kOthersTurn, on_signal);
}

Errno GoOnWith(Task& task, const File& file) {
  // read_iter_zero() and its like look for signals; what is done counts then.
  return GoOn(task, file.kind() == state::Kind::kDeviceFile ? kDeviceRound : kKillable);
}

void BeginRound(Task& task) {
  const SyscallState& call = task.syscall();
  if (!call.restarted || (call.on_signal != kKillable.number() && call.on_signal != kDeviceRound.number())) return;
  task.syscall().deadline = kNever;
  task.syscall().timed_out = false;
}

uint64_t PieceOf(const File& file) {
  const VfsPath* path = file.path();
  if (path != nullptr && ServedInode::From(*path->inode()) != nullptr) return kServedPiece;
  return const_cast<File&>(file).wait_queue() != nullptr ? UINT64_MAX : kPiece;
}

}  // namespace amber
