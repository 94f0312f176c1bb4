// What the parts of the control server share: its bookkeeping records.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/control/control.pb.h"
#include "sentry/control/server.h"

namespace amber::control {

struct Server::Connection {
  UniqueFd socket;
  bool primary = false;  // and not detached
  std::vector<Key> made;
};

// A request until its final reply. Descriptors that the handler did not take are closed with it.
struct Server::Call {
  uint64_t connection = 0;
  Request request;
  std::vector<UniqueFd> fds;
};

// An init or exec process.
struct Server::Record {
  bool init = false;
  UniqueFd waiter;
  UniqueFd console;
  uint64_t token = 0;
  std::optional<int> status;
  std::vector<std::shared_ptr<Call>> waiting;
};

}  // namespace amber::control
