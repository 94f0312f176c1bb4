#include "sentry/kernel/seccomp_program.h"

#include <cerrno>
#include <cstring>

namespace amber {
namespace {

// seccomp_check_filter(): loads are whole words of struct seccomp_data, and there is no remainder.
bool FitsCalls(const sock_filter& i) {
  switch (i.code) {
    case BPF_LD | BPF_W | BPF_ABS: return i.k < sizeof(seccomp_data) && i.k % 4 == 0;
    case BPF_LD | BPF_H | BPF_ABS:
    case BPF_LD | BPF_B | BPF_ABS:
    case BPF_LD | BPF_W | BPF_IND:
    case BPF_LD | BPF_H | BPF_IND:
    case BPF_LD | BPF_B | BPF_IND:
    case BPF_LDX | BPF_B | BPF_MSH:
    case BPF_ALU | BPF_MOD | BPF_K:
    case BPF_ALU | BPF_MOD | BPF_X: return false;
    default: return true;
  }
}

struct CallData {
  const seccomp_data& data;

  uint32_t length() const { return sizeof(seccomp_data); }
  bool Load(const sock_filter& i, uint32_t, uint32_t, uint32_t* out) const {
    *out = 0;
    if (i.k <= sizeof(data) - sizeof(*out)) memcpy(out, reinterpret_cast<const char*>(&data) + i.k, sizeof(*out));
    return true;
  }
};

}  // namespace

ErrnoOr<void> CheckSeccompProgram(const std::vector<sock_filter>& program) {
  TRY(CheckBpfProgram(program));
  for (const sock_filter& i : program) {
    if (!FitsCalls(i)) return Errno(EINVAL);
  }
  return Ok();
}

uint32_t RunSeccompProgram(const std::vector<sock_filter>& program, const seccomp_data& data) {
  CallData call{data};
  return RunBpfProgram(program, call);
}

}  // namespace amber
