#include "test/harness/fuse_server.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

namespace guest {
namespace {

uint64_t Now() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<uint64_t>(t.tv_sec);
}

}  // namespace

const char* FuseDevicePath() {
  if (access("/dev/fuse", F_OK) == 0) return "/dev/fuse";
  constexpr const char* kOwn = "/tmp/fuse-device";
  if (mknod(kOwn, S_IFCHR | 0666, makedev(10, 229)) != 0 && errno != EEXIST) Skip("no /dev/fuse");
  return kOwn;
}

int OpenFuseDevice() {
  if (geteuid() != 0) Skip("needs root");
  const int fd = open(FuseDevicePath(), O_RDWR | O_CLOEXEC);
  if (fd < 0) Skip("no /dev/fuse");
  return fd;
}

void FuseServer::Prepare() {
  shared_ = static_cast<Shared*>(MUST(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)));
  shared_->held = -1;
  shared_->nodes[1] = {.used = true, .mode = S_IFDIR | 0755, .nlink = 2};
}

void FuseServer::Mount(const char* options) {
  device_ = OpenFuseDevice();
  if (unshare(CLONE_NEWNS) != 0) Skip("no mount namespaces");
  MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  char all[256];
  snprintf(all, sizeof(all), "fd=%d,rootmode=40000,user_id=%d,group_id=%d%s", device_, geteuid(), getegid(), options);
  MUST(mount("guest", dir_.path(), "fuse.guest", MS_NOSUID | MS_NODEV, all));
  pid_ = MUST(fork());
  if (pid_ == 0) Serve();
  if (keep_device) return;
  close(device_);
  device_ = -1;
}

FuseServer::~FuseServer() {
  umount2(dir_.path(), MNT_DETACH);
  if (device_ >= 0) close(device_);
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    WaitStatus(pid_);
  }
  munmap(shared_, sizeof(Shared));
}

void FuseServer::Kill() {
  if (device_ >= 0) close(device_);
  device_ = -1;
  kill(pid_, SIGKILL);
  WaitStatus(pid_);
  pid_ = -1;
}

int FuseServer::Wait() {
  const int status = WaitStatus(pid_);
  pid_ = -1;
  return status;
}

uint64_t FuseServer::Add(uint64_t parent, const char* name, uint32_t mode, const char* data) {
  for (uint64_t i = 2; i < kNodes; ++i) {
    Node& n = shared_->nodes[i];
    if (n.used) continue;
    memset(&n, 0, offsetof(Node, data));
    n.used = true;
    n.mode = mode;
    n.nlink = S_ISDIR(mode) ? 2 : 1;
    n.mtime = Now();
    n.size = strlen(data);
    memset(n.data, 0, sizeof(n.data));
    memcpy(n.data, data, n.size);
    for (Name& entry : shared_->names) {
      if (entry.used) continue;
      entry = {.used = true, .parent = parent, .node = i, .name = {}};
      snprintf(entry.name, sizeof(entry.name), "%s", name);
      if (S_ISREG(mode) && strcmp(name, "big") == 0) shared_->big_node = i;
      return i;
    }
  }
  return 0;
}

FuseServer::Name* FuseServer::FindName(uint64_t parent, const char* name) {
  for (Name& n : shared_->names) {
    if (n.used && n.parent == parent && strcmp(n.name, name) == 0) return &n;
  }
  return nullptr;
}

uint64_t FuseServer::Find(uint64_t parent, const char* name) {
  Name* n = FindName(parent, name);
  return n != nullptr ? n->node : 0;
}

int FuseServer::Notify(int code, const void* body, size_t size) {
  fuse_out_header h{.len = static_cast<uint32_t>(sizeof(h) + size), .error = code, .unique = 0};
  const iovec parts[] = {{&h, sizeof(h)}, {const_cast<void*>(body), size}};
  return writev(device_, parts, 2) < 0 ? -errno : 0;
}

void FuseServer::AwaitCount(int opcode, int times) {
  while (shared_->count[opcode] <= times) SleepMs(1);
}

// --- the server itself ---

void FuseServer::Answer(const fuse_in_header& in, int error, const void* data, size_t size) {
  fuse_out_header h{.len = static_cast<uint32_t>(sizeof(h) + size), .error = -error, .unique = in.unique};
  const iovec parts[] = {{&h, sizeof(h)}, {const_cast<void*>(data), size}};
  if (writev(device_, parts, 2) < 0) ++shared_->refused;
  if (shared_->twice != 0) shared_->second_errno = writev(device_, parts, 2) < 0 ? errno : 0;
}

char* FuseServer::DataOf(uint64_t node, size_t* room) {
  *room = node == shared_->big_node ? kBig : kData;
  return node == shared_->big_node ? shared_->big : shared_->nodes[node].data;
}

fuse_attr FuseServer::AttrOf(uint64_t number) {
  const Node& n = shared_->nodes[number];
  fuse_attr a{};
  a.ino = number;
  a.size = S_ISLNK(n.mode) ? strlen(n.target) : n.size;
  a.blocks = (n.size + 511) / 512;
  a.mtime = a.atime = a.ctime = n.mtime;
  a.mode = n.mode;
  a.nlink = n.nlink;
  a.uid = n.uid;
  a.gid = n.gid;
  a.rdev = n.rdev;
  a.blksize = 4096;
  return a;
}

void FuseServer::AnswerEntry(const fuse_in_header& h, uint64_t node, const void* more, size_t more_size) {
  char bytes[sizeof(fuse_entry_out) + sizeof(fuse_open_out)] = {};
  fuse_entry_out out{};
  out.nodeid = node;
  out.entry_valid = shared_->entry_valid;
  out.attr_valid = shared_->attr_valid;
  if (node != 0) {
    out.attr = AttrOf(node);
    ++shared_->nodes[node].lookups;
  }
  memcpy(bytes, &out, sizeof(out));
  if (more != nullptr) memcpy(bytes + sizeof(out), more, more_size);
  Answer(h, 0, bytes, sizeof(out) + more_size);
}

void FuseServer::AnswerAttr(const fuse_in_header& h, uint64_t node) {
  fuse_attr_out out{};
  out.attr_valid = shared_->attr_valid;
  out.attr = AttrOf(node);
  Answer(h, 0, &out, sizeof(out));
}

void FuseServer::AnswerDirectory(const fuse_in_header& h, const fuse_read_in& in) {
  static char buffer[65536];
  size_t used = 0;
  uint64_t index = 0;
  auto put = [&](const char* name, uint64_t ino, uint32_t type) {
    if (index++ < in.offset) return true;
    const size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + strlen(name));
    if (used + size > in.size) return false;
    fuse_dirent d{};
    d.ino = ino;
    d.off = index;
    d.namelen = static_cast<uint32_t>(strlen(name));
    d.type = type;
    memset(buffer + used, 0, size);
    memcpy(buffer + used, &d, FUSE_NAME_OFFSET);
    memcpy(buffer + used + FUSE_NAME_OFFSET, name, d.namelen);
    used += size;
    return true;
  };
  bool more = put(".", h.nodeid, DT_DIR) && put("..", 1, DT_DIR);
  for (const Name& n : shared_->names) {
    if (!more) break;
    if (n.used && n.parent == h.nodeid) more = put(shared_->wrong == kSlashName ? "a/b" : n.name, n.node, shared_->nodes[n.node].mode >> 12);
  }
  Answer(h, 0, buffer, used);
}

bool FuseServer::AnswerWrongly(const fuse_in_header& h) {
  const int wrong = shared_->wrong;
  if (wrong == kRight || wrong == kSlashName || (h.opcode != FUSE_LOOKUP && h.opcode != FUSE_READ)) return false;
  static char bytes[300 * 1024];
  memset(bytes, 0, sizeof(bytes));
  fuse_entry_out out{};
  out.nodeid = 5;
  out.attr.mode = S_IFREG | 0644;
  if (wrong == kRootAgain) out.nodeid = FUSE_ROOT_ID;
  if (wrong == kBadType) out.attr.mode = 0170000;
  memcpy(bytes, &out, sizeof(out));
  switch (wrong) {
    case kNoNode: Answer(h, 0, "", 0); return true;
    case kTooShort: Answer(h, 0, bytes, h.opcode == FUSE_READ ? sizeof(bytes) : 20); return true;
    case kTooLong: Answer(h, 0, bytes, sizeof(bytes)); return true;
    case kBadError:
      // Refused as a whole; then a right one.
      Answer(h, 600, nullptr, 0);
      Answer(h, -5, nullptr, 0);
      Answer(h, ENOENT, nullptr, 0);
      return true;
    default: Answer(h, 0, bytes, sizeof(out)); return true;
  }
}

int FuseServer::Remove(uint64_t parent, const char* name, bool directory) {
  Name* entry = FindName(parent, name);
  if (entry == nullptr) return ENOENT;
  Node& n = shared_->nodes[entry->node];
  if (directory) {
    for (const Name& below : shared_->names) {
      if (below.used && below.parent == entry->node) return ENOTEMPTY;
    }
  }
  entry->used = false;
  --n.nlink;
  return 0;
}

int FuseServer::Rename(uint64_t from, const char* old_name, uint64_t to, const char* new_name, uint32_t flags) {
  Name* source = FindName(from, old_name);
  Name* target = FindName(to, new_name);
  if (source == nullptr) return ENOENT;
  if ((flags & 1) != 0 && target != nullptr) return EEXIST;  // RENAME_NOREPLACE
  if ((flags & 2) != 0) {                                    // RENAME_EXCHANGE
    if (target == nullptr) return ENOENT;
    std::swap(source->node, target->node);
    return 0;
  }
  if (target != nullptr) target->used = false;
  source->parent = to;
  snprintf(source->name, sizeof(source->name), "%s", new_name);
  return 0;
}

bool FuseServer::HandleNames(const fuse_in_header& h, char* body) {
  switch (h.opcode) {
    case FUSE_LOOKUP: {
      const uint64_t node = Find(h.nodeid, body);
      struct stat st;
      if (strcmp(body, "trap") == 0) stat(shared_->visit, &st);
      if (node == 0 && shared_->entry_valid == 0) {
        Answer(h, ENOENT, nullptr, 0);
      } else {
        AnswerEntry(h, node);
      }
      return true;
    }
    case FUSE_MKDIR: {
      auto* in = reinterpret_cast<fuse_mkdir_in*>(body);
      const uint64_t node = Add(h.nodeid, body + sizeof(*in), S_IFDIR | (in->mode & 07777));
      shared_->umask = in->umask;
      AnswerEntry(h, node);
      return true;
    }
    case FUSE_MKNOD: {
      auto* in = reinterpret_cast<fuse_mknod_in*>(body);
      const uint64_t node = Add(h.nodeid, body + sizeof(*in), in->mode);
      shared_->nodes[node].rdev = in->rdev;
      AnswerEntry(h, node);
      return true;
    }
    case FUSE_SYMLINK: {
      const uint64_t node = Add(h.nodeid, body, S_IFLNK | 0777);
      snprintf(shared_->nodes[node].target, sizeof(Node::target), "%s", body + strlen(body) + 1);
      AnswerEntry(h, node);
      return true;
    }
    case FUSE_CREATE: {
      auto* in = reinterpret_cast<fuse_create_in*>(body);
      shared_->open_with = in->flags;
      const uint64_t node = Add(h.nodeid, body + sizeof(*in), in->mode);
      fuse_open_out out{};
      out.fh = node;
      out.open_flags = shared_->open_flags;
      AnswerEntry(h, node, &out, sizeof(out));
      return true;
    }
    case FUSE_LINK: {
      auto* in = reinterpret_cast<fuse_link_in*>(body);
      for (Name& n : shared_->names) {
        if (n.used) continue;
        n = {.used = true, .parent = h.nodeid, .node = in->oldnodeid, .name = {}};
        snprintf(n.name, sizeof(n.name), "%s", body + sizeof(*in));
        ++shared_->nodes[in->oldnodeid].nlink;
        break;
      }
      AnswerEntry(h, in->oldnodeid);
      return true;
    }
    case FUSE_UNLINK:
    case FUSE_RMDIR: Answer(h, Remove(h.nodeid, body, h.opcode == FUSE_RMDIR), nullptr, 0); return true;
    case FUSE_RENAME: {
      char* names = body + sizeof(fuse_rename_in);
      Answer(h, Rename(h.nodeid, names, reinterpret_cast<fuse_rename_in*>(body)->newdir, names + strlen(names) + 1, 0), nullptr, 0);
      return true;
    }
    case FUSE_RENAME2: {
      auto* in = reinterpret_cast<fuse_rename2_in*>(body);
      char* names = body + sizeof(*in);
      Answer(h, Rename(h.nodeid, names, in->newdir, names + strlen(names) + 1, in->flags), nullptr, 0);
      return true;
    }
    case FUSE_READLINK: Answer(h, 0, shared_->nodes[h.nodeid].target, strlen(shared_->nodes[h.nodeid].target)); return true;
    default: return false;
  }
}

bool FuseServer::HandleFiles(const fuse_in_header& h, char* body) {
  Node& n = shared_->nodes[h.nodeid < kNodes ? h.nodeid : 0];
  size_t room;
  char* data = DataOf(h.nodeid < kNodes ? h.nodeid : 0, &room);
  switch (h.opcode) {
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
      shared_->open_with = reinterpret_cast<fuse_open_in*>(body)->flags;
      fuse_open_out out{};
      out.fh = h.nodeid;
      out.open_flags = shared_->open_flags;
      Answer(h, 0, &out, sizeof(out));
      return true;
    }
    case FUSE_READ: {
      auto* in = reinterpret_cast<fuse_read_in*>(body);
      shared_->last_offset = in->offset;
      shared_->last_size = in->size;
      const uint64_t left = in->offset < n.size ? n.size - in->offset : 0;
      Answer(h, 0, data + in->offset, left < in->size ? left : in->size);
      return true;
    }
    case FUSE_WRITE: {
      auto* in = reinterpret_cast<fuse_write_in*>(body);
      shared_->last_offset = in->offset;
      shared_->last_size = in->size;
      if (in->offset + in->size > room) {
        Answer(h, ENOSPC, nullptr, 0);
        return true;
      }
      memcpy(data + in->offset, body + sizeof(*in), in->size);
      if (in->offset + in->size > n.size) n.size = in->offset + in->size;
      fuse_write_out out{.size = in->size, .padding = 0};
      Answer(h, 0, &out, sizeof(out));
      return true;
    }
    case FUSE_READDIR: AnswerDirectory(h, *reinterpret_cast<fuse_read_in*>(body)); return true;
    case FUSE_FALLOCATE: {
      auto* in = reinterpret_cast<fuse_fallocate_in*>(body);
      if ((in->mode & 1) == 0 && in->offset + in->length > n.size) n.size = in->offset + in->length;
      Answer(h, 0, nullptr, 0);
      return true;
    }
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_ACCESS: Answer(h, 0, nullptr, 0); return true;
    default: return false;
  }
}

bool FuseServer::HandleAttributes(const fuse_in_header& h, char* body) {
  Node& n = shared_->nodes[h.nodeid < kNodes ? h.nodeid : 0];
  switch (h.opcode) {
    case FUSE_GETATTR: AnswerAttr(h, h.nodeid); return true;
    case FUSE_SETATTR: {
      auto* in = reinterpret_cast<fuse_setattr_in*>(body);
      if ((in->valid & FATTR_MODE) != 0) n.mode = (n.mode & S_IFMT) | (in->mode & 07777);
      if ((in->valid & FATTR_UID) != 0) n.uid = in->uid;
      if ((in->valid & FATTR_GID) != 0) n.gid = in->gid;
      if ((in->valid & FATTR_SIZE) != 0) {
        size_t room;
        char* data = DataOf(h.nodeid, &room);
        if (in->size < n.size) memset(data + in->size, 0, n.size - in->size);
        n.size = in->size;
      }
      if ((in->valid & FATTR_MTIME) != 0) n.mtime = (in->valid & FATTR_MTIME_NOW) != 0 ? Now() : in->mtime;
      AnswerAttr(h, h.nodeid);
      return true;
    }
    case FUSE_STATFS: {
      fuse_statfs_out out{};
      out.st.bsize = out.st.frsize = 4096;
      out.st.blocks = 1000;
      out.st.bfree = out.st.bavail = 500;
      out.st.namelen = 63;
      Answer(h, 0, &out, sizeof(out));
      return true;
    }
    case FUSE_SETXATTR: {
      struct Old {
        uint32_t size, flags;
      };
      auto* in = reinterpret_cast<Old*>(body);
      char* name = body + sizeof(*in);
      snprintf(n.xattr_name, sizeof(n.xattr_name), "%s", name);
      n.xattr_size = in->size < sizeof(n.xattr_value) ? in->size : sizeof(n.xattr_value);
      memcpy(n.xattr_value, name + strlen(name) + 1, n.xattr_size);
      Answer(h, 0, nullptr, 0);
      return true;
    }
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR: {
      auto* in = reinterpret_cast<fuse_getxattr_in*>(body);
      const bool list = h.opcode == FUSE_LISTXATTR;
      const char* value = list ? n.xattr_name : n.xattr_value;
      const uint32_t size = list ? (n.xattr_name[0] != 0 ? static_cast<uint32_t>(strlen(n.xattr_name)) + 1 : 0) : n.xattr_size;
      if (!list && strcmp(body + sizeof(*in), n.xattr_name) != 0) {
        Answer(h, ENODATA, nullptr, 0);
      } else if (in->size == 0) {
        fuse_getxattr_out out{.size = size, .padding = 0};
        Answer(h, 0, &out, sizeof(out));
      } else if (in->size < size) {
        Answer(h, ERANGE, nullptr, 0);
      } else {
        Answer(h, 0, value, size);
      }
      return true;
    }
    case FUSE_REMOVEXATTR:
      n.xattr_name[0] = 0;
      Answer(h, 0, nullptr, 0);
      return true;
    default: return false;
  }
}

void FuseServer::Handle(const fuse_in_header& h, char* body) {
  if (h.opcode < 64 && shared_->lacks[h.opcode] != 0) return Answer(h, ENOSYS, nullptr, 0);
  if (h.opcode < 64 && shared_->fails[h.opcode] != 0) return Answer(h, shared_->fails[h.opcode], nullptr, 0);
  if (h.opcode == FUSE_INIT) {
    fuse_init_out out{};
    auto* in = reinterpret_cast<fuse_init_in*>(body);
    out.major = FUSE_KERNEL_VERSION;
    out.minor = in->minor < 31 ? in->minor : 31;
    out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA | FUSE_PARALLEL_DIROPS);
    out.max_write = shared_->max_write != 0 ? shared_->max_write : 128 * 1024;
    out.max_pages = 32;
    return Answer(h, 0, &out, sizeof(out));
  }
  if (AnswerWrongly(h) || HandleNames(h, body) || HandleFiles(h, body) || HandleAttributes(h, body)) return;
  Answer(h, ENOSYS, nullptr, 0);
}

void FuseServer::Serve() {
  static char buffer[(1 << 20) + 8192];
  for (;;) {
    // Those that were held are answered when they no longer are.
    for (size_t i = 0; i < 16; ++i) {
      if (held_unique_[i] == 0 || static_cast<int>(held_[i].opcode) == shared_->held) continue;
      held_unique_[i] = 0;
      Handle(held_[i], held_body_[i]);
    }
    pollfd p{device_, POLLIN, 0};
    if (poll(&p, 1, 5) == 0) continue;
    const ssize_t n = read(device_, buffer, sizeof(buffer));
    if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) continue;
    if (n < static_cast<ssize_t>(sizeof(fuse_in_header))) _exit(n < 0 && errno == ENODEV ? 0 : 1);
    auto* h = reinterpret_cast<fuse_in_header*>(buffer);
    buffer[n] = 0;
    if (h->opcode < 64) ++shared_->count[h->opcode];
    char* body = buffer + sizeof(*h);
    if (h->opcode == FUSE_FORGET) {
      if (h->nodeid < kNodes) shared_->nodes[h->nodeid].lookups -= reinterpret_cast<fuse_forget_in*>(body)->nlookup;
    } else if (h->opcode == FUSE_BATCH_FORGET) {
      auto* in = reinterpret_cast<fuse_batch_forget_in*>(body);
      auto* one = reinterpret_cast<fuse_forget_one*>(in + 1);
      for (uint32_t i = 0; i < in->count; ++i) shared_->nodes[one[i].nodeid].lookups -= one[i].nlookup;
    } else if (h->opcode == FUSE_INTERRUPT) {
      ++shared_->interrupts;
      for (size_t i = 0; i < 16; ++i) {
        if (held_unique_[i] != reinterpret_cast<fuse_interrupt_in*>(body)->unique) continue;
        held_unique_[i] = 0;
        Answer(held_[i], EINTR, nullptr, 0);
      }
    } else if (static_cast<int>(h->opcode) == shared_->held) {
      for (size_t i = 0; i < 16; ++i) {
        if (held_unique_[i] != 0) continue;
        held_unique_[i] = h->unique;
        held_[i] = *h;
        memcpy(held_body_[i], body, sizeof(held_body_[i]));
        break;
      }
    } else {
      if (h->opcode == FUSE_LOOKUP) {
        shared_->uid = h->uid;
        shared_->gid = h->gid;
        shared_->pid = h->pid;
      }
      Handle(*h, body);
    }
  }
}

}  // namespace guest
