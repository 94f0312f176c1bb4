#include "test/harness/guest_util.h"

#include <dirent.h>
#include <grp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace guest {
namespace {

constexpr size_t kMostFds = 300;

int signal_count = 0;
siginfo_t last_signal = {};

void RemoveTree(int parent, const char* name) {
  const int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder >= 0) {
    fchmod(folder, 0700);
    DIR* stream = fdopendir(folder);
    while (const dirent* entry = readdir(stream)) {
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      if (unlinkat(folder, entry->d_name, 0) < 0) RemoveTree(folder, entry->d_name);
    }
    closedir(stream);
  }
  unlinkat(parent, name, AT_REMOVEDIR);
}

}  // namespace

int WaitStatus(pid_t pid) {
  int status = 0;
  pid_t got = 0;
  do {
    got = waitpid(pid, &status, 0);
  } while (got < 0 && errno == EINTR);
  MUST(got);
  return status;
}

void JoinOkAt(const char* file, int line, pid_t pid) {
  const int status = WaitStatus(pid);
  if (WIFSIGNALED(status)) Fail(file, line, false, "the child was killed by signal %d", WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
    Fail(file, line, false, "the child exited with %d", WEXITSTATUS(status));
  }
}

char ThreadState(pid_t pid, pid_t tid) {
  char text[512] = {};
  const int fd = open(Str("/proc/%d/task/%d/stat", pid, tid), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (length <= 0) return 0;
  const char* after_name = strrchr(text, ')');
  return after_name != nullptr ? after_name[2] : 0;
}

void AwaitState(pid_t pid, pid_t tid, char state) {
  char seen = 0;
  for (const int64_t start = NowNs(); NowNs() - start < 20'000 * kMs; SleepMs(2)) {
    seen = ThreadState(pid, tid);
    if (seen == state) return;
  }
  Fail(__FILE__, __LINE__, true, "thread %d of %d is in state '%c', never in '%c'", tid, pid, seen, state);
}

int64_t NowNs(clockid_t clock) {
  timespec now = {};
  MUST(clock_gettime(clock, &now));
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void SleepMs(int64_t ms) {
  timespec left = Ns(ms * kMs);
  while (nanosleep(&left, &left) < 0 && errno == EINTR) {
  }
}

Pipe::Pipe(int flags) {
  int ends[2] = {};
  MUST(pipe2(ends, flags));
  r = ends[0];
  w = ends[1];
}

void Pipe::CloseRead() {
  if (r >= 0) close(r);
  r = -1;
}

void Pipe::CloseWrite() {
  if (w >= 0) close(w);
  w = -1;
}

void Gate::Await() {
  char byte = 0;
  ssize_t got = 0;
  do {
    got = read(pipe_.r, &byte, 1);
  } while (got < 0 && errno == EINTR);
  ASSERT_EQ(got, 1);
}

Str::Str(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text_, sizeof(text_), format, arguments);
  va_end(arguments);
}

TempDir::TempDir() {
  strcpy(path_, "/tmp/guest.XXXXXX");
  if (mkdtemp(path_) == nullptr) Fail(__FILE__, __LINE__, true, "mkdtemp: %s", ErrnoName(errno));
  chmod(path_, 0755);
}

TempDir::~TempDir() { RemoveTree(AT_FDCWD, path_); }

int TempFile(const char* content) {
  char path[] = "/tmp/guest.XXXXXX";
  const int fd = MUST(mkstemp(path));
  MUST(unlink(path));
  const size_t length = strlen(content);
  if (length > 0) ASSERT_EQ(write(fd, content, length), length);
  MUST(lseek(fd, 0, SEEK_SET));
  return fd;
}

void WriteFile(const char* path, const void* data, size_t size, mode_t mode) {
  const int fd = MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (size > 0) ASSERT_EQ(write(fd, data, size), size);
  close(fd);
}

size_t ReadFile(const char* path, char* buffer, size_t size) {
  const int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
  size_t length = 0;
  while (length < size - 1) {
    const ssize_t got = MUST(read(fd, buffer + length, size - 1 - length));
    if (got == 0) break;
    length += got;
  }
  close(fd);
  buffer[length] = '\0';
  return length;
}

int64_t ProcField(const char* path, const char* name, int base) {
  static char text[65536];
  ReadFile(path, text, sizeof(text));
  const size_t length = strlen(name);
  for (const char* line = text; line != nullptr && *line != '\0';) {
    if (strncmp(line, name, length) == 0 && line[length] == ':') return strtoll(line + length + 1, nullptr, base);
    line = strchr(line, '\n');
    if (line != nullptr) ++line;
  }
  return -1;
}

char* Pages(size_t count, int protection) {
  return static_cast<char*>(MUST(mmap(nullptr, count * kPage, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
}

void BecomeUser(unsigned id) {
  MUST(setgroups(0, nullptr));
  MUST(setresgid(id, id, id));
  MUST(setresuid(id, id, id));
}

sigset_t Signals(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (int number : numbers) sigaddset(&set, number);
  return set;
}

void Block(std::initializer_list<int> numbers) {
  const sigset_t set = Signals(numbers);
  MUST(sigprocmask(SIG_BLOCK, &set, nullptr));
}

void Unblock(std::initializer_list<int> numbers) {
  const sigset_t set = Signals(numbers);
  MUST(sigprocmask(SIG_UNBLOCK, &set, nullptr));
}

void Handle(int number, void (*handler)(int, siginfo_t*, void*), int flags) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = flags | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  MUST(sigaction(number, &action, nullptr));
}

void CountSignals(int number, int flags) {
  Handle(
      number,
      [](int, siginfo_t* info, void*) {
        last_signal = *info;
        __atomic_fetch_add(&signal_count, 1, __ATOMIC_SEQ_CST);
      },
      flags);
}

int SignalCount() { return __atomic_load_n(&signal_count, __ATOMIC_SEQ_CST); }

const siginfo_t& LastSignal() { return last_signal; }

int Queued(int fd) {
  int bytes = -1;
  MUST(ioctl(fd, FIONREAD, &bytes));
  return bytes;
}

void ExpectContent(int fd, const char* expected) {
  char text[256] = {};
  EXPECT_EQ(pread(fd, text, sizeof(text) - 1, 0), strlen(expected));
  EXPECT_STREQ(text, expected);
}

void ExpectUids(uid_t real, uid_t effective, uid_t saved) {
  uid_t r = 0, e = 0, s = 0;
  MUST(getresuid(&r, &e, &s));
  EXPECT_EQ(r, real);
  EXPECT_EQ(e, effective);
  EXPECT_EQ(s, saved);
}

ssize_t SendFds(int socket, const int* fds, size_t count, int flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))] = {};
  char byte = 'f';
  iovec data = {&byte, 1};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  return sendmsg(socket, &message, flags);
}

int ReceiveFds(int socket, int* fds, size_t room, int flags, int* got_flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))] = {};
  char bytes[16];
  iovec data = {bytes, sizeof(bytes)};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = room == 0 ? 0 : CMSG_LEN(room * sizeof(int));
  if (recvmsg(socket, &message, flags) < 0) return -1;
  if (got_flags != nullptr) *got_flags = message.msg_flags;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return 0;
  const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  if (fds != nullptr) memcpy(fds, CMSG_DATA(header), count * sizeof(int));
  return static_cast<int>(count);
}

}  // namespace guest
