// An asynchronous I/O context: io_setup(2). Operations are carried out when they are submitted, so a context holds results only.
//
// Owned by GroupExtras; lost at exec, not inherited by fork. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>

#include "sentry/kernel/wait_queue.h"

namespace amber {

struct AioContext {
  struct Event {
    uint64_t data, object;
    int64_t result, result2;
  };
  uint32_t max_events = 0;
  uint64_t ring_size = 0;  // bytes mapped at the context's id, for libraries that look for a ring there
  std::deque<Event> events;
  WaitQueue queue;  // POLLIN: an event came, or the context went
};
static_assert(sizeof(AioContext::Event) == 32);

}  // namespace amber
