#include "runsc-cli/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runsc-cli/files.h"

namespace amber::cli {
namespace {

bool Contains(const std::vector<std::string>& list, std::string_view item) { return std::find(list.begin(), list.end(), item) != list.end(); }

// A new cpuset of version 1 has no CPUs and cannot be joined: it takes its parent's.
void InheritCpuset(const std::string& mount_point, const std::string& directory) {
  for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
    absl::StatusOr<std::string> own = ReadSmallFile(directory + file);
    if (!own.ok() || !absl::StripAsciiWhitespace(*own).empty()) continue;
    std::string parent = directory.substr(0, directory.rfind('/'));
    if (parent.size() < mount_point.size()) continue;
    absl::StatusOr<std::string> text = ReadSmallFile(parent + file);
    if (text.ok()) WriteExistingFile(directory + file, absl::StripAsciiWhitespace(*text)).IgnoreError();
  }
}

// In version 2 a controller works in a cgroup if its parent hands it down. Best effort: which ones may be handed
// down depends on the host; a limit that cannot be set is reported when it is set.
void HandDownControllers(const std::string& parent) {
  absl::StatusOr<std::string> available = ReadSmallFile(parent + "/cgroup.controllers");
  if (!available.ok()) return;
  for (std::string_view controller : absl::StrSplit(*available, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    WriteExistingFile(parent + "/cgroup.subtree_control", absl::StrCat("+", controller)).IgnoreError();
  }
}

// cgroup v1's shares (2 to 262144) on v2's scale (1 to 10000), as all runtimes map them.
uint64_t WeightOfShares(uint64_t shares) {
  shares = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + ((shares - 2) * 9999) / 262142;
}

std::string LimitText(int64_t value, std::string_view none) { return value < 0 ? std::string(none) : absl::StrCat(value); }

}  // namespace

std::vector<CgroupHierarchy> ParseCgroupMounts(std::string_view mountinfo) {
  std::vector<CgroupHierarchy> out;
  for (std::string_view line : absl::StrSplit(mountinfo, '\n', absl::SkipEmpty())) {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    std::vector<std::string_view> fields = absl::StrSplit(line, ' ');
    auto separator = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 7 || fields.end() - separator < 4) continue;
    std::string_view type = separator[1];
    if (type != "cgroup" && type != "cgroup2") continue;
    CgroupHierarchy hierarchy = {.mount_point = std::string(fields[4]), .v2 = type == "cgroup2"};
    if (!hierarchy.v2) {
      for (std::string_view option : absl::StrSplit(separator[3], ',')) {
        if (option == "rw" || option == "ro" || option == "xattr" || option == "none" || option == "clone_children" || option == "noprefix" ||
            option.substr(0, 14) == "release_agent=") {
          continue;
        }
        hierarchy.controllers.emplace_back(option);
      }
    }
    bool known = std::any_of(out.begin(), out.end(), [&hierarchy](const CgroupHierarchy& other) {
      return other.v2 == hierarchy.v2 && other.controllers == hierarchy.controllers;
    });
    if (!known) out.push_back(std::move(hierarchy));
  }
  return out;
}

absl::StatusOr<std::string> CgroupPath(std::string_view cgroups_path, const std::string& id, bool systemd) {
  std::string wanted(cgroups_path);
  if (wanted.empty()) wanted = absl::StrCat("/sandbox-", id);
  if (systemd) {
    std::vector<std::string> parts = absl::StrSplit(wanted, ':');
    if (parts.size() != 3 || parts[2].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("linux.cgroupsPath \"", wanted, "\" must read slice:prefix:name with --systemd-cgroup"));
    }
    std::string slice = parts[0].empty() ? "system.slice" : parts[0];
    // a-b.slice lies in a.slice.
    std::string expanded;
    std::string_view stem = absl::StripSuffix(slice, ".slice");
    for (size_t i = 0; i < stem.size(); ++i) {
      if (stem[i] == '-' && i != 0) absl::StrAppend(&expanded, "/", stem.substr(0, i), ".slice");
    }
    absl::StrAppend(&expanded, "/", slice);
    wanted = absl::StrCat(expanded, "/", parts[1].empty() ? "" : parts[1] + "-", parts[2], ".scope");
  }
  std::vector<std::string> clean;
  for (std::string_view part : absl::StrSplit(wanted, '/', absl::SkipEmpty())) {
    if (part == ".") continue;
    if (part == "..") {
      if (!clean.empty()) clean.pop_back();
      continue;
    }
    clean.emplace_back(part);
  }
  if (clean.empty()) return absl::InvalidArgumentError(absl::StrCat("linux.cgroupsPath \"", cgroups_path, "\" names no cgroup"));
  return absl::StrCat("/", absl::StrJoin(clean, "/"));
}

absl::StatusOr<Cgroup> Cgroup::Create(const std::vector<CgroupHierarchy>& hierarchies, const std::string& path) {
  Cgroup cgroup;
  std::vector<std::string> made;
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    std::string directory = hierarchy.mount_point;
    bool failed = false;
    bool made_leaf = false;
    int error = 0;
    for (std::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
      if (hierarchy.v2) HandDownControllers(directory);
      absl::StrAppend(&directory, "/", part);
      made_leaf = mkdir(directory.c_str(), 0755) == 0;
      if (made_leaf) {
        made.push_back(directory);
      } else if (errno != EEXIST) {
        failed = true;
        error = errno;
        break;
      }
      if (Contains(hierarchy.controllers, "cpuset")) InheritCpuset(hierarchy.mount_point, directory);
    }
    // A hierarchy that is mounted read-only is not ours to use.
    if (failed && error == EROFS) continue;
    if (failed) {
      for (auto it = made.rbegin(); it != made.rend(); ++it) rmdir(it->c_str());
      return absl::InternalError(absl::StrCat("cannot make the cgroup ", directory, ": ", strerrordesc_np(error)));
    }
    cgroup.places_.push_back({directory, hierarchy.controllers, hierarchy.v2, made_leaf});
  }
  return cgroup;
}

Cgroup Cgroup::Existing(const std::vector<CgroupHierarchy>& hierarchies, const std::vector<std::string>& directories) {
  Cgroup cgroup;
  for (const std::string& directory : directories) {
    for (const CgroupHierarchy& hierarchy : hierarchies) {
      if (absl::StartsWith(directory, hierarchy.mount_point + "/")) {
        cgroup.places_.push_back({directory, hierarchy.controllers, hierarchy.v2});
      }
    }
  }
  return cgroup;
}

std::vector<std::string> Cgroup::directories() const {
  std::vector<std::string> out;
  for (const Place& place : places_) out.push_back(place.directory);
  return out;
}

std::vector<std::string> Cgroup::made_directories() const {
  std::vector<std::string> out;
  for (const Place& place : places_) {
    if (place.made) out.push_back(place.directory);
  }
  return out;
}

const Cgroup::Place* Cgroup::Find(std::string_view controller) const {
  const Place* unified = nullptr;
  for (const Place& place : places_) {
    if (Contains(place.controllers, controller)) return &place;
    if (place.v2) unified = &place;
  }
  return unified;
}

std::string Cgroup::Directory(std::string_view controller) const {
  const Place* place = Find(controller);
  return place == nullptr ? "" : place->directory;
}

absl::Status Cgroup::Set(std::string_view controller, std::string_view v1_file, std::string_view v2_file, std::string_view value_v1,
                         std::string_view value_v2) const {
  const Place* place = Find(controller);
  if (place == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("cannot limit ", controller, ": this host has no such cgroup controller"));
  }
  std::string path = absl::StrCat(place->directory, "/", place->v2 ? v2_file : v1_file);
  absl::Status status = WriteExistingFile(path, place->v2 ? value_v2 : value_v1);
  if (absl::IsNotFound(status)) {
    return absl::FailedPreconditionError(absl::StrCat("cannot limit ", controller, ": ", path, " does not exist on this host"));
  }
  return status;
}

absl::Status Cgroup::ApplyMemory(const Resources& r) const {
  if (r.memory_reservation) {
    std::string text = LimitText(*r.memory_reservation, "-1");
    absl::Status s = Set("memory", "memory.soft_limit_in_bytes", "memory.low", text, LimitText(*r.memory_reservation, "0"));
    if (!s.ok()) return s;
  }
  const Place* place = Find("memory");
  if (place != nullptr && place->v2) {
    if (r.memory_limit) {
      absl::Status s = Set("memory", "", "memory.max", "", LimitText(*r.memory_limit, "max"));
      if (!s.ok()) return s;
    }
    if (r.memory_swap && r.memory_limit && *r.memory_limit > 0) {
      int64_t swap = *r.memory_swap < 0 ? -1 : std::max<int64_t>(0, *r.memory_swap - *r.memory_limit);
      // Kernels without swap accounting have no such file, and no swap to limit.
      Set("memory", "", "memory.swap.max", "", LimitText(swap, "max")).IgnoreError();
    }
    return absl::OkStatus();
  }
  if (!r.memory_limit && !r.memory_swap) return absl::OkStatus();
  auto limit = [&]() {
    if (!r.memory_limit) return absl::OkStatus();
    return Set("memory", "memory.limit_in_bytes", "", absl::StrCat(*r.memory_limit), "");
  };
  auto swap = [&]() {
    if (!r.memory_swap) return absl::OkStatus();
    absl::Status s = Set("memory", "memory.memsw.limit_in_bytes", "", absl::StrCat(*r.memory_swap), "");
    return s.code() == absl::StatusCode::kFailedPrecondition ? absl::OkStatus() : s;
  };
  // The sum may never be less than the part: which one comes first depends on the direction.
  if (limit().ok() && swap().ok()) return absl::OkStatus();
  if (absl::Status s = swap(); !s.ok()) return s;
  return limit();
}

absl::Status Cgroup::ApplyCpu(const Resources& r) const {
  if (r.cpu_shares && *r.cpu_shares != 0) {
    absl::Status s = Set("cpu", "cpu.shares", "cpu.weight", absl::StrCat(*r.cpu_shares), absl::StrCat(WeightOfShares(*r.cpu_shares)));
    if (!s.ok()) return s;
  }
  if (r.cpu_quota || r.cpu_period) {
    uint64_t period = r.cpu_period.value_or(0);
    int64_t quota = r.cpu_quota.value_or(0);
    const Place* place = Find("cpu");
    if (place != nullptr && place->v2) {
      std::string text = absl::StrCat(quota > 0 ? absl::StrCat(quota) : "max", " ", period != 0 ? period : 100000);
      return Set("cpu", "", "cpu.max", "", text);
    }
    if (period != 0) {
      absl::Status s = Set("cpu", "cpu.cfs_period_us", "", absl::StrCat(period), "");
      if (!s.ok()) return s;
    }
    if (quota != 0) {
      absl::Status s = Set("cpu", "cpu.cfs_quota_us", "", absl::StrCat(quota), "");
      if (!s.ok()) return s;
    }
  }
  for (const auto& [file, value] : {std::pair("cpuset.cpus", r.cpuset_cpus), std::pair("cpuset.mems", r.cpuset_mems)}) {
    if (value.empty()) continue;
    if (absl::Status s = Set("cpuset", file, file, value, value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status Cgroup::Apply(const Resources& r) const {
  absl::Status first = ApplyMemory(r);
  if (absl::Status s = ApplyCpu(r); !s.ok() && first.ok()) first = s;
  if (r.pids_limit) {
    std::string text = *r.pids_limit > 0 ? absl::StrCat(*r.pids_limit + kPidsReserve) : "max";
    absl::Status s = Set("pids", "pids.max", "pids.max", text, text);
    if (!s.ok() && first.ok()) first = s;
  }
  for (const auto& [file, value] : r.unified) {
    auto place = std::find_if(places_.begin(), places_.end(), [](const Place& p) { return p.v2; });
    absl::Status s = place == places_.end() ? absl::FailedPreconditionError("linux.resources.unified needs cgroup version 2")
                                            : WriteExistingFile(absl::StrCat(place->directory, "/", file), value);
    if (!s.ok() && first.ok()) first = s;
  }
  return first;
}

absl::Status Cgroup::Join(const std::vector<pid_t>& processes) const {
  for (const Place& place : places_) {
    for (pid_t pid : processes) {
      absl::Status status = WriteExistingFile(place.directory + "/cgroup.procs", absl::StrCat(pid));
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Cgroup::JoinV2(pid_t process) const {
  for (const Place& place : places_) {
    if (place.v2) return WriteExistingFile(place.directory + "/cgroup.procs", absl::StrCat(process));
  }
  return absl::OkStatus();
}

namespace {

// The line of /proc/PID/cgroup for a hierarchy: "9:name=systemd:/path". Its path, or nothing.
std::optional<std::string> PathIn(std::string_view cgroups, const CgroupHierarchy& hierarchy) {
  for (std::string_view line : absl::StrSplit(cgroups, '\n', absl::SkipEmpty())) {
    std::vector<std::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    std::vector<std::string> controllers = absl::StrSplit(fields[1], ',', absl::SkipEmpty());
    bool same = hierarchy.v2 ? fields[0] == "0" : !controllers.empty() && Contains(hierarchy.controllers, controllers[0]);
    if (same) return std::string(fields[2]);
  }
  return std::nullopt;
}

}  // namespace

absl::Status CgroupVisit::Enter(const Cgroup& cgroup, const std::vector<CgroupHierarchy>& hierarchies) {
  absl::StatusOr<std::string> now = ReadSmallFile("/proc/self/cgroup");
  if (!now.ok()) return now.status();
  std::vector<UniqueFd> home;
  std::vector<UniqueFd> away;
  for (const Cgroup::Place& place : cgroup.places_) {
    if (place.v2) continue;
    auto hierarchy =
        std::find_if(hierarchies.begin(), hierarchies.end(), [&](const CgroupHierarchy& h) { return !h.v2 && h.controllers == place.controllers; });
    std::optional<std::string> path = hierarchy != hierarchies.end() ? PathIn(*now, *hierarchy) : std::nullopt;
    if (!path) return absl::NotFoundError("a cgroup hierarchy is not in /proc/self/cgroup");
    home.emplace_back(open(absl::StrCat(hierarchy->mount_point, *path, "/tasks").c_str(), O_WRONLY | O_CLOEXEC));
    away.emplace_back(open((place.directory + "/tasks").c_str(), O_WRONLY | O_CLOEXEC));
    if (!home.back().valid() || !away.back().valid()) return absl::NotFoundError("a cgroup cannot be opened");
  }
  home_ = std::move(home);
  for (const UniqueFd& fd : away) {
    if (write(fd.get(), "0", 1) == 1) continue;
    Leave();
    return absl::InternalError("cannot enter a cgroup");
  }
  for (const Cgroup::Place& place : cgroup.places_) {
    if (place.v2) v2_.reset(open(place.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  return absl::OkStatus();
}

void CgroupVisit::Leave() {
  for (const UniqueFd& fd : home_) (void)!write(fd.get(), "0", 1);
  home_.clear();
  v2_.reset();
}

namespace {

[[noreturn]] void StandGuard(int in, const std::vector<std::string>& directories) {
  dup2(in, STDIN_FILENO);
  close_range(STDIN_FILENO + 1, ~0u, 0);
  char dismissed;
  if (read(STDIN_FILENO, &dismissed, 1) == 1) _exit(0);
  // The dying process may still be in there.
  constexpr int kTries = 400;
  constexpr timespec kPause = {0, 5'000'000};
  for (int i = 0; i < kTries; ++i) {
    bool left = false;
    for (const std::string& directory : directories) left |= rmdir(directory.c_str()) != 0 && errno != ENOENT;
    if (!left) break;
    nanosleep(&kPause, nullptr);
  }
  _exit(0);
}

}  // namespace

absl::Status CgroupGuard::Start(const std::vector<std::string>& directories) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError(absl::StrCat("guarding cgroups: pipe: ", strerrordesc_np(errno)));
  UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  // Whoever ends our process group does not end the guard.
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  pid_t pid = fork();
  if (pid == 0) StandGuard(in.get(), directories);
  int failure = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return absl::InternalError(absl::StrCat("guarding cgroups: fork: ", strerrordesc_np(failure)));
  guard_ = pid;
  dismissal_ = std::move(out);
  in_ = std::move(in);
  return absl::OkStatus();
}

void CgroupGuard::Dismiss() {
  if (guard_ == 0) return;
  (void)!write(dismissal_.get(), "d", 1);
  dismissal_.reset();
  in_.reset();
  waitpid(std::exchange(guard_, 0), nullptr, 0);
}

bool IsInCgroup2(pid_t process, std::string_view path) {
  absl::StatusOr<std::string> text = ReadSmallFile(absl::StrCat("/proc/", process, "/cgroup"));
  if (!text.ok()) return false;
  std::optional<std::string> at = PathIn(*text, {.v2 = true});
  return at && absl::EndsWith(*at, path);
}

absl::Status RemoveCgroups(const std::vector<std::string>& directories) {
  std::vector<std::string> left = directories;
  for (int attempt = 0; attempt < 200; ++attempt) {
    std::erase_if(left, [](const std::string& directory) { return rmdir(directory.c_str()) == 0 || errno == ENOENT; });
    if (left.empty()) return absl::OkStatus();
    // Killed processes leave the cgroup only when they have fully ended.
    for (const std::string& directory : left) {
      absl::StatusOr<std::string> procs = ReadSmallFile(directory + "/cgroup.procs");
      if (!procs.ok()) continue;
      for (std::string_view line : absl::StrSplit(*procs, '\n', absl::SkipEmpty())) {
        pid_t pid;
        if (absl::SimpleAtoi(line, &pid) && pid > 1 && pid != getpid()) kill(pid, SIGKILL);
      }
    }
    timespec pause = {0, attempt < 20 ? 1'000'000 : 10'000'000};
    nanosleep(&pause, nullptr);
  }
  return absl::InternalError(absl::StrCat("cannot remove the cgroup ", left[0], ": ", strerrordesc_np(errno)));
}

}  // namespace amber::cli
