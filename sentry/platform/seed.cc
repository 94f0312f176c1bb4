#include "sentry/platform/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "sentry/platform/filter.h"
#include "sentry/platform/stub_text.h"

namespace amber::platform {
namespace {

constexpr int64_t kPatience = 10;  // seconds for a step of a stub, if it is alive

void PlaceFilter(const std::vector<sock_filter>& filter, uint64_t offset, uint64_t end, std::vector<uint8_t>* text) {
  sock_fprog program = {static_cast<unsigned short>(filter.size()), reinterpret_cast<sock_filter*>(kTextAddress + offset + sizeof(sock_fprog))};
  size_t bytes = filter.size() * sizeof(sock_filter);
  AMBER_CHECK(offset + sizeof(program) + bytes <= end);
  memcpy(text->data() + offset, &program, sizeof(program));
  memcpy(text->data() + offset + sizeof(program), filter.data(), bytes);
}

// The stub's text as it will lie at kTextAddress: code, and the filters behind it.
std::vector<uint8_t> BuildText() {
  std::vector<uint8_t> text(kTextSize);
  size_t code = static_cast<size_t>(__stop_stub_text - __start_stub_text);
  AMBER_CHECK(code <= kFastEntryOffset);
  memcpy(text.data(), __start_stub_text, code);
  // jmp stub_fast_start
  int32_t distance = static_cast<int32_t>(StubAddress(stub_fast_start) - (kFastEntry + 5));
  text[kFastEntryOffset] = 0xe9;
  memcpy(text.data() + kFastEntryOffset + 1, &distance, sizeof(distance));
  PlaceFilter(BuildFilter(StubAddress(stub_sigreturn_end)), kFilterOffset, kTrapFilterOffset, &text);
  PlaceFilter(BuildTrapFilter(), kTrapFilterOffset, kTextSize, &text);
  return text;
}

// Finds the host's vDSO and its data pages. The address order is kept when they move.
void FindVdso(BootParams* params) {
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return;
  char line[512];
  while (fgets(line, sizeof(line), maps) != nullptr) {
    unsigned long start, end;
    if (strstr(line, "[vdso]") == nullptr && strstr(line, "[vvar") == nullptr) continue;
    if (sscanf(line, "%lx-%lx", &start, &end) != 2 || params->vdso_count == 4) continue;
    params->vdso[params->vdso_count++] = {start, end};
  }
  fclose(maps);
  if (params->vdso_count > 0 && params->vdso[params->vdso_count - 1].end - params->vdso[0].start > kVdsoLimit) {
    params->vdso_count = 0;
  }
}

bool Alive(int pidfd) {
  pollfd poll_fd = {pidfd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 0;
}

// Waits until *word is `value`. False if the process ends or says nothing for long.
bool Await(uint32_t* word, uint32_t value, int pidfd) {
  timespec step = {0, 50000000};
  for (int64_t i = 0; i < kPatience * 20; i++) {
    uint32_t now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (now == value) return true;
    syscall(SYS_futex, word, FUTEX_WAIT, now, &step);
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value && !Alive(pidfd)) return false;
  }
  return false;
}

void Post(uint32_t* word, uint32_t value) {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
  syscall(SYS_futex, word, FUTEX_WAKE, 1);
}

UniqueFd PidfdOpen(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

void KillAndReap(pid_t pid, int pidfd) {
  syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  int status;
  wait4(pid, &status, __WALL, nullptr);
}

}  // namespace

Seed::~Seed() {
  if (pid_ > 0) KillAndReap(pid_, pidfd_.get());
}

bool Seed::Start(std::string* error) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    *error = "cannot make a socket pair for the seed process";
    return false;
  }
  socket_.reset(sockets[0]);
  theirs_.reset(sockets[1]);
  stub_socket_ = sockets[1];
  std::vector<uint8_t> text = BuildText();
  BootParams params = {};
  params.text = text.data();
  params.text_size = text.size();
  if (__rseq_size != 0) {
    params.rseq_address = reinterpret_cast<uint64_t>(__builtin_thread_pointer()) + static_cast<uint64_t>(__rseq_offset);
    params.rseq_size = 32;  // as glibc registered it, whatever part it uses
  }
  params.memfd = windows_.fd();
  params.socket = stub_socket_;
  params.parent = getpid();
  FindVdso(&params);
  if (params.vdso_count > 0) {
    const auto& image = params.vdso[params.vdso_count - 1];
    vdso_address_ = kVdsoAddress + (image.start - params.vdso[0].start);
    vdso_size_ = image.end - image.start;
  }
  windows_.control()->order = 1;  // the seed waits for it to change
  // No signal handler of ours may run in the copy.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) StubBoot(&params);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) {
    *error = "cannot clone the seed process";
    return false;
  }
  pid_ = static_cast<pid_t>(pid);
  pidfd_ = PidfdOpen(pid_);
  if (!pidfd_.valid() || !Await(&windows_.control()->ack, 1, pidfd_.get())) {
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
    *error = "the seed process did not start (status " + std::to_string(info.si_status) + ")";
    return false;
  }
  return true;
}

ErrnoOr<ReadyStub> Seed::Clone() {
  ReadyStub stub;
  stub.lease = windows_.Allocate();
  if (stub.lease.window == nullptr) return Errno(ENOMEM);
  {
    absl::MutexLock lock(&mu_);
    Control* control = windows_.control();
    control->window = stub.lease.index;
    Post(&control->order, ++order_);
    if (!Await(&control->ack, order_, pidfd_.get()) || control->pid < 0) {
      int failure = control->pid == -ENOMEM ? ENOMEM : EAGAIN;
      windows_.Free(stub.lease);
      return Errno(failure);
    }
    stub.pid = control->pid;
  }
  stub.pidfd = PidfdOpen(stub.pid);
  if (stub.pidfd.valid()) return stub;
  int failure = errno;
  kill(stub.pid, SIGKILL);
  int status;
  wait4(stub.pid, &status, __WALL, nullptr);
  windows_.Free(stub.lease);
  return Errno(failure);
}

void Seed::Discard(ReadyStub stub) {
  KillAndReap(stub.pid, stub.pidfd.get());
  windows_.Free(stub.lease);
}

ErrnoOr<void> Seed::SendFds(std::span<const int> fds) {
  char byte = 0;
  iovec iov = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kBatchFds)] = {};
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  if (sendmsg(socket_.get(), &message, MSG_NOSIGNAL) == 1) return Ok();
  return Errno(errno);
}

ErrnoOr<void> Seed::Converse(ReadyStub& stub, std::span<const int> fds) {
  if (fds.empty()) return Converse(stub);
  // One stub at a time uses the socket: it must take its own descriptors.
  absl::MutexLock lock(&batch_mu_);
  TRY(SendFds(fds));
  ErrnoOr<void> done = Converse(stub);
  if (!done.ok()) Drain();
  return done;
}

ErrnoOr<void> Seed::Converse(ReadyStub& stub) {
  WindowHeader* header = &stub.lease.window->header;
  uint32_t order = header->order + 1;
  Post(&header->order, order);
  if (!Await(&header->ack, order, stub.pidfd.get())) return Errno(EAGAIN);
  if (header->result < 0) return Errno(-header->result);
  return Ok();
}

ErrnoOr<void> Seed::RunBatch(ReadyStub& stub, std::span<const StubOp> ops, bool last) {
  WindowHeader* header = &stub.lease.window->header;
  do {
    std::vector<int> fds;
    size_t n = 0;
    for (; n < ops.size() && n < kBatchMax; n++) {
      const StubOp& op = ops[n];
      BatchOp* out = &header->ops[n];
      out->number = op.number;
      std::copy(std::begin(op.args), std::end(op.args), out->args);
      out->fd_index = -1;
      out->fd_arg = op.fd_arg;
      if (op.fd < 0) continue;
      auto known = std::find(fds.begin(), fds.end(), op.fd);
      if (known == fds.end() && fds.size() == kBatchFds) break;
      out->fd_index = static_cast<int32_t>(known - fds.begin());
      if (known == fds.end()) fds.push_back(op.fd);
    }
    ops = ops.subspan(n);
    header->op_count = static_cast<uint32_t>(n);
    header->fd_count = static_cast<uint32_t>(fds.size());
    header->flags = last && ops.empty() ? kBatchLast : 0;
    header->socket = stub_socket_;
    TRY(Converse(stub, fds));
  } while (!ops.empty());
  return Ok();
}

// A stub that died may have left its message behind; the next one must not get it.
void Seed::Drain() {
  char byte;
  while (recv(theirs_.get(), &byte, 1, MSG_DONTWAIT) >= 0) {
  }
}

}  // namespace amber::platform
