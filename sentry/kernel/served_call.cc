#include "sentry/kernel/served_call.h"

#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

thread_local Task* current_task = nullptr;

bool IsOver(const ErrnoOr<uint64_t>& result) { return result.ok() || (result.error() != kBlocked && result.error() != kNoAnswer); }

}  // namespace

void ServedRequest::SetAnswered() {
  if (answered_) return;
  answered_ = true;
  queue_.Notify(POLLIN);
}

Task* ServedCall::Current() { return current_task; }

ServedCall::Scope::Scope(Task& task) : before_(current_task) {
  current_task = &task;
  if (ServedCall* call = task.extras().served.get(); call != nullptr) {
    call->next_ = 0;
    for (Entry& e : call->entries_) e.met = false;
    for (Note& n : call->notes_) n.met = false;
  }
}

ServedCall::Scope::~Scope() { current_task = before_; }

ServedCall& ServedCall::Of(Task& task) {
  if (task.extras().served == nullptr) task.extras().served = std::make_unique<ServedCall>();
  return *task.extras().served;
}

ServedCall::~ServedCall() {
  for (Entry& e : entries_) e.request->OnCallerGone();
  // What was to be waited for goes on without the call.
  last_.clear();
}

RefPtr<ServedRequest> ServedCall::Find(std::string_view key) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t at = (next_ + i) % entries_.size();
    Entry& e = entries_[at];
    if (e.met || e.request->key() != key) continue;
    e.met = e.request->answered();
    next_ = at + 1;
    return e.request;
  }
  return nullptr;
}

bool ServedCall::Knows(std::string_view key) const {
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& e = entries_[(next_ + i) % entries_.size()];
    if (!e.met && e.request->key() == key) return true;
  }
  return false;
}

uint64_t ServedCall::Remember(std::string key, uint64_t value) {
  for (Note& n : notes_) {
    if (n.met || n.key != key) continue;
    n.met = true;
    return n.value;
  }
  notes_.push_back({std::move(key), value, true});
  return value;
}

void ServedCall::Add(RefPtr<ServedRequest> request) { entries_.push_back({std::move(request), false}); }

void ServedCall::Forget(const ServedRequest& request) {
  std::erase_if(entries_, [&](const Entry& e) { return e.request.get() == &request; });
}

Errno ServedCall::WaitFor(Task& task, ServedRequest& request) { return task.Block(request.queue(), POLLIN, kNever, kKillable); }

ErrnoOr<uint64_t> ServedCall::OnResult(Task& task, ErrnoOr<uint64_t> result) {
  if (!IsOver(result)) return result;
  for (RefPtr<ServedRequest>& r : last_) {
    if (r->answered()) continue;
    has_result_ = true;
    failed_ = !result.ok();
    result_ = result.ok() ? static_cast<int64_t>(*result) : result.error().number();
    return WaitFor(task, *r);
  }
  if (!result.ok() || task.syscall().number != SYS_close) return result;
  for (RefPtr<ServedRequest>& r : last_) {
    if (r->end_error() != 0) return Errno(r->end_error());
  }
  return result;
}

std::optional<ErrnoOr<uint64_t>> ServedCall::Resume(Task& task) {
  if (!has_result_) return std::nullopt;
  ErrnoOr<uint64_t> result = static_cast<uint64_t>(result_);
  if (failed_) result = Errno(static_cast<int>(result_));
  return OnResult(task, result);
}

void ServedCall::OnSignal() {
  for (Entry& e : entries_) {
    if (!e.request->answered()) e.request->OnSignal();
  }
  for (RefPtr<ServedRequest>& r : last_) {
    if (!r->answered()) r->OnSignal();
  }
}

void ServedCall::Save(state::Saver& saver, proto::ServedCall* out) const {
  for (const Entry& e : entries_) out->add_request(saver.Ref(e.request));
  for (const RefPtr<ServedRequest>& r : last_) out->add_last(saver.Ref(r));
  for (const Note& n : notes_) {
    out->add_note_key(n.key);
    out->add_note(n.value);
  }
  out->set_has_result(has_result_);
  out->set_failed(failed_);
  out->set_result(result_);
}

bool ServedCall::Load(state::Loader& loader, const proto::ServedCall& in) {
  for (uint64_t id : in.request()) {
    auto r = loader.GetRef<ServedRequest>(id);
    if (!r) return loader.Fail("a request of a call is missing");
    entries_.push_back({std::move(r), false});
  }
  for (uint64_t id : in.last()) {
    auto r = loader.GetRef<ServedRequest>(id);
    if (!r) return loader.Fail("a request of a call is missing");
    last_.push_back(std::move(r));
  }
  if (in.note_key_size() != in.note_size()) return loader.Fail("a call's notes are malformed");
  for (int i = 0; i < in.note_size(); ++i) notes_.push_back({in.note_key(i), in.note(i)});
  has_result_ = in.has_result();
  failed_ = in.failed();
  result_ = in.result();
  if (failed_ && (result_ <= 0 || result_ > 600)) return loader.Fail("a call has a result that makes no sense");
  return true;
}

}  // namespace amber
