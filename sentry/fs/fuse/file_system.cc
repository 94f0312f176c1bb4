// Mounting, and what a mount shows (Linux: fs/fuse/inode.c).
#include <linux/magic.h>

#include <charconv>
#include <map>
#include <optional>

#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

struct Parsed {
  FuseConnection::Options options;
  std::optional<int> fd;
  bool has_mode = false, has_uid = false, has_gid = false;
  std::string subtype;
};

std::optional<uint32_t> Number(std::string_view text, int base) {
  uint32_t value;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

ErrnoOr<void> ParseNumber(const UserNamespace* ns, std::string_view key, std::string_view value, Parsed* out) {
  auto number = Number(value, key == "rootmode" ? 8 : 10);
  if (!number) return Errno(EINVAL);
  FuseConnection::Options& o = out->options;
  if (key == "fd") {
    out->fd = static_cast<int>(*number);
  } else if (key == "rootmode") {
    o.root_mode = *number;
    out->has_mode = S_ISDIR(*number) || S_ISREG(*number);
    if (!out->has_mode) return Errno(EINVAL);
  } else if (key == "user_id") {
    o.uid = ToKernelUid(ns, *number);
    out->has_uid = o.uid != UINT32_MAX;
    if (!out->has_uid) return Errno(EINVAL);
  } else if (key == "group_id") {
    o.gid = ToKernelGid(ns, *number);
    out->has_gid = o.gid != UINT32_MAX;
    if (!out->has_gid) return Errno(EINVAL);
  } else if (key == "max_read") {
    o.max_read = std::max<uint32_t>(*number, 4096);
  } else if (key == "blksize" && o.block_device) {
    o.block_size = *number;
  } else {
    return Errno(EINVAL);
  }
  return Ok();
}

ErrnoOr<Parsed> Parse(const MountArguments& arguments, const UserNamespace* ns, bool block_device) {
  Parsed p;
  p.options.block_device = block_device;
  for (const std::string& option : arguments.options) {
    std::string_view all = option;
    size_t equals = all.find('=');
    std::string_view key = all.substr(0, equals);
    if (equals == std::string_view::npos) {
      if (key == "default_permissions") {
        p.options.default_permissions = true;
      } else if (key == "allow_other") {
        p.options.allow_other = true;
      } else if (key != "ro" && key != "rw") {
        return Errno(EINVAL);
      }
    } else if (key == "subtype") {
      p.subtype = all.substr(equals + 1);
    } else if (key != "source") {
      TRY(ParseNumber(ns, key, all.substr(equals + 1), &p));
    }
  }
  if (!p.fd || !p.has_mode || !p.has_uid || !p.has_gid) return Errno(EINVAL);
  return p;
}

}  // namespace

ErrnoOr<RefPtr<FileSystem>> FuseFileSystem::MakeAny(const MountArguments& arguments, bool block_device) {
  if (arguments.task == nullptr) return Errno(EINVAL);  // of a container's configuration: nobody could serve it
  Task& task = *arguments.task;
  RefPtr<UserNamespace> ns = task.creds().user_ns;
  Parsed p = TRY(Parse(arguments, ns.get(), block_device));
  auto file = task.files().Get(*p.fd);
  auto* device = file.ok() ? dynamic_cast<FuseDevice*>(file->get()) : nullptr;
  if (device == nullptr || device->connection() != nullptr) return Errno(EINVAL);
  // fuse_fill_super(): a server from elsewhere would be trusted by whom it does not answer to.
  if (device->opener() != ns) return Errno(EINVAL);
  auto connection = MakeRef<FuseConnection>(p.options, ns, RefPtr<PidNamespace>(&task.group().pids()));
  auto fs = MakeRef<FuseFileSystem>();
  fs->type_ = block_device ? "fuseblk" : "fuse";
  if (!p.subtype.empty()) fs->type_ += "." + p.subtype;
  fs->connection_ = connection;
  if (ns) fs->set_owner(ns);
  connection->Attach(fs.get());
  fs->SetRoot(MakeRef<FuseInode>(fs.get(), connection, FUSE_ROOT_ID, 0, p.options.root_mode));
  device->Connect(connection);
  connection->Begin();
  return RefPtr<FileSystem>(std::move(fs));
}

FuseFileSystem::~FuseFileSystem() {
  if (connection_) connection_->Attach(nullptr);
  DropDentries();
  if (connection_) connection_->Abort();
}

ErrnoOr<void> FuseFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = FUSE_SUPER_MAGIC;
  Task* task = ServedCall::Current();
  if (task != nullptr && !connection_->MayLook(task->creds()).ok()) return Ok();
  FuseQuestion q{.opcode = FUSE_STATFS, .node = FUSE_ROOT_ID, .min_out = sizeof(fuse_statfs_out), .max_out = sizeof(fuse_statfs_out)};
  auto answer = FromBytes<fuse_statfs_out>(TRY(connection_->Ask(std::move(q)))->answer());
  out->f_bsize = answer.st.bsize;
  out->f_frsize = answer.st.frsize;
  out->f_blocks = answer.st.blocks;
  out->f_bfree = answer.st.bfree;
  out->f_bavail = answer.st.bavail;
  out->f_files = answer.st.files;
  out->f_ffree = answer.st.ffree;
  out->f_namelen = answer.st.namelen;
  return Ok();
}

std::string FuseFileSystem::ShowOptions() const {
  const FuseConnection::Options& o = connection_->options();
  const UserNamespace* ns = connection_->user_ns();
  std::string s = ",user_id=" + std::to_string(ShownUid(ns, o.uid)) + ",group_id=" + std::to_string(ShownGid(ns, o.gid));
  if (o.default_permissions) s += ",default_permissions";
  if (o.allow_other) s += ",allow_other";
  if (o.max_read != UINT32_MAX) s += ",max_read=" + std::to_string(o.max_read);
  if (o.block_device && o.block_size != 512) s += ",blksize=" + std::to_string(o.block_size);
  return s;
}

}  // namespace amber
