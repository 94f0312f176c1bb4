// Saving and loading rings. The shared memory is a file of the image; requests that wait begin to wait again.
#include <string.h>

#include <bit>
#include <cstddef>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/io_uring.pb.h"
#include "sentry/kernel/kernel.h"

namespace amber {
namespace {

void SaveChain(state::Saver& saver, const Request& first, proto::IoChain* out) {
  first.Save(saver, out->mutable_first());
  if (first.partner != nullptr) first.partner->Save(saver, out->mutable_watch());
  for (const Request* r = first.next.get(); r != nullptr; r = r->next.get()) r->Save(saver, out->add_rest());
}

}  // namespace

std::string IoUring::Save(state::Saver& saver) const {
  proto::IoUring m;
  m.set_memory(saver.File(memory_.fd(), memory_.size()));
  m.set_submissions(memory_.submissions());
  m.set_completions(memory_.completions());
  m.set_setup_flags(setup_flags_);
  m.set_sq_head(sq_head_);
  m.set_cq_tail(cq_tail_);
  m.set_posted(posted_);
  for (const io_uring_cqe& cqe : overflow_) m.add_overflow(&cqe, sizeof(cqe));
  m.set_files_registered(files_registered_);
  for (const RefPtr<File>& file : files_) m.add_file(saver.Ref(file));
  m.set_slot_hint(slot_hint_);
  m.set_buffers_registered(buffers_registered_);
  for (const iovec& b : buffers_) {
    m.add_buffer(reinterpret_cast<uint64_t>(b.iov_base));
    m.add_buffer(b.iov_len);
  }
  provided_.Save(&m);
  m.set_event_fd(saver.Ref(event_fd_));
  m.set_event_async(event_async_);
  for (const RefPtr<Request>& r : pending_) {
    if (r->opcode() == IORING_OP_LINK_TIMEOUT) continue;  // with what it watches
    SaveChain(saver, *r, m.add_pending());
    if (r.get() == barrier_) m.set_barrier(true);
  }
  // What is due has nothing else to wait for than its turn: it comes before the others.
  for (const Due& due : due_) SaveChain(saver, *due.request, m.add_deferred());
  for (const RefPtr<Request>& r : deferred_) SaveChain(saver, *r, m.add_deferred());
  return m.SerializeAsString();
}

RefPtr<Request> IoUring::LoadChain(state::Loader& loader, const proto::IoChain& in, bool waits) {
  RefPtr<Request> first = Request::Load(loader, *this, in.first());
  if (!first || in.first().waits() != waits || first->opcode() == IORING_OP_LINK_TIMEOUT) return nullptr;
  requests_ += 1 + static_cast<size_t>(in.rest_size()) + (in.has_watch() ? 1 : 0);
  RefPtr<Request> last = first;
  for (const auto& next : in.rest()) {
    RefPtr<Request> r = Request::Load(loader, *this, next);
    if (!r || next.waits()) return nullptr;
    last->next = r;
    last = r;
  }
  if (!waits) return first;
  AddPending(first);
  if (!in.has_watch()) return first;
  RefPtr<Request> watch = Request::Load(loader, *this, in.watch());
  if (!watch || !in.watch().waits() || watch->opcode() != IORING_OP_LINK_TIMEOUT) return nullptr;
  first->partner = watch.get();
  watch->partner = first.get();
  AddPending(std::move(watch));
  return first;
}

bool IoUring::Load(state::Loader& loader, std::string_view bytes) {
  proto::IoUring m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !std::has_single_bit(m.submissions()) || m.submissions() > kMaxEntries ||
      !std::has_single_bit(m.completions()) || m.completions() > 2 * kMaxEntries || m.buffer_size() % 2 != 0) {
    return loader.Fail("an io_uring is malformed");
  }
  UniqueFd fd(loader.OpenFile(m.memory()));
  if (!fd.valid() || !memory_.Adopt(std::move(fd), m.submissions(), m.completions()).ok()) return loader.Fail("the memory of an io_uring is missing");
  set_flags(O_RDWR);
  setup_flags_ = m.setup_flags();
  sq_head_ = m.sq_head();
  cq_tail_ = m.cq_tail();
  posted_ = m.posted();
  for (const std::string& in : m.overflow()) {
    io_uring_cqe& cqe = overflow_.emplace_back();
    if (in.size() != sizeof(cqe)) return loader.Fail("an io_uring's completions are malformed");
    memcpy(&cqe, in.data(), sizeof(cqe));
  }
  files_registered_ = m.files_registered();
  for (uint64_t id : m.file()) files_.push_back(loader.GetRef<File>(id));
  slot_hint_ = m.slot_hint();
  if (slot_hint_ > files_.size()) return loader.Fail("an io_uring's files are malformed");
  buffers_registered_ = m.buffers_registered();
  for (int i = 0; i < m.buffer_size(); i += 2) buffers_.push_back({reinterpret_cast<void*>(m.buffer(i)), m.buffer(i + 1)});
  if (!provided_.Load(m)) return loader.Fail("an io_uring's buffers are malformed");
  event_fd_ = loader.GetRef<EventFd>(m.event_fd());
  event_async_ = m.event_async();
  for (const auto& in : m.pending()) {
    if (!LoadChain(loader, in, true)) return loader.Fail("an io_uring's requests are malformed");
  }
  if (m.barrier() && !pending_.empty()) barrier_ = pending_.front().get();
  for (const auto& in : m.deferred()) {
    RefPtr<Request> r = LoadChain(loader, in, false);
    if (!r) return loader.Fail("an io_uring's requests are malformed");
    deferred_.push_back(std::move(r));
  }
  return true;
}

bool IoUring::AfterLoad(state::Loader&) {
  if (!deferred_.empty()) WorkLater(deferred_.front()->task().kernel(), 0);
  for (const RefPtr<Request>& first : pending_) {
    for (Request* r = first.get(); r != nullptr; r = r->next.get()) r->AfterLoad();
    if (first->count_target() != 0) CountFor(*first);
    first->Resume();
  }
  for (const RefPtr<Request>& first : deferred_) {
    for (Request* r = first.get(); r != nullptr; r = r->next.get()) r->AfterLoad();
  }
  return true;
}

}  // namespace amber
