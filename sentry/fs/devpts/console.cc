#include "sentry/fs/devpts/console.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sentry/fs/devpts/tty.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {
// What a terminal that polls writable surely takes.
constexpr size_t kSafeWrite = 256;
}  // namespace

TtyConsole::TtyConsole(Kernel& kernel, Tty& tty, UniqueFd fd) : tty_(tty), fd_(std::move(fd)) {
  host_queue_.Add(&host_pump_, POLLIN | POLLOUT);
  tty_.master_queue().Add(&tty_pump_, POLLIN | POLLOUT);
  ended_ = !fd_.valid();
  if (!ended_) source_.Register(kernel.host_poll(), fd_.get());
  Run(POLLIN | POLLOUT);
}

TtyConsole::~TtyConsole() = default;

uint32_t TtyConsole::Ready(short events) const { return HostPoll::Ready(fd_.get(), static_cast<uint16_t>(events)); }

void TtyConsole::Run(uint32_t) {
  // Input makes echo, which announces itself: the outer call goes round once more instead of an inner one.
  again_ = true;
  if (running_) return;
  running_ = true;
  while (again_) {
    again_ = false;
    Output();
    Input();
  }
  running_ = false;
}

void TtyConsole::Input() {
  while (!ended_ && tty_.MasterWriteRoom() > 0) {
    if ((Ready(POLLIN) & (POLLIN | POLLHUP)) == 0) return;
    char buffer[1024];
    ssize_t n = read(fd_.get(), buffer, std::min(sizeof(buffer), tty_.MasterWriteRoom()));
    if (n > 0) {
      // A signal flushes what is behind it only if it was already there; all of this fits.
      tty_.MasterWrite({buffer, static_cast<size_t>(n)});
      continue;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    // The terminal is gone. The pty stays, so that programs may still end in peace, but hears nothing any more.
    ended_ = true;
    source_.Unregister();
  }
}

void TtyConsole::Output() {
  while (!tty_.discipline().output().empty()) {
    if (ended_) {
      tty_.MasterRead(SIZE_MAX);
      return;
    }
    if ((Ready(POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) == 0) return;
    std::string& pending = tty_.discipline().output();
    ssize_t n = write(fd_.get(), pending.data(), std::min(pending.size(), kSafeWrite));
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) return;
      ended_ = true;
      continue;
    }
    tty_.MasterRead(static_cast<size_t>(n));
  }
}

}  // namespace amber
