// The CLI's side of a control connection. One thread; requests one after the other.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/control.pb.h"

namespace amber::control {

class Client {
 public:
  explicit Client(UniqueFd socket) : socket_(std::move(socket)) {}
  // Connects to a listening socket by its path, which may be longer than sun_path allows. UNAVAILABLE: nobody listens.
  static absl::StatusOr<Client> Connect(const std::string& path);

  // Sends without waiting for the reply. Fills in the request's id.
  absl::Status Send(Request& request, std::span<const int> fds = {});
  // The next final reply; progress reports go to `progress`. A reply with an error code is turned into a status.
  absl::StatusOr<Reply> Receive(const std::function<void(const ProgressReply&)>& progress = nullptr);
  absl::StatusOr<Reply> Call(Request& request, std::span<const int> fds = {}, const std::function<void(const ProgressReply&)>& progress = nullptr);
  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
  uint64_t next_id_ = 1;
};

// A listening control socket bound to `path`.
absl::StatusOr<UniqueFd> Listen(const std::string& path);

}  // namespace amber::control
