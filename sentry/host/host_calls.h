// The host calls that the sentry may make once it is set up: the table that its seccomp filter is built from.
//
// Everything that is not here raises SIGSYS and is not executed. A call is allowed wholly, or only with certain values
// of its scalar arguments. host_calls.golden.txt is this table as a reviewer reads it; a test keeps the two equal
// and counts the calls. Adding a line needs a reason that says which part of the sentry makes the call and why the
// guest, should it ever own the sentry, gains nothing by it that matters.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace amber {

// One condition on one argument: (argument & mask) == value. All conditions of a rule must hold.
struct ArgumentRule {
  unsigned index;
  uint64_t mask;
  uint64_t value;
};

struct HostCall {
  int number;
  const char* name;
  const char* reason;
  // Alternatives; empty: any arguments.
  std::vector<std::vector<ArgumentRule>> alternatives;
};

// The calls of every sentry.
std::span<const HostCall> HostCalls();
// What is added with --network=host: socket calls in the container's network namespace.
std::span<const HostCall> HostNetworkCalls();
// What --host-uds adds.
std::span<const HostCall> HostSocketCalls();

// The golden text.
std::string DescribeHostCalls();

}  // namespace amber
