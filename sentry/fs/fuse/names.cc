// Directories: looking up names and changing them.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/sysmacros.h>

#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fs_context.h"

namespace amber {
namespace {

// new_encode_dev()
uint32_t EncodeDevice(uint64_t d) { return (minor(d) & 0xff) | (major(d) << 8) | ((minor(d) & ~0xffu) << 12); }

uint32_t UmaskOf(const VfsContext& ctx) { return ctx.fs != nullptr ? ctx.fs->umask() : 0; }

// An inode of the same file system, as whoever calls has made sure. (An image may say what it likes.)
FuseInode* Mine(Inode& inode) { return dynamic_cast<FuseInode*>(&inode); }

std::string Zeroed(std::string_view name) { return std::string(name) + '\0'; }

}  // namespace

ErrnoOr<RefPtr<FuseRequest>> FuseInode::AskEntry(uint32_t opcode, std::string in, std::string_view name) {
  FuseQuestion q = About(opcode, std::move(in));
  q.min_out = q.max_out = sizeof(fuse_entry_out);
  RefPtr<FuseRequest> request = TRY(connection_->Ask(std::move(q)));
  NoteName(name, *request);
  return request;
}

ErrnoOr<RefPtr<Inode>> FuseInode::Lookup(const VfsContext&, std::string_view name) {
  RefPtr<FuseRequest> request = TRY(AskEntry(FUSE_LOOKUP, Zeroed(name), name));
  if (!request->inode()) return Errno(ENOENT);
  // A directory has one place.
  if (request->inode().get() == this) return Errno(EIO);
  return RefPtr<Inode>(request->inode());
}

ErrnoOr<void> FuseInode::LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> known, bool,
                                     std::vector<RefPtr<Inode>>* found) {
  TRY(Look());
  auto it = names_.find(std::string(names[0]));
  if (it != names_.end() && FuseNow() < it->second.valid_until && connection_->connected() &&
      !connection_->WasAsked(About(FUSE_LOOKUP, Zeroed(names[0])))) {
    if (it->second.missing && known[0] == nullptr) return Errno(ENOENT);
    if (!it->second.missing && known[0] != nullptr) {
      found->emplace_back(known[0]);
      return Ok();
    }
  }
  found->push_back(TRY(Lookup(ctx, names[0])));
  return Ok();
}

void FuseInode::Changed() { attr_until_ = 0; }

ErrnoOr<RefPtr<FuseHandle>> FuseInode::OpenHandle(int flags) {
  uint32_t opcode = IsDir() ? FUSE_OPENDIR : FUSE_OPEN;
  auto none = [&] {
    auto handle = MakeRef<FuseHandle>(connection_, node_, IsDir());
    handle->open_flags = FOPEN_KEEP_CACHE;
    return handle;
  };
  if (connection_->lacks(opcode)) return none();
  fuse_open_in in{};
  in.flags = static_cast<uint32_t>(flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC));
  FuseQuestion q = About(opcode, BytesOf(in));
  q.min_out = q.max_out = sizeof(fuse_open_out);
  q.flags = in.flags;
  auto request = connection_->Ask(std::move(q));
  if (request.Is(ENOSYS)) {
    connection_->set_lacks(opcode);
    return none();
  }
  if (!request.ok()) return request.error();
  return (*request)->opened();
}

ErrnoOr<RefPtr<File>> FuseInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  if (!IsRegular() && !IsDir()) {
    // What a user serves opens no devices (SB_I_NODEV).
    if ((type() == S_IFCHR || type() == S_IFBLK) && fs().owner() != nullptr) return Errno(EACCES);
    return Inode::Open(ctx, path, flags);
  }
  TRY(connection_->MayLook(*ctx.creds));
  RefPtr<FuseHandle> handle = std::move(created_);
  if (!handle || CreateIntent::flags() < 0) handle = TRY(OpenHandle(flags));
  return RefPtr<File>(MakeRef<FuseFile>(path, flags, std::move(handle)));
}

// Makes and opens in one request, or, for servers that cannot, in two.
ErrnoOr<RefPtr<Inode>> FuseInode::Create(std::string_view name, const NewNode& node, int flags) {
  fuse_create_in in{};
  in.flags = static_cast<uint32_t>(flags & ~(O_NOCTTY | O_CLOEXEC));
  in.mode = node.mode;
  in.umask = UmaskOf({.fs = &ServedCall::Current()->fs()});
  FuseQuestion q = About(FUSE_CREATE, BytesOf(in) + Zeroed(name));
  q.min_out = q.max_out = sizeof(fuse_entry_out) + sizeof(fuse_open_out);
  q.flags = in.flags;
  RefPtr<FuseRequest> request = TRY(connection_->Ask(std::move(q)));
  if (request->inode()->type() != S_IFREG) return Errno(EIO);
  NoteName(name, *request);
  request->inode()->created_ = request->opened();
  return RefPtr<Inode>(request->inode());
}

ErrnoOr<RefPtr<Inode>> FuseInode::Make(const VfsContext& ctx, std::string_view name, const NewNode& node) {
  TRY(connection_->MayLook(*ctx.creds));
  int flags = S_ISREG(node.mode) && ServedCall::Current() != nullptr ? CreateIntent::flags() : -1;
  if (flags >= 0 && !connection_->lacks(FUSE_CREATE)) {
    auto made = Create(name, node, flags);
    if (!made.Is(ENOSYS)) {
      if (made.ok()) Changed();
      return made;
    }
    connection_->set_lacks(FUSE_CREATE);
  }
  RefPtr<FuseRequest> request;
  if (S_ISDIR(node.mode)) {
    fuse_mkdir_in in{.mode = node.mode, .umask = UmaskOf(ctx)};
    request = TRY(AskEntry(FUSE_MKDIR, BytesOf(in) + Zeroed(name), name));
  } else if (S_ISLNK(node.mode)) {
    request = TRY(AskEntry(FUSE_SYMLINK, Zeroed(name) + Zeroed(node.target), name));
  } else {
    fuse_mknod_in in{.mode = node.mode, .rdev = EncodeDevice(node.rdev), .umask = UmaskOf(ctx)};
    request = TRY(AskEntry(FUSE_MKNOD, BytesOf(in) + Zeroed(name), name));
  }
  if (request->inode()->type() != (node.mode & S_IFMT)) return Errno(EIO);
  // Nothing may be asked once the name is there for everybody: the call would find it there when it is executed again.
  if (flags >= 0) request->inode()->created_ = TRY(request->inode()->OpenHandle(flags));
  Changed();
  return RefPtr<Inode>(request->inode());
}

ErrnoOr<void> FuseInode::Link(const VfsContext& ctx, std::string_view name, Inode& target) {
  TRY(connection_->MayLook(*ctx.creds));
  FuseInode* linked = Mine(target);
  if (linked == nullptr) return Errno(EIO);
  fuse_link_in in{.oldnodeid = linked->node_};
  FuseQuestion q = About(FUSE_LINK, BytesOf(in) + Zeroed(name));
  q.min_out = q.max_out = sizeof(fuse_entry_out);
  TRY(connection_->Ask(std::move(q)));
  // Servers may give another name another number: it is looked up when it is used.
  ForgetName(name);
  linked->Changed();
  Changed();
  return Ok();
}

ErrnoOr<void> FuseInode::Remove(uint32_t opcode, std::string_view name, Inode& victim) {
  TRY(Look());
  TRY(connection_->Ask(About(opcode, Zeroed(name))));
  ForgetName(name);
  if (FuseInode* removed = Mine(victim)) removed->Changed();
  Changed();
  return Ok();
}

ErrnoOr<void> FuseInode::Unlink(const VfsContext&, std::string_view name, Inode& victim) { return Remove(FUSE_UNLINK, name, victim); }
ErrnoOr<void> FuseInode::Rmdir(const VfsContext&, std::string_view name, Inode& victim) { return Remove(FUSE_RMDIR, name, victim); }

ErrnoOr<void> FuseInode::Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name,
                                Inode* replaced, uint32_t flags) {
  TRY(connection_->MayLook(*ctx.creds));
  FuseInode* target = Mine(new_dir);
  if (target == nullptr) return Errno(EIO);
  FuseInode& to = *target;
  if (flags == 0) {
    fuse_rename_in in{.newdir = to.node_};
    TRY(connection_->Ask(About(FUSE_RENAME, BytesOf(in) + Zeroed(old_name) + Zeroed(new_name))));
  } else {
    if (connection_->lacks(FUSE_RENAME2)) return Errno(EINVAL);
    fuse_rename2_in in{};
    in.newdir = to.node_;
    in.flags = flags;
    auto r = connection_->Ask(About(FUSE_RENAME2, BytesOf(in) + Zeroed(old_name) + Zeroed(new_name)));
    if (r.Is(ENOSYS)) {
      connection_->set_lacks(FUSE_RENAME2);
      return Errno(EINVAL);
    }
    if (!r.ok()) return r.error();
  }
  ForgetName(old_name);
  to.ForgetName(new_name);
  for (Inode* inode : {&moved, replaced}) {
    if (inode == nullptr) continue;
    if (FuseInode* mine = Mine(*inode)) mine->Changed();
  }
  Changed();
  to.Changed();
  return Ok();
}

ErrnoOr<std::vector<DirEnt>> FuseInode::List(const VfsContext&) {
  TRY(Look());
  RefPtr<FuseHandle> handle = TRY(OpenHandle(O_RDONLY | O_DIRECTORY));
  std::vector<DirEnt> all;
  // A directory that never ends is none that can be listed at once.
  constexpr size_t kMax = 1 << 20;
  for (uint64_t offset = 0; all.size() < kMax;) {
    std::vector<FuseDirent> some = TRY(FuseReadDir(*this, handle, offset));
    if (some.empty()) return all;
    offset = some.back().next;
    for (FuseDirent& e : some) {
      if (e.name != "." && e.name != "..") all.push_back({std::move(e.name), e.ino, e.type});
    }
  }
  return Errno(EIO);
}

ErrnoOr<std::string> FuseInode::ReadLink(const VfsContext&) {
  TRY(Look());
  FuseQuestion q = About(FUSE_READLINK);
  q.max_out = 4095;
  std::string target = TRY(connection_->Ask(std::move(q)))->answer();
  if (target.find('\0') != std::string::npos) target.resize(target.find('\0'));
  return target;
}

}  // namespace amber
