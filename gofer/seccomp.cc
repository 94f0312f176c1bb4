#include "gofer/seccomp.h"

#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"

namespace amber::gofer {
namespace {

// (argument & mask) == value; mask 0: no condition.
struct Condition {
  unsigned argument = 0;
  uint64_t mask = 0;
  uint64_t value = 0;
};

struct Rule {
  int number;
  const char* name;
  const char* why;
  Condition condition = {};
};

#define RULE(call, ...) {SCMP_SYS(call), #call, __VA_ARGS__}
constexpr uint64_t kAllBits32 = 0xffffffff;

const Rule kRules[] = {
    // The protocol.
    RULE(recvmsg, "requests"),
    RULE(sendmsg, "answers"),
    // Looking up and reading.
    RULE(openat2, "look-ups; making files"),
    RULE(openat, "descriptors for the peer, and of directories to list; never makes a file", {2, O_CREAT, 0}),
    RULE(close, "descriptors"),
    RULE(fcntl, "copies of the attach points' roots", {1, kAllBits32, F_DUPFD_CLOEXEC}),
    RULE(statx, "attributes"),
    RULE(fstatfs, "statistics; telling kernel interfaces apart"),
    RULE(readlinkat, "symbolic links' targets"),
    RULE(getdents64, "listing"),
    RULE(fsync, "Fsync"),
    RULE(fdatasync, "Fsync"),
    // Changing.
    RULE(mkdirat, "MkDir"),
    RULE(symlinkat, "Symlink"),
    RULE(mknodat, "MkNod"),
    RULE(linkat, "Link"),
    RULE(renameat2, "Rename"),
    RULE(unlinkat, "Unlink"),
    RULE(umask, "modes of what is made"),
    RULE(fchownat, "owners"),
    RULE(chmod, "modes, by way of /proc/self/fd"),
    RULE(truncate, "sizes, by way of /proc/self/fd"),
    RULE(utimensat, "times"),
    RULE(getxattr, "extended attributes"),
    RULE(setxattr, "extended attributes"),
    RULE(listxattr, "extended attributes"),
    RULE(removexattr, "extended attributes"),
    // The C and C++ libraries.
    RULE(futex, "locks, the end of threads"),
    RULE(brk, "memory"),
    RULE(mmap, "memory, not executable", {2, PROT_EXEC, 0}),
    RULE(mprotect, "memory, not executable", {2, PROT_EXEC, 0}),
    RULE(munmap, "memory"),
    RULE(mremap, "memory"),
    RULE(madvise, "memory"),
    RULE(restart_syscall, "after a stop"),
    RULE(rt_sigreturn, "after a signal"),
    RULE(rt_sigprocmask, "abort; the end of threads"),
    RULE(getpid, "abort"),
    RULE(gettid, "abort"),
    RULE(tgkill, "abort", {2, kAllBits32, 6 /* SIGABRT */}),
    RULE(write, "the last words of a failed assertion, on standard error", {0, kAllBits32, 2}),
    RULE(exit, "the end of threads"),
    RULE(exit_group, "the end"),
};

// With --host-uds.
const Rule kSocketRules[] = {
    RULE(socket, "Unix sockets that are handed over", {0, kAllBits32, AF_UNIX}),
    RULE(connect, "Connect"),
    RULE(setgroups, "Connect, as the guest's user"),
    RULE(setresgid, "Connect, as the guest's user; only the effective one", {0, kAllBits32, kAllBits32}),
    RULE(setresuid, "Connect, as the guest's user; only the effective one", {0, kAllBits32, kAllBits32}),
    RULE(bind, "BindSocket"),
};
#undef RULE

absl::Status Fail(int error, const char* what) { return absl::InternalError(absl::StrCat("gofer: seccomp: ", what, ": ", strerror(-error))); }

absl::Status Add(scmp_filter_ctx context, std::span<const Rule> rules) {
  for (const Rule& rule : rules) {
    const Condition& c = rule.condition;
    scmp_arg_cmp compare = {c.argument, SCMP_CMP_MASKED_EQ, c.mask, c.value};
    int error = seccomp_rule_add_array(context, SCMP_ACT_ALLOW, rule.number, c.mask != 0 ? 1 : 0, &compare);
    if (error != 0) return Fail(error, rule.name);
  }
  return absl::OkStatus();
}

absl::Status Fill(scmp_filter_ctx context, bool sockets) {
  int error = seccomp_attr_set(context, SCMP_FLTATR_CTL_TSYNC, 1);
  if (error != 0) return Fail(error, "all threads");
  error = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  if (error != 0) return Fail(error, "foreign architectures");
  error = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a binary tree
  if (error != 0) return Fail(error, "optimize");
  if (absl::Status s = Add(context, kRules); !s.ok()) return s;
  if (sockets) {
    if (absl::Status s = Add(context, kSocketRules); !s.ok()) return s;
  }
  error = seccomp_load(context);
  if (error != 0) return Fail(error, "load");
  return absl::OkStatus();
}

void Describe(std::span<const Rule> rules, std::string* text) {
  for (const Rule& rule : rules) {
    absl::StrAppend(text, rule.name);
    const Condition& c = rule.condition;
    if (c.mask == kAllBits32) {
      absl::StrAppend(text, " [argument ", c.argument, " == ", c.value, "]");
    } else if (c.mask != 0) {
      absl::StrAppend(text, " [argument ", c.argument, " & 0x", absl::Hex(c.mask), " == 0x", absl::Hex(c.value), "]");
    }
    absl::StrAppend(text, ": ", rule.why, "\n");
  }
}

}  // namespace

std::string DescribeSeccompFilter() {
  std::string text;
  Describe(kRules, &text);
  absl::StrAppend(&text, "with --host-uds:\n");
  Describe(kSocketRules, &text);
  absl::StrAppend(&text, "anything else: end of the process\n");
  return text;
}

absl::Status InstallSeccompFilter(bool sockets) {
  scmp_filter_ctx context = seccomp_init(SCMP_ACT_KILL_PROCESS);
  if (context == nullptr) return absl::InternalError("gofer: seccomp: no memory");
  absl::Status status = Fill(context, sockets);
  seccomp_release(context);
  return status;
}

}  // namespace amber::gofer
