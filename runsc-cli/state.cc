#include "runsc-cli/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "runsc-cli/files.h"
#include "runsc-cli/json_reader.h"

namespace amber::cli {
namespace {

using nlohmann::json;

absl::Status NoSuchContainer(std::string_view id) { return absl::NotFoundError(absl::StrCat("container \"", id, "\" does not exist")); }

struct ProcStat {
  char state = 'X';
  uint64_t start = 0;
};

// X if there is no such process.
ProcStat ReadProcStat(pid_t pid) {
  ProcStat stat;
  absl::StatusOr<std::string> text = ReadSmallFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!text.ok()) return stat;
  // The name, field 2, may hold blanks and parentheses.
  size_t end = text->rfind(')');
  if (end == std::string::npos) return stat;
  std::vector<std::string_view> fields = absl::StrSplit(std::string_view(*text).substr(end + 1), ' ', absl::SkipEmpty());
  if (fields.size() < 20 || !absl::SimpleAtoi(fields[19], &stat.start)) return ProcStat();
  stat.state = fields[0][0];
  return stat;
}

json ToJson(const ProcessRef& process) { return {{"pid", process.pid}, {"start", process.start}}; }

ProcessRef ReadProcess(const JsonReader& reader) { return {static_cast<pid_t>(reader["pid"].Integer(0, 0, INT32_MAX)), reader["start"].Unsigned()}; }

}  // namespace

ProcessRef ProcessRef::Of(pid_t pid) { return {pid, ReadProcStat(pid).start}; }

bool ProcessRef::Alive() const {
  if (pid <= 0) return false;
  ProcStat stat = ReadProcStat(pid);
  return stat.state != 'X' && stat.state != 'Z' && stat.start == start;
}

std::string State::Status() const { return waiter.Alive() && sentry.Alive() ? status : "stopped"; }

std::string Serialize(const State& s) {
  json hooks = json::array();
  for (const Hook& hook : s.poststop) {
    hooks.push_back({{"path", hook.path}, {"args", hook.args}, {"env", hook.env}, {"timeout", hook.timeout_s}});
  }
  json out = {{"version", 1},
              {"id", s.id},
              {"status", s.status},
              {"bundle", s.bundle},
              {"rootfs", s.rootfs},
              {"created", s.created},
              {"annotations", s.annotations},
              {"waiter", ToJson(s.waiter)},
              {"sentry", ToJson(s.sentry)},
              {"gofer", ToJson(s.gofer)},
              {"owner", ToJson(s.owner)},
              {"sandboxId", s.sandbox_id},
              {"guestPid", s.guest_pid},
              {"hostId", s.host_id},
              {"hostSockets", s.host_sockets},
              {"cgroups", s.cgroups},
              {"madeCgroups", s.made_cgroups},
              {"poststop", hooks}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::StatusOr<State> ParseState(std::string_view text) {
  absl::StatusOr<json> document = ParseJson(text, "state.json");
  if (!document.ok()) return document.status();
  absl::Status error;
  JsonReader r(&*document, "", &error);
  if (r["version"].Integer(0, 0, INT32_MAX) != 1) {
    return absl::FailedPreconditionError("state.json was written by another version of sandbox");
  }
  State s;
  s.id = r["id"].String();
  s.status = r["status"].String();
  s.bundle = r["bundle"].String();
  s.rootfs = r["rootfs"].String();
  s.created = r["created"].String();
  r["annotations"].ForEachMember([&s](const std::string& name, const JsonReader& v) { s.annotations[name] = v.String(); });
  s.waiter = ReadProcess(r["waiter"]);
  s.sentry = ReadProcess(r["sentry"]);
  s.gofer = ReadProcess(r["gofer"]);
  s.owner = ReadProcess(r["owner"]);
  s.sandbox_id = r["sandboxId"].String();
  s.guest_pid = static_cast<int32_t>(r["guestPid"].Integer(0, 0, INT32_MAX));
  s.host_id = static_cast<uint32_t>(r["hostId"].Integer(0, 0, UINT32_MAX));
  s.host_sockets = r["hostSockets"].Bool();
  s.cgroups = r["cgroups"].Strings();
  s.made_cgroups = r["madeCgroups"].Strings();
  r["poststop"].ForEach([&s](const JsonReader& hook) {
    s.poststop.push_back({.path = hook["path"].String(),
                          .args = hook["args"].Strings(),
                          .env = hook["env"].Strings(),
                          .timeout_s = static_cast<int>(hook["timeout"].Integer(0, 0, 86400))});
  });
  if (!error.ok()) return absl::DataLossError(absl::StrCat("state.json: ", error.message()));
  return s;
}

absl::Status CheckId(std::string_view id) {
  auto good = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || strchr("_+-.", c) != nullptr; };
  if (!id.empty() && id.size() <= 255 && id != "." && id != ".." && id.find('\0') == std::string_view::npos &&
      std::all_of(id.begin(), id.end(), good)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("invalid container id \"", id, "\": use 1 to 255 letters, digits and _ + - . (neither \".\" nor \"..\")"));
}

absl::StatusOr<UniqueFd> StateDir::Lock(const std::string& path) {
  for (;;) {
    UniqueFd lock(open((path + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock.valid()) {
      if (errno == ENOENT) return absl::NotFoundError("");
      return absl::InternalError(absl::StrCat("cannot open ", path, "/lock: ", strerrordesc_np(errno)));
    }
    while (flock(lock.get(), LOCK_EX) != 0 && errno == EINTR) {
    }
    // Whoever held it before may have removed the directory.
    struct stat st;
    if (fstat(lock.get(), &st) == 0 && st.st_nlink != 0) return lock;
  }
}

absl::StatusOr<StateDir> StateDir::Create(const std::string& root, const std::string& id, bool replace_stopped) {
  if (absl::Status status = CheckId(id); !status.ok()) return status;
  if (absl::Status status = MakeDirectories(root, 0711); !status.ok()) return status;
  std::string path = absl::StrCat(root, "/", id);
  for (int attempt = 0; attempt < 3; ++attempt) {
    bool made = mkdir(path.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) {
      return absl::InternalError(absl::StrCat("cannot make ", path, ": ", strerrordesc_np(errno)));
    }
    absl::StatusOr<UniqueFd> lock = Lock(path);
    if (absl::IsNotFound(lock.status())) continue;  // removed in between
    if (!lock.ok()) return lock.status();
    StateDir dir(path, *std::move(lock));
    if (access((path + "/state.json").c_str(), F_OK) != 0) {
      // Ours, or left by somebody who died half-way: its lock was free.
      unlink(dir.socket_path().c_str());
      return dir;
    }
    absl::StatusOr<State> state = dir.Load();
    bool gone = state.ok() && state->Status() == "stopped" && (replace_stopped || state->owner.pid != 0) && !state->owner.Alive();
    if (!gone) {
      return absl::AlreadyExistsError(
          absl::StrCat("container with id \"", id, "\" exists already: choose another id or `sandbox delete ", id, "` first"));
    }
    for (const std::string& cgroup : state->made_cgroups) rmdir(cgroup.c_str());
    if (absl::Status status = dir.Remove(); !status.ok()) return status;
  }
  return absl::AbortedError(absl::StrCat("somebody else makes and removes container \"", id, "\" at the same time"));
}

absl::StatusOr<StateDir> StateDir::OpenLocked(const std::string& root, const std::string& id) {
  if (absl::Status status = CheckId(id); !status.ok()) return status;
  std::string path = absl::StrCat(root, "/", id);
  if (access(path.c_str(), F_OK) != 0) return NoSuchContainer(id);
  absl::StatusOr<UniqueFd> lock = Lock(path);
  if (absl::IsNotFound(lock.status())) return NoSuchContainer(id);
  if (!lock.ok()) return lock.status();
  return StateDir(std::move(path), *std::move(lock));
}

absl::StatusOr<State> StateDir::Load() const {
  absl::StatusOr<std::string> text = ReadSmallFile(path_ + "/state.json");
  if (absl::IsNotFound(text.status())) return NoSuchContainer(path_.substr(path_.rfind('/') + 1));
  if (!text.ok()) return text.status();
  return ParseState(*text);
}

absl::StatusOr<State> StateDir::Read(const std::string& root, const std::string& id) {
  if (absl::Status status = CheckId(id); !status.ok()) return status;
  return StateDir(absl::StrCat(root, "/", id), UniqueFd()).Load();
}

absl::Status StateDir::Save(const State& state) const { return WriteFileAtomically(path_ + "/state.json", Serialize(state)); }

absl::Status StateDir::Remove() {
  // Our own files only: whatever else somebody put here keeps the directory, and is named.
  for (const char* name : {"state.json", "state.json.new", "control.sock", "lock"}) {
    unlink(absl::StrCat(path_, "/", name).c_str());
  }
  if (rmdir(path_.c_str()) != 0 && errno != ENOENT) {
    return absl::InternalError(absl::StrCat("cannot remove ", path_, ": ", strerrordesc_np(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> StateDir::List(const std::string& root) {
  std::vector<std::string> ids;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(root.c_str()), closedir);
  if (dir == nullptr) {
    if (errno == ENOENT) return ids;
    return absl::InternalError(absl::StrCat("cannot read ", root, ": ", strerrordesc_np(errno)));
  }
  while (dirent* entry = readdir(dir.get())) {
    if (CheckId(entry->d_name).ok()) ids.push_back(entry->d_name);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace amber::cli
