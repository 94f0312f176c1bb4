// Handles of the host's files. The host's own would need a privilege that neither the gofer nor the sentry has.
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <unordered_map>
#include <utility>

#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/gofer/gofer_fs.pb.h"

namespace amber {

// Handles of files that are found again by their names, since inodes come and go with the cache: which number was given to which file, and where it is.
//
// Owned by the file system. Numbers are never used again; the handles that were used least recently go when there are very many, and are stale then. A file's
// key is what its file system tells it by; keys are not saved, since a restore may find the same files with others: the first that has the name and type of
// one that was saved is it. Kernel lock.
class HandleTable {
 public:
  static constexpr size_t kMost = 1 << 16;
  using Key = std::pair<uint64_t, uint64_t>;
  struct File {
    Key key;
    uint32_t type = 0;  // S_IF*
    int64_t born = 0;   // in nanoseconds, 0 if that is not known: tells it from an older file of the same key
  };

  HandleTable();
  // The number of the root, or of a file that is called `name` in the directory numbered `parent`; 0: it has no name.
  uint64_t Root(const File& file);
  uint64_t NumberOf(const File& file, uint64_t parent, std::string_view name);
  bool Has(const Key& key) const { return by_key_.contains(key); }
  // The file is gone for good.
  void Forget(const Key& key);
  FileHandle Handle(uint64_t number) const { return HandleForNumber(number, salt_); }

  // The number in a handle: ESTALE if it is none of this table's.
  ErrnoOr<uint64_t> Find(const FileHandle& handle);
  // Its names, from the root; false if they are not known (any more).
  bool Names(uint64_t number, std::vector<std::string>* names);
  // The key of the file, if it is known.
  const Key* KeyOf(uint64_t number) const;
  // The names of the number led to this file: it is the right one.
  bool IsFile(uint64_t number, const File& file);

  void Save(gofer_fs_state::HandleTable* out) const;
  bool Load(const gofer_fs_state::HandleTable& in);

 private:
  struct Entry {
    File file;
    bool known = false;  // the key is
    uint64_t parent = 0;
    std::string name;
    std::list<uint64_t>::iterator used;
  };
  using Entries = std::unordered_map<uint64_t, Entry>;
  static constexpr uint64_t kRoot = 1;
  // The same file, as far as its type and birth tell; a birth that was not known is now.
  static bool Fits(Entry& entry, const File& file);

  Entry& Add(uint64_t number, const File& file, bool known, uint64_t parent, std::string_view name);
  void Drop(Entries::iterator it);
  void Touch(Entry& entry) { order_.splice(order_.end(), order_, entry.used); }
  void Adopt(uint64_t number, Entry& entry, const File& file);
  void SetPlace(uint64_t number, Entry& entry, uint64_t parent, std::string_view name);

  uint32_t salt_ = 0;
  uint64_t next_ = kRoot + 1;
  Entries entries_;
  std::list<uint64_t> order_;  // least recently used first
  std::map<Key, uint64_t> by_key_;
  std::map<std::pair<uint64_t, std::string>, uint64_t> by_place_;
};

HandleTable::HandleTable() {
  // So that handles of one file system are stale in another.
  if (getrandom(&salt_, sizeof(salt_), 0) != sizeof(salt_)) salt_ = 1;
}

HandleTable::Entry& HandleTable::Add(uint64_t number, const File& file, bool known, uint64_t parent, std::string_view name) {
  while (entries_.size() >= kMost) Drop(entries_.find(order_.front()));
  Entry& entry = entries_[number];
  entry.file = file;
  entry.known = known;
  entry.used = order_.insert(order_.end(), number);
  if (known) by_key_[file.key] = number;
  SetPlace(number, entry, parent, name);
  return entry;
}

void HandleTable::Drop(Entries::iterator it) {
  Entry& entry = it->second;
  if (auto k = by_key_.find(entry.file.key); entry.known && k != by_key_.end() && k->second == it->first) by_key_.erase(k);
  if (auto p = by_place_.find({entry.parent, entry.name}); p != by_place_.end() && p->second == it->first) by_place_.erase(p);
  order_.erase(entry.used);
  entries_.erase(it);
}

void HandleTable::SetPlace(uint64_t number, Entry& entry, uint64_t parent, std::string_view name) {
  if (auto p = by_place_.find({entry.parent, entry.name}); p != by_place_.end() && p->second == number) by_place_.erase(p);
  entry.parent = parent;
  entry.name = name;
  if (parent != 0) by_place_[{parent, entry.name}] = number;
}

void HandleTable::Adopt(uint64_t number, Entry& entry, const File& file) {
  if (auto k = by_key_.find(entry.file.key); entry.known && k != by_key_.end() && k->second == number) by_key_.erase(k);
  entry.file = file;
  entry.known = true;
  by_key_[file.key] = number;
}

bool HandleTable::Fits(Entry& entry, const File& file) {
  if (entry.file.type != file.type || (entry.file.born != file.born && entry.file.born != 0 && file.born != 0)) return false;
  if (entry.file.born == 0) entry.file.born = file.born;
  return true;
}

uint64_t HandleTable::Root(const File& file) {
  auto it = entries_.find(kRoot);
  if (it == entries_.end()) {
    Add(kRoot, file, true, 0, "");
  } else {
    Adopt(kRoot, it->second, file);
    Touch(it->second);
  }
  return kRoot;
}

uint64_t HandleTable::NumberOf(const File& file, uint64_t parent, std::string_view name) {
  if (auto k = by_key_.find(file.key); k != by_key_.end()) {
    auto it = entries_.find(k->second);
    Entry& entry = it->second;
    if (Fits(entry, file)) {
      if (parent != 0 && (entry.parent != parent || entry.name != name)) SetPlace(it->first, entry, parent, name);
      Touch(entry);
      return it->first;
    }
    Drop(it);
  }
  if (auto p = parent != 0 ? by_place_.find({parent, std::string(name)}) : by_place_.end(); p != by_place_.end()) {
    Entry& entry = entries_.find(p->second)->second;
    if (!entry.known && entry.file.type == file.type) {
      Adopt(p->second, entry, file);
      Touch(entry);
      return p->second;
    }
  }
  Add(next_, file, true, parent, name);
  return next_++;
}

void HandleTable::Forget(const Key& key) {
  if (auto k = by_key_.find(key); k != by_key_.end()) Drop(entries_.find(k->second));
}

ErrnoOr<uint64_t> HandleTable::Find(const FileHandle& handle) {
  uint64_t number;
  uint32_t salt;
  if (handle.type != kHandleInode64 || handle.bytes.size() < sizeof(number) + sizeof(salt)) return Errno(ESTALE);
  memcpy(&number, handle.bytes.data(), sizeof(number));
  memcpy(&salt, handle.bytes.data() + sizeof(number), sizeof(salt));
  auto it = entries_.find(number);
  if (salt != salt_ || (it == entries_.end() && number != kRoot)) return Errno(ESTALE);
  if (it != entries_.end()) Touch(it->second);
  return number;
}

bool HandleTable::Names(uint64_t number, std::vector<std::string>* names) {
  while (number != kRoot) {
    auto it = entries_.find(number);
    if (it == entries_.end() || it->second.parent == 0 || names->size() > HandleFileSystem::kMaxDepth) return false;
    Touch(it->second);
    names->push_back(it->second.name);
    number = it->second.parent;
  }
  std::ranges::reverse(*names);
  return true;
}

const HandleTable::Key* HandleTable::KeyOf(uint64_t number) const {
  auto it = entries_.find(number);
  return it != entries_.end() && it->second.known ? &it->second.file.key : nullptr;
}

bool HandleTable::IsFile(uint64_t number, const File& file) {
  if (number == kRoot) return true;
  auto it = entries_.find(number);
  if (it == entries_.end() || it->second.file.type != file.type) return false;
  Entry& entry = it->second;
  if (!entry.known) Adopt(number, entry, file);
  return entry.file.key == file.key && Fits(entry, file);
}

void HandleTable::Save(gofer_fs_state::HandleTable* out) const {
  out->set_salt(salt_);
  out->set_next(next_);
  for (uint64_t number : order_) {
    const Entry& entry = entries_.find(number)->second;
    auto named = by_place_.find({entry.parent, entry.name});
    if (named == by_place_.end() || named->second != number) continue;  // its name is another file's, or it has none
    auto* e = out->add_entries();
    e->set_number(number);
    e->set_type(entry.file.type);
    e->set_parent(entry.parent);
    e->set_name(entry.name);
  }
}

bool HandleTable::Load(const gofer_fs_state::HandleTable& in) {
  if (in.next() == 0) return true;  // of an image that has none
  salt_ = in.salt();
  next_ = std::clamp(in.next(), kRoot + 1, uint64_t{1} << 62);
  for (const auto& e : in.entries()) {
    bool right = e.number() > kRoot && e.number() < next_ && e.parent() != 0 && !e.name().empty() && e.name().find('/') == std::string::npos &&
                 e.name() != "." && e.name() != "..";
    if (!right || entries_.contains(e.number()) || by_place_.contains({e.parent(), e.name()})) return false;
    Add(e.number(), {.type = e.type()}, false, e.parent(), e.name());
  }
  return true;
}

namespace {

HandleTable::File FileOf(const GoferInode& inode) {
  const timespec& born = inode.attr().btime;
  return {inode.key(), inode.type(), int64_t{born.tv_sec} * 1'000'000'000 + born.tv_nsec};
}

}  // namespace

void GoferFileSystem::UpdateHandle(const GoferInode& inode) {
  if (handles_->Has(inode.key_)) (void)NumberOf(inode);
}

void GoferFileSystem::ForgetHandle(const GoferInode& inode) { handles_->Forget(inode.key_); }

std::shared_ptr<HandleTable> GoferFileSystem::MakeHandles() { return std::make_shared<HandleTable>(); }

std::string GoferFileSystem::SaveHandles() const {
  gofer_fs_state::HandleTable m;
  handles_->Save(&m);
  return m.SerializeAsString();
}

bool GoferFileSystem::LoadHandles(std::string_view bytes) {
  gofer_fs_state::HandleTable m;
  return m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) && handles_->Load(m);
}

uint64_t GoferFileSystem::NumberOf(const GoferInode& inode) {
  std::vector<const GoferInode*> way;
  for (const GoferInode* i = &inode; !i->removed_ && i->parent_ && way.size() < kMaxDepth; i = i->parent_.get()) way.push_back(i);
  const GoferInode* top = way.empty() ? &inode : way.back()->parent_.get();
  if (top != root()->inode()) return handles_->NumberOf(FileOf(inode), 0, "");
  uint64_t number = handles_->Root(FileOf(*top));
  for (; !way.empty(); way.pop_back()) number = handles_->NumberOf(FileOf(*way.back()), number, way.back()->name_);
  return number;
}

FileHandle GoferFileSystem::HandleOf(Inode& inode) { return handles_->Handle(NumberOf(static_cast<GoferInode&>(inode))); }

ErrnoOr<HandleFileSystem::Place> GoferFileSystem::FindHandle(const FileHandle& handle) {
  uint64_t number = TRY(handles_->Find(handle));
  Place place;
  place.named = handles_->Names(number, &place.names);
  // One that has lost its name is there as long as somebody has it open.
  const HandleTable::Key* key = handles_->KeyOf(number);
  auto open = key != nullptr ? inodes_.find(*key) : inodes_.end();
  if (open != inodes_.end() && open->second->open_files > 0) place.inode = RefPtr<Inode>(open->second);
  return place;
}

bool GoferFileSystem::IsOfHandle(Inode& inode, const FileHandle& handle) {
  auto number = handles_->Find(handle);
  return number.ok() && handles_->IsFile(*number, FileOf(static_cast<GoferInode&>(inode)));
}

}  // namespace amber
