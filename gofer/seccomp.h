// The gofer's allow-list of host calls: one table, from which the filter and its readable description are made.
//
// testdata/seccomp.golden holds the description; a change of the table shows there, for review.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace amber::gofer {

// One line for each rule: the call, its conditions, what it is for.
std::string DescribeSeccompFilter();

// Puts the filter on every thread of the process. Anything that is not in the table ends the process.
// `sockets`: also the calls that make Unix sockets (--host-uds).
absl::Status InstallSeccompFilter(bool sockets = false);

}  // namespace amber::gofer
