// Names under which something is to be made that must not be there yet (O_EXCL, mkdir(2), symlink(2), mknod(2)).
//
// A file system that would have to ask somebody else whether there is such a name may say that there is none: who is asked to make it says so if
// there is. One question instead of two, as Linux has it for NFS (LOOKUP_EXCL). If making it fails in any other way the name is looked up all the
// same, since a name that is there comes before whatever else is wrong.
#pragma once

#include <string_view>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/path.h"

namespace amber {

// While one exists, a name of `dir` is looked up for that purpose. (A file system on top of others does not pass it on: it is about this inode.)
class NewNameLookup {
 public:
  explicit NewNameLookup(const Inode& dir) : dir_(&dir), before_(current_) { current_ = this; }
  ~NewNameLookup() { current_ = before_; }
  NewNameLookup(const NewNameLookup&) = delete;
  // For the file system: true if it may say that the name is missing, which it does then.
  static bool Guess(const Inode& dir) {
    if (current_ == nullptr || current_->dir_ != &dir) return false;
    return current_->guessed_ = true;
  }
  bool guessed() const { return guessed_; }

 private:
  const Inode* dir_;
  NewNameLookup* before_;
  bool guessed_ = false;
  static inline thread_local NewNameLookup* current_ = nullptr;
};

// Has `make`(dentry) make what is called `name` in `dir`. EEXIST if there is such a name.
template <typename F>
ErrnoOr<RefPtr<Dentry>> MakeNew(const VfsContext& ctx, const VfsPath& dir, std::string_view name, F make) {
  RefPtr<Dentry> child;
  bool guessed = false;
  {
    NewNameLookup lookup(*dir.inode());
    child = TRY(LookupChild(ctx, dir, name));
    guessed = lookup.guessed();
  }
  if (!child->negative()) return Errno(EEXIST);
  ErrnoOr<void> made = make(*child);
  if (made.ok()) return child;
  if (guessed && child->negative() && !made.Is(EEXIST)) {
    child = TRY(LookupChild(ctx, dir, name));
    if (!child->negative()) return Errno(EEXIST);
  }
  return made.error();
}

}  // namespace amber
