#include "sentry/kernel/seccomp_filter.h"

#include <linux/audit.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstring>

#include "sentry/kernel/kernel.pb.h"

namespace amber {
namespace {

// The order of actions: as a signed number, the smallest wins (ACTION_ONLY).
int32_t Rank(uint32_t action) { return static_cast<int32_t>(action & SECCOMP_RET_ACTION_FULL); }

bool Jumps(const sock_filter& at, uint32_t a) {
  switch (BPF_OP(at.code)) {
    case BPF_JEQ: return a == at.k;
    case BPF_JGE: return a >= at.k;
    case BPF_JGT: return a > at.k;
    default:  // BPF_JSET
      return (a & at.k) != 0;
  }
}

// Follows the program for as long as it looks at nothing but the number and the architecture. It was checked: jumps lead forward, within.
bool AllowsByNumber(const std::vector<sock_filter>& program, uint32_t number) {
  uint32_t a = 0;
  for (size_t pc = 0; pc < program.size(); ++pc) {
    const sock_filter& at = program[pc];
    switch (at.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        if (at.k != offsetof(seccomp_data, nr) && at.k != offsetof(seccomp_data, arch)) return false;
        a = at.k == offsetof(seccomp_data, nr) ? number : AUDIT_ARCH_X86_64;
        break;
      case BPF_RET | BPF_K: return at.k == SECCOMP_RET_ALLOW;
      case BPF_JMP | BPF_JA: pc += at.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K:
      case BPF_JMP | BPF_JGE | BPF_K:
      case BPF_JMP | BPF_JGT | BPF_K:
      case BPF_JMP | BPF_JSET | BPF_K: pc += Jumps(at, a) ? at.jt : at.jf; break;
      case BPF_ALU | BPF_AND | BPF_K: a &= at.k; break;
      default: return false;
    }
  }
  return false;
}

}  // namespace

SeccompFilter::SeccompFilter(std::vector<sock_filter> program, RefPtr<SeccompFilter> below, bool log)
    : program_(std::move(program)), below_(std::move(below)), log_(log) {
  total_ = program_.size() + (below_ ? below_->total_ + 4 : 0);
  depth_ = 1 + (below_ ? below_->depth_ : 0);
}

SeccompFilter::~SeccompFilter() {
  // Not by recursion: a chain may be thousands long.
  RefPtr<SeccompFilter> next = std::move(below_);
  while (next && next->ref_count() == 1) {
    RefPtr<SeccompFilter> after = std::move(next->below_);
    next = std::move(after);
  }
}

bool SeccompFilter::StandsOn(const SeccompFilter* ancestor) const {
  const SeccompFilter* at = this;
  while (at != nullptr && at != ancestor) at = at->below_.get();
  return at == ancestor;
}

SeccompFilter::Verdict SeccompFilter::Run(const seccomp_data& data) const {
  Verdict worst{SECCOMP_RET_ALLOW, this};
  for (const SeccompFilter* f = this; f != nullptr; f = f->below_.get()) {
    uint32_t action = RunSeccompProgram(f->program_, data);
    if (Rank(action) < Rank(worst.action)) worst = {action, f};
  }
  return worst;
}

bool SeccompFilter::AlwaysAllows(uint32_t number) const {
  for (const SeccompFilter* f = this; f != nullptr; f = f->below_.get()) {
    if (!AllowsByNumber(f->program_, number)) return false;
  }
  return true;
}

bool SeccompFilter::WantsNativeCalls() const { return !AlwaysAllows(SYS_futex) || !AlwaysAllows(SYS_sched_yield); }

bool SeccompFilter::HasListener() const {
  const SeccompFilter* at = this;
  while (at != nullptr && at->listener_ == nullptr) at = at->below_.get();
  return at != nullptr;
}

std::string SeccompFilter::Save(state::Saver& saver) const {
  proto::SeccompFilter m;
  m.set_program(program_.data(), program_.size() * sizeof(sock_filter));
  m.set_below(saver.Ref(below_));
  m.set_log(log_);
  return m.SerializeAsString();
}

bool SeccompFilter::Load(state::Loader& loader, std::string_view bytes) {
  proto::SeccompFilter m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a filter is malformed");
  if (m.program().size() % sizeof(sock_filter) != 0) return loader.Fail("a filter is malformed");
  program_.resize(m.program().size() / sizeof(sock_filter));
  if (!program_.empty()) memcpy(program_.data(), m.program().data(), m.program().size());
  below_ = loader.GetRef<SeccompFilter>(m.below());
  log_ = m.log();
  return CheckSeccompProgram(program_).ok() || loader.Fail("a filter is none that Linux takes");
}

bool SeccompFilter::AfterLoad(state::Loader& loader) {
  // Counts what is below; a circle is longer than any chain.
  total_ = program_.size();
  depth_ = 1;
  for (const SeccompFilter* f = below_.get(); f != nullptr; f = f->below_.get()) {
    total_ += f->program_.size() + 4;
    if (++depth_ > kMaxTotal) return loader.Fail("filters stand on each other");
  }
  return true;
}

}  // namespace amber
