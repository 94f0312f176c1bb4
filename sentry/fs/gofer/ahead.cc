// Files that are opened before the guest asks for them: programs that list a directory and then open its files in the order of the list
// (tar, grep -r, cp -r) cost a call of the gofer for each dozen or two of them, not for each.
//
// What is opened ahead is kept by its device and number, which cannot mean another file while its node is held; a name that leads to that number
// now, as every walk finds out, may use the descriptor. Nothing is read, so nothing that the host changes is missed, and the guest's rights
// are checked when it opens.
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "gofer/protocol.h"
#include "sentry/fs/gofer/gofer_fs.h"

namespace amber {
namespace {

constexpr size_t kFirstWindow = 4;
// Between two files that are opened there may be so many names that are not: directories, links, files of no interest.
constexpr uint32_t kNear = 32;
// What is opened in vain is paid for by what was used, and by opens that would have found it.
constexpr int kMostCredit = 512;

}  // namespace

void GoferFileSystem::KeepAhead(gofer::OpenedFile opened) {
  std::pair<uint64_t, uint64_t> key(opened.node.attributes.dev, opened.node.attributes.ino);
  DropAhead(key);
  ahead_order_.push_back(key);
  ahead_.emplace(key, Ahead{opened.node.id, std::move(opened.file), std::prev(ahead_order_.end())});
  if (ahead_.size() > kMaxAhead) DropAhead(std::pair(ahead_order_.front()));
}

void GoferFileSystem::DropAhead(const std::pair<uint64_t, uint64_t>& key) {
  auto it = ahead_.find(key);
  if (it == ahead_.end()) return;
  client_->Forget(it->second.node);
  ahead_order_.erase(it->second.position);
  ahead_.erase(it);
}

void GoferInode::TakeOpened(gofer::NodeId node, UniqueFd file) {
  if (node_ == gofer::kNoNode) {
    node_ = node;
  } else {
    client().Forget(node);
  }
  read_fd_ = std::move(file);
  open_ = 1;
  EndIo(false);  // nobody has it open yet: the descriptor is kept as an idle one
}

// The files to open with `name`, which is at `position` of the listing and comes first.
std::vector<std::string_view> GoferInode::NamesAhead(std::string_view name, uint32_t position, size_t most) const {
  const GoferFileSystem& g = gofer();
  std::vector<std::string_view> names = {name};
  uint32_t end = static_cast<uint32_t>(std::min<size_t>(listed_order_.size(), size_t{position} + 4 * kNear));
  for (uint32_t i = position + 1; i < end && names.size() < most; ++i) {
    auto it = listed_->find(listed_order_[i]);
    if (it == listed_->end() || it->second.position != i || !it->second.attributes) continue;
    const gofer::Attributes& a = *it->second.attributes;
    if (!S_ISREG(a.mode) || a.nlink > 1 || a.size == 0 || g.ahead_.contains({a.dev, a.ino})) continue;
    const GoferInode* known = g.Known(a);
    if (known != nullptr && (known->has_fd() || known->removed_)) continue;
    names.push_back(listed_order_[i]);
  }
  return names;
}

bool GoferInode::OpenAhead(std::string_view name, GoferInode& file) {
  if (listed_ == nullptr) return false;
  auto listed = listed_->find(name);
  if (listed == listed_->end() || listed->second.position == kNoPosition) return false;
  GoferFileSystem& g = gofer();
  uint32_t position = listed->second.position, last = std::exchange(opened_position_, position);
  if (auto it = g.ahead_.find(file.key_); it != g.ahead_.end()) {
    g.ahead_credit_ = std::min(g.ahead_credit_ + 2, kMostCredit);
    g.ahead_order_.erase(it->second.position);
    GoferFileSystem::Ahead ahead = std::move(it->second);
    g.ahead_.erase(it);
    file.TakeOpened(ahead.node, std::move(ahead.file));
    return true;
  }
  bool follows = last == kNoPosition ? g.ahead_window_ > 0 : position > last && position - last <= kNear;
  if (!follows) {
    if (last != kNoPosition) g.ahead_window_ = 0;
    return false;
  }
  g.ahead_window_ = std::clamp<size_t>(2 * g.ahead_window_, kFirstWindow, gofer::kMaxDescriptors);
  if (g.ahead_credit_ < static_cast<int>(g.ahead_window_)) {
    g.ahead_credit_ += 2;
    return false;
  }
  std::vector<std::string_view> names = NamesAhead(name, position, g.ahead_window_);
  if (names.size() < 2 || !NeedNode().ok()) return false;
  auto opened = client().OpenSeveral(node_, names);
  if (!opened.ok()) {
    g.ahead_window_ = 0;
    return false;
  }
  g.ahead_credit_ -= static_cast<int>(names.size()) - 1;
  for (gofer::OpenedFile& o : *opened) {
    if (o.index != 0) {
      g.KeepAhead(std::move(o));
    } else if (file.key_ == std::pair(o.node.attributes.dev, o.node.attributes.ino)) {
      file.TakeOpened(o.node.id, std::move(o.file));
    } else {
      client().Forget(o.node.id);
    }
  }
  return file.has_fd();
}

}  // namespace amber
