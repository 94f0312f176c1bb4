#include "sentry/fs/cgroup/cgroup_text.h"

#include <algorithm>
#include <set>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    size_t end = std::min(text.find_first_of(" \t\n"), text.size());
    if (end > 0) out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::optional<int64_t> AnyNumber(std::string_view text) {
  bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || text[0] == '-' || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return negative ? -value : value;
}

ErrnoOr<uint64_t> Bytes(std::string_view text, std::string_view all) {
  if (text == all) return Cgroup::kMax;
  int shift = 0;
  if (!text.empty()) {
    switch (text.back() | 0x20) {
      case 'k': shift = 10; break;
      case 'm': shift = 20; break;
      case 'g': shift = 30; break;
      case 't': shift = 40; break;
      default: break;
    }
  }
  if (shift != 0) text.remove_suffix(1);
  std::optional<uint64_t> number = Number<uint64_t>(text);
  if (!number || *number > (~uint64_t{0} >> shift)) return Errno(EINVAL);
  return (*number << shift) & ~uint64_t{4095};
}

ErrnoOr<cpu_set_t> ParseCpus(std::string_view text) {
  cpu_set_t set;
  CPU_ZERO(&set);
  while (!text.empty()) {
    size_t end = std::min(text.find(','), text.size());
    std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    size_t dash = part.find('-');
    std::optional<int> first = Number<int>(part.substr(0, std::min(dash, part.size())));
    std::optional<int> last = dash == std::string_view::npos ? first : Number<int>(part.substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first) return Errno(EINVAL);
    if (static_cast<uint32_t>(*last) >= Cgroup::PossibleCpus()) return Errno(ERANGE);
    for (int cpu = *first; cpu <= *last; ++cpu) CPU_SET(cpu, &set);
  }
  return set;
}

ErrnoOr<Task*> FindNumbered(Task& writer, std::string_view text) {
  std::optional<int> id = Number<int>(text);
  if (!id || *id < 0) return Errno(EINVAL);
  if (*id == 0) return &writer;
  Task* task = writer.group().pids().FindTask(*id);
  if (task == nullptr || task->group().zombie()) return Errno(ESRCH);
  return task;
}

namespace {

std::string Lines(const std::set<int>& numbers) {
  std::string out;
  for (int number : numbers) out += std::to_string(number) + "\n";
  return out;
}

}  // namespace

// (A number that the reader cannot see is 0, in a namespace below.)
std::string ProcsText(Task& reader, Cgroup& group) {
  PidNamespace& pids = reader.group().pids();
  std::set<int> numbers;
  auto add = [&](const ThreadGroup& member) {
    if (int pid = pids.IdOf(member); pid != 0 || pids.level() > 0) numbers.insert(pid);
  };
  for (const ThreadGroup* member : group.members()) add(*member);
  for (const Task* thread : group.threads()) add(thread->group());
  return Lines(numbers);
}

std::string ThreadsText(Task& reader, Cgroup& group) {
  PidNamespace& pids = reader.group().pids();
  std::set<int> numbers;
  auto add = [&](const Task& task) {
    if (int tid = pids.IdOf(task); !task.exiting() && (tid != 0 || pids.level() > 0)) numbers.insert(tid);
  };
  for (const ThreadGroup* member : group.members()) {
    for (const RefPtr<Task>& task : member->tasks()) {
      if (&Cgroup::At(*task, group.tree()) == &group) add(*task);
    }
  }
  for (const Task* thread : group.threads()) add(*thread);
  return Lines(numbers);
}

}  // namespace amber
