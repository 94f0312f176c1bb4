#include "sentry/kernel/strace.h"

#include <string.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr size_t kShownPath = 256;

std::string Name(uint64_t number) {
  const char* name = SyscallName(number);
  return name != nullptr ? name : absl::StrFormat("syscall_%d", number);
}

void WriteLine(int fd, const std::string& line) { (void)!write(fd, line.data(), line.size()); }

}  // namespace

std::string Strace::Arguments(Task& task) const {
  const SyscallState& call = task.syscall();
  const SyscallEntry* entry = SyscallTable::Get().Find(call.number);
  int count = entry != nullptr && entry->handler != nullptr ? entry->arg_count : 6;
  std::string out;
  for (int i = 0; i < count; ++i) {
    if (i > 0) out += ", ";
    ArgKind kind = entry != nullptr && entry->handler != nullptr ? entry->args[i] : ArgKind::kHex;
    uint64_t value = call.args[i];
    switch (kind) {
      case ArgKind::kInt:
        absl::StrAppend(&out, static_cast<int32_t>(value) == static_cast<int64_t>(value) ? static_cast<int64_t>(value)
                                                                                         : static_cast<int64_t>(static_cast<int32_t>(value)));
        break;
      case ArgKind::kUnsigned: absl::StrAppend(&out, static_cast<uint32_t>(value)); break;
      case ArgKind::kString: {
        auto text = task.CopyInString(UserPtr<const char>(value), kShownPath);
        if (text.ok()) {
          absl::StrAppend(&out, "\"", absl::CEscape(*text), "\"");
          break;
        }
        [[fallthrough]];
      }
      default: absl::StrAppendFormat(&out, "%#x", value);
    }
  }
  return out;
}

void Strace::Enter(Task& task) {
  // A line of its own for what may take long or never return; the end then repeats the name.
  task.strace_arguments_ = Arguments(task);
}

void Strace::Exit(Task& task, int64_t result) {
  std::string line =
      absl::StrFormat("[%d:%d] %s %s(%s) = ", task.pid(), task.tid(), task.name(), Name(task.syscall().number), task.strace_arguments_);
  if (result <= -512 && result >= -516) {
    line += "? (to be restarted)";
  } else if (result < 0 && result >= -4095) {
    absl::StrAppend(&line, "-1 ", strerrorname_np(static_cast<int>(-result)), " (", strerrordesc_np(static_cast<int>(-result)), ")");
  } else if (result >= 0 && result < 1 << 20) {
    absl::StrAppend(&line, result);
  } else {
    absl::StrAppendFormat(&line, "%#x", static_cast<uint64_t>(result));
  }
  line += "\n";
  WriteLine(fd_, line);
}

void Strace::Fault(Task& task, int signo, uint64_t address, uint64_t ip) {
  WriteLine(fd_, absl::StrFormat("[%d:%d] %s --- SIG%s at %#x, ip %#x ---\n", task.pid(), task.tid(), task.name(), sigabbrev_np(signo), address, ip));
}

}  // namespace amber
