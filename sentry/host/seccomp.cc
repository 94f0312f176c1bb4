#include "sentry/host/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "sentry/base/sandbox_log.h"
#include "sentry/base/unique_fd.h"
#include "sentry/host/host_calls.h"

namespace amber {
namespace {

// A call that is not in the table is a bug of ours, or somebody took the sentry over. Either way it was not
// executed; say which one it was and end the sandbox.
void OnForbiddenCall(int, siginfo_t* info, void*) {
  char text[] = "sentry: host call 00000 is not in the table of host calls (sentry/host/host_calls.cc)";
  char* digit = strchr(text, '0') + 4;
  for (unsigned n = static_cast<unsigned>(info->si_syscall) % 100000; n != 0; n /= 10) {
    *digit-- = static_cast<char>('0' + n % 10);
  }
  (void)!write(STDERR_FILENO, text, sizeof(text) - 1);
  (void)!write(STDERR_FILENO, "\n", 1);
  LogNote(text);
  _exit(70);
}

absl::Status Failed(const char* what, int error) { return absl::InternalError(absl::StrCat("seccomp: ", what, ": ", strerrordesc_np(error))); }

int AddRule(scmp_filter_ctx filter, const HostCall& call, const std::vector<ArgumentRule>& conditions) {
  scmp_arg_cmp compared[6];
  unsigned count = 0;
  for (const ArgumentRule& rule : conditions) {
    compared[count++] = {.arg = rule.index, .op = SCMP_CMP_MASKED_EQ, .datum_a = rule.mask, .datum_b = rule.value};
  }
  int error = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call.number, count, compared);
  return error == -EEXIST ? 0 : error;  // of two lists
}

int AddCalls(scmp_filter_ctx filter, std::span<const HostCall> calls) {
  for (const HostCall& call : calls) {
    if (call.alternatives.empty()) {
      if (int error = AddRule(filter, call, {})) return error;
    }
    for (const auto& alternative : call.alternatives) {
      if (int error = AddRule(filter, call, alternative)) return error;
    }
  }
  return 0;
}

}  // namespace

absl::Status InstallHostCallFilter(bool host_network, std::span<const HostCall> more) {
  struct Release {
    void operator()(void* filter) const { seccomp_release(filter); }
  };
  std::unique_ptr<void, Release> filter(seccomp_init(SCMP_ACT_TRAP));
  if (filter == nullptr) return Failed("init", ENOMEM);
  seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  int error = AddCalls(filter.get(), HostCalls());
  if (error == 0 && host_network) error = AddCalls(filter.get(), HostNetworkCalls());
  if (error == 0) error = AddCalls(filter.get(), more);
  // Its arguments lie in memory, where a filter cannot see them; the C library falls back to clone.
  if (error == 0) error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SYS_clone3, 0);
  if (error != 0) return Failed("rule", -error);

  struct sigaction action = {};
  action.sa_sigaction = OnForbiddenCall;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSYS, &action, nullptr);
  error = seccomp_load(filter.get());
  if (error != 0) return Failed("load", -error);
  return absl::OkStatus();
}

}  // namespace amber
