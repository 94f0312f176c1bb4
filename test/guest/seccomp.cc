// A program's own seccomp filters.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <ucontext.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// Answers `action` for one call and lets all others pass.
void Install(long number, uint32_t action, unsigned flags = 0) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 4, .filter = code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

constexpr uint32_t Errno(int error) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error); }

}  // namespace

GUEST_TEST(Seccomp, ErrnoAction) {
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
  Install(SYS_getppid, Errno(E2BIG));
  EXPECT_ERRNO(syscall(SYS_getppid), E2BIG);
  EXPECT_OK(syscall(SYS_getpid));
  CheckpointHere();
  EXPECT_ERRNO(syscall(SYS_getppid), E2BIG);
  EXPECT_EQ(prctl(PR_GET_SECCOMP), 2);
}

GUEST_TEST(Seccomp, TrapAction) {
  static siginfo_t seen;
  Handle(SIGSYS, [](int, siginfo_t* info, void* context) {
    seen = *info;
    static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX] = 4711;
  });
  Install(SYS_getppid, SECCOMP_RET_TRAP | 77);
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_getppid), 4711);
  EXPECT_EQ(seen.si_signo, SIGSYS);
  EXPECT_EQ(seen.si_code, 1);  // SYS_SECCOMP
  EXPECT_EQ(seen.si_errno, 77);
  EXPECT_EQ(seen.si_syscall, SYS_getppid);
  EXPECT_EQ(seen.si_arch, AUDIT_ARCH_X86_64);
}

GUEST_TEST(Seccomp, KillProcess) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  const pid_t pid = Fork([] {
    Install(SYS_getppid, SECCOMP_RET_KILL_PROCESS);
    CountSignals(SIGSYS);  // Cannot be caught.
    syscall(SYS_getppid);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGSYS);
}

GUEST_TEST(Seccomp, KillThreadLeavesTheOthers) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  JOIN_OK(Fork([] {
    auto* gone = Shared<int>();
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* word) -> void* {
          Install(SYS_getppid, SECCOMP_RET_KILL_THREAD);
          syscall(SYS_getppid);
          *static_cast<int*>(word) = 1;
          return nullptr;
        },
        gone);
    pthread_join(thread, nullptr);
    EXPECT_EQ(*gone, 0);
    EXPECT_OK(syscall(SYS_getppid));  // Filters are per thread.
  }));
}

GUEST_TEST(Seccomp, InheritedByForkAndExec) {
  Install(SYS_getppid, Errno(ENODATA));
  JOIN_OK(Fork([] { EXPECT_ERRNO(syscall(SYS_getppid), ENODATA); }));
  JOIN_OK(Fork([] { execl(SelfPath(), SelfPath(), "@Filtered", nullptr); }));
  Thread other([] { EXPECT_ERRNO(syscall(SYS_getppid), ENODATA); });
}

GUEST_HELPER(Filtered) {
  EXPECT_ERRNO(syscall(SYS_getppid), ENODATA);
  ExitWithVerdict();
}

GUEST_TEST(Seccomp, StricterWins) {
  Install(SYS_getppid, Errno(EPERM));
  Install(SYS_getppid, SECCOMP_RET_ALLOW);
  EXPECT_ERRNO(syscall(SYS_getppid), EPERM);
  Install(SYS_getppid, Errno(ENODATA));
  EXPECT_ERRNO(syscall(SYS_getppid),
               ENODATA);  // Of equal actions the newest filter's value counts.
}

GUEST_TEST(Seccomp, SyncsAllThreads) {
  Gate installed;
  Thread other([&] {
    installed.Await();
    EXPECT_ERRNO(syscall(SYS_getppid), EPERM);
  });
  other.AwaitAsleep();
  Install(SYS_getppid, Errno(EPERM), SECCOMP_FILTER_FLAG_TSYNC);
  CheckpointHere();
  installed.Open();
}

GUEST_TEST(Seccomp, ArgumentsAreSeen) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 77, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, Errno(EMLINK)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = 6, .filter = code};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
  EXPECT_ERRNO(dup(77), EMLINK);
  EXPECT_ERRNO(dup(78), EBADF);
  EXPECT_OK(dup(1));
}

GUEST_TEST(Seccomp, BadFilters) {
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  sock_filter no_return[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)};
  sock_fprog program = {.len = 1, .filter = no_return};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  sock_filter out_of_bounds[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4096),
                                 BPF_STMT(BPF_RET | BPF_K, 0)};
  program = {.len = 2, .filter = out_of_bounds};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  sock_filter backwards[] = {BPF_JUMP(BPF_JMP | BPF_JA, 100, 0, 0), BPF_STMT(BPF_RET | BPF_K, 0)};
  program = {.len = 2, .filter = backwards};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  program.len = 0;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EINVAL);
  program.len = 2;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x8000, &program), EINVAL);
  EXPECT_ERRNO(syscall(SYS_seccomp, 99, 0, nullptr), EINVAL);
}

GUEST_TEST(Seccomp, UnprivilegedNeedsNoNewPrivileges) {
  if (geteuid() != 0) Skip("needs root to drop it");
  MUST(setresuid(1000, 1000, 1000));
  sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program = {.len = 1, .filter = allow};
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EACCES);
}

GUEST_TEST(Seccomp, StrictMode) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  pid_t pid = Fork([] {
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    syscall(SYS_write, 1, "", 0);
    syscall(SYS_exit, 0);
  });
  JOIN_OK(pid);
  pid = Fork([] {
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    syscall(SYS_getpid);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Seccomp, StatusTells) {
  EXPECT_EQ(ProcField("/proc/self/status", "Seccomp"), 0);
  Install(SYS_getppid, SECCOMP_RET_ALLOW);
  EXPECT_EQ(ProcField("/proc/self/status", "Seccomp"), 2);
}

GUEST_TEST(Seccomp, ActionAvailable) {
  uint32_t action = SECCOMP_RET_TRAP;
  EXPECT_OK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
  action = 0x12340000;
  EXPECT_ERRNO(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action), EOPNOTSUPP);
}
