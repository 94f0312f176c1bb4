// Numbers that sysctl(8) sets of a namespace, by rows of one or more (proc_dointvec_minmax() of kernel/sysctl.c). Kernel lock.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

struct SysctlRow {
  const char* path;  // below /proc/sys
  int first;         // number of its first value
  int count;
  uint64_t initial[4];
  uint64_t least, most;
};

class SysctlNumbers {
 public:
  // `rows` are in the order of their values, without gaps, and stay.
  explicit SysctlNumbers(std::span<const SysctlRow> rows);

  uint64_t operator[](int value) const { return values_[static_cast<size_t>(value)]; }
  void Set(int value, uint64_t to) { values_[static_cast<size_t>(value)] = to; }
  // As the file shows it.
  std::string Text(const SysctlRow& row) const;
  // What was written to the file: fewer numbers leave the others as they are. EINVAL for what is no number or out of range; then nothing changes.
  ErrnoOr<void> Write(const SysctlRow& row, std::string_view text);

  // For images: all values, in order; values are only ever added. False if some are out of range.
  const std::vector<uint64_t>& values() const { return values_; }
  bool Load(std::span<const uint64_t> values);

 private:
  std::span<const SysctlRow> rows_;
  std::vector<uint64_t> values_;
};

}  // namespace amber
