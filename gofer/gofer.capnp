# What sentry and gofer say to each other: one Request or Response per packet of a SOCK_SEQPACKET socket. A channel
# carries one call at a time. Host descriptors ride along as SCM_RIGHTS, only from gofer to sentry.
#
# Both ends are the same binary, so the schema needs no versions; it is a schema so that a hostile peer meets one
# bounded, fuzzed parser.
@0xd2c4f1a98be35d07;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("amber::gofer::wire");

struct Attributes {
  dev @0 :UInt64;
  ino @1 :UInt64;
  rdev @2 :UInt64;
  size @3 :UInt64;
  blocks @4 :UInt64;
  mode @5 :UInt32;
  nlink @6 :UInt32;
  uid @7 :UInt32;
  gid @8 :UInt32;
  blksize @9 :UInt32;
  hasBtime @10 :Bool;
  atime @11 :Int64;
  mtime @12 :Int64;
  ctime @13 :Int64;
  btime @14 :Int64;
  atimeNs @15 :UInt32;
  mtimeNs @16 :UInt32;
  ctimeNs @17 :UInt32;
  btimeNs @18 :UInt32;
}

struct Node {
  id @0 :UInt64;
  attributes @1 :Attributes;
  target @2 :Data;
}

struct NewInode {
  mode @0 :UInt32;
  uid @1 :UInt32;
  gid @2 :UInt32;
  umask @3 :UInt32;  # what the mode loses unless the directory has a default access control list
}

struct Request {
  forget @0 :List(UInt64);  # done before the call
  before @26 :SetAttr;  # if there: done before the call, and answered beside it
  union {
    none @1 :Void;  # only forgets; answered like any call
    attach :group { name @2 :Data; }
    walk @3 :Walk;
    open :group { node @4 :UInt64; flags @5 :UInt32; }
    readDir @6 :ReadDir;
    getAttr @7 :UInt64;
    setAttr @8 :SetAttr;
    readLink @9 :UInt64;
    statFs @10 :UInt64;
    fsync :group { node @11 :UInt64; dataOnly @12 :Bool; }
    create @13 :Create;
    tmpFile @14 :TmpFile;
    mkDir @15 :Make;
    symlink @16 :Symlink;
    mkNod @17 :MkNod;
    link @18 :Link;
    rename @19 :Rename;
    unlink @20 :Unlink;
    getXattr @21 :Xattr;
    setXattr @22 :SetXattr;
    listXattr @23 :UInt64;
    removeXattr @24 :Xattr;
    openSeveral @25 :OpenSeveral;
    connect @27 :Connect;  # one descriptor rides along
    bindSocket @28 :BindSocket;
  }
}

struct Walk {
  parent @0 :UInt64;
  names @1 :List(Data);
  attributesOnly @2 :Bool;
  open @3 :Bool;
  openFlags @4 :UInt32;
}

# Regular files of one directory, to be read.
struct OpenSeveral {
  parent @0 :UInt64;
  names @1 :List(Data);
}

struct ReadDir {
  node @0 :UInt64;
  plus @1 :Bool;
  continue @2 :Bool;  # the next chunk of the directory that this channel read last
  name @3 :Data;  # if not empty: of the directory below `node` of that name, which becomes a node
  look @4 :Bool;  # its O_PATH descriptor is to ride along with the first chunk, if it may
  others @5 :List(Data);  # more directories below `node` that are to be listed likewise as far as the answer has room for whole ones
}

struct SetAttr {
  node @0 :UInt64;
  mask @1 :UInt32;  # bits of SetAttrMask in protocol.h
  mode @2 :UInt32;
  uid @3 :UInt32;
  gid @4 :UInt32;
  size @5 :UInt64;
  atime @6 :Int64;
  atimeNs @7 :UInt32;
  mtime @8 :Int64;
  mtimeNs @9 :UInt32;
}

struct Create {
  parent @0 :UInt64;
  name @1 :Data;
  flags @2 :UInt32;
  inode @3 :NewInode;
}

struct TmpFile {
  parent @0 :UInt64;
  flags @1 :UInt32;
  exclusive @2 :Bool;
  inode @3 :NewInode;
}

struct Make {
  parent @0 :UInt64;
  name @1 :Data;
  inode @2 :NewInode;
}

struct Symlink {
  parent @0 :UInt64;
  name @1 :Data;
  target @2 :Data;
  uid @3 :UInt32;
  gid @4 :UInt32;
}

struct MkNod {
  parent @0 :UInt64;
  name @1 :Data;
  type @2 :UInt32;
  rdev @3 :UInt64;
  inode @4 :NewInode;
}

struct Connect {
  node @0 :UInt64;
  type @1 :UInt32;  # SOCK_*
  uid @2 :UInt32;  # as whom
  gid @3 :UInt32;
  groups @4 :List(UInt32);
}

struct BindSocket {
  parent @0 :UInt64;
  name @1 :Data;
  type @2 :UInt32;  # SOCK_*
  inode @3 :NewInode;
}

struct Link {
  node @0 :UInt64;
  newParent @1 :UInt64;
  newName @2 :Data;
}

struct Rename {
  oldParent @0 :UInt64;
  oldName @1 :Data;
  newParent @2 :UInt64;
  newName @3 :Data;
  flags @4 :UInt32;
}

struct Unlink {
  parent @0 :UInt64;
  name @1 :Data;
  flags @2 :UInt32;
}

struct Xattr {
  node @0 :UInt64;
  name @1 :Data;
}

struct SetXattr {
  node @0 :UInt64;
  name @1 :Data;
  value @2 :Data;
  flags @3 :UInt32;
}

struct DirEntry {
  name @0 :Data;
  ino @1 :UInt64;
  type @2 :UInt8;
  attributes @3 :Attributes;  # null unless asked for
}

struct OtherListing {
  index @0 :UInt32;  # of the names that were asked for, in rising order
  directory @1 :Node;
  entries @2 :List(DirEntry);
  looks @3 :Bool;  # one more descriptor rides along
}

struct OpenedFile {
  index @0 :UInt32;  # of the names that were asked for, in rising order
  node @1 :Node;
}

# Of Request.before.
struct Changed {
  error @0 :Int32;
  attributes @1 :Attributes;
}

struct Response {
  error @0 :Int32;  # a positive errno, or 0 and what the call returns
  before @19 :Changed;
  union {
    none @1 :Void;
    attach :group { root @2 :Node; readOnly @3 :Bool; }
    walk :group {
      found @4 :List(Node);
      stop @5 :UInt8;
      error @6 :Int32;
      openError @7 :Int32;
      opened @8 :Bool;  # one descriptor rides along
    }
    node @9 :Node;  # create, tmpFile and bindSocket: one descriptor rides along
    attributes @10 :Attributes;
    bytes @11 :Data;
    readDir :group {
      entries @12 :List(DirEntry);
      more @13 :Bool;
      directory @16 :Node;  # if a name was given, with the first chunk
      looks @17 :Bool;  # one descriptor rides along
      others @20 :List(OtherListing);
    }
    statFs @14 :StatFs;
    opened @15 :Void;  # one descriptor rides along
    openedSeveral @18 :List(OpenedFile);  # as many descriptors ride along
  }
}

struct StatFs {
  type @0 :UInt64;
  blockSize @1 :UInt64;
  fragmentSize @2 :UInt64;
  blocks @3 :UInt64;
  blocksFree @4 :UInt64;
  blocksAvailable @5 :UInt64;
  files @6 :UInt64;
  filesFree @7 :UInt64;
  id @8 :UInt64;
  nameMax @9 :UInt64;
  flags @10 :UInt64;
}
