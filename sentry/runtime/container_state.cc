// Save and load of containers.
#include "sentry/control/control.pb.h"
#include "sentry/control/spec_codec.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_restore.h"
#include "sentry/runtime/container.h"
#include "sentry/runtime/container.pb.h"

namespace amber {

std::string Container::Save(state::Saver& saver) const {
  container_state::Container out;
  control::Container spec;
  control::Encode(spec_, &spec);
  out.set_spec(spec.SerializeAsString());
  out.set_pids(saver.Ref(pids_));
  out.set_uts(saver.Ref(uts_));
  out.set_cgroup(saver.Ref(cgroup_));
  out.set_mounts(saver.Ref(mounts_));
  for (const auto& [pid, started] : started_) {
    container_state::Started* s = out.add_started();
    s->set_pid(pid);
    s->set_task(saver.Ref(started.task));
    s->set_running(started.running);
    s->set_ended(started.wait_status.has_value());
    s->set_wait_status(started.wait_status.value_or(0));
  }
  return out.SerializeAsString();
}

std::string Container::CannotSave() const {
  for (const auto& [pid, started] : started_) {
    if (!started.running && !started.wait_status) return "the container \"" + id() + "\" was created but not started";
  }
  return "";
}

bool Container::Load(state::Loader& loader, std::string_view bytes) {
  container_state::Container in;
  control::Container spec;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !spec.ParseFromString(in.spec())) {
    return loader.Fail("a container is malformed");
  }
  kernel_ = loader.Get<Kernel>(1);
  spec_ = control::Decode(spec);
  pids_ = loader.GetRef<PidNamespace>(in.pids());
  uts_ = loader.GetRef<UtsNamespace>(in.uts());
  cgroup_ = loader.GetRef<Cgroup>(in.cgroup());
  mounts_ = loader.GetRef<MountNamespace>(in.mounts());
  if (kernel_ == nullptr || !pids_ || !uts_ || !mounts_) return loader.Fail("a container lacks its namespaces");
  for (const container_state::Started& s : in.started()) {
    Started& started = started_[s.pid()];
    started.task = loader.GetRef<Task>(s.task());
    if (s.task() != 0 && !started.task) return false;
    started.running = s.running();
    if (s.ended()) started.wait_status = s.wait_status();
    if (!s.ended() && !started.task) return loader.Fail("a container's process is missing");
  }
  return true;
}

bool Container::AfterLoad(state::Loader&) {
  RefPtr<Container> self(this);
  for (auto& [pid, started] : started_) {
    if (started.wait_status) continue;
    started.task->group().set_exit_watcher([self, number = pid](int status) { self->OnExit(number, status); });
  }
  return true;
}

absl::Status Container::Rebind(const ContainerSpec& spec, std::shared_ptr<gofer::Client> gofer, uint64_t gpus) {
  spec_.id = spec.id;
  spec_.mounts = spec.mounts;
  spec_.root_attach = spec.root_attach;
  spec_.root_image = spec.root_image;
  spec_.annotations = spec.annotations;
  spec_.gpu = spec.gpu;
  spec_.gpu_devices = spec.gpu_devices;
  spec_.gpu_limit = spec.gpu_limit;
  if (GpuSupport* support = GpuSupport::Of(*kernel_); support != nullptr && spec_.gpu) {
    if (absl::Status s = support->Admit(this, spec_); !s.ok()) return s;
    support->Narrow(this, gpus);
    if (absl::Status s = MakeGpuNodes(); !s.ok()) return s;
  }
  spec_.pids_limit = spec.pids_limit;
  spec_.memory_limit = spec.memory_limit;
  SetMemoryLimit(this, spec_.memory_limit);
  gofer_ = std::move(gofer);
  for (const RefPtr<ThreadGroup>& g : pids_->Groups()) {
    for (const RefPtr<Task>& t : g->tasks()) TaskRestore::SetContainer(*t, this);
  }
  return absl::OkStatus();
}

}  // namespace amber
