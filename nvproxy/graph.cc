#include "nvproxy/graph.h"

#include <algorithm>
#include <unordered_set>

namespace amber::nvproxy {

Client::Client(uint32_t handle, Session session, std::weak_ptr<OpenFile> file, std::atomic<size_t>& total)
    : session_(session), file_(std::move(file)), total_(total) {
  auto root = std::make_unique<Object>();
  root_ = root.get();
  root->handle = handle;
  root->number = 0x41;
  root->category = Category::kClient;
  root->kind = Kind::kRoot;
  root->params.emplace();
  objects_[handle] = std::move(root);
  ++total_;
  inherited_ = {{.target = 0, .mask = kRightDup, .type = kSharePid, .action = 0}};
}

Object* Client::Find(uint32_t handle) {
  auto it = objects_.find(handle);
  return it == objects_.end() ? nullptr : it->second.get();
}

Object* Client::Add(uint32_t handle, uint32_t number, const Entry* entry, Object* parent) {
  if (handle == 0 || objects_.contains(handle)) return nullptr;
  auto made = std::make_unique<Object>();
  Object* object = made.get();
  object->handle = handle;
  object->number = number;
  if (entry != nullptr) {
    object->category = entry->category;
    object->kind = entry->kind;
  }
  object->parent = parent;
  object->gpu = parent->gpu;
  parent->children.push_back(object);
  objects_[handle] = std::move(made);
  ++total_;
  return object;
}

void Client::Depend(Object& from, Object& on) {
  if (&from == &on || std::ranges::find(from.needs, &on) != from.needs.end()) return;
  from.needs.push_back(&on);
  on.needed_by.push_back(&from);
}

// Post-order over children and dependants, by hand: a guest decides how deep it is.
std::vector<Object*> Client::FreeOrder(Object& object) {
  struct Step {
    Object* object;
    size_t next;
  };
  std::vector<Object*> order;
  std::unordered_set<Object*> seen{&object};
  std::vector<Step> stack{{&object, 0}};
  while (!stack.empty()) {
    Step& top = stack.back();
    size_t below = top.object->children.size(), all = below + top.object->needed_by.size();
    if (top.next == all) {
      order.push_back(top.object);
      stack.pop_back();
      continue;
    }
    // Dependants first, then children, the youngest of each first.
    size_t i = all - 1 - top.next++;
    Object* next = i >= below ? top.object->needed_by[i - below] : top.object->children[i];
    if (seen.insert(next).second) stack.push_back({next, 0});
  }
  return order;
}

namespace {

// What is freed was mostly added last: a guest that has many objects hang on one must not make it slow.
template <typename T>
void EraseLast(std::vector<T>& list, const T& value) {
  auto it = std::find(list.rbegin(), list.rend(), value);
  if (it != list.rend()) list.erase(std::next(it).base());
}

}  // namespace

void Client::Free(Object& object, const std::function<void(Object&)>& gone) {
  for (Object* o : FreeOrder(object)) {
    for (Object* on : o->needs) EraseLast(on->needed_by, o);
    for (Object* from : o->needed_by) EraseLast(from->needs, o);
    if (o->parent != nullptr) EraseLast(o->parent->children, o);
    if (gone) gone(*o);
    if (o == root_) {
      dead_ = true;
      continue;  // its handle stays readable
    }
    objects_.erase(o->handle);
    --total_;
  }
}

bool ApplyShare(ShareList& list, Share share) {
  constexpr size_t kMost = 64;
  bool compose = (share.action & kShareCompose) != 0;
  share.action &= static_cast<uint8_t>(~kShareCompose);
  auto same = [&](const Share& s) { return s.type == share.type && s.target == share.target; };
  if (!compose) list.clear();
  // One that is left out could be one that takes a right away.
  if (list.size() >= kMost && std::ranges::none_of(list, same)) return false;
  // What says the same about the same target is replaced.
  std::erase_if(list, same);
  list.push_back(share);
  return true;
}

namespace {

bool Covers(const Share& share, const Session& owner, const Session& to, uint32_t client) {
  if (owner.container != to.container) return false;
  switch (share.type) {
    case kShareAll: return true;
    case kShareToken: return owner.uid == to.uid || owner.process == to.process;
    case kShareClient: return share.target == client;
    case kSharePid: return owner.process == to.process;
    default: return false;
  }
}

}  // namespace

bool MayDup(const ShareList& list, const Session& owner, const Session& to, uint32_t client) {
  bool allowed = false;
  for (const Share& share : list) {
    if ((share.mask & kRightDup) == 0) continue;
    bool covers = Covers(share, owner, to, client);
    if ((share.action & kShareRevoke) != 0) {
      if (covers) return false;
    } else if ((share.action & kShareRequire) != 0) {
      if (!covers) return false;
    } else {
      allowed = allowed || covers;
    }
  }
  return allowed;
}

ClientLock::ClientLock(std::shared_ptr<Client> client, std::vector<std::shared_ptr<Client>> others) ABSL_NO_THREAD_SAFETY_ANALYSIS
    : one_(std::move(client)) {
  if (!others.empty()) {
    many_ = std::move(others);
    many_.push_back(std::move(one_));
    one_ = nullptr;
    std::erase(many_, nullptr);
    // By handle; two can have the same one while the older of them ends.
    std::ranges::sort(many_, {}, [](const auto& c) { return std::pair(c->handle(), c.get()); });
    many_.erase(std::ranges::unique(many_).begin(), many_.end());
  }
  if (one_ != nullptr) one_->mu().Lock();
  for (const auto& c : many_) c->mu().Lock();
}

ClientLock::~ClientLock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (auto c = many_.rbegin(); c != many_.rend(); ++c) (*c)->mu().Unlock();
  if (one_ != nullptr) one_->mu().Unlock();
}

Client* ClientLock::Find(uint32_t handle) const {
  if (one_ != nullptr && one_->handle() == handle && !one_->dead()) return one_.get();
  for (const auto& c : many_) {
    if (c->handle() == handle && !c->dead()) return c.get();
  }
  return nullptr;
}

}  // namespace amber::nvproxy
