// Listings with attributes: programs that list a directory and then look at its names one by one (find, tar, git, rm, du) cost a call of
// the gofer for each directory, not for each name.
//
// Inodes that come of a listing have no node of the gofer's; NeedNode() asks for it by the name when it is needed. So whatever takes the name
// away asks before (NeedNodeBeyond), unless nobody can use the file afterwards.
#include <string.h>

#include "sentry/fs/gofer/gofer_fs.h"

namespace amber {
namespace {

constexpr int kMostAhead = 8;

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
}

void GoferInode::KeepListing(const std::vector<gofer::DirEntry>& entries, const timespec& asked) {
  GoferFileSystem& g = gofer();
  DropListing();
  was_listed_ = listing_used_ = false;
  auto names = std::make_unique<ListedNames>();
  names->reserve(entries.size());
  for (const gofer::DirEntry& e : entries) {
    // What vanished meanwhile is unknown, not missing: it may be back.
    if (!e.attributes) return;
    // In a shared tree a later change must show in the ctime.
    bool believed = g.options_.exclusive || IsSettled({e.attributes->ctime.seconds, e.attributes->ctime.nanoseconds}, asked);
    names->emplace(e.name, believed ? e.attributes : std::nullopt);
  }
  listed_ = std::move(names);
  listed_position_ = g.with_listing_.insert(g.with_listing_.end(), this);
  g.listed_ += listed_->size();
  while (g.listed_ > GoferFileSystem::kMaxListed && g.with_listing_.front() != this) g.with_listing_.front()->DropListing();
}

bool GoferInode::NeedListing() {
  if (listed_ != nullptr) return true;
  if (!was_listed_ || listed_count_ > GoferFileSystem::kMaxListedHere || !NeedNode().ok()) return false;
  was_listed_ = false;
  timespec asked = FileClock();
  auto entries = client().ReadDir(node_, true);
  if (entries.ok()) KeepListing(*entries, asked);
  return listed_ != nullptr;
}

GoferInode::Listed GoferInode::LookInListing(std::string_view name, const struct stat* now, RefPtr<GoferInode>* found) {
  if (!NeedListing()) return Listed::kUnknown;
  GoferFileSystem& g = gofer();
  if (!std::exchange(listing_used_, true)) g.stats_follow_ = std::min(g.stats_follow_ + 2, kMostAhead);
  auto it = listed_->find(name);
  if (it == listed_->end()) return now == nullptr ? Listed::kMissing : Listed::kUnknown;
  if (!it->second) return Listed::kUnknown;
  const gofer::Attributes& a = *it->second;
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
  if (it != parent_->listed_->end()) it->second.reset();
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
  it->second.reset();
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
    if (will_open) {
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
