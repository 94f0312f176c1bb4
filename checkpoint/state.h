// How kernel objects become records in an image, and objects again.
//
// Every object that survives a checkpoint derives from Saveable. A checkpoint starts at the kernel object; an object names
// the objects that it refers to by Saver::Ref(), which gives them ids and saves each once. A record is (id, kind, bytes); the bytes are
// a Protobuf message that the object's own folder defines, with ids in the place of pointers.
//
// Restoring has three passes over all records: create an empty object of each kind (the table in kinds.cc), then Load() each
// from its bytes, then AfterLoad(). In Load() other objects may be taken by Loader::Get(), but not used yet: they may not be
// loaded. Everything runs on one thread, with the kernel lock held and all tasks stopped.
//
// Numbers of kinds and fields are never used again for something else: an older image must load in a newer binary.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sentry/base/ref_ptr.h"

namespace amber::state {

// The value is part of the image format.
enum class Kind : uint32_t {
  kKernel = 1,
  kTask = 2,
  kThreadGroup = 3,
  kProcessGroup = 4,
  kSession = 5,
  kPidNamespace = 6,
  kUserNamespace = 7,
  kUtsNamespace = 8,
  kIpcNamespace = 9,
  kSignalHandlers = 10,
  kContainer = 11,
  kMemoryManager = 20,
  kFdTable = 30,
  kFsContext = 31,
  kMountNamespace = 32,
  kMount = 33,
  kDentry = 34,
  // File systems (superblocks).
  kGoferFileSystem = 40,
  kTmpfsFileSystem = 41,
  kOverlayFileSystem = 42,
  kProcFileSystem = 43,
  kDevFileSystem = 44,
  kDevptsFileSystem = 45,
  kSysFileSystem = 46,
  kMqueueFileSystem = 47,
  kCgroupFileSystem = 48,
  kAnonFileSystem = 49,
  kNsFileSystem = 50,
  kImageFileSystem = 52,
  // Inodes.
  kGoferInode = 60,
  kTmpfsInode = 61,
  kOverlayInode = 62,
  kProcInode = 63,
  kDevInode = 64,
  kAnonInode = 65,
  kPipeInode = 66,
  kDevptsInode = 67,
  kSysInode = 68,
  kSocketInode = 69,
  kNsInode = 70,
  kImageInode = 72,
  // Open files.
  kRegularFile = 80,
  kDirectoryFile = 81,
  kPipe = 82,
  kPipeEnd = 83,
  kEventFd = 84,
  kEpoll = 85,
  kTimerFd = 86,
  kSignalFd = 87,
  kUnixSocket = 88,
  kPidFd = 89,
  kInotify = 90,
  kTty = 91,
  kTtyFile = 92,
  kDeviceFile = 93,
  kProcFile = 94,
  kHostFile = 95,  // stdio and other descriptors that the caller passed
  kPathFile = 96,  // O_PATH
  kMemFd = 97,
  kFileLocks = 98,
  kHostSocket = 99,
  kFifoFile = 100,
  // Inter-process communication.
  kShmSegment = 140,
  kShmFile = 141,
  kSemUndo = 142,
  kMqueueInode = 143,
  kMqueueFile = 144,
  // Objects behind descriptors that few programs use.
  kMountFile = 150,  // fsmount, open_tree
  kFsConfigFile = 151,
  kNamespaceFile = 152,
  kAioContext = 153,
  kIoUring = 154,
  kFanotify = 155,
  kSeccompFilter = 156,
  kSeccompListener = 157,
  kLandlockRuleset = 158,
  kProcMemFile = 159,
  kKeyring = 160,
  kTimeNamespace = 161,
  kCgroupNamespace = 162,
  kNetNamespace = 163,
  // Network.
  kTcpConnection = 121,
  kTcpSocket = 122,
  kUdpSocket = 123,
  kRawSocket = 124,
  kNetlinkSocket = 125,
};

class Saver;
class Loader;

class Saveable {
 public:
  virtual Kind kind() const = 0;
  // The object's message, serialized.
  virtual std::string Save(Saver& saver) const = 0;
  // Reads what Save() wrote. Bytes come from a file that may be hostile: false (after Loader::Fail) if they make no sense.
  virtual bool Load(Loader& loader, std::string_view bytes) = 0;
  // All objects are loaded: arm timers, register with queues, open host descriptors.
  virtual bool AfterLoad(Loader& /*loader*/) { return true; }
  // Why this object cannot be saved, for `checkpoint --check`; empty if it can.
  virtual std::string CannotSave() const { return ""; }

 protected:
  virtual ~Saveable() = default;
};

class Saver {
 public:
  // The id of `object`, 0 for null; the object will be saved.
  uint64_t Ref(const Saveable* object);
  template <typename T>
  uint64_t Ref(const RefPtr<T>& object) {
    return Ref(static_cast<const Saveable*>(object.get()));
  }
  // Bytes of guest memory that lie in a sentry-owned file (tmpfs, memfd, shared memory): the image keeps [0, size) of the
  // host file `fd`, sparse, and gives the same id to the same file. Restored by Loader::OpenFile().
  uint64_t File(int fd, uint64_t size);

  struct Record {
    uint64_t id;
    Kind kind;
    std::string bytes;
  };
  struct FileContents {
    uint64_t id;
    int fd;
    uint64_t size;
  };
  // Saves everything reachable from `root`, which gets id 1.
  void Run(const Saveable* root);
  const std::vector<Record>& records() const { return records_; }
  const std::vector<FileContents>& files() const { return files_; }
  // What the objects say they cannot save, a line each.
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::unordered_map<const Saveable*, uint64_t> ids_;
  std::deque<const Saveable*> queue_;
  std::vector<Record> records_;
  std::vector<FileContents> files_;
  std::vector<std::string> problems_;
  uint64_t next_id_ = 1;
};

class Loader {
 public:
  // Opens the contents of a saved file as a new sentry-owned descriptor (the loader hands it over); -1 on failure.
  using OpenFileFn = std::function<int(uint64_t id)>;

  explicit Loader(OpenFileFn open_file) : open_file_(std::move(open_file)) {}
  ~Loader();

  // The object with `id` exists already (the kernel): it is loaded, but not created.
  void Provide(uint64_t id, Saveable* object) {
    objects_[id] = {object, [] {}};
    provided_ = id;
  }
  // Creates and loads all of `records`; false if one is malformed (see error()).
  bool Run(const std::vector<Saver::Record>& records);
  // The object with `id` as a T: null for id 0. A wrong id or kind Fail()s and gives null.
  template <typename T>
  T* Get(uint64_t id) {
    if (id == 0) return nullptr;
    T* object = dynamic_cast<T*>(Find(id));
    if (object == nullptr) Fail("object " + std::to_string(id) + " is missing or of another kind");
    return object;
  }
  template <typename T>
  RefPtr<T> GetRef(uint64_t id) {
    return RefPtr<T>(Get<T>(id));
  }
  int OpenFile(uint64_t id) { return open_file_(id); }
  // Notes why the image cannot be restored; always false. The first reason stays.
  bool Fail(std::string why);
  const std::string& error() const { return error_; }

  // An object of `kind` before Load(), and how to give back the reference that the loader holds.
  struct Created {
    Saveable* object = nullptr;
    std::function<void()> drop;
  };
  using Factory = Created (*)();
  // Makes a Factory for a reference-counted T that has a default constructor.
  template <typename T>
  static Created Make() {
    T* object = new T();
    return {object, [object] { object->Unref(); }};
  }

 private:
  Saveable* Find(uint64_t id);

  OpenFileFn open_file_;
  std::unordered_map<uint64_t, Created> objects_;
  uint64_t provided_ = 0;
  std::string error_;
};

// The factory of `kind`, or null if this binary knows none. Defined by the binary that links all kinds (checkpoint/kinds.cc).
Loader::Factory FactoryOf(Kind kind);

}  // namespace amber::state
