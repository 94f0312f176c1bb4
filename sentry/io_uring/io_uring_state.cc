// Saving and loading rings. The shared memory is a file of the image; requests that wait begin to wait again.
#include <string.h>

#include <algorithm>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <utility>

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

void SaveRingCredentials(state::Saver& saver, const Credentials& c, proto::IoCredentials* out) {
  for (uint32_t id : {c.uid, c.euid, c.suid, c.fsuid, c.gid, c.egid, c.sgid, c.fsgid}) out->add_id(id);
  for (gid_t group : c.groups) out->add_group(group);
  for (uint64_t set : {c.inheritable, c.permitted, c.effective, c.bounding, c.ambient}) out->add_capability(set);
  out->set_securebits(c.securebits);
  out->set_user_ns(saver.Ref(c.user_ns));
}

RefPtr<const Credentials> LoadRingCredentials(state::Loader& loader, const proto::IoCredentials& in) {
  if (in.id_size() != 8 || in.capability_size() != 5) {
    loader.Fail("credentials of an io_uring are malformed");
    return nullptr;
  }
  auto c = MakeRef<Credentials>();
  uint32_t* ids[] = {&c->uid, &c->euid, &c->suid, &c->fsuid, &c->gid, &c->egid, &c->sgid, &c->fsgid};
  for (int i = 0; i < 8; ++i) *ids[i] = in.id(i);
  for (uint32_t group : in.group()) c->groups.push_back(group);
  uint64_t* sets[] = {&c->inheritable, &c->permitted, &c->effective, &c->bounding, &c->ambient};
  for (int i = 0; i < 5; ++i) *sets[i] = in.capability(i) & kAllCapabilities;
  c->securebits = in.securebits();
  c->user_ns = loader.GetRef<UserNamespace>(in.user_ns());
  return c;
}

void IoUring::SaveRegistered(state::Saver& saver, proto::IoUring* out) const {
  for (uint64_t tag : file_tags_) out->add_file_tag(tag);
  for (const FixedBufferSlot& b : buffers_) {
    out->add_buffer(reinterpret_cast<uint64_t>(b.range.iov_base));
    out->add_buffer(b.range.iov_len);
    out->add_buffer_tag(b.tag);
  }
  for (const auto& [tag, use] : tag_uses_) {
    for (uint32_t i = 0; i < use.waiting; ++i) out->add_releasing(tag);
  }
  out->set_alloc_from(alloc_from_);
  out->set_alloc_to(alloc_to_);
  for (const auto& [id, creds] : personalities_) {
    auto* p = out->add_personality();
    p->set_id(id);
    SaveRingCredentials(saver, *creds, p->mutable_creds());
  }
  out->set_last_personality(last_personality_);
  if (restrictions_.registered) {
    const Restrictions& r = restrictions_;
    out->set_restrictions(r.registers.to_string() + " " + r.operations.to_string() + " " + std::to_string(r.allowed) + " " +
                          std::to_string(r.required));
  }
  for (uint32_t w : workers_) out->add_workers(w);
  out->set_clock(static_cast<uint32_t>(clock_));
  // Without one that still polls there is none.
  out->set_poller(saver.Ref(Poller()));
  if (poller_creds_) SaveRingCredentials(saver, *poller_creds_, out->mutable_poller_creds());
  ForEachOwner([&](const RefPtr<Task>& task, uint32_t index) {
    out->add_owner(saver.Ref(task));
    out->add_owner(index);
  });
}

bool IoUring::LoadRegistered(state::Loader& loader, const proto::IoUring& m) {
  // Images of before had none of it.
  file_tags_.assign(m.file_tag().begin(), m.file_tag().end());
  file_tags_.resize(files_.size());
  for (int i = 0; i + 1 < m.buffer_size(); i += 2) {
    uint64_t tag = i / 2 < m.buffer_tag_size() ? m.buffer_tag(i / 2) : 0;
    buffers_.push_back({{reinterpret_cast<void*>(m.buffer(i)), m.buffer(i + 1)}, tag});
  }
  loaded_releasing_.assign(m.releasing().begin(), m.releasing().end());
  bool has_range = m.alloc_to() != 0;
  alloc_from_ = has_range ? m.alloc_from() : 0;
  alloc_to_ = has_range ? m.alloc_to() : static_cast<uint32_t>(files_.size());
  if (alloc_from_ > alloc_to_ || alloc_to_ > files_.size()) return false;
  for (const auto& p : m.personality()) {
    auto creds = LoadRingCredentials(loader, p.creds());
    if (!creds || p.id() == 0 || p.id() > UINT16_MAX) return false;
    personalities_[static_cast<uint16_t>(p.id())] = std::move(creds);
  }
  last_personality_ = m.last_personality();
  if (last_personality_ > UINT16_MAX) return false;
  if (!m.restrictions().empty() && !LoadRestrictions(m.restrictions())) return false;
  for (int i = 0; i < m.workers_size() && i < 2; ++i) workers_[i] = m.workers(i);
  clock_ = m.clock() == CLOCK_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
  poller_ = loader.GetRef<Task>(m.poller());
  if (m.has_poller_creds()) poller_creds_ = LoadRingCredentials(loader, m.poller_creds());
  if (polls() && !poller_creds_) return false;
  for (int i = 0; i + 1 < m.owner_size(); i += 2) {
    RefPtr<Task> task = loader.GetRef<Task>(m.owner(i));
    if (!task || m.owner(i + 1) >= kMaxOwnRings) return false;
    loaded_owners_.emplace_back(std::move(task), static_cast<uint32_t>(m.owner(i + 1)));
  }
  return true;
}

bool IoUring::LoadRestrictions(const std::string& text) {
  Restrictions& r = restrictions_;
  constexpr size_t kBits = kRegisterLast + 1 + kOpLast;
  if (text.size() < kBits + 4 || text.substr(0, kBits).find_first_not_of("01 ") != std::string::npos) return false;
  if (text[kRegisterLast] != ' ' || std::ranges::count(text.substr(0, kBits), ' ') != 1) return false;
  r.registers = std::bitset<kRegisterLast>(text, 0, kRegisterLast);
  r.operations = std::bitset<kOpLast>(text, kRegisterLast + 1, kOpLast);
  unsigned allowed = 0, required = 0;
  if (sscanf(text.c_str() + kBits, "%u %u", &allowed, &required) != 2) return false;
  r.allowed = static_cast<uint8_t>(allowed);
  r.required = static_cast<uint8_t>(required);
  r.registered = true;
  return true;
}

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
  SaveRegistered(saver, &m);
  provided_.Save(saver, &m);
  m.set_event_fd(saver.Ref(event_fd_));
  m.set_event_async(event_async_);
  for (const RefPtr<Request>& r : pending_) {
    if (r->opcode() == IORING_OP_LINK_TIMEOUT) continue;  // with what it watches
    // The thread that was at it has died: it is done again.
    if (!r->waits()) {
      SaveChain(saver, *r, m.add_deferred());
      continue;
    }
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
  const size_t count = 1 + static_cast<size_t>(in.rest_size()) + (in.has_watch() ? 1 : 0);
  requests_ += count;
  all_requests_ += count;
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
  if (!fd.valid() || !memory_.Adopt(std::move(fd), m.submissions(), m.completions(), ShapeOf(m.setup_flags())).ok())
    return loader.Fail("the memory of an io_uring is missing");
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
  if (!LoadRegistered(loader, m)) return loader.Fail("what an io_uring has registered is malformed");
  if (!provided_.Load(loader, m)) return loader.Fail("an io_uring's buffers are malformed");
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
  for (auto& [task, index] : loaded_owners_) AddOwner(std::move(task), index);
  loaded_owners_.clear();
  // Submissions whose turn was to come.
  if (poller_ && poller_->has_mm()) poller_space_.Watch(&poller_->mm());
  if (polls() && memory_.SubmissionTail() != sq_head_ && Poller() != nullptr) PollLater(poller_->kernel());
  if (!deferred_.empty()) WorkLater(deferred_.front()->task().kernel(), 0);
  for (const RefPtr<Request>& first : pending_) {
    for (Request* r = first.get(); r != nullptr; r = r->next.get()) r->AfterLoad();
    if (first->count_target() != 0) CountFor(*first);
    first->Resume();
  }
  for (const RefPtr<Request>& first : deferred_) {
    for (Request* r = first.get(); r != nullptr; r = r->next.get()) r->AfterLoad();
  }
  for (uint64_t tag : std::exchange(loaded_releasing_, {})) Release(tag);
  return true;
}

}  // namespace amber
