// seccomp user notification: the descriptor that SECCOMP_FILTER_FLAG_NEW_LISTENER gives, and the calls that wait for its answer
// (kernel/seccomp.c; seccomp_unotify(2)).
//
// A SeccompNotification is one such call, owned by its task's extras. The listener knows those that its filter sent and that live; whichever
// goes first tells the other. Guarded by the kernel lock.
#pragma once

#include <linux/seccomp.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace amber {

class SeccompListener;

struct SeccompNotification {
  explicit SeccompNotification(Task& t) : task(t) {}
  ~SeccompNotification();
  SeccompNotification(const SeccompNotification&) = delete;
  SeccompNotification& operator=(const SeccompNotification&) = delete;

  enum class State : int { kNew, kReceived, kReplied };
  void Reply(int32_t with_error, int64_t with_value, bool go_on);

  Task& task;
  SeccompListener* listener = nullptr;  // null once that is closed
  uint64_t id = 0;
  seccomp_data data{};
  State state = State::kNew;
  // The answer: an error (as the listener gave it, mostly negative) or a value, or that the call is to be made after all.
  int32_t error = 0;
  int64_t value = 0;
  bool goes_on = false;
  WaitQueue queue;
};

class SeccompListener final : public File {
 public:
  SeccompListener() = default;  // for Loader
  SeccompListener(RefPtr<SeccompFilter> filter, bool wait_killable);
  ~SeccompListener() override;

  // The call that `task` is in waits for an answer.
  void Add(SeccompNotification& notification);
  void Drop(SeccompNotification& notification);
  // A task that the filter was for has gone.
  void OnTaskGone() { queue_.Notify(kHangup); }
  // A call that was received can be interrupted by fatal signals only.
  bool wait_killable() const { return wait_killable_; }

  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:seccomp notify"; }

  state::Kind kind() const override { return state::Kind::kSeccompListener; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  static constexpr uint32_t kHangup = 0x10;

  SeccompNotification* Find(uint64_t id);
  // Some task is still under the filter.
  bool IsUsed(Task& task) const;
  ErrnoOr<uint64_t> Receive(Task& task, uint64_t address);
  ErrnoOr<uint64_t> Send(Task& task, uint64_t address);
  ErrnoOr<uint64_t> AddFd(Task& task, uint64_t address, size_t size);

  RefPtr<SeccompFilter> filter_;
  bool wait_killable_ = false;
  uint64_t next_id_ = 1;
  std::vector<SeccompNotification*> notifications_;  // by age
  WaitQueue queue_;
};

}  // namespace amber
