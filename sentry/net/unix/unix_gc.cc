// Sockets that only messages in flight keep open (net/unix/garbage.c).
//
// A socket sent over itself, or two sent over each other, would live for ever once their descriptors are closed. A socket is
// reachable if somebody besides messages and listeners' queues holds it, or if it lies in the queue of one that is reachable. The
// queues of the others are emptied, which drops the last references.
#include <algorithm>
#include <map>
#include <vector>

#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

struct InFlightCounts {
  size_t sockets = 0;
  std::map<uid_t, size_t> files;
};
InFlightCounts& Counts() {
  static auto* counts = new InFlightCounts();
  return *counts;
}
bool collecting = false;

UnixSocket* AsUnix(const RefPtr<File>& file) {
  // Asked once per passed descriptor; the kind is cheaper than a cast.
  return file->kind() == state::Kind::kUnixSocket ? static_cast<UnixSocket*>(file.get()) : nullptr;
}

}  // namespace

void UnixGarbage::Add(const std::vector<RefPtr<File>>& files, uid_t owner) {
  if (files.empty()) return;
  Counts().files[owner] += files.size();
  for (const RefPtr<File>& f : files) {
    if (UnixSocket* s = AsUnix(f); s != nullptr) {
      ++s->in_flight_;
      ++Counts().sockets;
    }
  }
}

void UnixGarbage::Remove(const std::vector<RefPtr<File>>& files, uid_t owner) {
  if (files.empty()) return;
  auto it = Counts().files.find(owner);
  if (it != Counts().files.end()) {
    it->second -= std::min(files.size(), it->second);
    if (it->second == 0) Counts().files.erase(it);
  }
  for (const RefPtr<File>& f : files) {
    if (UnixSocket* s = AsUnix(f); s != nullptr) {
      --s->in_flight_;
      --Counts().sockets;
    }
  }
}

size_t UnixGarbage::InFlight(uid_t uid) {
  auto it = Counts().files.find(uid);
  return it == Counts().files.end() ? 0 : it->second;
}

size_t UnixGarbage::sockets() { return Counts().sockets; }

void UnixGarbage::Collect() {
  if (collecting || Counts().sockets == 0) return;
  collecting = true;
  std::set<UnixSocket*> reached;
  std::vector<UnixSocket*> todo;
  auto reach = [&](UnixSocket* s) {
    if (reached.insert(s).second) todo.push_back(s);
  };
  for (UnixSocket* s : UnixNames::All()) {
    if (s->ref_count() > s->in_flight_ + (s->pending_accept_ ? 1 : 0)) reach(s);
  }
  while (!todo.empty()) {
    UnixSocket* s = todo.back();
    todo.pop_back();
    for (const RefPtr<UnixSocket>& p : s->pending_) reach(p.get());
    for (const UnixMessage& m : s->messages_) {
      for (const RefPtr<File>& f : m.rights) {
        if (UnixSocket* passed = AsUnix(f); passed != nullptr) reach(passed);
      }
    }
  }
  // References, since emptying one queue may destroy sockets that are still to come.
  std::vector<RefPtr<UnixSocket>> garbage;
  for (UnixSocket* s : UnixNames::All()) {
    if (!reached.contains(s)) garbage.emplace_back(s);
  }
  for (RefPtr<UnixSocket>& s : garbage) s->DropMessages();
  garbage.clear();
  collecting = false;
}

}  // namespace amber
