// The machine as the guest sees it: uname(2), sysinfo(2), getrandom(2), personality(2), reboot(2).
#include <linux/capability.h>
#include <linux/reboot.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/fs/devpts/tty.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr size_t kHostNameMax = 64;

template <size_t N>
void Fill(char (&field)[N], const std::string& text) {
  text.copy(field, N - 1);
}

ErrnoOr<uint64_t> Uname(Task& task, UserPtr<utsname> out) {
  utsname u{};
  Fill(u.sysname, "Linux");
  Fill(u.nodename, task.uts().hostname);
  Fill(u.release, kKernelRelease);
  Fill(u.version, kKernelVersion);
  // override_release(), override_architecture(): what setarch(8) asks for.
  constexpr int kVersion = 18, kVersionOf26 = 60;
  if ((task.personality() & UNAME26) != 0) Fill(u.release, "2.6." + std::to_string(kVersion + kVersionOf26));
  Fill(u.machine, (task.personality() & PER_MASK) == PER_LINUX32 ? "i686" : "x86_64");
  Fill(u.domainname, task.uts().domainname);
  TRY(task.CopyOut(out, u));
  return 0;
}

ErrnoOr<uint64_t> SetUtsField(Task& task, UserPtr<const char> name, int length, std::string* field) {
  if (!task.creds().HasIn(task.uts().owner(), CAP_SYS_ADMIN)) return Errno(EPERM);
  if (length < 0 || static_cast<size_t>(length) > kHostNameMax) return Errno(EINVAL);
  std::string value(static_cast<size_t>(length), 0);
  TRY(task.CopyInBytes(name.address(), value.data(), value.size()));
  *field = value.substr(0, value.find('\0'));
  return 0;
}

ErrnoOr<uint64_t> Sethostname(Task& task, UserPtr<const char> name, int length) { return SetUtsField(task, name, length, &task.uts().hostname); }
ErrnoOr<uint64_t> Setdomainname(Task& task, UserPtr<const char> name, int length) { return SetUtsField(task, name, length, &task.uts().domainname); }

ErrnoOr<uint64_t> Sysinfo(Task& task, UserPtr<struct sysinfo> out) {
  struct sysinfo info{};
  info.uptime = (task.kernel().clocks().Boottime() + TimeOffsetsOf(task).boottime) / kNsPerSecond;
  // What /proc/meminfo says; the machine's other tenants are not told of.
  MemoryUse use = MemoryUsedBy(task.group().pids().Groups());
  info.totalram = MemoryOf(task.container());
  info.freeram = use.FreeOf(info.totalram);
  info.sharedram = use.shared;
  info.procs = static_cast<unsigned short>(std::min<size_t>(task.kernel().task_count(), 65535));
  info.mem_unit = 1;
  TRY(task.CopyOut(out, info));
  return 0;
}

ErrnoOr<uint64_t> Getrandom(Task& task, UserPtr<void> buffer, uint64_t size, unsigned flags) {
  if ((flags & ~(GRND_NONBLOCK | GRND_RANDOM | 4u /* GRND_INSECURE */)) != 0) return Errno(EINVAL);
  if ((flags & GRND_RANDOM) != 0 && (flags & 4u) != 0) return Errno(EINVAL);
  // random(4): what one call gives at most.
  UserSink sink(task, buffer, std::min<uint64_t>(size, 33'554'431));
  char chunk[4096];
  size_t done = 0;
  while (sink.remaining() > 0) {
    size_t n = std::min(sink.remaining(), sizeof(chunk));
    task.kernel().Random(chunk, n);
    auto put = sink.Put(chunk, n);
    if (!put.ok()) {
      if (done == 0) return put.error();
      break;
    }
    done += *put;
    if (*put < n) break;
  }
  return done;
}

ErrnoOr<uint64_t> Personality(Task& task, unsigned value) {
  uint32_t before = task.personality();
  if (value != 0xffffffff) {
    task.set_personality(value);
  }
  return before;
}

// kernel/printk/printk.c, do_syslog(), of a log in which nothing is ever written.
ErrnoOr<uint64_t> Syslog(Task& task, int type, UserPtr<char> buffer, int size) {
  constexpr int kRead = 2, kReadAll = 3, kReadClear = 4, kConsoleLevel = 8, kSizeOfBuffer = 10;
  constexpr uint64_t kLogSize = 1 << 18;
  if (type != kReadAll && type != kSizeOfBuffer && !task.Has(CAP_SYSLOG)) return Errno(EPERM);
  switch (type) {
    case kRead:
    case kReadAll:
    case kReadClear: return buffer.is_null() || size < 0 ? Errno(EINVAL) : ErrnoOr<uint64_t>(0);
    case kConsoleLevel: return size < 1 || size > 8 ? Errno(EINVAL) : ErrnoOr<uint64_t>(0);
    case kSizeOfBuffer: return kLogSize;
    default: return type < 0 || type > kSizeOfBuffer ? Errno(EINVAL) : ErrnoOr<uint64_t>(0);
  }
}

ErrnoOr<uint64_t> RestartSyscall(Task&) { return Errno(EINTR); }
ErrnoOr<uint64_t> NotPermitted(Task&) { return Errno(EPERM); }
ErrnoOr<uint64_t> ModifyLdt(Task&, int, UserPtr<void>, uint64_t) { return Errno(ENOSYS); }

// Every container's pid namespace is one below the machine's: its init ends as by a signal that says what was asked for (reboot_pid_ns), and
// all of the namespace with it, the caller too.
ErrnoOr<uint64_t> Reboot(Task& task, unsigned magic1, unsigned magic2, unsigned command) {
  PidNamespace& pids = task.group().pids();
  if (!task.creds().HasIn(pids.owner(), CAP_SYS_BOOT)) return Errno(EPERM);
  if (magic1 != LINUX_REBOOT_MAGIC1 ||
      (magic2 != LINUX_REBOOT_MAGIC2 && magic2 != LINUX_REBOOT_MAGIC2A && magic2 != LINUX_REBOOT_MAGIC2B && magic2 != LINUX_REBOOT_MAGIC2C)) {
    return Errno(EINVAL);
  }
  int signal = 0;
  switch (command) {
    case LINUX_REBOOT_CMD_RESTART:
    case LINUX_REBOOT_CMD_RESTART2: signal = SIGHUP; break;
    case LINUX_REBOOT_CMD_HALT:
    case LINUX_REBOOT_CMD_POWER_OFF: signal = SIGINT; break;
    default: return Errno(EINVAL);
  }
  TaskLifecycle& lifecycle = task.kernel().lifecycle();
  RefPtr<ThreadGroup> init(pids.init());
  if (init) lifecycle.KillGroup(*init, signal);
  if (!task.exiting()) lifecycle.ExitThread(task, 0);
  return kNoAnswer;
}

// vhangup(2): of the caller's controlling terminal, if it has one.
ErrnoOr<uint64_t> VHangup(Task& task) {
  if (!task.Has(CAP_SYS_TTY_CONFIG)) return Errno(EPERM);
  if (Tty* tty = task.group().session().tty(); tty != nullptr) tty->HangUp();
  return 0;
}

}  // namespace

void RegisterSystemCalls(SyscallTable& table) {
  table.Set(SYS_uname, Full<&Uname>());
  table.Set(SYS_sethostname, Full<&Sethostname>());
  table.Set(SYS_setdomainname, Full<&Setdomainname>());
  table.Set(SYS_sysinfo, Full<&Sysinfo>());
  table.Set(SYS_reboot, Full<&Reboot>());
  table.Set(SYS_getrandom, Full<&Getrandom>());
  table.Set(SYS_personality, Partial<&Personality>("PER_LINUX32, UNAME26 and ADDR_NO_RANDOMIZE have an effect"));
  table.Set(SYS_syslog, Partial<&Syslog>("the log is empty"));
  table.Set(SYS_restart_syscall, Full<&RestartSyscall>());
  table.Set(SYS_vhangup, Full<&VHangup>());
  table.Set(SYS_modify_ldt, Refused<&ModifyLdt>("as a kernel without CONFIG_MODIFY_LDT_SYSCALL"));
  for (int number : {SYS_swapon, SYS_swapoff, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_acct, SYS_iopl, SYS_ioperm, SYS_kexec_load,
                     SYS_quotactl}) {
    table.Set(number, Refused<&NotPermitted>("the machine is not the guest's"));
  }
}

}  // namespace amber
