// /proc/sys (sysctl(8)). What may be written is the container's own; the rest is in sysctl_values.cc.
#include <linux/capability.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/sysctl_values.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/net/inet/net_namespace.h"

namespace amber {
namespace {

ErrnoOr<std::string> HostName(Task& reader, Task*) { return reader.uts().hostname + "\n"; }
ErrnoOr<std::string> DomainName(Task& reader, Task*) { return reader.uts().domainname + "\n"; }

ErrnoOr<void> PutName(std::string_view text, std::string* name) {
  if (text.size() > 64) return Errno(EINVAL);
  *name = text;
  return Ok();
}
ErrnoOr<void> SetName(Task& writer, std::string_view text, std::string* name) {
  return writer.Has(CAP_SYS_ADMIN) ? PutName(text, name) : ErrnoOr<void>(Errno(EPERM));
}
ErrnoOr<void> SetHostName(Task& writer, Task*, std::string_view text) { return SetName(writer, text, &writer.uts().hostname); }
ErrnoOr<void> SetDomainName(Task& writer, Task*, std::string_view text) { return SetName(writer, text, &writer.uts().domainname); }

std::string RandomUuid(Task& reader) {
  uint8_t b[16];
  reader.kernel().Random(b, sizeof(b));
  b[6] = static_cast<uint8_t>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<uint8_t>((b[8] & 0x3f) | 0x80);
  std::string out;
  for (int i = 0; i < 16; ++i) AppendFormat(&out, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
  return out + "\n";
}

ErrnoOr<std::string> Uuid(Task& reader, Task*) { return RandomUuid(reader); }
ErrnoOr<std::string> BootId(Task& reader, Task*) {
  static const std::string id = RandomUuid(reader);  // one per sandbox
  return id;
}
ErrnoOr<std::string> Release(Task&, Task*) { return std::string(kKernelRelease) + "\n"; }
ErrnoOr<std::string> Version(Task&, Task*) { return std::string(kKernelVersion) + "\n"; }

ErrnoOr<std::string> CorePattern(Task& reader, Task*) { return reader.kernel().lifecycle().core_dumps().pattern + "\n"; }
// Programs that take core files ('|') do not exist here. The rest is cut at CORENAME_MAX_SIZE, as proc_dostring() does.
ErrnoOr<void> SetCorePattern(Task& writer, Task*, std::string_view text) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text.starts_with('|')) return Errno(EINVAL);
  writer.kernel().lifecycle().core_dumps().pattern = text.substr(0, 127);
  return Ok();
}
ErrnoOr<std::string> CoreUsesPid(Task& reader, Task*) { return std::string(reader.kernel().lifecycle().core_dumps().uses_pid ? "1\n" : "0\n"); }
ErrnoOr<void> SetCoreUsesPid(Task& writer, Task*, std::string_view text) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text != "0" && text != "1") return Errno(EINVAL);
  writer.kernel().lifecycle().core_dumps().uses_pid = text == "1";
  return Ok();
}

// There is nothing to drop: the host's caches are its own.
ErrnoOr<void> Forget(Task& writer, Task*, std::string_view) { return writer.Has(CAP_SYS_ADMIN) ? ErrnoOr<void>() : Errno(EPERM); }

ErrnoOr<std::string> ThreadsMax(Task&, Task*) { return std::to_string(Machine::Get().memory_bytes / 131072) + "\n"; }

ErrnoOr<std::string> LastPid(Task&, Task*) {
  int last = 0;
  for (const RefPtr<ThreadGroup>& g : ProcTerms::Now().Groups()) {
    for (const RefPtr<Task>& t : g->tasks()) last = std::max(last, ProcTerms::Now().IdOf(*t));
  }
  return std::to_string(last) + "\n";
}
ErrnoOr<std::string> Nothing(Task&, Task*) { return std::string(); }

// The numbers of the reader's network and ipc namespaces.
template <size_t I>
ErrnoOr<std::string> NetText(Task& reader, Task*) {
  return NetNamespace::Of(reader).sysctls().Text(kNetSysctls[I]);
}
template <size_t I>
ErrnoOr<void> SetNet(Task& writer, Task*, std::string_view text) {
  NetNamespace& net = NetNamespace::Of(writer);
  if (!writer.creds().HasIn(net.owner(), CAP_NET_ADMIN)) return Errno(EPERM);
  return net.WriteSysctl(kNetSysctls[I], text);
}
template <size_t I>
ErrnoOr<std::string> IpcText(Task& reader, Task*) {
  return reader.extras().ipc->sysctls().Text(kIpcSysctls[I]);
}
template <size_t I>
ErrnoOr<void> SetIpc(Task& writer, Task*, std::string_view text) {
  IpcNamespace& ipc = *writer.extras().ipc;
  if (!writer.creds().HasIn(ipc.owner(), CAP_SYS_RESOURCE) && !writer.creds().HasIn(ipc.owner(), CAP_SYS_ADMIN)) return Errno(EPERM);
  return ipc.WriteSysctl(kIpcSysctls[I], text);
}

constexpr ProcEntry kEntries[] = {
    {"sys/kernel/core_pattern", kProcWritable, &CorePattern, &SetCorePattern},
    {"sys/kernel/core_uses_pid", kProcWritable, &CoreUsesPid, &SetCoreUsesPid},
    {"sys/kernel/domainname", kProcWritable, &DomainName, &SetDomainName},
    {"sys/kernel/hostname", kProcWritable, &HostName, &SetHostName},
    {"sys/kernel/ns_last_pid", kProcFile, &LastPid},
    {"sys/kernel/osrelease", kProcFile, &Release},
    {"sys/kernel/random/boot_id", kProcFile, &BootId},
    {"sys/kernel/random/uuid", kProcFile, &Uuid},
    {"sys/kernel/threads-max", kProcFile, &ThreadsMax},
    {"sys/kernel/version", kProcFile, &Version},
    {"sys/vm/drop_caches", S_IFREG | 0200, &Nothing, &Forget},
};

class Table {
 public:
  Table() : entries_(std::begin(kEntries), std::end(kEntries)) {
    AddNet(std::make_index_sequence<std::size(kNetSysctls)>());
    AddIpc(std::make_index_sequence<std::size(kIpcSysctls)>());
    for (const FixedSysctl& f : FixedSysctls()) {
      entries_.push_back({Path(f.path), kProcFile, nullptr});
      values_[entries_.back().path] = std::string(f.value) + "\n";
    }
  }
  std::span<const ProcEntry> entries() const { return entries_; }
  const std::string* Value(std::string_view path) const {
    auto it = values_.find(path);
    return it != values_.end() ? &it->second : nullptr;
  }

 private:
  const char* Path(const char* below) { return paths_.emplace_back(std::string("sys/") + below).c_str(); }
  template <size_t... I>
  void AddNet(std::index_sequence<I...>) {
    (entries_.push_back({Path(kNetSysctls[I].path), kProcWritable, &NetText<I>, &SetNet<I>}), ...);
  }
  template <size_t... I>
  void AddIpc(std::index_sequence<I...>) {
    (entries_.push_back({Path(kIpcSysctls[I].path), kProcWritable, &IpcText<I>, &SetIpc<I>}), ...);
  }

  std::deque<std::string> paths_;  // pointed to
  std::vector<ProcEntry> entries_;
  std::map<std::string, std::string, std::less<>> values_;
};

const Table& TheTable() {
  static const Table table;
  return table;
}

template <size_t N>
const SysctlRow* FindRow(const SysctlRow (&rows)[N], std::string_view path) {
  auto found = std::ranges::find_if(rows, [path](const SysctlRow& row) { return path == row.path; });
  return found != std::end(rows) ? found : nullptr;
}

}  // namespace

std::span<const ProcEntry> SysctlEntries() { return TheTable().entries(); }
const std::string* SysctlText(std::string_view path) { return TheTable().Value(path); }

ErrnoOr<void> ApplySysctl(Task& init, std::string_view name, std::string_view text) {
  std::string path(name);
  std::ranges::replace(path, '.', '/');
  if (const SysctlRow* row = FindRow(kNetSysctls, path)) {
    NetNamespace& net = NetNamespace::Of(init);
    return net.host() ? ErrnoOr<void>(Errno(EPERM)) : net.WriteSysctl(*row, text);
  }
  if (const SysctlRow* row = FindRow(kIpcSysctls, path)) return init.extras().ipc->WriteSysctl(*row, text);
  if (path == "kernel/domainname") return PutName(text, &init.uts().domainname);
  if (const std::string* value = SysctlText("sys/" + path)) return *value == std::string(text) + "\n" ? ErrnoOr<void>() : Errno(EACCES);
  bool known = std::ranges::any_of(SysctlEntries(), [&path](const ProcEntry& e) { return e.path == "sys/" + path; });
  return Errno(known ? EACCES : ENOENT);
}

}  // namespace amber
