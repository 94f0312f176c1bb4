#include "sentry/loader/stack.h"

#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace amber::loader {

namespace {

constexpr uint64_t kArgMax = 131072;                 // ARG_MAX: always granted
constexpr uint64_t kMostBytes = (8u << 20) / 4 * 3;  // _STK_LIM / 4 * 3
constexpr char kPlatform[] = "x86_64";

// Grows downwards from `top`.
class Builder {
 public:
  explicit Builder(uint64_t top) : top_(top) {}
  uint64_t sp() const { return top_ - size_; }
  uint64_t Push(const void* data, size_t size) {
    size_ += size;
    pieces_.emplace_back(static_cast<const char*>(data), size);
    return sp();
  }
  uint64_t PushString(const std::string& s) { return Push(s.c_str(), s.size() + 1); }
  // Moves down to `address`, with zeros between.
  void MoveTo(uint64_t address) {
    std::string zeros(sp() - address, '\0');
    Push(zeros.data(), zeros.size());
  }
  std::string Take() {
    std::string bytes;
    bytes.reserve(size_);
    for (auto it = pieces_.rbegin(); it != pieces_.rend(); ++it) bytes += *it;
    return bytes;
  }

 private:
  uint64_t top_;
  uint64_t size_ = 0;
  std::vector<std::string> pieces_;
};

// Pushes `strings` so that the first one lies lowest; their addresses, in order.
std::vector<uint64_t> PushStrings(Builder& b, const std::vector<std::string>& strings) {
  std::vector<uint64_t> at(strings.size());
  for (size_t i = strings.size(); i-- > 0;) at[i] = b.PushString(strings[i]);
  return at;
}

}  // namespace

ErrnoOr<void> CheckArguments(const std::vector<std::string>& argv, const std::vector<std::string>& envp, const std::string& path,
                             uint64_t stack_limit) {
  // bprm_stack_limits() and copy_strings() of fs/exec.c.
  uint64_t limit = std::max(std::min(kMostBytes, stack_limit / 4), kArgMax);
  uint64_t pointers = (std::max<size_t>(argv.size(), 1) + envp.size()) * 8;
  if (limit <= pointers) return Errno(E2BIG);
  limit -= pointers;
  uint64_t total = path.size() + 1;
  for (const auto* list : {&argv, &envp}) {
    for (const std::string& s : *list) {
      if (s.size() >= kMaxStringBytes) return Errno(E2BIG);
      total += s.size() + 1;
      if (total > limit) return Errno(E2BIG);
    }
  }
  return Ok();
}

StackImage BuildStack(const StackInput& in) {
  StackImage out;
  Builder b(in.top);
  b.MoveTo(in.top - 8);
  uint64_t path = b.PushString(in.path);
  out.env_end = path;
  std::vector<uint64_t> envp = PushStrings(b, in.envp);
  out.env_start = out.arg_end = b.sp();
  std::vector<uint64_t> argv = PushStrings(b, in.argv);
  out.arg_start = b.sp();
  b.MoveTo((b.sp() - in.shift) & ~uint64_t{15});
  uint64_t platform = b.Push(kPlatform, sizeof(kPlatform));
  uint64_t random = b.Push(in.random.data(), in.random.size());

  for (auto [key, value] : in.auxv) out.auxv.insert(out.auxv.end(), {key, value});
  out.auxv.insert(out.auxv.end(), {AT_RANDOM, random, AT_EXECFN, path, AT_PLATFORM, platform, AT_NULL, 0});

  std::vector<uint64_t> words;
  words.push_back(argv.size());
  words.insert(words.end(), argv.begin(), argv.end());
  words.push_back(0);
  words.insert(words.end(), envp.begin(), envp.end());
  words.push_back(0);
  words.insert(words.end(), out.auxv.begin(), out.auxv.end());
  uint64_t bytes = words.size() * 8;
  out.sp = (b.sp() - bytes) & ~uint64_t{15};
  b.MoveTo(out.sp + bytes);
  b.Push(words.data(), bytes);
  out.bytes = b.Take();
  return out;
}

}  // namespace amber::loader
