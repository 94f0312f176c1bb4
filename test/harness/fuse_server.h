// A FUSE server for tests: a small tree in shared memory, served by a child that speaks the protocol itself. What it is to do wrong, and what it has
// seen, lies in that memory, too. Includes the mount.
#pragma once

#include <linux/fuse.h>
#include <sys/mount.h>

#include <atomic>
#include <cstdint>

#include "test/harness/guest_util.h"

namespace guest {

class FuseServer {
 public:
  static constexpr size_t kNodes = 64, kNames = 96, kData = 256 * 1024, kBig = 4 << 20;

  struct Node {
    bool used;
    uint32_t mode, uid, gid, nlink, rdev;
    uint64_t size, lookups, mtime;
    char target[128];
    char xattr_name[64], xattr_value[64];
    uint32_t xattr_size;
    char data[kData];
  };
  struct Name {
    bool used;
    uint64_t parent, node;
    char name[64];
  };
  // Wrong answers.
  enum Wrong : int { kRight, kNoNode, kBadType, kTooShort, kTooLong, kBadError, kRootAgain, kSlashName };

  struct Shared {
    // --- what it does ---
    uint64_t entry_valid, attr_valid;  // seconds
    uint32_t open_flags;               // FOPEN_*
    uint32_t max_write;                // 0: 128 KiB
    std::atomic<int> lacks[64];        // by opcode: ENOSYS
    std::atomic<int> fails[64];        // by opcode: this error
    std::atomic<int> held;             // requests of this opcode are not answered until this is another, or they are interrupted
    std::atomic<int> wrong;            // how LOOKUP, READ and READDIR are answered
    std::atomic<int> twice;            // everything is answered twice
    char visit[128];                   // a path that the server itself looks at when "trap" is looked up
    // --- what it has seen ---
    std::atomic<int> count[64];
    std::atomic<int> interrupts, second_errno, refused;
    std::atomic<uint32_t> uid, gid, pid, umask, open_with;
    std::atomic<uint64_t> last_offset;
    std::atomic<uint32_t> last_size;
    // --- the tree ---
    Node nodes[kNodes];  // by number; the root is 1
    Name names[kNames];
    char big[kBig];  // contents of the file "big", in the place of its data
    uint64_t big_node;
  };

  // `setup` may change the tree and the knobs before the mount.
  template <typename Setup>
  FuseServer(const char* options, Setup setup) {
    Prepare();
    setup(*this);
    Mount(options);
  }
  explicit FuseServer(const char* options = "") : FuseServer(options, [](FuseServer&) {}) {}
  ~FuseServer();
  FuseServer(const FuseServer&) = delete;

  Shared& shared() { return *shared_; }
  int count(int opcode) const { return shared_->count[opcode]; }
  const char* path() const { return dir_.path(); }
  Str operator/(const char* name) const { return dir_ / name; }
  pid_t pid() const { return pid_; }
  // Its /dev/fuse, if `keep_device` was set before the mount.
  int device() const { return device_; }
  bool keep_device = false;

  // --- the tree, from outside ---
  uint64_t Add(uint64_t parent, const char* name, uint32_t mode, const char* data = "");
  Node& node(uint64_t number) { return shared_->nodes[number]; }
  uint64_t Find(uint64_t parent, const char* name);
  // Writes a notification; errno's negative.
  int Notify(int code, const void* body, size_t size);
  // Waits until `opcode` was asked for more than `times` times.
  void AwaitCount(int opcode, int times);
  // Ends the server; its device goes with it.
  void Kill();
  // Its wait status, once it has ended by itself.
  int Wait();

 private:
  void Prepare();
  void Mount(const char* options);
  [[noreturn]] void Serve();
  void Answer(const fuse_in_header& h, int error, const void* data, size_t size);
  void AnswerEntry(const fuse_in_header& h, uint64_t node, const void* more = nullptr, size_t more_size = 0);
  void AnswerAttr(const fuse_in_header& h, uint64_t node);
  void AnswerDirectory(const fuse_in_header& h, const fuse_read_in& in);
  bool AnswerWrongly(const fuse_in_header& h);
  void Handle(const fuse_in_header& h, char* body);
  bool HandleNames(const fuse_in_header& h, char* body);
  bool HandleFiles(const fuse_in_header& h, char* body);
  bool HandleAttributes(const fuse_in_header& h, char* body);
  fuse_attr AttrOf(uint64_t node);
  char* DataOf(uint64_t node, size_t* room);
  Name* FindName(uint64_t parent, const char* name);
  int Remove(uint64_t parent, const char* name, bool directory);
  int Rename(uint64_t from, const char* old_name, uint64_t to, const char* new_name, uint32_t flags);

  TempDir dir_;
  Shared* shared_ = nullptr;
  int device_ = -1;
  pid_t pid_ = -1;
  uint64_t held_unique_[16] = {};
  fuse_in_header held_[16] = {};
  char held_body_[16][512] = {};
};

// An open /dev/fuse; skips the test where there is none.
int OpenFuseDevice();
// A path of it; a node in /tmp where a container has none.
const char* FuseDevicePath();

}  // namespace guest
