// What a container uses: numbers for events and metrics.
#pragma once

#include "absl/status/statusor.h"
#include "runsc-cli/launch.h"
#include "sentry/control/control.pb.h"

namespace amber::cli {

// Sends a request to the sandbox that serves the container, and waits for the answer. FailedPrecondition if it does not run.
// `seconds`: how long it may take; 0: no limit.
absl::StatusOr<control::Reply> AskSandbox(const GlobalOptions& options, const State& state, control::Request request, int seconds = 0);

struct Stats {
  control::StatsReply reply;  // as the sentry counts
  // With what the container's cgroup sees besides: page cache, the sentry, processes that are gone.
  uint64_t memory_bytes = 0;
  uint64_t cpu_ns = 0;
};
absl::StatusOr<Stats> ReadStats(const GlobalOptions& options, const State& state, int seconds = 0);

}  // namespace amber::cli
