#include "sentry/control/spec_codec.h"

#include <string>
#include <vector>

namespace amber::control {
namespace {

template <typename Repeated>
std::vector<std::string> Strings(const Repeated& from) {
  return std::vector<std::string>(from.begin(), from.end());
}

template <typename Repeated>
void AddAll(const std::vector<std::string>& from, Repeated* to) {
  to->Reserve(static_cast<int>(from.size()));
  for (const std::string& s : from) *to->Add() = s;
}

MountSpec Decode(const Mount& m) {
  return {.destination = m.destination(),
          .type = m.type(),
          .source = m.source(),
          .options = Strings(m.options()),
          .attach = m.attach(),
          .image = m.image(),
          .read_only = m.read_only(),
          .exclusive = m.exclusive()};
}

void Encode(const MountSpec& from, Mount* to) {
  to->set_destination(from.destination);
  to->set_type(from.type);
  to->set_source(from.source);
  AddAll(from.options, to->mutable_options());
  to->set_attach(from.attach);
  to->set_image(from.image);
  to->set_read_only(from.read_only);
  to->set_exclusive(from.exclusive);
}

DeviceSpec Decode(const Device& d) {
  return {.path = d.path(),
          .type = static_cast<char>(d.type()),
          .major = d.major(),
          .minor = d.minor(),
          .mode = d.mode(),
          .uid = d.uid(),
          .gid = d.gid()};
}

void Encode(const DeviceSpec& from, Device* to) {
  to->set_path(from.path);
  to->set_type(static_cast<unsigned char>(from.type));
  to->set_major(from.major);
  to->set_minor(from.minor);
  to->set_mode(from.mode);
  to->set_uid(from.uid);
  to->set_gid(from.gid);
}

}  // namespace

void Encode(const ProcessSpec& from, Process* to) {
  AddAll(from.argv, to->mutable_argv());
  AddAll(from.env, to->mutable_env());
  to->set_cwd(from.cwd);
  to->set_uid(from.uid);
  to->set_gid(from.gid);
  to->mutable_groups()->Add(from.groups.begin(), from.groups.end());
  if (from.umask) to->set_umask(*from.umask);
  Capabilities* caps = to->mutable_capabilities();
  caps->set_bounding(from.capabilities.bounding);
  caps->set_effective(from.capabilities.effective);
  caps->set_inheritable(from.capabilities.inheritable);
  caps->set_permitted(from.capabilities.permitted);
  caps->set_ambient(from.capabilities.ambient);
  for (const RlimitSpec& r : from.rlimits) {
    Rlimit* limit = to->add_rlimits();
    limit->set_resource(r.resource);
    limit->set_soft(r.soft);
    limit->set_hard(r.hard);
  }
  to->set_no_new_privs(from.no_new_privs);
  to->set_terminal(from.terminal);
  to->mutable_window()->set_rows(from.window.rows);
  to->mutable_window()->set_columns(from.window.columns);
  if (from.oom_score_adj) to->set_oom_score_adj(*from.oom_score_adj);
}

ProcessSpec Decode(const Process& from) {
  ProcessSpec to;
  to.argv = Strings(from.argv());
  to.env = Strings(from.env());
  to.cwd = from.cwd();
  to.uid = from.uid();
  to.gid = from.gid();
  to.groups.assign(from.groups().begin(), from.groups().end());
  if (from.has_umask()) to.umask = from.umask();
  const Capabilities& caps = from.capabilities();
  to.capabilities = {.bounding = caps.bounding(),
                     .effective = caps.effective(),
                     .inheritable = caps.inheritable(),
                     .permitted = caps.permitted(),
                     .ambient = caps.ambient()};
  for (const Rlimit& r : from.rlimits()) to.rlimits.push_back({r.resource(), r.soft(), r.hard()});
  to.no_new_privs = from.no_new_privs();
  to.terminal = from.terminal();
  to.window = {static_cast<uint16_t>(from.window().rows()), static_cast<uint16_t>(from.window().columns())};
  if (from.has_oom_score_adj()) to.oom_score_adj = from.oom_score_adj();
  return to;
}

void Encode(const ContainerSpec& from, Container* to) {
  to->set_id(from.id);
  Encode(from.process, to->mutable_process());
  to->set_hostname(from.hostname);
  to->set_domainname(from.domainname);
  to->set_root_attach(from.root_attach);
  to->set_root_image(from.root_image);
  to->set_root_read_only(from.root_read_only);
  to->set_overlay(static_cast<uint32_t>(from.overlay));
  for (const MountSpec& m : from.mounts) Encode(m, to->add_mounts());
  for (const DeviceSpec& d : from.devices) Encode(d, to->add_devices());
  to->mutable_namespaces()->set_pid(from.namespaces.pid);
  to->mutable_namespaces()->set_ipc(from.namespaces.ipc);
  to->mutable_namespaces()->set_uts(from.namespaces.uts);
  to->mutable_namespaces()->set_network(from.namespaces.network);
  if (from.time) {
    to->mutable_time()->set_monotonic(from.time->monotonic);
    to->mutable_time()->set_boottime(from.time->boottime);
  }
  for (const auto& [key, value] : from.sysctls) (*to->mutable_sysctls())[key] = value;
  for (const auto& [key, value] : from.annotations) (*to->mutable_annotations())[key] = value;
  AddAll(from.masked_paths, to->mutable_masked_paths());
  AddAll(from.read_only_paths, to->mutable_read_only_paths());
  to->set_pids_limit(from.pids_limit);
  to->set_memory_limit(from.memory_limit);
  to->set_gpu(from.gpu);
  AddAll(from.gpu_devices, to->mutable_gpu_devices());
  AddAll(from.gpu_limit, to->mutable_gpu_limit());
}

ContainerSpec Decode(const Container& from) {
  ContainerSpec to;
  to.id = from.id();
  to.process = Decode(from.process());
  to.hostname = from.hostname();
  to.domainname = from.domainname();
  to.root_attach = from.root_attach();
  to.root_image = from.root_image();
  to.root_read_only = from.root_read_only();
  if (from.overlay() <= static_cast<uint32_t>(OverlayKind::kFile)) {
    to.overlay = static_cast<OverlayKind>(from.overlay());
  }
  for (const Mount& m : from.mounts()) to.mounts.push_back(Decode(m));
  for (const Device& d : from.devices()) to.devices.push_back(Decode(d));
  to.namespaces = {
      .pid = from.namespaces().pid(), .ipc = from.namespaces().ipc(), .uts = from.namespaces().uts(), .network = from.namespaces().network()};
  if (from.has_time()) to.time = TimeSpec{.monotonic = from.time().monotonic(), .boottime = from.time().boottime()};
  for (const auto& [key, value] : from.sysctls()) to.sysctls[key] = value;
  for (const auto& [key, value] : from.annotations()) to.annotations[key] = value;
  to.masked_paths = Strings(from.masked_paths());
  to.read_only_paths = Strings(from.read_only_paths());
  to.pids_limit = from.pids_limit();
  to.memory_limit = from.memory_limit();
  to.gpu = from.gpu();
  to.gpu_devices = Strings(from.gpu_devices());
  to.gpu_limit = Strings(from.gpu_limit());
  return to;
}

}  // namespace amber::control
