// The call sites of an address space: how often each is used, and the patching of those that are hot.
//
// A patched site jumps to a thunk, a few instructions near it in a FastArea that do what the overwritten one did and go on to the
// fast path's code in the stub text (stub_fast.cc). The site's own `syscall` instruction stays where it is: threads that wait in it
// return behind it, threads between the two instructions still find it, and the fast path itself uses it when nobody watches.
//
// What is known of a site is a hint: nothing breaks if it is lost (it is, at a restore) or wrong. Owned by the SpaceCore; a forked child
// starts with a copy. Thread-safe.
#pragma once

#include <linux/seccomp.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "sentry/platform/platform.h"

namespace amber::platform {

class SpaceCore;

// How a site is patched: `displaced` are the bytes that the thunk runs instead.
struct SitePatch {
  enum class Way {
    kJump,   // five bytes before the `syscall` become a jump to the thunk
    kShort,  // two bytes of one instruction become a short jump to `hole`, five bytes of padding, which become a jump to the thunk
  };
  Way way;
  uint64_t address;  // of the bytes that change
  uint64_t hole = 0;
  std::vector<uint8_t> displaced;
  bool straddles = false;  // the bytes that change first lie in two cache lines
};

// Finds the way to patch the site whose `syscall` instruction ends at `ip`, for call `number`. `code` are the guest's bytes from `start` on.
// None if the code around it is nothing that is known to be safe to change.
std::optional<SitePatch> FindPatch(uint64_t ip, uint32_t number, uint64_t start, std::span<const uint8_t> code);

// The thunk for `patch`, to lie at `thunk`.
std::vector<uint8_t> MakeThunk(const SitePatch& patch, uint64_t ip, uint64_t thunk);
inline constexpr uint64_t kThunkSize = 32;

// Which sites were hot in any process of the sandbox, by what is left of their address when a library is mapped elsewhere. A guess: two sites may share a
// bit, and a site that is patched for nothing costs some microseconds. Lost by a checkpoint. Thread-safe.
class HotSites {
 public:
  bool Contains(uint64_t ip, uint32_t number) const;
  void Add(uint64_t ip, uint32_t number);

 private:
  static size_t BitOf(uint64_t ip, uint32_t number);
  std::array<std::atomic<uint64_t>, 1024> words_ = {};
};

class FastSites {
 public:
  explicit FastSites(std::vector<FastArea> areas) : areas_(std::move(areas)) {}
  std::unique_ptr<FastSites> Copy();

  // A call of the base path was made at a site; patches it if it is time. True if the site is patched. `pid` is a process of `core`;
  // the calling thread must be waiting for its answer; `alone`: no other runs in that memory.
  bool Note(SpaceCore& core, pid_t pid, const seccomp_data& data, bool alone);
  // Whether the site whose `syscall` instruction ends at `ip` is patched. Waits for one that is just being patched.
  bool IsPatched(uint64_t ip);

 private:
  static constexpr uint16_t kPatched = 0xffff;
  static constexpr uint16_t kNever = 0xfffe;

  enum class Patched { kYes, kNo, kLater };
  Patched Patch(SpaceCore& core, pid_t pid, uint64_t ip, uint32_t number, bool alone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether a jump to one of the areas is at `at` in `code`, the guest's bytes from `start` on.
  bool JumpsToUs(uint64_t start, std::span<const uint8_t> code, size_t at) const;
  uint64_t AllocateThunk(SpaceCore& core, int memory, uint64_t near) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  const std::vector<FastArea> areas_;
  absl::flat_hash_map<uint64_t, uint16_t> sites_ ABSL_GUARDED_BY(mu_);
  uint32_t calls_ ABSL_GUARDED_BY(mu_) = 0;  // that were counted
};

// Calls whose answer needs more than a value, or that mostly block: no use in posting them.
bool FastCallable(uint32_t number);

}  // namespace amber::platform
