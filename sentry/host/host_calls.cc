#include "sentry/host/host_calls.h"

#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstdio>

namespace amber {
namespace {

constexpr uint64_t kWord = 0xffffffff;  // ints: the kernel looks at the low half only
constexpr uint64_t kAll = ~uint64_t{0};

// Alternatives that each fix one argument.
std::vector<std::vector<ArgumentRule>> OneOf(unsigned index, std::initializer_list<uint64_t> values, uint64_t mask = kWord) {
  std::vector<std::vector<ArgumentRule>> out;
  for (uint64_t value : values) out.push_back({{index, mask, value}});
  return out;
}

#define CALL(name, ...) \
  HostCall { SYS_##name, #name, __VA_ARGS__ }

// PAGEMAP_SCAN is younger than Debian 12's headers: _IOWR('f', 16, struct pm_scan_arg of 96 bytes).
constexpr uint64_t kPagemapScan = 0xc0606610;
constexpr uint64_t kNotifSetFlags = 0x40082104;  // SECCOMP_IOCTL_NOTIF_SET_FLAGS

std::vector<HostCall> MakeHostCalls() {
  return {
      // Platform: stubs, notifications, guest memory.
      CALL(ioctl, "listeners (receive, send, descriptors), terminals of the user, page state and faults of stubs, flags of files (lsattr)",
           OneOf(1, {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, SECCOMP_IOCTL_NOTIF_ID_VALID, SECCOMP_IOCTL_NOTIF_ADDFD, kNotifSetFlags,
                     kPagemapScan, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WRITEPROTECT, UFFDIO_WAKE, UFFDIO_COPY, UFFDIO_ZEROPAGE,
                     UFFDIO_CONTINUE, TIOCGWINSZ, TCGETS, FIONREAD, FIONBIO, FS_IOC_GETFLAGS})),
      CALL(process_vm_readv, "copies from guest memory; only stubs share the sentry's pid namespace"),
      CALL(process_vm_writev, "copies to guest memory"),
      CALL(pidfd_open, "watches stubs; pids of the sentry's own namespace"),
      CALL(pidfd_getfd, "fetches a new stub's listener, and the userfaultfd that a stub has made"),
      CALL(pidfd_send_signal, "kills stubs without a race on their number"),
      CALL(tgkill, "kicks stub threads and the sentry's own; nothing else is in the pid namespace"),
      CALL(kill, "ends stubs"),
      CALL(wait4, "reaps stubs"),
      CALL(waitid, "reaps stubs by pidfd"),
      CALL(futex, "locks, and wakes of words in mailboxes"),
      CALL(memfd_create, "mailboxes, tmpfs, shared memory of the guest"),
      CALL(ftruncate, "sizes of memfds; guest truncates files it may write"),
      CALL(fallocate, "holes in memfds; guest's fallocate"),
      // Own memory and threads.
      CALL(mmap, "heap, stacks, mailboxes, file windows; not executable", {{{2, PROT_EXEC, 0}}}),
      CALL(munmap, "heap, stacks, mailboxes"),
      CALL(mprotect, "stack guards, heap; not executable", {{{2, PROT_EXEC, 0}}}),
      CALL(mremap, "growth of large heap blocks"),
      CALL(madvise, "gives free memory back"),
      CALL(brk, "growth of the heap"),
      CALL(clone, "threads, never processes", {{{0, CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, CLONE_THREAD | CLONE_VM | CLONE_SIGHAND}}}),
      CALL(set_robust_list, "start of a thread"),
      CALL(rseq, "start of a thread"),
      CALL(sigaltstack, "start of a thread"),
      CALL(exit, "end of a thread"),
      CALL(exit_group, "end of the sandbox"),
      CALL(prctl, "names of threads and mappings", OneOf(0, {PR_SET_NAME, PR_SET_VMA})),
      CALL(sched_yield, "spinning waits"),
      CALL(sched_getaffinity, "number of CPUs"),
      CALL(sched_setaffinity, "processors that guest threads ask for"),
      CALL(sched_getscheduler, "a contended absl::Mutex looks at its thread's priority"),
      CALL(sched_getparam, "a contended absl::Mutex looks at its thread's priority"),
      CALL(sysinfo, "memory of the machine, for the guest's /proc/meminfo"),
      CALL(gettid, "own threads"),
      CALL(getpid, "own process"),
      CALL(rt_sigprocmask, "own threads"),
      CALL(rt_sigreturn, "return from the SIGSYS and interrupt handlers"),
      CALL(rt_sigaction, "interrupt handlers of workers"),
      CALL(restart_syscall, "the kernel's own restart of a sleep"),
      CALL(getrandom, "guest's random bytes, address layout"),
      // Time.
      CALL(clock_gettime, "clocks the vDSO cannot answer"),
      CALL(clock_nanosleep, "kick escalation, pauses"),
      CALL(timerfd_create, "guest timers"),
      CALL(timerfd_settime, "guest timers"),
      // Files: descriptors that the gofer, the CLI or memfd_create gave. No call here takes a path, but for openat.
      CALL(openat, "pagemap and mem of stubs below the sentry's /proc, the only thing in its root"),
      CALL(read, "files, pipes, event descriptors"),
      CALL(write, "files, pipes, event descriptors"),
      CALL(readv, "scattered reads of files and standard input"),
      CALL(writev, "gathered writes to files and standard output"),
      CALL(pread64, "reads of files at an offset"),
      CALL(pwrite64, "writes of files at an offset"),
      CALL(preadv2, "scattered reads at an offset, non-blocking reads"),
      CALL(pwritev2, "gathered writes at an offset, appends"),
      CALL(lseek, "SEEK_DATA and SEEK_HOLE of files"),
      CALL(newfstatat, "size and kind of descriptors (the C library's fstat); the root holds nothing but proc"),
      CALL(fsync, "guest's fsync"),
      CALL(fdatasync, "guest's fdatasync"),
      CALL(sync_file_range, "keeps a checkpoint's writing steady"),
      CALL(copy_file_range, "file copies that stay in the host"),
      CALL(fadvise64, "read-ahead of files and images"),
      CALL(close, "descriptors"),
      CALL(fcntl, "descriptor flags, pipe sizes, seals of memfds",
           OneOf(1, {F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, 1031 /* F_SETPIPE_SZ */, 1032 /* F_GETPIPE_SZ */, 1033 /* F_ADD_SEALS */,
                     1034 /* F_GET_SEALS */})),
      CALL(poll, "readiness of standard descriptors and listeners"),
      CALL(epoll_create1, "event loops"),
      CALL(epoll_ctl, "event loops"),
      CALL(epoll_wait, "event loops"),
      CALL(eventfd2, "wake-ups of event loops"),
      // Messages: to the gofer, the CLI and the waiters, on sockets that exist already.
      CALL(sendmsg, "requests to the gofer, answers to the CLI"),
      CALL(recvmsg, "answers of the gofer, requests of the CLI"),
      CALL(sendto, "wait status to a waiter", {{{4, kAll, 0}}}),
      CALL(recvfrom, "signals from a waiter", {{{4, kAll, 0}}}),
      CALL(accept4, "new connections at the control socket"),
  };
}

std::vector<HostCall> MakeHostNetworkCalls() {
  return {
      CALL(socket, "guest's internet sockets",
           {{{0, kWord, AF_INET}, {1, 0xf, SOCK_STREAM}},
            {{0, kWord, AF_INET}, {1, 0xf, SOCK_DGRAM}},
            {{0, kWord, AF_INET6}, {1, 0xf, SOCK_STREAM}},
            {{0, kWord, AF_INET6}, {1, 0xf, SOCK_DGRAM}}}),
      CALL(bind, "guest's sockets"),
      CALL(listen, "guest's sockets"),
      CALL(connect, "guest's sockets"),
      CALL(shutdown, "guest's sockets"),
      CALL(getsockname, "guest's sockets"),
      CALL(getpeername, "guest's sockets"),
      CALL(getsockopt, "guest's sockets"),
      CALL(setsockopt, "guest's sockets"),
  };
}

std::vector<HostCall> MakeHostSocketCalls() {
  return {
      CALL(listen, "Unix sockets that the gofer bound"),
      CALL(shutdown, "Unix sockets that the gofer made, and connections to them"),
      CALL(getsockopt, "their pending error", {{{1, kWord, SOL_SOCKET}, {2, kWord, SO_ERROR}}}),
      CALL(ioctl, "what they have not sent yet", OneOf(1, {TIOCOUTQ})),
  };
}

#undef CALL

void Describe(const HostCall& call, std::string* out) {
  char line[256];
  snprintf(line, sizeof(line), "%-20s %s\n", call.name, call.reason);
  *out += line;
  for (const auto& alternative : call.alternatives) {
    *out += "    only if";
    const char* separator = " ";
    for (const ArgumentRule& rule : alternative) {
      if (rule.mask == kWord || rule.mask == kAll) {
        snprintf(line, sizeof(line), "%sargument %u = 0x%llx", separator, rule.index, static_cast<unsigned long long>(rule.value));
      } else {
        snprintf(line, sizeof(line), "%sargument %u & 0x%llx = 0x%llx", separator, rule.index, static_cast<unsigned long long>(rule.mask),
                 static_cast<unsigned long long>(rule.value));
      }
      *out += line;
      separator = ", ";
    }
    *out += "\n";
  }
}

}  // namespace

std::span<const HostCall> HostCalls() {
  static const std::vector<HostCall>* calls = new std::vector<HostCall>(MakeHostCalls());
  return *calls;
}

std::span<const HostCall> HostNetworkCalls() {
  static const std::vector<HostCall>* calls = new std::vector<HostCall>(MakeHostNetworkCalls());
  return *calls;
}

std::span<const HostCall> HostSocketCalls() {
  static const std::vector<HostCall>* calls = new std::vector<HostCall>(MakeHostSocketCalls());
  return *calls;
}

std::string DescribeHostCalls() {
  std::string out = "Host calls of every sentry: " + std::to_string(HostCalls().size()) + "\n\n";
  for (const HostCall& call : HostCalls()) Describe(call, &out);
  out += "\nIn addition with --network=host: " + std::to_string(HostNetworkCalls().size()) + "\n\n";
  for (const HostCall& call : HostNetworkCalls()) Describe(call, &out);
  out += "\nIn addition with --host-uds: " + std::to_string(HostSocketCalls().size()) + "\n\n";
  for (const HostCall& call : HostSocketCalls()) Describe(call, &out);
  return out;
}

}  // namespace amber
