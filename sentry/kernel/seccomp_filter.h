// A seccomp filter of the guest's own: a classic BPF program and the filters below it (Linux: struct seccomp_filter).
//
// Immutable once installed; shared by the tasks that inherited it. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/seccomp_program.h"

namespace amber {

class SeccompListener;

class SeccompFilter final : public RefCounted<SeccompFilter>, public state::Saveable {
 public:
  // MAX_INSNS_PER_PATH: of all filters of a task, each four more than its length.
  static constexpr size_t kMaxTotal = 32768;

  SeccompFilter() = default;  // for Loader
  // `program` was checked.
  SeccompFilter(std::vector<sock_filter> program, RefPtr<SeccompFilter> below, bool log);
  ~SeccompFilter() override;

  SeccompFilter* below() const { return below_.get(); }
  // Instructions of this and all below, as Linux counts them.
  size_t total() const { return total_; }
  size_t depth() const { return depth_; }
  // True if `ancestor` is this or below it.
  bool StandsOn(const SeccompFilter* ancestor) const;

  struct Verdict {
    uint32_t action = SECCOMP_RET_ALLOW;  // with its data
    const SeccompFilter* filter = nullptr;
  };
  // seccomp_run_filters(): the most severe answer.
  Verdict Run(const seccomp_data& data) const;
  // Every filter of the chain lets the call `number` pass whatever its arguments are and whoever makes it (seccomp_is_const_allow()).
  bool AlwaysAllows(uint32_t number) const;
  // Futex and sched_yield have to come to the sentry to be filtered.
  bool WantsNativeCalls() const;

  // Who answers SECCOMP_RET_USER_NOTIF, or null. It holds a reference to this.
  SeccompListener* listener() const { return listener_; }
  void set_listener(SeccompListener* listener) { listener_ = listener; }
  // One of the chain has a listener.
  bool HasListener() const;

  state::Kind kind() const override { return state::Kind::kSeccompFilter; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  std::vector<sock_filter> program_;
  RefPtr<SeccompFilter> below_;
  size_t total_ = 0, depth_ = 1;
  bool log_ = false;
  SeccompListener* listener_ = nullptr;
};

}  // namespace amber
