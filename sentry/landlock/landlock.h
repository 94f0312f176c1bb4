// landlock(7): sandboxes that a program puts itself into (security/landlock).
//
// A LandlockRuleset is what landlock_create_ruleset(2) gives a descriptor of; rules are added to it. A task that restricts itself gets a frozen
// copy as the innermost layer of its domain (TaskExtras::landlock); children and programs inherit it. A right is there if each layer that
// handles it has a rule for it at the file or a directory above. Linux, too, has one structure for both.
//
// A rule holds its inode and file system, not the mount. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"

namespace amber {

class LandlockRuleset final : public File {
 public:
  static constexpr int kAbi = 7;          // as of Linux 6.15
  static constexpr uint64_t kErrata = 7;  // what was mended since, and is right here: TCP only, signals within a process, disconnected directories
  static constexpr int kMaxLayers = 16;
  static constexpr uint64_t kFsRights = (1 << 16) - 1;
  static constexpr uint64_t kFileRights = 1 | 2 | 4 | 1 << 14 | 1 << 15;  // those that make sense for what is no directory
  static constexpr uint64_t kBindTcp = 1, kConnectTcp = 2, kNetRights = 3;
  static constexpr uint64_t kScopeAbstractUnix = 1, kScopeSignal = 2, kScopes = 3;

  LandlockRuleset();  // for Load()
  LandlockRuleset(uint64_t fs_rights, uint64_t net_rights, uint64_t scoped);
  ~LandlockRuleset() override;

  void AddPathRule(Inode& inode, uint64_t rights);
  void AddPortRule(uint16_t port, uint64_t rights);

  // There is no room for another rule (Linux has LANDLOCK_MAX_NUM_RULES, and charges rules to the memory control group).
  bool full() const { return rules_->paths.size() + rules_->ports.size() >= kMaxRules; }
  // What this says now, as a layer below `above`, which may be null. E2BIG.
  ErrnoOr<RefPtr<LandlockRuleset>> Freeze(RefPtr<LandlockRuleset> above) const;
  // --- layers ---
  const LandlockRuleset* above() const { return above_.get(); }
  // Handled rights; what moves files to other directories is always handled with others (LANDLOCK_ACCESS_FS_INITIALLY_DENIED).
  uint64_t fs_rights() const;
  uint64_t handled_fs() const { return fs_rights_; }  // as it was made
  uint64_t net_rights() const { return net_rights_; }
  uint64_t AtInode(const Inode& inode) const;
  uint64_t AtPort(uint16_t port) const;
  // A layer of `domain` has `scope`, and `other` is not within that layer (domain_is_scoped()).
  static bool KeepsFrom(const LandlockRuleset* domain, const LandlockRuleset* other, uint64_t scope);
  // Some layer says something about files.
  static bool RestrictsFiles(const LandlockRuleset* domain);
  // True if `domain` is `outer`, or was made by a task within it. A null `outer` contains everything.
  static bool IsWithin(const LandlockRuleset* domain, const LandlockRuleset* outer);

  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  std::string LinkName() const override { return "anon_inode:[landlock-ruleset]"; }
  state::Kind kind() const override { return state::Kind::kLandlockRuleset; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  struct PathRule {
    RefPtr<FileSystem> fs;  // first: it outlives the inode
    RefPtr<Inode> inode;
    uint64_t rights = 0;
  };
  using Key = std::pair<const FileSystem*, uint64_t>;  // inodes of the host's files come and go, their numbers stay

  uint64_t fs_rights_ = 0, net_rights_ = 0, scoped_ = 0;
  struct Rules {
    std::map<Key, PathRule> paths;
    std::map<uint16_t, uint64_t> ports;
  };
  static constexpr size_t kMaxRules = 1 << 16;
  // To add to: layers that were made of them keep what they have.
  Rules& Own();

  // Shared with the layers that were made of it.
  std::shared_ptr<Rules> rules_ = std::make_shared<Rules>();
  RefPtr<LandlockRuleset> above_;
  int depth_ = 0;  // layers, this one included; 0: not frozen
};

// Enters the functions of sentry/vfs/restrict.h.
void InstallLandlockChecks();
// EACCES unless the task may bind to or connect to this TCP port.
ErrnoOr<void> CheckLandlockPort(const Task& task, uint16_t port, uint64_t right);
// A task in a domain may trace only what is within that.
bool LandlockMayTrace(const Task& task, const Task& target);
// hook_task_kill(): threads of one process always may.
bool LandlockMaySignal(const Task& task, const Task& target);

}  // namespace amber
