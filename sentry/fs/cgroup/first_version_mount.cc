// Mounting trees of the first version: cgroup1_parse_param(), check_cgroupfs_options(), cgroup1_root_to_use().
#include <algorithm>
#include <cctype>
#include <string>

#include "sentry/fs/cgroup/first_version.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

struct Options {
  uint32_t controllers = 0;
  bool none = false, all = false, noprefix = false, clone_children = false;
  std::string name, release_agent, others;
};

ErrnoOr<void> TakeName(std::string_view name, Options* out) {
  constexpr size_t kMostName = 64;  // MAX_CGROUP_ROOT_NAMELEN
  bool good = std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-'; });
  if (name.empty() || name.size() >= kMostName || !good || !out->name.empty()) return Errno(EINVAL);
  out->name = name;
  return Ok();
}

ErrnoOr<void> TakeOption(std::string_view option, Options* out) {
  if (option.starts_with("name=")) return TakeName(option.substr(5), out);
  if (option.starts_with("release_agent=")) {
    std::string_view agent = option.substr(14);
    if (agent.empty() || !out->release_agent.empty()) return Errno(EINVAL);
    out->release_agent = agent;
    return Ok();
  }
  if (option == "none") {
    out->none = true;
  } else if (option == "all") {
    out->all = true;
  } else if (option == "noprefix") {
    out->noprefix = true;
  } else if (option == "clone_children") {
    out->clone_children = true;
  } else if (option == "xattr" || option == "cpuset_v2_mode" || option == "favordynmods") {
    out->others += "," + std::string(option);
  } else if (option != "nofavordynmods") {
    auto found = std::ranges::find_if(kControllerNames, [option](const ControllerName& c) { return option == c.name; });
    if (found == std::end(kControllerNames)) return Errno(EINVAL);
    out->controllers |= found->bit;
  }
  return Ok();
}

ErrnoOr<Options> ParseOptions(const std::vector<std::string>& options) {
  Options out;
  for (const std::string& option : options) TRY(TakeOption(option, &out));
  if ((out.none || out.all) && out.controllers != 0) return Errno(EINVAL);
  if (out.all || (out.controllers == 0 && !out.none && out.name.empty())) out.controllers = Cgroup::kFirst;
  if (out.controllers == 0 && out.name.empty()) return Errno(EINVAL);
  // (Only a lone cpuset may go without its prefix, and that is not there.)
  if (out.noprefix) return Errno(EINVAL);
  return out;
}

// The root of the tree that they name, null if there is none.
ErrnoOr<RefPtr<Cgroup>> FindTree(Cgroup& unified, const Options& options) {
  bool named = !options.name.empty();
  for (const RefPtr<Cgroup>& root : unified.trees()) {
    if (named && options.name != root->own_tree()->name) continue;
    bool same = (options.controllers == 0 && !options.none) || options.controllers == root->available();
    if (same) return root;
    if (named) return Errno(EBUSY);
  }
  return RefPtr<Cgroup>();
}

ErrnoOr<RefPtr<Cgroup>> MakeTree(Cgroup& unified, const Options& options) {
  // A name alone finds a tree, but makes none.
  if (options.controllers == 0 && !options.none) return Errno(EINVAL);
  RefPtr<Cgroup> root = TRY(unified.NewTree(options.controllers, options.name));
  root->own_tree()->release_agent = options.release_agent;
  root->own_tree()->options = options.others;
  root->first()->clone_children = options.clone_children;
  return root;
}

}  // namespace

ErrnoOr<RefPtr<Cgroup>> TreeForMount(Task& task, const std::vector<std::string>& text) {
  constexpr int kSysAdmin = 21;  // CAP_SYS_ADMIN
  Options options = TRY(ParseOptions(text));
  if (!options.release_agent.empty() && !task.Has(kSysAdmin)) return Errno(EINVAL);
  Cgroup& unified = Cgroup::Of(task).Unified();
  RefPtr<Cgroup> found = TRY(FindTree(unified, options));
  if (found) {
    // (The root that its namespace has there may be gone.)
    RefPtr<Cgroup> root(&Cgroup::RootFor(task, found->tree()));
    return &root->Top() == found.get() ? ErrnoOr<RefPtr<Cgroup>>(std::move(root)) : Errno(ENOENT);
  }
  if ((options.controllers != 0 || options.none) && task.extras().cgroup) return Errno(EPERM);
  return MakeTree(unified, options);
}

ErrnoOr<RefPtr<Cgroup>> TreeOf(Cgroup& unified, const std::vector<std::string>& text) {
  Options options = TRY(ParseOptions(text));
  RefPtr<Cgroup> found = TRY(FindTree(unified, options));
  return found ? found : MakeTree(unified, options);
}

std::string TreeOptions(const Cgroup& root) {
  const CgroupTree& tree = *root.own_tree();
  std::string out = ControllerNames(root.available(), ',');
  if (!out.empty()) out = "," + out;
  out += tree.options;
  if (!tree.release_agent.empty()) out += ",release_agent=" + tree.release_agent;
  if (root.first()->clone_children) out += ",clone_children";
  if (!tree.name.empty()) out += ",name=" + tree.name;
  return out;
}

}  // namespace amber
