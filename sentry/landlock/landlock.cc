#include "sentry/landlock/landlock.h"

#include "checkpoint/state.h"
#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/landlock/landlock.pb.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/restrict.h"

namespace amber {

LandlockRuleset::LandlockRuleset() { set_flags(O_RDWR); }
LandlockRuleset::LandlockRuleset(uint64_t fs_rights, uint64_t net_rights, uint64_t scoped)
    : fs_rights_(fs_rights), net_rights_(net_rights), scoped_(scoped) {
  set_flags(O_RDWR);
}

LandlockRuleset::~LandlockRuleset() = default;

LandlockRuleset::Rules& LandlockRuleset::Own() {
  if (rules_.use_count() > 1) rules_ = std::make_shared<Rules>(*rules_);
  return *rules_;
}

void LandlockRuleset::AddPathRule(Inode& inode, uint64_t rights) {
  PathRule& rule = Own().paths[{&inode.fs(), inode.ino()}];
  rule.fs = RefPtr<FileSystem>(&inode.fs());
  if (!rule.inode) rule.inode = RefPtr<Inode>(&inode);
  rule.rights |= rights;
}

void LandlockRuleset::AddPortRule(uint16_t port, uint64_t rights) { Own().ports[port] |= rights; }

ErrnoOr<RefPtr<LandlockRuleset>> LandlockRuleset::Freeze(RefPtr<LandlockRuleset> above) const {
  int depth = above ? above->depth_ + 1 : 1;
  if (depth > kMaxLayers) return Errno(E2BIG);
  auto layer = MakeRef<LandlockRuleset>(fs_rights_, net_rights_, scoped_);
  layer->rules_ = rules_;
  layer->above_ = std::move(above);
  layer->depth_ = depth;
  return layer;
}

uint64_t LandlockRuleset::fs_rights() const { return fs_rights_ != 0 ? fs_rights_ | file_right::kRefer : 0; }

uint64_t LandlockRuleset::AtInode(const Inode& inode) const {
  auto it = rules_->paths.find({&inode.fs(), inode.ino()});
  return it == rules_->paths.end() ? 0 : it->second.rights;
}

uint64_t LandlockRuleset::AtPort(uint16_t port) const {
  auto it = rules_->ports.find(port);
  return it == rules_->ports.end() ? 0 : it->second;
}

bool LandlockRuleset::RestrictsFiles(const LandlockRuleset* domain) {
  for (; domain != nullptr; domain = domain->above()) {
    if (domain->fs_rights_ != 0) return true;
  }
  return false;
}

bool LandlockRuleset::IsWithin(const LandlockRuleset* domain, const LandlockRuleset* outer) {
  if (outer == nullptr) return true;
  for (; domain != nullptr; domain = domain->above()) {
    if (domain == outer) return true;
  }
  return false;
}

bool LandlockRuleset::KeepsFrom(const LandlockRuleset* domain, const LandlockRuleset* other, uint64_t scope) {
  for (; domain != nullptr; domain = domain->above()) {
    if ((domain->scoped_ & scope) != 0 && !IsWithin(other, domain)) return true;
  }
  return false;
}

ErrnoOr<void> LandlockRuleset::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

namespace {

// The rights of one layer along a path: at the file, and at each directory above it, through mounts (is_access_to_paths_allowed()).
uint64_t RightsAlong(const LandlockRuleset& layer, const Mount* mount, const Dentry* dentry) {
  uint64_t rights = 0;
  while (true) {
    if (dentry->inode() != nullptr) rights |= layer.AtInode(*dentry->inode());
    // What a mount hides does not count.
    while (dentry == mount->root().get()) {
      if (mount->parent() == nullptr) return rights;
      dentry = mount->mountpoint();
      mount = mount->parent();
    }
    dentry = dentry->parent();
    // A directory that was moved out of what is mounted: on from the mount itself.
    if (dentry == nullptr) dentry = mount->root().get();
  }
}

uint64_t Allowed(const VfsContext& ctx, const VfsPath& path, uint64_t rights) {
  for (const LandlockRuleset* layer = ctx.task->extras().landlock.get(); layer != nullptr; layer = layer->above()) {
    uint64_t asked = rights & layer->fs_rights();
    if (asked != 0) rights &= ~(asked & ~RightsAlong(*layer, path.mount.get(), path.dentry.get()));
  }
  return rights;
}

// current_check_refer_path()
ErrnoOr<void> Refer(const VfsContext& ctx, const Referral& what) {
  const LandlockRuleset* domain = ctx.task->extras().landlock.get();
  if (!LandlockRuleset::RestrictsFiles(domain)) return Ok();
  auto removal = [](const Dentry& d) { return d.inode() == nullptr ? 0 : d.inode()->IsDir() ? file_right::kRemoveDir : file_right::kRemoveFile; };
  const Inode& moved = *what.moved.inode();
  bool replaces = what.replaced != nullptr && what.replaced->inode() != nullptr;
  uint64_t at_old = 0, at_new = MakeRight(moved.attr().mode);
  if (what.exchange && replaces) at_old |= MakeRight(what.replaced->inode()->attr().mode);
  if (what.replaced != nullptr) {
    at_old |= removal(what.moved);
    at_new |= removal(*what.replaced);
  }
  if (what.old_dir.dentry == what.new_dir.dentry) return CheckRights(ctx, what.new_dir, at_old | at_new);
  // With EACCES before EXDEV.
  TRY(CheckRights(ctx, what.old_dir, at_old));
  TRY(CheckRights(ctx, what.new_dir, at_new));
  if (!CheckRights(ctx, what.old_dir, file_right::kRefer).ok() || !CheckRights(ctx, what.new_dir, file_right::kRefer).ok()) return Errno(EXDEV);
  // Nothing may be allowed on a file at its new place that was not at the old one (no_more_access()).
  for (const LandlockRuleset* layer = domain; layer != nullptr; layer = layer->above()) {
    uint64_t before = RightsAlong(*layer, what.old_dir.mount.get(), what.old_dir.dentry.get());
    uint64_t after = RightsAlong(*layer, what.new_dir.mount.get(), what.new_dir.dentry.get());
    auto gains = [&](const Inode& inode, uint64_t from, uint64_t to) {
      uint64_t gained = to & ~(from | layer->AtInode(inode)) & layer->fs_rights();
      return (gained & (inode.IsDir() ? ~uint64_t{0} : LandlockRuleset::kFileRights)) != 0;
    };
    if (gains(moved, before, after)) return Errno(EXDEV);
    if (what.exchange && replaces && gains(*what.replaced->inode(), after, before)) return Errno(EXDEV);
  }
  return Ok();
}

}  // namespace

void InstallLandlockChecks() {
  restriction::allowed = &Allowed;
  restriction::refer = &Refer;
}

ErrnoOr<void> CheckLandlockPort(const Task& task, uint16_t port, uint64_t right) {
  for (const LandlockRuleset* layer = task.extras().landlock.get(); layer != nullptr; layer = layer->above()) {
    if ((layer->net_rights() & right) != 0 && (layer->AtPort(port) & right) == 0) return Errno(EACCES);
  }
  return Ok();
}

bool LandlockMayTrace(const Task& task, const Task& target) {
  return LandlockRuleset::IsWithin(target.extras().landlock.get(), task.extras().landlock.get());
}

bool LandlockMaySignal(const Task& task, const Task& target) {
  const LandlockRuleset* domain = task.extras().landlock.get();
  if (domain == nullptr || &task.group() == &target.group()) return true;
  return !LandlockRuleset::KeepsFrom(domain, target.extras().landlock.get(), LandlockRuleset::kScopeSignal);
}

std::string LandlockRuleset::Save(state::Saver& saver) const {
  landlock_state::Ruleset m;
  m.set_flags(flags());
  m.set_fs_rights(fs_rights_);
  m.set_net_rights(net_rights_);
  m.set_scoped(scoped_);
  for (const auto& [key, rule] : rules_->paths) {
    auto* out = m.add_path();
    out->set_fs(saver.Ref(rule.fs));
    out->set_inode(saver.Ref(rule.inode));
    out->set_rights(rule.rights);
  }
  for (const auto& [port, rights] : rules_->ports) {
    auto* out = m.add_port();
    out->set_port(port);
    out->set_rights(rights);
  }
  m.set_above(saver.Ref(above_));
  m.set_depth(depth_);
  return m.SerializeAsString();
}

bool LandlockRuleset::Load(state::Loader& loader, std::string_view bytes) {
  landlock_state::Ruleset m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a landlock ruleset is malformed");
  set_flags(m.flags());
  fs_rights_ = m.fs_rights() & kFsRights;
  net_rights_ = m.net_rights() & kNetRights;
  scoped_ = m.scoped() & kScopes;
  for (const auto& in : m.path()) {
    PathRule rule{loader.GetRef<FileSystem>(in.fs()), loader.GetRef<Inode>(in.inode()), in.rights()};
    if (!rule.fs || !rule.inode) return loader.Fail("a landlock rule has no file");
    // Numbers are known only once all is loaded: AfterLoad() sorts them in.
    rules_->paths[{rule.fs.get(), rules_->paths.size()}] = std::move(rule);
  }
  for (const auto& in : m.port()) rules_->ports[static_cast<uint16_t>(in.port())] = in.rights();
  above_ = loader.GetRef<LandlockRuleset>(m.above());
  depth_ = m.depth();
  if ((m.above() != 0) != static_cast<bool>(above_) || depth_ < 0 || depth_ > kMaxLayers) return loader.Fail("a landlock domain is malformed");
  return true;
}

bool LandlockRuleset::AfterLoad(state::Loader& loader) {
  // Layers are numbered from the outside, so that no image makes a circle.
  if (above_ && above_->depth_ != depth_ - 1) return loader.Fail("a landlock domain has a wrong depth");
  for (auto& [key, rule] : std::exchange(rules_->paths, {})) {
    if (&rule.inode->fs() != rule.fs.get()) return loader.Fail("a landlock rule's file is of another file system");
    AddPathRule(*rule.inode, rule.rights);
  }
  return true;
}

}  // namespace amber
