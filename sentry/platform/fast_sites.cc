#include "sentry/platform/fast_sites.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "Zydis/Zydis.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/process.h"
#include "sentry/platform/stub_abi.h"

namespace amber::platform {
namespace {

// A site is patched at its so many-th call: patching costs about as much as four of them, and a copy of the page.
constexpr uint16_t kHot = 24;
// In a process that has made so many calls already, which will not be over in a moment, it is patched earlier. (A short one has it made at none.)
constexpr uint32_t kManyCalls = 128;
constexpr uint16_t kHotAmongMany = 6;
// Where another process has come so far: that it will again is likely, and what it takes to find out is a good part of what a short program does.
constexpr uint16_t kHotElsewhere = 4;
// Of rt_sigaction, which then needs no hand-over in most processes.
constexpr uint16_t kHotActions = 6;
// Sites that are counted; a process with more has no hot ones.
constexpr size_t kMaxSites = 4096;
constexpr uint64_t kBefore = 16, kAfter = 144;  // bytes around a site that are looked at

bool Matches(std::span<const uint8_t> code, size_t at, std::initializer_list<int> bytes) {
  if (at + bytes.size() > code.size()) return false;
  for (int byte : bytes) {
    if (byte >= 0 && code[at] != byte) return false;
    at++;
  }
  return true;
}

// The length of the instruction that assemblers pad with at `at`, or 0 (Intel SDM, NOP; GNU as and LLVM use these).
size_t NopLength(std::span<const uint8_t> code, size_t at) {
  size_t prefixes = 0;
  while (at + prefixes < code.size() && code[at + prefixes] == 0x66 && prefixes < 10) prefixes++;
  size_t p = at + prefixes;
  if (Matches(code, p, {0x2e, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0})) return prefixes + 9;
  if (Matches(code, p, {0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0})) return prefixes + 8;
  if (Matches(code, p, {0x0f, 0x1f, 0x80, 0, 0, 0, 0})) return prefixes + 7;
  if (Matches(code, p, {0x0f, 0x1f, 0x44, 0x00, 0})) return prefixes + 5;
  if (Matches(code, p, {0x0f, 0x1f, 0x40, 0})) return prefixes + 4;
  if (Matches(code, p, {0x0f, 0x1f, 0x00})) return prefixes + 3;
  if (Matches(code, p, {0x90})) return prefixes + 1;
  if (prefixes == 0 && Matches(code, p, {0xcc})) return 1;
  return 0;
}

// Five bytes of padding between a `ret` and the next 16-byte boundary, which nothing reaches; at most `reach` bytes behind `from`, where an instruction begins.
// Each instruction up to there is decoded, as 0xc3 may as well be the end of one that goes on into the padding of a loop.
uint64_t FindHole(uint64_t from, uint64_t start, std::span<const uint8_t> code, uint64_t reach) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  for (uint64_t a = from; a < start + code.size() && a - from < reach;) {
    ZydisDecodedInstruction instruction;
    size_t left = start + code.size() - a;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, code.data() + (a - start), left, &instruction))) return 0;
    a += instruction.length;
    if (instruction.mnemonic != ZYDIS_MNEMONIC_RET) continue;
    uint64_t at = a;
    while (at % 16 != 0) {
      size_t n = at - start < code.size() ? NopLength(code, at - start) : 0;
      if (n == 0 || at / 16 != (at + n - 1) / 16) break;
      at += n;
    }
    if (at % 16 == 0 && at - a >= 5) return a;
  }
  return 0;
}

// The length of an instruction that loads a register from another one or with a constant, or 0: what compilers put between the load of a call's
// number and its `syscall`.
size_t LoadLength(std::span<const uint8_t> code, size_t at) {
  auto byte = [&](size_t i) { return at + i < code.size() ? code[at + i] : 0; };
  size_t prefix = (byte(0) & 0xf0) == 0x40 ? 1 : 0;
  uint8_t opcode = byte(prefix);
  if ((opcode & 0xf8) == 0xb8) return (byte(0) & 0xf8) == 0x48 ? 0 : prefix + 5;     // mov $imm32, %reg; eight bytes with REX.W
  bool move = opcode == 0x89 || opcode == 0x8b || opcode == 0x31 || opcode == 0x33;  // mov, xor
  return move && (byte(prefix + 1) & 0xc0) == 0xc0 ? prefix + 2 : 0;                 // register to register
}

// The length of the instruction that ends at `at`, if mov $number, %eax stands at most `reach` bytes before it with nothing but loads of other registers between;
// 0 if not (the openat() of glibc's opendir() is such a site, and many of musl's are). The number says where instructions begin.
size_t LastLoad(std::span<const uint8_t> code, size_t at, uint32_t number, size_t reach) {
  for (size_t from = at - std::min(at, reach); from + 7 <= at; from++) {
    uint32_t immediate;
    memcpy(&immediate, code.data() + from + 1, sizeof(immediate));
    if (code[from] != 0xb8 || immediate != number || (from > 0 && (code[from - 1] & 0xf0) == 0x40)) continue;
    size_t next = from + 5, last = 0;
    while (next < at) {
      last = LoadLength(code, next);
      if (last == 0) break;
      next += last;
    }
    if (next == at && last != 0) return last;
  }
  return 0;
}

// The system call of Go's runtime (Syscall6 of its runtime/internal/syscall and internal/runtime/syscall), which nearly all calls of Go programs are made by:
// moves between registers, of three bytes each, the last of which makes room for a short jump. (Two of them would not do: a thread may be between them.)
constexpr std::initializer_list<int> kGoMoves = {0x49, 0x89, 0xf2, 0x48, 0x89, 0xfa, 0x48, 0x89, 0xce, 0x48, 0x89, 0xdf};

// The same of musl where threads cannot be cancelled, __syscall_cp_c(): mov 8(%rsp), %r9; mov %rcx, %rdx.
constexpr std::initializer_list<int> kMuslMoves = {0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x48, 0x89, 0xca};

bool SameLine(uint64_t first, uint64_t last) { return first / 64 == last / 64; }

bool InReach(uint64_t from, uint64_t to) {
  int64_t distance = static_cast<int64_t>(to - from);
  return distance > INT32_MIN / 2 && distance < INT32_MAX / 2;
}

std::array<uint8_t, 5> Jump(uint64_t from, uint64_t to) {
  std::array<uint8_t, 5> bytes = {0xe9};
  int32_t distance = static_cast<int32_t>(to - (from + 5));
  memcpy(bytes.data() + 1, &distance, sizeof(distance));
  return bytes;
}

bool Write(int memory, uint64_t address, const void* data, size_t size) {
  return pwrite(memory, data, size, static_cast<off_t>(address)) == static_cast<ssize_t>(size);
}

}  // namespace

bool FastCallable(uint32_t number) {
  switch (number) {
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
    case SYS_mremap:
    case SYS_brk:
    case SYS_clone:
    case SYS_fork:
    case SYS_vfork:
    case SYS_execve:
    case SYS_execveat:
    case 435 /* clone3 */:
    case SYS_exit:
    case SYS_exit_group:
    case SYS_rt_sigreturn:
    case SYS_arch_prctl:
    case SYS_set_tid_address:
    case SYS_sigaltstack:
    case SYS_futex:
    case SYS_sched_yield:
    case SYS_pause:
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_rt_sigsuspend:
    case SYS_rt_sigtimedwait:
    case SYS_wait4:
    case SYS_waitid: return false;
    default: return number < 4096;  // not the platform's own
  }
}

std::optional<SitePatch> FindPatch(uint64_t ip, uint32_t number, uint64_t start, std::span<const uint8_t> code) {
  if (ip < start + 7 || ip - start > code.size()) return std::nullopt;
  size_t at = ip - start;
  if (code[at - 2] != 0x0f || code[at - 1] != 0x05) return std::nullopt;
  SitePatch patch = {SitePatch::Way::kJump, ip - 7, 0, {}, false};
  uint32_t immediate;
  memcpy(&immediate, code.data() + at - 6, sizeof(immediate));
  bool load = code[at - 7] == 0xb8 && immediate == number;             // mov $number, %eax
  bool sixth = Matches(code, at - 7, {0x4c, 0x8b, 0x4c, 0x24, 0x08});  // mov 8(%rsp), %r9: syscall(2) of glibc
  size_t last = LastLoad(code, at - 2, number, kBefore - 2);
  // mov 16(%rsp), %r9; mov %r11, 8(%rsp): the point of musl where threads can be cancelled, by which its read(), write() and open() go.
  bool cancellable = at >= 12 && Matches(code, at - 12, {0x4c, 0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08});
  if (load || last == 5 || sixth || cancellable) {
    patch.straddles = !SameLine(ip - 7, ip - 3);
    patch.displaced.assign(code.begin() + static_cast<ptrdiff_t>(at - 7), code.begin() + static_cast<ptrdiff_t>(at - 2));
    return patch;
  }
  size_t room = last < 5 ? last : 0;
  if (number == 0 && Matches(code, at - 4, {0x31, 0xc0})) room = 2;  // xor %eax, %eax: read(2) of glibc
  if ((at >= 14 && Matches(code, at - 14, kGoMoves)) || (at >= 10 && Matches(code, at - 10, kMuslMoves))) room = 3;
  if (room == 0) return std::nullopt;
  patch.way = SitePatch::Way::kShort;
  patch.address = ip - 2 - room;
  patch.straddles = !SameLine(patch.address, patch.address + 1);
  patch.hole = FindHole(ip, start, code, 120);
  if (patch.hole == 0) return std::nullopt;
  patch.displaced.assign(code.begin() + static_cast<ptrdiff_t>(at - 2 - room), code.begin() + static_cast<ptrdiff_t>(at - 2));
  return patch;
}

std::vector<uint8_t> MakeThunk(const SitePatch& patch, uint64_t ip, uint64_t thunk) {
  std::vector<uint8_t> out = patch.displaced;
  // lea behind(%rip), %rcx
  uint64_t next = thunk + out.size() + 7;
  int32_t distance = static_cast<int32_t>(ip - next);
  out.insert(out.end(), {0x48, 0x8d, 0x0d});
  const uint8_t* d = reinterpret_cast<const uint8_t*>(&distance);
  out.insert(out.end(), d, d + sizeof(distance));
  // jmp *0(%rip); the address
  out.insert(out.end(), {0xff, 0x25, 0, 0, 0, 0});
  const uint8_t* e = reinterpret_cast<const uint8_t*>(&kFastEntry);
  out.insert(out.end(), e, e + sizeof(kFastEntry));
  out.resize(kThunkSize, 0xcc);
  return out;
}

// Where a file's pages are mapped changes, what is where in a page does not.
size_t HotSites::BitOf(uint64_t ip, uint32_t number) {
  uint32_t mixed = (static_cast<uint32_t>(ip & 0xfff) << 12 ^ number) * 0x9e3779b1u;
  return mixed >> 16;
}

bool HotSites::Contains(uint64_t ip, uint32_t number) const {
  size_t bit = BitOf(ip, number);
  return (words_[bit / 64].load(std::memory_order_relaxed) >> (bit % 64) & 1) != 0;
}

void HotSites::Add(uint64_t ip, uint32_t number) {
  size_t bit = BitOf(ip, number);
  words_[bit / 64].fetch_or(uint64_t{1} << (bit % 64), std::memory_order_relaxed);
}

std::unique_ptr<FastSites> FastSites::Copy() {
  auto copy = std::make_unique<FastSites>(areas_);
  absl::MutexLock lock(&mu_);
  absl::MutexLock copy_lock(&copy->mu_);
  copy->sites_ = sites_;
  copy->calls_ = calls_;
  return copy;
}

bool FastSites::Note(SpaceCore& core, pid_t pid, const seccomp_data& data, bool alone) {
  absl::MutexLock lock(&mu_);
  auto it = sites_.find(data.instruction_pointer);
  if (it == sites_.end()) {
    if (sites_.size() >= kMaxSites) return false;
    it = sites_.emplace(data.instruction_pointer, 0).first;
  }
  if (it->second == kPatched) return true;
  uint32_t number = static_cast<uint32_t>(data.nr);
  if (it->second == kNever) return false;
  HotSites& elsewhere = core.platform().hot_sites();
  uint16_t hot = kHotActions;
  if (number != SYS_rt_sigaction) {
    hot = ++calls_ < kManyCalls ? kHot : kHotAmongMany;
    if (elsewhere.Contains(data.instruction_pointer, number)) hot = kHotElsewhere;
  }
  if (++it->second < hot) return false;
  elsewhere.Add(data.instruction_pointer, number);
  // Nobody takes what is posted with a single CPU; this one need not be taken.
  bool useful = number == SYS_rt_sigaction || core.platform().watcher().possible();
  Patched patched = useful && FastCallable(number) ? Patch(core, pid, data.instruction_pointer, number, alone) : Patched::kNo;
  it->second = patched == Patched::kYes ? kPatched : patched == Patched::kNo ? kNever : 0;
  return patched == Patched::kYes;
}

bool FastSites::IsPatched(uint64_t ip) {
  absl::MutexLock lock(&mu_);
  auto it = sites_.find(ip);
  return it != sites_.end() && it->second == kPatched;
}

// A free thunk in reach of `near`, or 0. An area's first word counts its thunks, so that it goes with the memory.
uint64_t FastSites::AllocateThunk(SpaceCore& core, int memory, uint64_t near) {
  for (const FastArea& area : areas_) {
    if (!InReach(near, area.start)) continue;
    uint64_t used = 0;
    iovec guest = {reinterpret_cast<void*>(area.start), sizeof(used)};
    iovec local = {&used, sizeof(used)};
    auto n = core.Copy({&guest, 1}, {&local, 1}, false);
    if (!n.ok() || *n != sizeof(used) || used >= area.size / kThunkSize - 1) continue;
    used++;
    if (!Write(memory, area.start, &used, sizeof(used))) continue;
    return area.start + used * kThunkSize;
  }
  return 0;
}

bool FastSites::JumpsToUs(uint64_t start, std::span<const uint8_t> code, size_t at) const {
  if (at + 5 > code.size() || code[at] != 0xe9) return false;
  int32_t distance;
  memcpy(&distance, code.data() + at + 1, sizeof(distance));
  uint64_t target = start + at + 5 + static_cast<uint64_t>(static_cast<int64_t>(distance));
  return std::any_of(areas_.begin(), areas_.end(), [&](const FastArea& area) { return target - area.start < area.size; });
}

// The guest's text is not writable, so this goes through /proc/PID/mem, which gives a private page its own copy (and refuses a shared one).
// Other threads may run the bytes meanwhile: a jump of five is written behind a breakpoint (whoever meets that is sent on by
// ThreadImpl::LeavePatching()), within one cache line, so that nobody fetches half of it. Across two lines (glibc's getdents64() on Debian 12 has
// such a site, and who lists directories lists many) only while the one thread of this memory is in the call that brought us here: what it
// fetches afterwards was written before.
FastSites::Patched FastSites::Patch(SpaceCore& core, pid_t pid, uint64_t ip, uint32_t number, bool alone) {
  uint8_t code[kBefore + kAfter];
  uint64_t start = ip - kBefore;
  iovec guest = {reinterpret_cast<void*>(start), sizeof(code)};
  iovec local = {code, sizeof(code)};
  auto n = core.Copy({&guest, 1}, {&local, 1}, false);
  if (!n.ok() || *n < kBefore) return Patched::kNo;
  std::span<const uint8_t> bytes(code, *n);
  // Patched in another life, or by the parent: the site jumps to one of our areas, or to padding that does.
  for (size_t before : {7, 5, 4}) {
    size_t jump = kBefore - before;
    if (before != 7 && code[jump] == 0xeb) jump += 2 + code[jump + 1];
    if (JumpsToUs(start, bytes, jump)) return Patched::kYes;
  }
  std::optional<SitePatch> patch = FindPatch(ip, number, start, bytes);
  if (!patch) return Patched::kNo;
  if (patch->straddles && !alone) return Patched::kLater;
  char name[32];
  snprintf(name, sizeof(name), "%d/mem", pid);
  UniqueFd memory(openat(core.platform().proc_fd(), name, O_RDWR | O_CLOEXEC));
  if (!memory.valid()) return Patched::kNo;
  uint64_t thunk = AllocateThunk(core, memory.get(), ip);
  if (thunk == 0) return Patched::kNo;
  std::vector<uint8_t> code_of_thunk = MakeThunk(*patch, ip, thunk);
  if (!Write(memory.get(), thunk, code_of_thunk.data(), code_of_thunk.size())) return Patched::kNo;
  bool ok;
  if (patch->way == SitePatch::Way::kShort) {
    auto jump = Jump(patch->hole, thunk);
    uint8_t to_hole[2] = {0xeb, static_cast<uint8_t>(patch->hole - (patch->address + 2))};
    ok = Write(memory.get(), patch->hole, jump.data(), jump.size()) && Write(memory.get(), patch->address, to_hole, sizeof(to_hole));
  } else {
    auto jump = Jump(patch->address, thunk);
    const uint8_t breakpoint = 0xcc;
    ok = Write(memory.get(), patch->address, &breakpoint, 1) && Write(memory.get(), patch->address + 1, jump.data() + 1, 4) &&
         Write(memory.get(), patch->address, jump.data(), 1);
  }
  if (ok) core.platform().counters().patched_sites.fetch_add(1, std::memory_order_relaxed);
  return ok ? Patched::kYes : Patched::kNo;
}

}  // namespace amber::platform
