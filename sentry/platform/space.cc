// SpaceCore and SpaceImpl: slots, and copying to and from guest memory.
#include <errno.h>
#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/fast_sites.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/process.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {

SpaceCore::SpaceCore(PlatformImpl& platform, Windows::Lease lease) : platform_(platform), lease_(lease) {}

void SpaceCore::set_fast_sites(std::unique_ptr<FastSites> sites) { fast_sites_ = std::move(sites); }

SpaceCore::~SpaceCore() { platform_.windows().Free(lease_); }

int SpaceCore::AllocateSlot() {
  absl::MutexLock lock(&mu_);
  for (uint32_t i = 0; i < kMaxThreads; i++) {
    uint32_t slot = (slot_hint_ + i) % kMaxThreads;
    if (slots_[slot]) continue;
    slots_[slot] = true;
    slot_hint_ = slot + 1;
    return static_cast<int>(slot);
  }
  return -1;
}

void SpaceCore::TakeSlot(uint32_t slot) {
  absl::MutexLock lock(&mu_);
  slots_[slot] = true;
}

void SpaceCore::FreeSlot(uint32_t slot) {
  absl::MutexLock lock(&mu_);
  slots_[slot] = false;
  slot_hint_ = std::min(slot_hint_, slot);
}

void SpaceCore::AddTid(pid_t tid) {
  absl::MutexLock lock(&pid_mu_);
  tids_.push_back(tid);
}

void SpaceCore::RemoveTid(pid_t tid) {
  absl::MutexLock lock(&pid_mu_);
  auto it = std::find(tids_.begin(), tids_.end(), tid);
  if (it == tids_.end()) return;
  *it = tids_.back();
  tids_.pop_back();
}

pid_t SpaceCore::any_tid() const {
  absl::ReaderMutexLock lock(&pid_mu_);
  return tids_.empty() ? 0 : tids_.front();
}

void SpaceCore::AddProcess(const std::shared_ptr<Process>& process) {
  absl::MutexLock lock(&mu_);
  processes_.push_back(process);
}

void SpaceCore::RemoveProcess(const Process* process) {
  std::shared_ptr<Process> last;
  absl::MutexLock lock(&mu_);
  for (std::shared_ptr<Process>& entry : processes_) {
    if (entry.get() != process) continue;
    last = std::move(entry);
    entry = std::move(processes_.back());
    processes_.pop_back();
    return;
  }
}

size_t SpaceCore::process_count() {
  absl::MutexLock lock(&mu_);
  return processes_.size();
}

void SpaceCore::KillAll() {
  absl::MutexLock lock(&mu_);
  for (const std::shared_ptr<Process>& process : processes_) process->Kill();
}

RefPtr<SpaceImpl> SpaceCore::handle() {
  absl::MutexLock lock(&mu_);
  // The destructor of the handle takes the lock to clear the pointer, so it is alive here, if
  // perhaps at its end.
  if (handle_ == nullptr || !handle_->TryRef()) return nullptr;
  return RefPtr<SpaceImpl>::Adopt(handle_);
}

void SpaceCore::set_handle(SpaceImpl* handle) {
  absl::MutexLock lock(&mu_);
  handle_ = handle;
}

ssize_t SpaceCore::CopyOnce(const iovec* guest, size_t guest_count, const iovec* local, size_t local_count, bool write) {
  absl::ReaderMutexLock lock(&pid_mu_);
  // A thread that was killed but not yet reaped has no memory any more (ESRCH); another process may
  // share it.
  size_t tries = std::min<size_t>(tids_.size(), 16);
  for (size_t i = 0; i < tries; i++) {
    pid_t tid = tids_[i];
    ssize_t n =
        write ? process_vm_writev(tid, local, local_count, guest, guest_count, 0) : process_vm_readv(tid, local, local_count, guest, guest_count, 0);
    if (n >= 0 || errno != ESRCH) return n;
  }
  errno = EFAULT;
  return -1;
}

ErrnoOr<size_t> SpaceCore::Copy(std::span<const iovec> guest, std::span<const iovec> local, bool write) {
  size_t total = 0;
  for (const iovec& range : guest) {
    uint64_t address = reinterpret_cast<uint64_t>(range.iov_base);
    // The part below the stub region could be copied first; nobody maps memory up to there.
    if (range.iov_len > kGuestTop || address > kGuestTop - range.iov_len) return Errno(EFAULT);
    total += range.iov_len;
  }
  if (total == 0) return size_t{0};
  // More ranges than the host takes at once are copied short: the caller goes on from there.
  size_t guest_count = std::min<size_t>(guest.size(), IOV_MAX);
  size_t local_count = std::min<size_t>(local.size(), IOV_MAX);
  ssize_t n = CopyOnce(guest.data(), guest_count, local.data(), local_count, write);
  if (n < 0) return Errno(errno == EFAULT ? EFAULT : errno);
  if (n == 0) return Errno(EFAULT);
  return static_cast<size_t>(n);
}

bool SpaceCore::CopyRaw(uint64_t address, void* buffer, size_t size, bool write) {
  iovec guest = {reinterpret_cast<void*>(address), size};
  iovec local = {buffer, size};
  return CopyOnce(&guest, 1, &local, 1, write) == static_cast<ssize_t>(size);
}

SpaceImpl::SpaceImpl(std::shared_ptr<SpaceCore> core) : core_(std::move(core)) { core_->set_handle(this); }

SpaceImpl::~SpaceImpl() {
  core_->set_handle(nullptr);
  core_->KillAll();
}

ErrnoOr<size_t> SpaceImpl::Read(uint64_t address, void* buffer, size_t size) {
  iovec guest = {reinterpret_cast<void*>(address), size};
  iovec local = {buffer, size};
  return core_->Copy({&guest, 1}, {&local, 1}, false);
}

ErrnoOr<size_t> SpaceImpl::Write(uint64_t address, const void* buffer, size_t size) {
  iovec guest = {reinterpret_cast<void*>(address), size};
  iovec local = {const_cast<void*>(buffer), size};
  return core_->Copy({&guest, 1}, {&local, 1}, true);
}

ErrnoOr<size_t> SpaceImpl::ReadV(std::span<const iovec> guest, std::span<const iovec> local) { return core_->Copy(guest, local, false); }

ErrnoOr<size_t> SpaceImpl::WriteV(std::span<const iovec> guest, std::span<const iovec> local) { return core_->Copy(guest, local, true); }

int SpaceImpl::host_pid() const { return core_->any_tid(); }

void SpaceImpl::Kill() { core_->KillAll(); }

void SpaceImpl::KillProcess(Thread& thread) { static_cast<ThreadImpl&>(thread).process().Kill(); }

}  // namespace amber::platform
