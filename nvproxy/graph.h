// The RM objects that a sandbox's processes have, as far as the proxy must know them: who owns them, what hangs on what, what they cost.
//
// A Client is a tree of objects with its own lock, held across the host's call and the change of the tree that follows from it, so that nobody sees
// one without the other. Of several clients the one with the lower handle is locked first (ClientLock). The proxy's lock may be taken
// with client locks held, never the other way round.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nvproxy/guest.h"
#include "nvproxy/quota.h"
#include "nvproxy/tables.h"

namespace amber::nvproxy {

// Guest memory that a device may write to. Shared by the object, its duplicates and UVM mappings; the last one lets go.
struct PinnedMemory {
  HostDriver* host = nullptr;
  uint64_t alias = 0, size = 0;
  std::shared_ptr<Allocation> bytes;
  ~PinnedMemory() {
    if (alias != 0) host->DropAlias(alias, size);
  }
};

// RS_SHARE_TYPE_* and RS_SHARE_ACTION_FLAG_* of the driver.
enum ShareType : uint16_t { kShareNone, kShareAll, kShareToken, kShareClient, kSharePid, kShareSmc, kShareGpu, kShareFabric };
enum ShareAction : uint8_t { kShareRevoke = 1, kShareRequire = 2, kShareCompose = 4 };
inline constexpr uint32_t kRightDup = 1;  // bit RS_ACCESS_DUP_OBJECT

struct Share {
  uint32_t target = 0, mask = 0;
  uint16_t type = kShareNone;
  uint8_t action = 0;
};
using ShareList = std::vector<Share>;

// The memory of what was exported to a descriptor, each piece once; shared by all who imported the same.
using Exports = std::shared_ptr<const std::vector<std::shared_ptr<Allocation>>>;

struct Object {
  uint32_t handle = 0, number = 0;  // class
  Category category = Category::kOther;
  Kind kind = Kind::kSimple;
  Object* parent = nullptr;  // null for the client itself
  std::vector<Object*> children;
  std::vector<Object*> needs, needed_by;  // beyond the parent
  int gpu = -1;                           // index of the GPU it belongs to
  std::shared_ptr<Allocation> bytes;
  // Of an imported object: all that came through the same descriptor. Null of others.
  Exports imported;
  std::shared_ptr<Allocation> context;  // of a device: what its first context costs
  std::shared_ptr<PinnedMemory> pinned;
  std::optional<ShareList> shares;
  // How it was made, to make it again after a restore; nothing if that is impossible, and `origin` says what it is.
  std::optional<std::string> params;
  const char* origin = "";
};

class Client {
 public:
  // `total` counts the objects of all clients; it outlives them.
  Client(uint32_t handle, Session session, std::weak_ptr<OpenFile> file, std::atomic<size_t>& total);
  ~Client() { total_ -= objects_.size(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  uint32_t handle() const { return root_->handle; }
  const Session& session() const { return session_; }
  std::shared_ptr<OpenFile> file() const { return file_.lock(); }
  // Neither takes a reference, which might be the file's last one and end it here: for use under the proxy's lock.
  bool file_gone() const { return file_.expired(); }
  bool MadeOn(const std::weak_ptr<const OpenFile>& file) const { return !file_.owner_before(file) && !file.owner_before(file_); }
  absl::Mutex& mu() { return mu_; }

  // With mu() held:
  bool dead() const { return dead_; }
  void set_dead() { dead_ = true; }
  Object* root() { return root_; }
  // Null for a handle that nobody has. The client's own handle is its root.
  Object* Find(uint32_t handle);
  // Null if the handle is taken or 0.
  Object* Add(uint32_t handle, uint32_t number, const Entry* entry, Object* parent);
  static void Depend(Object& from, Object& on);
  // Removes `object` and all that hangs on it, each before what it hangs on, youngest first; `gone` is told each handle.
  void Free(Object& object, const std::function<void(Object&)>& gone = {});
  size_t size() const { return objects_.size(); }
  const std::map<uint32_t, std::unique_ptr<Object>>& objects() const { return objects_; }

  // What objects without a list of their own are shared with (control 0xd04).
  ShareList& inherited() { return inherited_; }

 private:
  std::vector<Object*> FreeOrder(Object& object);

  const Session session_;
  const std::weak_ptr<OpenFile> file_;
  absl::Mutex mu_;
  bool dead_ = false;
  std::atomic<size_t>& total_;
  std::map<uint32_t, std::unique_ptr<Object>> objects_;
  Object* root_;
  ShareList inherited_;
};

// Changes `list` as the driver does on NV_ESC_RM_SHARE: composes, or replaces. False, with `list` as it was, if that would make it too long.
bool ApplyShare(ShareList& list, Share share);
// True if `list` of an object of `owner` gives `to` (with client handle `client`) the right to duplicate it.
bool MayDup(const ShareList& list, const Session& owner, const Session& to, uint32_t client);

// Holds the locks of a client, and of others that a call names beside it; each may be null, or there more than once. As long as it lives none of them
// can end, and so none of their numbers become another process's.
class ClientLock {
 public:
  explicit ClientLock(std::shared_ptr<Client> client, std::vector<std::shared_ptr<Client>> others = {});
  ~ClientLock();
  ClientLock(const ClientLock&) = delete;
  ClientLock& operator=(const ClientLock&) = delete;

  // The client of that handle, if it is held here and lives.
  Client* Find(uint32_t handle) const;

 private:
  std::shared_ptr<Client> one_;                // the only one
  std::vector<std::shared_ptr<Client>> many_;  // or all, in order
};

}  // namespace amber::nvproxy
