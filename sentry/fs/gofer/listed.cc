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
  listed_order_.clear();
  opened_position_ = kNoPosition;
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
  gofer::ListedDirectory listed = TRY(client().ReadDirAt(parent_->node_, name_, plus, look));
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
