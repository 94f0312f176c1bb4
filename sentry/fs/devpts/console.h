// Carries bytes between a pty's master and a descriptor of the host: the terminal that an engine or a user gave the container.
//
// Owned by the Tty whose master it is. Kernel lock; nothing blocks: the host is polled before every small read and write.
#pragma once

#include "sentry/base/unique_fd.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Kernel;
class Tty;

class TtyConsole final {
 public:
  TtyConsole(Kernel& kernel, Tty& tty, UniqueFd fd);
  ~TtyConsole();
  TtyConsole(const TtyConsole&) = delete;
  TtyConsole& operator=(const TtyConsole&) = delete;
  // The pump is at work further up on this stack.
  bool running() const { return running_; }

 private:
  // Wakes the pump when the host or the pty has something to say.
  class Pump final : public Waiter {
   public:
    explicit Pump(TtyConsole& owner) : owner_(owner) {}
    void OnEvent(uint32_t events) override { owner_.Run(events); }

   private:
    TtyConsole& owner_;
  };

  void Run(uint32_t events);
  void Input();
  void Output();
  uint32_t Ready(short events) const;

  Tty& tty_;
  UniqueFd fd_;
  bool running_ = false;
  bool again_ = false;
  bool ended_ = false;  // the host hung up
  WaitQueue host_queue_;
  HostPoll::Source source_{host_queue_};
  Pump host_pump_{*this};
  Pump tty_pump_{*this};
};

}  // namespace amber
