#include "runsc-cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace amber::cli {
namespace {

absl::Status Failed(std::string_view what) { return absl::InternalError(absl::StrCat("terminal: ", what, ": ", strerrordesc_np(errno))); }

absl::Status SendDescriptor(int socket, int fd, std::string_view name) {
  iovec part = {const_cast<char*>(name.data()), name.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &fd, sizeof(int));
  if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0) return Failed("sending the console");
  return absl::OkStatus();
}

}  // namespace

absl::Status RawMode::Enter(int terminal) {
  absl::StatusOr<UniqueFd> own = ReopenTerminal(terminal);
  if (!own.ok()) return own.status();
  if (tcgetattr(own->get(), &saved_) != 0) return Failed("tcgetattr");
  termios raw = saved_;
  cfmakeraw(&raw);
  if (tcsetattr(own->get(), TCSANOW, &raw) != 0) return Failed("tcsetattr");
  terminal_ = *std::move(own);
  return absl::OkStatus();
}

void RawMode::Restore() {
  if (!terminal_.valid()) return;
  // In the background this would stop us with SIGTTOU: ignored meanwhile.
  void (*before)(int) = signal(SIGTTOU, SIG_IGN);
  tcsetattr(terminal_.get(), TCSADRAIN, &saved_);
  signal(SIGTTOU, before);
  terminal_.reset();
}

absl::StatusOr<UniqueFd> ReopenTerminal(int fd) {
  UniqueFd own(open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!own.valid()) return Failed("cannot open the terminal again");
  if (isatty(own.get()) == 0) return absl::InvalidArgumentError("a terminal was asked for, and standard input is none");
  return own;
}

WindowSize SizeOf(int terminal) {
  winsize size = {};
  if (ioctl(terminal, TIOCGWINSZ, &size) != 0) return {};
  return {size.ws_row, size.ws_col};
}

absl::StatusOr<UniqueFd> SendConsole(const std::string& path, WindowSize size) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return absl::InvalidArgumentError("--console-socket: path too long");
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() || connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("--console-socket ", path, ": ", strerrordesc_np(errno)));
  }
  UniqueFd master(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master.valid()) return Failed("/dev/ptmx");
  int unlock = 0;
  if (ioctl(master.get(), TIOCSPTLCK, &unlock) != 0) return Failed("unlocking a pty");
  UniqueFd slave(ioctl(master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave.valid()) return Failed("opening the pty's slave");
  // The line discipline is the guest's: this pty only carries bytes.
  termios raw;
  if (tcgetattr(slave.get(), &raw) != 0) return Failed("tcgetattr");
  cfmakeraw(&raw);
  if (tcsetattr(slave.get(), TCSANOW, &raw) != 0) return Failed("tcsetattr");
  if (size.rows != 0 || size.columns != 0) {
    winsize wanted = {.ws_row = size.rows, .ws_col = size.columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ioctl(master.get(), TIOCSWINSZ, &wanted);
  }
  if (absl::Status status = SendDescriptor(socket.get(), master.get(), "/dev/ptmx"); !status.ok()) return status;
  return slave;
}

}  // namespace amber::cli
