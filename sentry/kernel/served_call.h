// Calls that ask a guest: operations of a file system whose server is a process of the sandbox (docs/decisions/046-fuse.md).
//
// Such an operation stands in the middle of a handler, maybe several levels deep, and handlers never wait. So each request that a call makes is noted in
// the call's record: where an answer is missing, the operation returns kBlocked, and when the answer is there, the handler is executed again from the
// start; requests that it makes again are answered from the record, and the first new one is sent. The record is dropped when the call ends.
//
// Owned by TaskExtras, and only there while a call needs it. Guarded by the kernel lock.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Task;
namespace proto {
class ServedCall;
}

class ServedRequest : public RefCounted<ServedRequest>, public state::Saveable {
 public:
  ~ServedRequest() override = default;

  // What makes it the same request when the call is executed again: not the bytes of a write, which the call does not look at twice.
  const std::string& key() const { return key_; }
  bool answered() const { return answered_; }
  WaitQueue& queue() { return queue_; }
  // A signal is there for the task that waits: the server may want to know.
  virtual void OnSignal() = 0;
  // The call is over; nobody will look at the answer.
  virtual void OnCallerGone() = 0;
  // Of what a call has awaited at its end: the errno that close(2) says.
  virtual int end_error() const { return 0; }

 protected:
  void set_key(std::string key) { key_ = std::move(key); }
  // Executes the call of the one who waits again, once the kernel lock is to be released.
  void SetAnswered();
  void set_answered_before() { answered_ = true; }  // from an image

 private:
  std::string key_;
  bool answered_ = false;
  WaitQueue queue_;
};

class ServedCall {
 public:
  ServedCall() = default;
  ~ServedCall();

  // The task whose handler runs on this thread; null where the kernel itself acts, which can ask nobody.
  static Task* Current();
  // While a handler runs.
  class Scope {
   public:
    explicit Scope(Task& task);
    ~Scope();
    Scope(const Scope&) = delete;

   private:
    Task* before_;
  };

  static ServedCall& Of(Task& task);
  // A request with this key that this execution has not met yet. If it is answered, it counts as met from now on. Null: it is to be made.
  RefPtr<ServedRequest> Find(std::string_view key);
  // There is one.
  bool Knows(std::string_view key) const;
  void Add(RefPtr<ServedRequest> request);
  size_t requests() const { return entries_.size(); }
  // More than any call needs; each execution goes through all of them.
  static constexpr size_t kMostRequests = 16384;
  // What the first execution found under this key (where a file ends, say), for all of them; `value` if this is the first.
  uint64_t Remember(std::string key, uint64_t value);
  // What a handler did with the answer will not be done again: it is forgotten.
  void Forget(const ServedRequest& request);
  // kBlocked: until it is answered. Signals do not end such a wait unless they kill.
  static Errno WaitFor(Task& task, ServedRequest& request);
  // The call ends when this is answered, whatever it does until then (close(2) waits for a file to be flushed).
  void AwaitAtEnd(RefPtr<ServedRequest> request) { last_.push_back(std::move(request)); }

  // --- for task_call.cc ---
  // The handler has returned `result`: that, or kBlocked if the call has to wait before it ends.
  ErrnoOr<uint64_t> OnResult(Task& task, ErrnoOr<uint64_t> result);
  // The call is executed again. Its result if its handler is over.
  std::optional<ErrnoOr<uint64_t>> Resume(Task& task);
  void OnSignal();

  void Save(state::Saver& saver, proto::ServedCall* out) const;
  bool Load(state::Loader& loader, const proto::ServedCall& in);

 private:
  struct Entry {
    RefPtr<ServedRequest> request;
    bool met = false;
  };
  std::vector<Entry> entries_;
  size_t next_ = 0;  // where the next one that is asked for is likely to be: behind the last that was met
  struct Note {
    std::string key;
    uint64_t value;
    bool met = false;
  };
  std::vector<Note> notes_;
  std::vector<RefPtr<ServedRequest>> last_;
  bool has_result_ = false;
  int64_t result_ = 0;  // a value, or -errno if `failed_`
  bool failed_ = false;
};

}  // namespace amber
