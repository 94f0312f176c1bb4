// Inside of the client: the pool of channels, and one call on one of them. Not for users of the client.
#pragma once

#include <kj/exception.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gofer/client.h"
#include "gofer/gofer.capnp.h"
#include "gofer/wire.h"

namespace amber::gofer {

Attributes Decode(wire::Attributes::Reader r);
void Encode(NodeId node, const AttributeChange& change, wire::SetAttr::Builder set);

struct Client::Impl {
  struct Channel {
    UniqueFd socket;
    WireBuffer wire;
  };

  // A free channel, or nullptr once all are dead. Waits for one while all are taken.
  std::unique_ptr<Channel> Acquire();
  void Release(std::unique_ptr<Channel> channel);
  void Discard(std::unique_ptr<Channel> channel);
  // A change that is made with the next call.
  struct Later {
    NodeId node;
    AttributeChange change;
    std::function<void(ErrnoOr<Attributes>)> done;
  };

  // Moves gathered ids, and what waits for the next call, into `request`.
  void TakeForgets(wire::Request::Builder request);
  std::optional<Later> TakeLater(wire::Request::Builder request);

  std::atomic<uint64_t> calls{0};
  // Leaf locks: nothing is locked or waited for under either.
  absl::Mutex mutex;
  // Last in, first out: the channel used last has its server thread warm.
  std::vector<std::unique_ptr<Channel>> free ABSL_GUARDED_BY(mutex);
  int alive ABSL_GUARDED_BY(mutex) = 0;
  absl::Mutex forget_mutex;
  std::vector<NodeId> forgets ABSL_GUARDED_BY(forget_mutex);
  std::optional<Later> later ABSL_GUARDED_BY(forget_mutex);
};

// One call: fill request(), then RoundTrip(), then read response() and files(). Its channel goes back with it, or is
// closed if the call failed in a way that leaves the channel's state unknown.
class Transaction {
 public:
  explicit Transaction(Client::Impl& impl);
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  bool ok() const { return channel_ != nullptr; }
  // Keeps what was answered but starts a new request on the same channel.
  wire::Request::Builder NewRequest();
  wire::Request::Builder request() { return request_; }
  // Fails with EIO if the gofer is gone, or with the error in the response.
  ErrnoOr<wire::Response::Reader> RoundTrip();
  ErrnoOr<UniqueFd> TakeFile();
  std::vector<UniqueFd>& files() { return files_; }
  void MarkBroken() { broken_ = true; }

 private:
  Client::Impl& impl_;
  std::unique_ptr<Client::Impl::Channel> channel_;
  wire::Request::Builder request_{nullptr};
  std::vector<UniqueFd> files_;
  bool broken_ = false;
};

// Runs one call's body with a transaction. Exceptions of Cap'n Proto end here: a gofer that answers nonsense is EIO.
template <typename Body>
auto Call(Client::Impl& impl, Body body) -> decltype(body(std::declval<Transaction&>())) {
  Transaction transaction(impl);
  if (!transaction.ok()) return Errno(EIO);
  try {
    return body(transaction);
  } catch (const kj::Exception&) {
    transaction.MarkBroken();
    return Errno(EIO);
  }
}

}  // namespace amber::gofer
