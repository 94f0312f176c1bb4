// One channel's side of the server: decodes requests, executes them, encodes answers. Not for users of the server.
//
// Belongs to the thread in Server::Serve. Handlers come in pairs with the protocol's calls; they return the errno to
// answer, and fill the response. They are split by verb: session_lookup.cc (attach, walk, list, read), session_open.cc
// (open, fsync), session_create.cc, session_change.cc (link, rename, unlink, attributes), session_socket.cc and session_xattr.cc.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gofer/gofer.capnp.h"
#include "gofer/server.h"
#include "gofer/wire.h"

namespace amber::gofer {

// A node's name in the thread's working directory, /proc/self/fd. Paths made of it end at the inode itself: the link is
// magic, and a symbolic link behind it is not followed.
struct FdName {
  char text[12];
  explicit FdName(int fd);
};

// What can be told about an inode in one statx.
struct Inode {
  UniqueFd fd;  // O_PATH
  struct statx attributes;
  uint32_t type() const { return attributes.stx_mode & S_IFMT; }
  uint64_t dev() const;
};

ErrnoOr<struct statx> StatDescriptor(int fd);
uint64_t DeviceOf(const struct statx& attributes);
void EncodeAttributes(const struct statx& attributes, wire::Attributes::Builder b);

// Looks up one validated name. EACCES if a kernel interface (proc, sysfs ...) is mounted there.
ErrnoOr<Inode> LookUp(const HostNode& parent, std::string_view name);
// Checks open flags that came from the peer: EINVAL.
ErrnoOr<void> CheckOpenFlags(int flags);
// Checks what a new inode is to be: EINVAL.
ErrnoOr<void> CheckNew(wire::NewInode::Reader inode);
// This thread's umask is that of the new inode while the object is there.
class UmaskOf {
 public:
  explicit UmaskOf(wire::NewInode::Reader inode) { umask(inode.getUmask() & 0777); }
  ~UmaskOf() { umask(0); }
  UmaskOf(const UmaskOf&) = delete;
};
// A descriptor that may be given to the peer.
ErrnoOr<UniqueFd> OpenForPeer(const HostNode& node, int flags);

class Session {
 public:
  Session(Server& server, int socket) : server_(server), socket_(socket) {}
  // Answers requests until the channel ends.
  void Run();
  // Waits for one request and answers it. False: the channel is to be closed.
  bool HandleOne();

 private:
  int Dispatch(wire::Request::Reader request, wire::Response::Builder response);
  void EncodeBefore(wire::Response::Builder response) const;

  // session_lookup.cc
  ErrnoOr<void> Attach(std::string_view name, wire::Response::Builder response);
  ErrnoOr<void> Walk(wire::Walk::Reader request, wire::Response::Builder response);
  ErrnoOr<void> ReadDir(wire::ReadDir::Reader request, wire::Response::Builder response);
  struct Listing;
  ErrnoOr<void> BeginListing(const RefPtr<HostNode>& parent, std::string_view name, bool look, Listing* listing);
  ErrnoOr<void> ReadRecords(size_t most, bool all, Listing* listing);
  std::vector<Listing> ListOthers(const RefPtr<HostNode>& parent, wire::ReadDir::Reader request, size_t most);
  void EncodeEntries(const Listing& listing, bool plus, ::capnp::List<wire::DirEntry>::Builder list) const;
  ErrnoOr<void> GetAttr(uint64_t id, wire::Response::Builder response);
  ErrnoOr<void> ReadLink(uint64_t id, wire::Response::Builder response);
  ErrnoOr<void> StatFs(uint64_t id, wire::Response::Builder response);
  // session_open.cc
  ErrnoOr<void> Open(uint64_t id, uint32_t flags, wire::Response::Builder response);
  ErrnoOr<void> OpenSeveral(wire::OpenSeveral::Reader request, wire::Response::Builder response);
  // The O_PATH descriptor of a directory, for the peer. EACCES if the attach point does not allow it.
  ErrnoOr<void> GiveDirectory(const HostNode& node);
  ErrnoOr<void> Fsync(uint64_t id, bool data_only);
  // session_create.cc
  ErrnoOr<void> Create(wire::Create::Reader request, wire::Response::Builder response);
  ErrnoOr<void> TmpFile(wire::TmpFile::Reader request, wire::Response::Builder response);
  ErrnoOr<void> MkDir(wire::Make::Reader request, wire::Response::Builder response);
  ErrnoOr<void> Symlink(wire::Symlink::Reader request, wire::Response::Builder response);
  ErrnoOr<void> MkNod(wire::MkNod::Reader request, wire::Response::Builder response);
  // session_socket.cc
  ErrnoOr<void> Connect(wire::Connect::Reader request, wire::Response::Builder response);
  ErrnoOr<void> BindSocket(wire::BindSocket::Reader request, wire::Response::Builder response);
  // session_change.cc
  ErrnoOr<void> SetAttr(wire::SetAttr::Reader request, wire::Response::Builder response);
  // The change that SetAttr and Request.before ask for; returns the attributes after it.
  ErrnoOr<struct statx> Change(wire::SetAttr::Reader request) const;
  ErrnoOr<void> Link(wire::Link::Reader request, wire::Response::Builder response);
  ErrnoOr<void> Rename(wire::Rename::Reader request);
  ErrnoOr<void> Unlink(wire::Unlink::Reader request);
  // session_xattr.cc
  ErrnoOr<void> GetXattr(wire::Xattr::Reader request, wire::Response::Builder response);
  ErrnoOr<void> SetXattr(wire::SetXattr::Reader request);
  ErrnoOr<void> ListXattr(uint64_t id, wire::Response::Builder response);
  ErrnoOr<void> RemoveXattr(wire::Xattr::Reader request);

  ErrnoOr<RefPtr<HostNode>> NodeOf(uint64_t id) const { return server_.nodes().Get(id); }
  // A node that is a directory (else ENOTDIR) and, with ForChange, may be written to (else EROFS).
  ErrnoOr<RefPtr<HostNode>> Directory(uint64_t id) const;
  ErrnoOr<RefPtr<HostNode>> DirectoryForChange(uint64_t id) const;
  // Makes `inode` a node of the peer's and describes it.
  ErrnoOr<void> AddNode(Inode inode, const AttachPoint& attach, wire::Node::Builder b);
  // Finds what was just made under a name, gives it its owner and mode, and answers with its node.
  ErrnoOr<void> FinishNew(const HostNode& parent, std::string_view name, uint32_t type, wire::NewInode::Reader wanted,
                          wire::Response::Builder response);
  ErrnoOr<void> FinishFile(UniqueFd file, const AttachPoint& attach, wire::NewInode::Reader wanted, wire::Response::Builder response);

  Server& server_;
  const int socket_;
  WireBuffer wire_;
  std::optional<ErrnoOr<struct statx>> before_;  // what came of Request.before
  std::vector<UniqueFd> reply_files_;            // ride along with the answer under construction
  UniqueFd directory_;                           // read by ReadDir, until its last chunk or any other call
  std::string scratch_;                          // of getdents and extended attributes
};

}  // namespace amber::gofer
