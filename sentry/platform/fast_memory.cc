#include "sentry/platform/fast_memory.h"

#include <string.h>

#include <algorithm>

#include "sentry/platform/platform_impl.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

// The call that this host thread handles.
struct Current {
  const Thread* thread = nullptr;
  ThreadImpl* impl = nullptr;
  FastMemory* memory = nullptr;
  // Copied once: the guest can write to `memory` at any time.
  uint64_t in_address[2];
  uint32_t in_size[2];
  FastMemory::Range ranges[std::size(FastMemory{}.ranges)];
  uint32_t count = 0;
  uint32_t used = 0;  // of FastMemory::out
};

thread_local Current current;

void WriteRanges(SpaceCore& space, const FastMemory::Range* ranges, uint32_t count, const uint8_t* bytes, bool* ok) {
  for (uint32_t i = 0; i < count; bytes += ranges[i].size, i++)
    *ok &= space.CopyRaw(ranges[i].address, const_cast<uint8_t*>(bytes), ranges[i].size, true);
}

}  // namespace

bool ReadPosted(const Thread* thread, uint64_t address, void* data, size_t size) {
  if (thread == nullptr || current.thread != thread) return false;
  uint32_t offset = 0;
  for (int i = 0; i < 2; i++) {
    uint64_t start = current.in_address[i];
    if (address >= start && address - start <= current.in_size[i] && size <= current.in_size[i] - (address - start)) {
      memcpy(data, current.memory->in + offset + (address - start), size);
      return true;
    }
    offset += current.in_size[i];
  }
  return false;
}

size_t ReadPostedString(const Thread* thread, uint64_t address, void* data, size_t size) {
  if (thread == nullptr || current.thread != thread || current.in_address[0] != address || current.in_size[0] > size) return 0;
  memcpy(data, current.memory->in, current.in_size[0]);
  return current.in_size[0];
}

bool WritePosted(const Thread* thread, uint64_t address, const void* data, size_t size) {
  Current& c = current;
  if (thread == nullptr || c.thread != thread || c.count == std::size(c.ranges) || size > sizeof(c.memory->out) - c.used) return false;
  if (size == 0 || address >= kGuestTop || size > kGuestTop - address) return false;
  memcpy(c.memory->out + c.used, data, size);
  c.ranges[c.count++] = {address, size};
  c.used += static_cast<uint32_t>(size);
  return true;
}

bool MayPost(const Thread* thread) { return thread != nullptr && current.thread == thread; }

void FlushPosted(const Thread* thread) {
  if (thread != nullptr && current.thread == thread && current.count > 0) current.impl->DropFastMemory(/*write=*/true);
}

void EndPosted(const Thread* thread) {
  if (thread != nullptr && current.thread == thread) current.impl->DropFastMemory(/*write=*/true);
}

void ThreadImpl::BeginFastMemory() {
  Current& c = current;
  c.thread = this;
  c.impl = this;
  c.memory = process_->space().fast_memory(slot_);
  c.count = c.used = 0;
  uint32_t room = sizeof(c.memory->in);
  for (int i = 0; i < 2; i++) {
    c.in_address[i] = __atomic_load_n(&c.memory->in_address[i], __ATOMIC_RELAXED);
    c.in_size[i] = std::min(__atomic_load_n(&c.memory->in_size[i], __ATOMIC_RELAXED), room);
    room -= c.in_size[i];
    if (c.in_address[i] >= kGuestTop || c.in_size[i] > kGuestTop - c.in_address[i]) c.in_size[i] = 0;
  }
}

void ThreadImpl::GiveFastMemory() {
  if (current.thread != this || current.count == 0) return;
  memcpy(current.memory->ranges, current.ranges, current.count * sizeof(current.ranges[0]));
  __atomic_store_n(&current.memory->out_count, current.count, __ATOMIC_RELAXED);
  current.thread = nullptr;
}

void ThreadImpl::DropFastMemory(bool write) {
  if (current.thread != this) return;
  bool ok = true;
  current.thread = nullptr;
  if (write) WriteRanges(process_->space(), current.ranges, current.count, current.memory->out, &ok);
}

// The guest has its answer and is taken out of the code that would write these.
bool ThreadImpl::FinishFastMemory() {
  FastMemory* memory = process_->space().fast_memory(slot_);
  uint32_t count = __atomic_load_n(&memory->out_count, __ATOMIC_RELAXED);
  if (count == 0 || count > std::size(memory->ranges)) return true;
  FastMemory::Range ranges[std::size(FastMemory{}.ranges)];
  memcpy(ranges, memory->ranges, count * sizeof(ranges[0]));
  uint64_t total = 0;
  for (uint32_t i = 0; i < count; i++) {
    const FastMemory::Range& range = ranges[i];
    if (range.size > sizeof(memory->out) - total || range.address >= kGuestTop || range.size > kGuestTop - range.address)
      return true;  // a forger's loss
    total += range.size;
  }
  bool ok = true;
  WriteRanges(process_->space(), ranges, count, memory->out, &ok);
  __atomic_store_n(&memory->out_count, 0u, __ATOMIC_RELAXED);
  return ok;
}

}  // namespace amber::platform
