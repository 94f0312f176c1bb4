#include "sentry/vfs/fd_table.h"

#include <algorithm>
#include <bit>

#include "sentry/vfs/file_owner.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {

ErrnoOr<RefPtr<File>> FdTable::GetAny(int fd) const {
  if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
  return entries_[fd].file;
}

ErrnoOr<RefPtr<File>> FdTable::Get(int fd) const {
  if (fd < 0 || static_cast<size_t>(fd) >= entries_.size()) return Errno(EBADF);
  const RefPtr<File>& file = entries_[fd].file;
  if (!file || (file->flags() & O_PATH) != 0) return Errno(EBADF);
  return file;
}

void FdTable::Reach(size_t fd) {
  if (fd >= entries_.size()) entries_.resize(fd + 1);
  // alloc_fdtable(): a power of two times 128 (a kilobyte of pointers).
  if (fd >= static_cast<size_t>(capacity_)) capacity_ = static_cast<int>(std::bit_ceil(fd / 128 + 1) * 128);
}

ErrnoOr<int> FdTable::Allocate(RefPtr<File> file, bool close_on_exec, uint64_t limit, int min) {
  AMBER_CHECK(file);
  limit = std::min<uint64_t>(limit, kMaxFds);
  if (min < 0) return Errno(EINVAL);
  size_t fd = static_cast<size_t>(std::max(min, first_free_));
  while (fd < entries_.size() && entries_[fd].file) ++fd;
  if (fd >= limit) return Errno(EMFILE);
  Reach(fd);
  entries_[fd] = {std::move(file), close_on_exec};
  if (min <= first_free_) first_free_ = static_cast<int>(fd) + 1;
  return static_cast<int>(fd);
}

ErrnoOr<RefPtr<File>> FdTable::Replace(int fd, RefPtr<File> file, bool close_on_exec, uint64_t limit) {
  AMBER_CHECK(file);
  limit = std::min<uint64_t>(limit, kMaxFds);
  if (fd < 0 || static_cast<uint64_t>(fd) >= limit) return Errno(EBADF);
  Reach(static_cast<size_t>(fd));
  RefPtr<File> old = std::move(entries_[fd].file);
  entries_[fd] = {std::move(file), close_on_exec};
  if (first_free_ == fd) ++first_free_;
  return old;
}

ErrnoOr<RefPtr<File>> FdTable::Remove(int fd) {
  if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
  RefPtr<File> old = std::move(entries_[fd].file);
  entries_[fd] = {};
  first_free_ = std::min(first_free_, fd);
  while (!entries_.empty() && !entries_.back().file) entries_.pop_back();
  return old;
}

ErrnoOr<bool> FdTable::close_on_exec(int fd) const {
  if (auto r = GetAny(fd); !r.ok()) return r.error();
  return entries_[fd].close_on_exec;
}

ErrnoOr<void> FdTable::set_close_on_exec(int fd, bool on) {
  if (auto r = GetAny(fd); !r.ok()) return r.error();
  entries_[fd].close_on_exec = on;
  return Ok();
}

void FdTable::RemoveIf(Task& task, const std::function<bool(int, bool)>& which) {
  // OnClose may do much (drop locks, hang up a terminal), but never changes this table.
  for (int fd = static_cast<int>(entries_.size()) - 1; fd >= 0; --fd) {
    if (static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) continue;
    if (!which(fd, entries_[fd].close_on_exec)) continue;
    auto file = Remove(fd);
    if (file.ok()) TellClosed(**file, task);
  }
}

RefPtr<FdTable> FdTable::Clone() const {
  auto copy = MakeRef<FdTable>();
  copy->entries_ = entries_;
  copy->first_free_ = first_free_;
  copy->capacity_ = std::max(64, (size() + 63) / 64 * 64);  // sane_fdtable_size()
  return copy;
}

void FdTable::ForEach(const std::function<void(int, const RefPtr<File>&, bool)>& visit) const {
  for (size_t fd = 0; fd < entries_.size(); ++fd) {
    if (entries_[fd].file) visit(static_cast<int>(fd), entries_[fd].file, entries_[fd].close_on_exec);
  }
}

std::string FdTable::Save(state::Saver& saver) const {
  vfs_state::FdTable m;
  for (size_t fd = 0; fd < entries_.size(); ++fd) {
    if (!entries_[fd].file) continue;
    auto* e = m.add_entries();
    e->set_fd(static_cast<uint32_t>(fd));
    e->set_file(saver.Ref(entries_[fd].file));
    e->set_close_on_exec(entries_[fd].close_on_exec);
  }
  m.set_capacity(static_cast<uint32_t>(capacity_));
  return m.SerializeAsString();
}

bool FdTable::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::FdTable m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  for (const auto& e : m.entries()) {
    if (e.fd() >= kMaxFds) return loader.Fail("a descriptor number is too large");
    RefPtr<File> file = loader.GetRef<File>(e.file());
    if (!file) return loader.Fail("a descriptor has no file");
    Reach(e.fd());
    entries_[e.fd()] = {std::move(file), e.close_on_exec()};
  }
  if (m.capacity() > kMaxFds) return loader.Fail("a descriptor table is too large");
  capacity_ = std::max(capacity_, static_cast<int>(m.capacity()));
  first_free_ = 0;
  return true;
}

}  // namespace amber
