#include "gofer/client.h"

#include <dirent.h>
#include <sys/stat.h>

#include <utility>

#include "gofer/client_impl.h"

namespace amber::gofer {

Attributes Decode(wire::Attributes::Reader r) {
  Attributes a;
  a.dev = r.getDev();
  a.ino = r.getIno();
  a.rdev = r.getRdev();
  a.size = r.getSize();
  a.blocks = r.getBlocks();
  a.mode = r.getMode();
  a.nlink = r.getNlink();
  a.uid = r.getUid();
  a.gid = r.getGid();
  a.blksize = r.getBlksize();
  a.has_btime = r.getHasBtime();
  a.atime = {r.getAtime(), r.getAtimeNs()};
  a.mtime = {r.getMtime(), r.getMtimeNs()};
  a.ctime = {r.getCtime(), r.getCtimeNs()};
  a.btime = {r.getBtime(), r.getBtimeNs()};
  return a;
}

void Encode(NodeId node, const AttributeChange& change, wire::SetAttr::Builder set) {
  set.setNode(node);
  set.setSize(change.size.value_or(0));
  set.setUid(change.uid.value_or(0));
  set.setGid(change.gid.value_or(0));
  set.setMode(change.mode.value_or(0));
  uint32_t mask = (change.size ? kSetSize : 0) | (change.uid ? kSetUid : 0) | (change.gid ? kSetGid : 0) | (change.mode ? kSetMode : 0);
  if (change.atime) {
    mask |= change.atime->now ? kSetAtimeNow : kSetAtime;
    set.setAtime(change.atime->time.seconds);
    set.setAtimeNs(change.atime->time.nanoseconds);
  }
  if (change.mtime) {
    mask |= change.mtime->now ? kSetMtimeNow : kSetMtime;
    set.setMtime(change.mtime->time.seconds);
    set.setMtimeNs(change.mtime->time.nanoseconds);
  }
  set.setMask(mask);
}

static Node Decode(wire::Node::Reader r) { return Node{r.getId(), Decode(r.getAttributes()), std::string(AsString(r.getTarget()))}; }

namespace {

void Encode(NewInode inode, wire::NewInode::Builder b) {
  b.setMode(inode.mode);
  b.setUid(inode.uid);
  b.setGid(inode.gid);
  b.setUmask(inode.umask);
}

// A response of another kind than asked for reads as defaults; an answer that needs content must have it.
ErrnoOr<CreatedFile> TakeCreated(Transaction& t) {
  auto response = TRY(t.RoundTrip());
  if (!response.isNode()) return Errno(EIO);
  CreatedFile created;
  created.node = Decode(response.getNode());
  created.file = TRY(t.TakeFile());
  return created;
}

ErrnoOr<Node> TakeNode(Transaction& t) {
  auto response = TRY(t.RoundTrip());
  if (!response.isNode()) return Errno(EIO);
  return Decode(response.getNode());
}

ErrnoOr<Attributes> TakeAttributes(Transaction& t) {
  auto response = TRY(t.RoundTrip());
  if (!response.isAttributes()) return Errno(EIO);
  return Decode(response.getAttributes());
}

ErrnoOr<std::string> TakeBytes(Transaction& t) {
  auto response = TRY(t.RoundTrip());
  if (!response.isBytes()) return Errno(EIO);
  return std::string(AsString(response.getBytes()));
}

ErrnoOr<void> TakeNothing(Transaction& t) {
  TRY(t.RoundTrip());
  return {};
}

}  // namespace

ErrnoOr<AttachedRoot> Client::Attach(std::string_view name) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<AttachedRoot> {
    t.request().initAttach().setName(AsData(name));
    auto response = TRY(t.RoundTrip());
    if (!response.isAttach()) return Errno(EIO);
    return AttachedRoot{Decode(response.getAttach().getRoot()), response.getAttach().getReadOnly()};
  });
}

ErrnoOr<WalkResult> Client::Walk(NodeId parent, std::span<const std::string_view> names, WalkOptions options) {
  if (names.size() > kMaxNames) return Errno(ENAMETOOLONG);
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<WalkResult> {
    auto walk = t.request().initWalk();
    walk.setParent(parent);
    auto list = walk.initNames(static_cast<unsigned>(names.size()));
    for (unsigned i = 0; i < names.size(); ++i) list.set(i, AsData(names[i]));
    walk.setAttributesOnly(options.attributes_only);
    walk.setOpen(options.open_flags.has_value());
    walk.setOpenFlags(static_cast<uint32_t>(options.open_flags.value_or(0)));
    auto response = TRY(t.RoundTrip());
    if (!response.isWalk()) return Errno(EIO);
    auto answer = response.getWalk();
    WalkResult result;
    result.found.reserve(answer.getFound().size());
    for (auto node : answer.getFound()) result.found.push_back(Decode(node));
    bool complete = result.found.size() == names.size();
    if (answer.getStop() > static_cast<uint8_t>(WalkResult::Stop::kError)) return Errno(EIO);
    result.stop = static_cast<WalkResult::Stop>(answer.getStop());
    // What callers index by must hold even if the gofer is not what it should be.
    bool needs_all = result.stop == WalkResult::Stop::kDone;
    bool needs_more = result.stop == WalkResult::Stop::kMissing || result.stop == WalkResult::Stop::kError;
    if (result.found.size() > names.size() || (needs_all && !complete) || (needs_more && complete) ||
        (result.stop == WalkResult::Stop::kSymlink && result.found.empty())) {
      return Errno(EIO);
    }
    result.error = Errno(answer.getError());
    result.open_error = Errno(answer.getOpenError());
    if (answer.getOpened()) {
      auto file = t.TakeFile();
      if (file.ok()) {
        result.file = std::move(file).value();
      } else {
        result.open_error = file.error();
      }
    }
    return result;
  });
}

ErrnoOr<UniqueFd> Client::Open(NodeId node, int flags) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<UniqueFd> {
    auto open = t.request().initOpen();
    open.setNode(node);
    open.setFlags(static_cast<uint32_t>(flags));
    TRY(t.RoundTrip());
    return t.TakeFile();
  });
}

ErrnoOr<UniqueFd> Client::OpenDirectory(NodeId directory) { return Open(directory, kDirectoryForLooking); }

ErrnoOr<std::vector<OpenedFile>> Client::OpenSeveral(NodeId parent, std::span<const std::string_view> names) {
  if (names.size() > kMaxDescriptors) return Errno(EINVAL);
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<std::vector<OpenedFile>> {
    auto request = t.request().initOpenSeveral();
    request.setParent(parent);
    auto list = request.initNames(static_cast<unsigned>(names.size()));
    for (unsigned i = 0; i < names.size(); ++i) list.set(i, AsData(names[i]));
    auto response = TRY(t.RoundTrip());
    if (!response.isOpenedSeveral()) return Errno(EIO);
    auto answer = response.getOpenedSeveral();
    std::vector<OpenedFile> opened;
    for (auto o : answer) {
      OpenedFile file{o.getIndex(), Decode(o.getNode()), {}};
      bool follows = opened.empty() || file.index > opened.back().index;
      if (file.index >= names.size() || !follows) return Errno(EIO);
      opened.push_back(std::move(file));
    }
    if (t.files().size() == opened.size()) {
      for (size_t i = 0; i < opened.size(); ++i) opened[i].file = std::move(t.files()[i]);
      return opened;
    }
    // This process's table is full, and nobody knows which of them the kernel dropped.
    for (const OpenedFile& o : opened) Forget(o.node.id);
    return Errno(EMFILE);
  });
}

namespace {

ErrnoOr<void> TakeEntries(::capnp::List<wire::DirEntry>::Reader list, std::vector<DirEntry>* entries) {
  entries->reserve(entries->size() + list.size());
  for (auto entry : list) {
    DirEntry& e = entries->emplace_back();
    e.name = std::string(AsString(entry.getName()));
    e.ino = entry.getIno();
    e.type = entry.getType();
    if (entry.hasAttributes()) e.attributes = Decode(entry.getAttributes());
    if (!CheckName(e.name).ok()) return Errno(EIO);
  }
  return {};
}

struct ToList {
  NodeId node;
  std::string_view name;  // in `node`; empty: that itself
  bool plus, look;
  std::span<const std::string_view> others;
};

// Reads a directory to its end, and others that are told on the way.
ErrnoOr<ListedDirectory> ReadAll(Transaction& t, const ToList& what) {
  ListedDirectory listed;
  auto request = t.request();
  for (bool next = false;; next = true) {
    auto read = request.initReadDir();
    read.setNode(what.node);
    read.setPlus(what.plus);
    read.setContinue(next);
    if (!next) read.setName(AsData(what.name));
    read.setLook(what.look && !next);
    if (!next) {
      auto names = read.initOthers(static_cast<unsigned>(what.others.size()));
      for (unsigned i = 0; i < what.others.size(); ++i) names.set(i, AsData(what.others[i]));
    }
    auto response = TRY(t.RoundTrip());
    if (!response.isReadDir()) return Errno(EIO);
    auto chunk = response.getReadDir();
    if (!next && !what.name.empty()) {
      if (!chunk.hasDirectory()) return Errno(EIO);
      listed.node = Decode(chunk.getDirectory());
    }
    size_t file = 0;
    if (!next && chunk.getLooks() && !t.files().empty()) listed.look = std::move(t.files()[file++]);
    TRY(TakeEntries(chunk.getEntries(), &listed.entries));
    for (auto o : chunk.getOthers()) {
      OtherListing other{o.getIndex(), Decode(o.getDirectory()), {}, {}};
      bool follows = listed.others.empty() || other.index > listed.others.back().index;
      if (next || other.index >= what.others.size() || !follows) return Errno(EIO);
      TRY(TakeEntries(o.getEntries(), &other.entries));
      // The kernel gives as many as fit into this process's table, the first ones.
      if (o.getLooks() && file < t.files().size()) other.look = std::move(t.files()[file++]);
      listed.others.push_back(std::move(other));
    }
    if (!chunk.getMore()) return listed;
    request = t.NewRequest();
  }
}

}  // namespace

ErrnoOr<std::vector<DirEntry>> Client::ReadDir(NodeId directory, bool plus) {
  return Call(*impl_,
              [&](Transaction& t) -> ErrnoOr<std::vector<DirEntry>> { return std::move(TRY(ReadAll(t, {directory, {}, plus, false, {}})).entries); });
}

ErrnoOr<ListedDirectory> Client::ReadDirAt(NodeId parent, std::string_view name, bool plus, bool look, std::span<const std::string_view> others) {
  if (others.size() > kMaxListings) return Errno(EINVAL);
  return Call(*impl_, [&](Transaction& t) { return ReadAll(t, {parent, name, plus, look, others}); });
}

ErrnoOr<Attributes> Client::GetAttr(NodeId node) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Attributes> {
    t.request().setGetAttr(node);
    return TakeAttributes(t);
  });
}

ErrnoOr<Attributes> Client::SetAttr(NodeId node, const AttributeChange& change) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Attributes> {
    Encode(node, change, t.request().initSetAttr());
    return TakeAttributes(t);
  });
}

ErrnoOr<std::string> Client::ReadLink(NodeId node) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<std::string> {
    t.request().setReadLink(node);
    return TakeBytes(t);
  });
}

ErrnoOr<FileSystemStats> Client::StatFs(NodeId node) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<FileSystemStats> {
    t.request().setStatFs(node);
    auto response = TRY(t.RoundTrip());
    if (!response.isStatFs()) return Errno(EIO);
    auto r = response.getStatFs();
    FileSystemStats s;
    s.type = r.getType();
    s.block_size = r.getBlockSize();
    s.fragment_size = r.getFragmentSize();
    s.blocks = r.getBlocks();
    s.blocks_free = r.getBlocksFree();
    s.blocks_available = r.getBlocksAvailable();
    s.files = r.getFiles();
    s.files_free = r.getFilesFree();
    s.id = r.getId();
    s.name_max = r.getNameMax();
    s.flags = r.getFlags();
    return s;
  });
}

ErrnoOr<void> Client::Fsync(NodeId node, bool data_only) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<void> {
    auto fsync = t.request().initFsync();
    fsync.setNode(node);
    fsync.setDataOnly(data_only);
    return TakeNothing(t);
  });
}

ErrnoOr<CreatedFile> Client::Create(NodeId parent, std::string_view name, int flags, NewInode inode) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<CreatedFile> {
    auto create = t.request().initCreate();
    create.setParent(parent);
    create.setName(AsData(name));
    create.setFlags(static_cast<uint32_t>(flags));
    Encode(inode, create.initInode());
    return TakeCreated(t);
  });
}

ErrnoOr<CreatedFile> Client::TmpFile(NodeId parent, int flags, NewInode inode, bool exclusive) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<CreatedFile> {
    auto create = t.request().initTmpFile();
    create.setParent(parent);
    create.setFlags(static_cast<uint32_t>(flags));
    create.setExclusive(exclusive);
    Encode(inode, create.initInode());
    return TakeCreated(t);
  });
}

ErrnoOr<Node> Client::MkDir(NodeId parent, std::string_view name, NewInode inode) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Node> {
    auto make = t.request().initMkDir();
    make.setParent(parent);
    make.setName(AsData(name));
    Encode(inode, make.initInode());
    return TakeNode(t);
  });
}

ErrnoOr<Node> Client::Symlink(NodeId parent, std::string_view name, std::string_view target, uint32_t uid, uint32_t gid) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Node> {
    auto make = t.request().initSymlink();
    make.setParent(parent);
    make.setName(AsData(name));
    make.setTarget(AsData(target));
    make.setUid(uid);
    make.setGid(gid);
    return TakeNode(t);
  });
}

ErrnoOr<Node> Client::MkNod(NodeId parent, std::string_view name, uint32_t type, uint64_t rdev, NewInode inode) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Node> {
    auto make = t.request().initMkNod();
    make.setParent(parent);
    make.setName(AsData(name));
    make.setType(type);
    make.setRdev(rdev);
    Encode(inode, make.initInode());
    return TakeNode(t);
  });
}

ErrnoOr<UniqueFd> Client::Connect(NodeId node, int type, const Identity& who) {
  if (who.groups.size() > kMaxGroups) return Errno(EPERM);
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<UniqueFd> {
    auto connect = t.request().initConnect();
    connect.setNode(node);
    connect.setType(static_cast<uint32_t>(type));
    connect.setUid(who.uid);
    connect.setGid(who.gid);
    auto groups = connect.initGroups(static_cast<unsigned>(who.groups.size()));
    for (unsigned i = 0; i < groups.size(); ++i) groups.set(i, who.groups[i]);
    TRY(t.RoundTrip());
    return t.TakeFile();
  });
}

ErrnoOr<CreatedFile> Client::BindSocket(NodeId parent, std::string_view name, int type, NewInode inode) {
  auto bound = TRY(Call(*impl_, [&](Transaction& t) -> ErrnoOr<CreatedFile> {
    auto bind = t.request().initBindSocket();
    bind.setParent(parent);
    bind.setName(AsData(name));
    bind.setType(static_cast<uint32_t>(type));
    Encode(inode, bind.initInode());
    auto response = TRY(t.RoundTrip());
    if (!response.isNode()) return Errno(EIO);
    CreatedFile created{Decode(response.getNode()), UniqueFd()};
    if (auto file = t.TakeFile(); file.ok()) created.file = std::move(*file);
    return created;
  }));
  if (bound.file.valid()) return bound;
  // No descriptor is left for it; without its socket the name would be in the way of the next attempt.
  Forget(bound.node.id);
  TRY(Unlink(parent, name));
  return Errno(ENFILE);
}

ErrnoOr<Attributes> Client::Link(NodeId node, NodeId new_parent, std::string_view new_name) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<Attributes> {
    auto link = t.request().initLink();
    link.setNode(node);
    link.setNewParent(new_parent);
    link.setNewName(AsData(new_name));
    return TakeAttributes(t);
  });
}

ErrnoOr<void> Client::Rename(NodeId old_parent, std::string_view old_name, NodeId new_parent, std::string_view new_name, uint32_t flags) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<void> {
    auto rename = t.request().initRename();
    rename.setOldParent(old_parent);
    rename.setOldName(AsData(old_name));
    rename.setNewParent(new_parent);
    rename.setNewName(AsData(new_name));
    rename.setFlags(flags);
    return TakeNothing(t);
  });
}

ErrnoOr<void> Client::Unlink(NodeId parent, std::string_view name, int flags) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<void> {
    auto unlink = t.request().initUnlink();
    unlink.setParent(parent);
    unlink.setName(AsData(name));
    unlink.setFlags(static_cast<uint32_t>(flags));
    return TakeNothing(t);
  });
}

ErrnoOr<std::string> Client::GetXattr(NodeId node, std::string_view name) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<std::string> {
    auto get = t.request().initGetXattr();
    get.setNode(node);
    get.setName(AsData(name));
    return TakeBytes(t);
  });
}

ErrnoOr<void> Client::SetXattr(NodeId node, std::string_view name, std::string_view value, int flags) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<void> {
    auto set = t.request().initSetXattr();
    set.setNode(node);
    set.setName(AsData(name));
    set.setValue(AsData(value));
    set.setFlags(static_cast<uint32_t>(flags));
    return TakeNothing(t);
  });
}

ErrnoOr<std::vector<std::string>> Client::ListXattr(NodeId node) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<std::vector<std::string>> {
    t.request().setListXattr(node);
    std::string list = TRY(TakeBytes(t));  // NUL after each name
    std::vector<std::string> names;
    for (size_t start = 0; start < list.size();) {
      size_t end = list.find('\0', start);
      if (end == std::string::npos) return Errno(EIO);
      names.push_back(list.substr(start, end - start));
      start = end + 1;
    }
    return names;
  });
}

ErrnoOr<void> Client::RemoveXattr(NodeId node, std::string_view name) {
  return Call(*impl_, [&](Transaction& t) -> ErrnoOr<void> {
    auto remove = t.request().initRemoveXattr();
    remove.setNode(node);
    remove.setName(AsData(name));
    return TakeNothing(t);
  });
}

}  // namespace amber::gofer
