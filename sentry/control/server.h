// The control server: takes the CLI's requests and hands them to the kernel.
//
// Owner: SentryMain. Threads: Run() is the control thread; everything below happens on it. Callbacks of the Runtime
// may come on any thread and only post to the queue. Lock: mutex_ guards that queue alone; nothing is called under it.
//
// Every init and every exec has a record here with its waiter's stream. On that stream the waiter sends signals
// (four bytes, a signal number or one of WaiterMessage) and receives the wait status (four bytes) once. If the
// stream hangs up before, the waiter was killed, and so is the guest process.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/runtime.h"
#include "sentry/control/wire.h"

namespace amber::control {

class Request;
class Reply;

struct ServerOptions {
  UniqueFd listener;  // listening SOCK_SEQPACKET socket, non-blocking
  // The connection of the CLI that makes the sandbox, non-blocking. The sandbox ends when it closes, unless a
  // DetachRequest came over it before: nothing stays behind of a command line that dies half-way.
  UniqueFd primary;
};

class Server {
 public:
  Server(Runtime* runtime, ServerOptions options, StepTimings* timings);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Serves until the last container has ended, or until nobody is left who could make one. The sentry ends then.
  void Run();

 private:
  struct Connection;
  struct Record;
  struct Call;  // a request being answered
  using Key = std::pair<std::string, int32_t>;

  void Post(std::move_only_function<void()> work) ABSL_LOCKS_EXCLUDED(mutex_);
  void RunPosted() ABSL_LOCKS_EXCLUDED(mutex_);
  bool Watch(int fd, uint64_t token);

  void Accept();
  void AddConnection(UniqueFd socket, bool primary);
  void ReadConnection(uint64_t token);
  void DropConnection(uint64_t token);
  void ReadWaiter(uint64_t token);

  void Handle(std::shared_ptr<Call> call);
  void HandleCreate(Call& call);
  void HandleRestore(Call& call);
  void HandleExec(Call& call);
  void HandleSignal(Call& call);
  void HandleWait(std::shared_ptr<Call> call);
  void HandleCheckpoint(std::shared_ptr<Call> call);
  void HandleProcesses(Call& call);
  void HandleStats(Call& call);
  void HandleDestroy(std::shared_ptr<Call> call);
  void HandleDetach(Call& call);

  void Track(const Call& call, const std::string& container, int32_t pid, bool init, UniqueFd waiter, UniqueFd console);
  void ProcessEnded(const Key& key, int wait_status);
  void EndAll(int wait_status);

  void SendReply(const Call& call, const Reply& reply);
  void Finish(const Call& call, absl::Status status);

  Runtime* const runtime_;
  StepTimings* const timings_;
  UniqueFd listener_;
  UniqueFd epoll_;
  UniqueFd wakeup_;
  uint64_t next_token_;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::map<Key, std::unique_ptr<Record>> records_;
  std::map<uint64_t, Key> waiters_;
  int live_containers_ = 0;
  bool ending_ = false;
  bool abandoned_ = false;  // because the command line died

  absl::Mutex mutex_;
  std::vector<std::move_only_function<void()>> posted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace amber::control
