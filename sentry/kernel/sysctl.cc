#include "sentry/kernel/sysctl.h"

#include <algorithm>
#include <charconv>

#include "sentry/base/check.h"

namespace amber {
namespace {

bool InRange(const SysctlRow& row, uint64_t value) { return value >= row.least && value <= row.most; }

std::string_view SkipBlanks(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t\n");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin);
}

}  // namespace

SysctlNumbers::SysctlNumbers(std::span<const SysctlRow> rows) : rows_(rows) {
  for (const SysctlRow& row : rows) {
    AMBER_CHECK(static_cast<size_t>(row.first) == values_.size());
    values_.insert(values_.end(), row.initial, row.initial + row.count);
  }
}

std::string SysctlNumbers::Text(const SysctlRow& row) const {
  std::string out;
  for (int i = 0; i < row.count; ++i) {
    if (i > 0) out += '\t';
    out += std::to_string((*this)[row.first + i]);
  }
  return out + "\n";
}

ErrnoOr<void> SysctlNumbers::Write(const SysctlRow& row, std::string_view text) {
  std::vector<uint64_t> numbers;
  for (text = SkipBlanks(text); !text.empty(); text = SkipBlanks(text)) {
    uint64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || !InRange(row, value)) return Errno(EINVAL);
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (!text.empty() && SkipBlanks(text).size() == text.size()) return Errno(EINVAL);
    // (What is too much is not looked at.)
    if (numbers.size() < static_cast<size_t>(row.count)) numbers.push_back(value);
  }
  std::copy(numbers.begin(), numbers.end(), values_.begin() + row.first);
  return Ok();
}

bool SysctlNumbers::Load(std::span<const uint64_t> values) {
  if (values.size() > values_.size()) return false;
  for (const SysctlRow& row : rows_) {
    for (int i = row.first; i < row.first + row.count && static_cast<size_t>(i) < values.size(); ++i) {
      if (!InRange(row, values[static_cast<size_t>(i)])) return false;
    }
  }
  std::copy(values.begin(), values.end(), values_.begin());
  return true;
}

}  // namespace amber
