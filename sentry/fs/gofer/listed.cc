// Listings with attributes: programs that list a directory and then look at its names one by one (find, tar, git, rm, du) cost a call of
// the gofer for each directory, not for each name.
//
// Inodes that come of a listing have no node of the gofer's; NeedNode() asks for it by the name when it is needed. So whatever takes the name
// away asks before (NeedNodeBeyond), unless nobody can use the file afterwards.
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "gofer/protocol.h"
#include "sentry/fs/gofer/gofer_fs.h"

namespace amber {
namespace {

constexpr int kMostAhead = 8;
constexpr size_t kFirstListings = 2;
// So many names of a listing are looked through for the next directories.
constexpr uint32_t kNearDirectories = 512;
// What is listed in vain is paid for by what was used.
constexpr int kMostListCredit = 256;

bool IsSame(const gofer::Attributes& a, const struct stat& st) {
  return a.dev == st.st_dev && a.ino == st.st_ino && a.mode == st.st_mode && a.ctime.seconds == st.st_ctim.tv_sec &&
         a.ctime.nanoseconds == static_cast<uint32_t>(st.st_ctim.tv_nsec);
}

}  // namespace

void GoferInode::DropListing() {
  if (listed_ == nullptr) return;
  GoferFileSystem& g = gofer();
  g.listed_ -= listed_->size();
  g.with_listing_.erase(listed_position_);
  listed_.reset();
  listed_order_.clear();
  opened_position_ = read_position_ = kNoPosition;
}

void GoferInode::KeepListing(const std::vector<gofer::DirEntry>& entries, const timespec& asked) {
  GoferFileSystem& g = gofer();
  DropListing();
  was_listed_ = listing_used_ = false;
  auto names = std::make_unique<ListedNames>();
  names->reserve(entries.size());
  std::vector<std::string> order;
  order.reserve(entries.size());
  for (const gofer::DirEntry& e : entries) {
    // What vanished meanwhile is unknown, not missing: it may be back.
    if (!e.attributes) return;
    // In a shared tree a later change must show in the ctime.
    bool believed = g.options_.exclusive || g.IsSettled(ToTimespec(e.attributes->ctime), e.attributes->dev, asked);
    bool is_new = names->emplace(e.name, ListedName{believed ? e.attributes : std::nullopt, static_cast<uint32_t>(order.size())}).second;
    if (is_new) order.push_back(e.name);
  }
  listed_order_ = std::move(order);
  listed_ = std::move(names);
  listed_position_ = g.with_listing_.insert(g.with_listing_.end(), this);
  g.listed_ += listed_->size();
  while (g.listed_ > GoferFileSystem::kMaxListed && g.with_listing_.front() != this) g.with_listing_.front()->DropListing();
}

ErrnoOr<std::vector<gofer::DirEntry>> GoferInode::ReadNames(bool plus, bool* keep) {
  GoferFileSystem& g = gofer();
  if (node_ != gofer::kNoNode || !parent_ || removed_ || detached_) {
    TRY(NeedNode());
    if (keep != nullptr) *keep = BeginList();
    return client().ReadDir(node_, plus);
  }
  // Looked up and read in one call.
  TRY(parent_->NeedNode());
  bool look = !g.options_.exclusive && !g.no_dir_fds_ && !no_dir_fd_;
  timespec asked = FileClock();
  std::vector<std::string> ahead;
  if (plus && keep != nullptr) ahead = parent_->DirectoriesAhead(*this);
  std::vector<std::string_view> others(ahead.begin(), ahead.end());
  gofer::ListedDirectory listed = TRY(client().ReadDirAt(parent_->node_, name_, plus, look, others));
  for (gofer::OtherListing& other : listed.others) {
    uint32_t index = other.index;
    parent_->KeepListedAhead(ahead[index], std::move(other), asked);
  }
  timespec mtime = ToTimespec(listed.node.attributes.mtime), ctime = ToTimespec(listed.node.attributes.ctime);
  TRY(TakeNode(std::move(listed.node)));
  if (listed.look.valid() && !dir_fd_.valid()) KeepDirFd(std::move(listed.look));
  if (keep != nullptr) {
    list_.reset();
    list_mtime_ = mtime;
    list_ctime_ = ctime;
    *keep = g.options_.exclusive || (dir_fd_.valid() && g.IsSettled(ctime, key_.first, asked));
  }
  return std::move(listed.entries);
}

// Who walks a tree lists the directories of a directory in the order in which that told them.
std::vector<std::string> GoferInode::DirectoriesAhead(const GoferInode& child) {
  std::vector<std::string> names;
  GoferFileSystem& g = gofer();
  if (listed_ == nullptr) return names;
  auto listed = listed_->find(child.name_);
  if (listed == listed_->end() || listed->second.position == kNoPosition) return names;
  uint32_t position = listed->second.position, last = std::exchange(read_position_, position);
  bool follows = last == kNoPosition ? g.list_window_ > 0 : position > last;
  if (!follows) {
    if (last != kNoPosition) g.list_window_ = 0;
    return names;
  }
  g.list_window_ = std::clamp<size_t>(2 * g.list_window_, kFirstListings, gofer::kMaxListings);
  if (g.list_credit_ < static_cast<int>(g.list_window_)) {
    g.list_credit_ += 2;
    return names;
  }
  uint32_t end = static_cast<uint32_t>(std::min<size_t>(listed_order_.size(), size_t{position} + kNearDirectories));
  for (uint32_t i = position + 1; i < end && names.size() < g.list_window_; ++i) {
    auto it = listed_->find(listed_order_[i]);
    if (it == listed_->end() || it->second.position != i || !it->second.attributes || !S_ISDIR(it->second.attributes->mode)) continue;
    const GoferInode* known = g.Known(*it->second.attributes);
    if (known != nullptr && (known->list_ != nullptr || known->removed_)) continue;
    names.push_back(listed_order_[i]);
  }
  return names;
}

void GoferInode::KeepListedAhead(const std::string& name, gofer::OtherListing other, const timespec& asked) {
  GoferFileSystem& g = gofer();
  timespec mtime = ToTimespec(other.node.attributes.mtime), ctime = ToTimespec(other.node.attributes.ctime);
  RefPtr<GoferInode> child = g.InodeFor(RefPtr<GoferInode>(this), name, std::move(other.node));
  --g.list_credit_;
  if (!child->IsDir() || child->removed_ || child->list_ != nullptr) return;
  if (other.look.valid() && !child->dir_fd_.valid()) child->KeepDirFd(std::move(other.look));
  // In a shared tree it is used if the directory's times are these then.
  if (!g.options_.exclusive && (!child->dir_fd_.valid() || !g.IsSettled(ctime, child->key_.first, asked))) return;
  child->list_mtime_ = mtime;
  child->list_ctime_ = ctime;
  child->listed_count_ = other.entries.size();
  child->KeepListing(other.entries, asked);
  child->list_ = std::make_unique<std::vector<DirEnt>>();
  child->list_->reserve(other.entries.size());
  for (gofer::DirEntry& e : other.entries) child->list_->push_back({std::move(e.name), e.ino, e.type});
  child->listed_ahead_ = true;
  g.listed_ahead_.push_back(std::move(child));
  if (g.listed_ahead_.size() <= GoferFileSystem::kMaxListedAhead) return;
  g.listed_ahead_.front()->listed_ahead_ = false;
  g.listed_ahead_.pop_front();
}

void GoferInode::UseListedAhead() {
  if (!std::exchange(listed_ahead_, false)) return;
  GoferFileSystem& g = gofer();
  g.list_credit_ = std::min(g.list_credit_ + 2, kMostListCredit);
  g.listed_ahead_.remove_if([this](const RefPtr<GoferInode>& kept) { return kept.get() == this; });
}

bool GoferInode::NeedListing() {
  if (listed_ != nullptr) return true;
  if (!was_listed_ || listed_count_ > GoferFileSystem::kMaxListedHere) return false;
  was_listed_ = false;
  timespec asked = FileClock();
  auto entries = ReadNames(true, nullptr);
  if (entries.ok()) KeepListing(*entries, asked);
  return listed_ != nullptr;
}

GoferInode::Listed GoferInode::LookInListing(std::string_view name, const struct stat* now, RefPtr<GoferInode>* found) {
  if (!NeedListing()) return Listed::kUnknown;
  GoferFileSystem& g = gofer();
  if (!std::exchange(listing_used_, true)) g.stats_follow_ = std::min(g.stats_follow_ + 2, kMostAhead);
  auto it = listed_->find(name);
  if (it == listed_->end()) return now == nullptr ? Listed::kMissing : Listed::kUnknown;
  if (!it->second.attributes) return Listed::kUnknown;
  const gofer::Attributes& a = *it->second.attributes;
  // Changes by another of its names would be missed.
  if (a.nlink > 1 && !S_ISDIR(a.mode)) return Listed::kUnknown;
  if (now != nullptr && !IsSame(a, *now)) return Listed::kUnknown;
  GoferInode* known = g.Known(a);
  if (known == nullptr || known->removed_) {
    *found = MakeRef<GoferInode>(&g, RefPtr<GoferInode>(this), name, gofer::Node{gofer::kNoNode, a, ""});
  } else {
    // It knows more than the listing.
    if (now != nullptr && !known->Confirm(*now)) return Listed::kUnknown;
    if (now != nullptr && known->parent_ != this) {
      known->parent_ = RefPtr<GoferInode>(this);
      known->name_ = name;
    }
    *found = RefPtr<GoferInode>(known);
  }
  if (now != nullptr) (*found)->TakeStat(*now);
  return Listed::kFound;
}

void GoferInode::Outdate() {
  if (!parent_ || parent_->listed_ == nullptr) return;
  auto it = parent_->listed_->find(name_);
  if (it != parent_->listed_->end()) it->second.attributes.reset();
}

void GoferInode::NamesChanged() {
  if (gofer().options_.exclusive || !dir_fd_.valid()) stale_ = true;
  DidChange();
  Outdate();
  list_.reset();
}

void GoferInode::NameAdded(std::string_view name) {
  NamesChanged();
  if (listed_ == nullptr) return;
  auto [it, is_new] = listed_->try_emplace(name);
  it->second.attributes.reset();
  if (is_new) ++gofer().listed_;
}

void GoferInode::NameRemoved(std::string_view name) {
  NamesChanged();
  if (listed_ != nullptr) gofer().listed_ -= listed_->erase(name);
}

ErrnoOr<void> GoferInode::NeedNodeBeyond(GoferInode& victim) {
  bool lives_on = victim.open_files > 0 || (!victim.IsDir() && victim.attr_.nlink > 1);
  if (victim.node_ != gofer::kNoNode || victim.removed_ || !lives_on) return Ok();
  return victim.NeedNode();
}

ErrnoOr<void> GoferInode::WalkExclusive(std::span<const std::string_view> names, bool open_read, std::vector<RefPtr<Inode>>* found) {
  // The last directory on the way that has a node: the gofer is asked from there, for all that is left in one call.
  GoferInode *dir = this, *from = this;
  size_t first = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    RefPtr<GoferInode> child;
    switch (dir->LookInListing(names[i], nullptr, &child)) {
      case Listed::kMissing: return Errno(ENOENT);
      case Listed::kFound: break;
      case Listed::kUnknown:
        found->erase(found->begin() + static_cast<ptrdiff_t>(first), found->end());
        return from->AskAhead(names.subspan(first), open_read, found);
    }
    bool will_open = open_read && i + 1 == names.size() && child->IsRegular() && !child->has_fd();
    if (will_open && !dir->OpenAhead(names[i], *child)) {
      found->erase(found->begin() + static_cast<ptrdiff_t>(first), found->end());
      return from->AskAhead(names.subspan(first), open_read, found);
    }
    found->push_back(child);
    if (!child->IsDir()) break;
    dir = child.get();
    if (dir->node_ == gofer::kNoNode) continue;
    from = dir;
    first = i + 1;
  }
  return Ok();
}

}  // namespace amber
