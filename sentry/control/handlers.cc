// The control server's verbs.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sentry/control/channel.h"
#include "sentry/control/control.pb.h"
#include "sentry/control/server.h"
#include "sentry/control/server_internal.h"
#include "sentry/control/spec_codec.h"
#include "sentry/control/wire.h"

namespace amber::control {
namespace {

// The descriptors of a request, taken apart as its Descriptors say.
struct TakenFds {
  ContainerFds container;
  UniqueFd waiter;
  UniqueFd console;  // a duplicate, for the window size
  UniqueFd image;
  UniqueFd parent;
};

absl::StatusOr<TakenFds> Take(const Descriptors& d, std::vector<UniqueFd> fds) {
  uint64_t wanted = uint64_t{d.gofer()} + d.waiter() + (d.stdio() ? 3 : 0) + d.console() + d.extra() + d.image() + d.parent() + d.file_systems();
  if (wanted != fds.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the request announces ", wanted, " descriptors and carries ", fds.size()));
  }
  TakenFds taken;
  size_t next = 0;
  for (uint32_t i = 0; i < d.gofer(); ++i) taken.container.gofer.push_back(std::move(fds[next++]));
  if (d.waiter()) taken.waiter = std::move(fds[next++]);
  if (d.stdio()) {
    for (UniqueFd& fd : taken.container.process.stdio) fd = std::move(fds[next++]);
  }
  if (d.console()) {
    taken.container.process.console = std::move(fds[next++]);
    taken.console.reset(fcntl(taken.container.process.console.get(), F_DUPFD_CLOEXEC, 3));
  }
  for (uint32_t i = 0; i < d.extra(); ++i) taken.container.process.extra.push_back(std::move(fds[next++]));
  if (d.image()) taken.image = std::move(fds[next++]);
  if (d.parent()) taken.parent = std::move(fds[next++]);
  for (uint32_t i = 0; i < d.file_systems(); ++i) taken.container.file_systems.push_back(std::move(fds[next++]));
  return taken;
}

}  // namespace

void Server::SendReply(const Call& call, const Reply& reply) {
  auto it = connections_.find(call.connection);
  if (it == connections_.end()) return;
  Reply copy = reply;
  copy.set_id(call.request.id());
  absl::Status sent = SendPacket(it->second->socket.get(), copy.SerializeAsString(), {}, /*wait=*/false);
  if (!sent.ok()) DropConnection(call.connection);
}

void Server::Finish(const Call& call, absl::Status status) {
  Reply reply;
  reply.set_code(static_cast<int>(status.code()));
  reply.set_error(std::string(status.message()));
  SendReply(call, reply);
}

void Server::Handle(std::shared_ptr<Call> call) {
  const std::string& container = call->request.container();
  switch (call->request.verb_case()) {
    case Request::kCreate: return HandleCreate(*call);
    case Request::kStart: return Finish(*call, runtime_->StartContainer(container));
    case Request::kExec: return HandleExec(*call);
    case Request::kSignal: return HandleSignal(*call);
    case Request::kWait: return HandleWait(std::move(call));
    case Request::kPause:
      return runtime_->Pause([this, call](absl::Status status) { Post([this, call, status = std::move(status)] { Finish(*call, status); }); });
    case Request::kResume: return Finish(*call, runtime_->Resume());
    case Request::kCheckpoint: return HandleCheckpoint(std::move(call));
    case Request::kRestore: return HandleRestore(*call);
    case Request::kProcesses: return HandleProcesses(*call);
    case Request::kStats: return HandleStats(*call);
    case Request::kResize: {
      const Window& window = call->request.resize().window();
      return Finish(*call, runtime_->ResizeTerminal(container, {call->request.resize().pid()},
                                                    {static_cast<uint16_t>(window.rows()), static_cast<uint16_t>(window.columns())}));
    }
    case Request::kStrace: return Finish(*call, runtime_->SetStrace(call->request.strace().on()));
    case Request::kDebug: {
      absl::StatusOr<std::string> text = runtime_->Debug(call->request.debug().query());
      if (!text.ok()) return Finish(*call, text.status());
      Reply reply;
      reply.set_text(*std::move(text));
      return SendReply(*call, reply);
    }
    case Request::kDestroy: return HandleDestroy(std::move(call));
    case Request::kUpdate: return Finish(*call, runtime_->SetMemoryLimit(container, call->request.update().memory_limit()));
    case Request::kDetach: return HandleDetach(*call);
    case Request::VERB_NOT_SET:
      return Finish(*call, absl::UnimplementedError("the sandbox is older than this command line and does not know "
                                                    "the request"));
  }
}

void Server::HandleCreate(Call& call) {
  absl::StatusOr<TakenFds> fds = Take(call.request.descriptors(), std::move(call.fds));
  if (!fds.ok()) return Finish(call, fds.status());
  ContainerSpec spec = Decode(call.request.create().container());
  timings_->Begin("sentry: make the container");
  absl::StatusOr<ProcessId> init = runtime_->CreateContainer(spec, std::move(fds->container));
  timings_->End();
  if (!init.ok()) return Finish(call, init.status());
  Track(call, spec.id, init->pid, /*init=*/true, std::move(fds->waiter), std::move(fds->console));
  Reply reply;
  reply.set_pid(init->pid);
  for (const StepTimings::Step& step : timings_->steps()) {
    Timing* timing = reply.add_timings();
    timing->set_step(step.name);
    timing->set_start_ns(step.start_ns);
    timing->set_duration_ns(step.duration_ns);
  }
  SendReply(call, reply);
}

void Server::HandleRestore(Call& call) {
  absl::StatusOr<TakenFds> fds = Take(call.request.descriptors(), std::move(call.fds));
  if (!fds.ok()) return Finish(call, fds.status());
  if (!fds->image.valid()) return Finish(call, absl::InvalidArgumentError("restore without an image"));
  if (live_containers_ != 0) return Finish(call, absl::FailedPreconditionError("the sandbox is in use already"));
  ContainerSpec spec = Decode(call.request.restore().container());
  RestoreOptions options = {.image = std::move(fds->image), .paused = call.request.restore().paused()};
  timings_->Begin("sentry: restore");
  absl::StatusOr<RestoreResult> result = runtime_->Restore(std::move(options), spec, std::move(fds->container));
  timings_->End();
  if (!result.ok()) return Finish(call, result.status());
  Track(call, spec.id, result->init.pid, /*init=*/true, std::move(fds->waiter), std::move(fds->console));
  Reply reply;
  reply.set_pid(result->init.pid);
  for (const std::string& id : result->containers) reply.mutable_restore()->add_containers(id);
  for (const StepTimings::Step& step : timings_->steps()) {
    Timing* timing = reply.add_timings();
    timing->set_step(step.name);
    timing->set_start_ns(step.start_ns);
    timing->set_duration_ns(step.duration_ns);
  }
  SendReply(call, reply);
}

void Server::HandleExec(Call& call) {
  absl::StatusOr<TakenFds> fds = Take(call.request.descriptors(), std::move(call.fds));
  if (!fds.ok()) return Finish(call, fds.status());
  const std::string& container = call.request.container();
  absl::StatusOr<ProcessId> process = runtime_->Exec(container, Decode(call.request.exec().process()), std::move(fds->container.process));
  if (!process.ok()) return Finish(call, process.status());
  Track(call, container, process->pid, /*init=*/false, std::move(fds->waiter), std::move(fds->console));
  Reply reply;
  reply.set_pid(process->pid);
  SendReply(call, reply);
}

void Server::HandleSignal(Call& call) {
  const SignalRequest& signal = call.request.signal();
  const std::string& container = call.request.container();
  if (signal.all()) return Finish(call, runtime_->SignalAll(container, signal.signal()));
  if (signal.foreground()) {
    return Finish(call, runtime_->SignalForeground(container, {signal.pid()}, signal.signal()));
  }
  Finish(call, runtime_->Signal(container, {signal.pid()}, signal.signal()));
}

void Server::HandleWait(std::shared_ptr<Call> call) {
  auto it = records_.find(Key(call->request.container(), call->request.wait().pid()));
  if (it == records_.end()) return Finish(*call, absl::NotFoundError("no such process"));
  if (!it->second->status) {
    it->second->waiting.push_back(std::move(call));
    return;
  }
  Reply reply;
  reply.set_wait_status(*it->second->status);
  SendReply(*call, reply);
}

void Server::HandleCheckpoint(std::shared_ptr<Call> call) {
  absl::StatusOr<TakenFds> fds = Take(call->request.descriptors(), std::move(call->fds));
  if (!fds.ok()) return Finish(*call, fds.status());
  const CheckpointRequest& wanted = call->request.checkpoint();
  if (!fds->image.valid() && !wanted.check_only()) {
    return Finish(*call, absl::InvalidArgumentError("checkpoint without a file to write to"));
  }
  CheckpointOptions options = {.image = std::move(fds->image),
                               .parent = std::move(fds->parent),
                               .leave_running = wanted.leave_running(),
                               .check_only = wanted.check_only(),
                               .tcp_established = wanted.tcp_established(),
                               .compress = wanted.compress()};
  auto progress = [this, call](const Progress& p) {
    Post([this, call, p] {
      Reply reply;
      reply.set_more(true);
      reply.mutable_progress()->set_stage(p.stage);
      reply.mutable_progress()->set_done(p.done);
      reply.mutable_progress()->set_total(p.total);
      SendReply(*call, reply);
    });
  };
  auto finished = [this, call](const CheckpointResult& result) {
    Reply reply;
    reply.set_code(static_cast<int>(result.status.code()));
    reply.set_error(std::string(result.status.message()));
    for (const std::string& line : result.obstacles) reply.mutable_checkpoint()->add_obstacles(line);
    reply.mutable_checkpoint()->set_image_bytes(result.image_bytes);
    reply.mutable_checkpoint()->set_memory_bytes(result.memory_bytes);
    reply.mutable_checkpoint()->set_pause_ns(result.pause_ns);
    for (const auto& [name, ns] : result.phases) {
      auto* phase = reply.mutable_checkpoint()->add_phases();
      phase->set_name(name);
      phase->set_ns(ns);
    }
    reply.mutable_checkpoint()->set_total_ns(result.total_ns);
    SendReply(*call, reply);
    const CheckpointRequest& request = call->request.checkpoint();
    if (result.status.ok() && !request.check_only() && !request.leave_running()) EndAll(SIGKILL);
  };
  runtime_->Checkpoint(std::move(options), progress,
                       [this, finished](CheckpointResult result) { Post([finished, result = std::move(result)] { finished(result); }); });
}

void Server::HandleDetach(Call& call) {
  auto it = connections_.find(call.connection);
  if (it == connections_.end()) return;
  it->second->primary = false;
  for (const Key& key : it->second->made) {
    auto record = records_.find(key);
    if (record == records_.end() || !record->second->waiter.valid()) continue;
    (void)send(record->second->waiter.get(), &kWaiterDetach, sizeof(kWaiterDetach), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  Finish(call, absl::OkStatus());
}

void Server::HandleProcesses(Call& call) {
  absl::StatusOr<std::vector<ProcessInfo>> list = runtime_->Processes(call.request.container());
  if (!list.ok()) return Finish(call, list.status());
  Reply reply;
  ProcessesReply* out = reply.mutable_processes();
  for (const ProcessInfo& p : *list) {
    ProcessEntry* entry = out->add_processes();
    entry->set_pid(p.pid);
    entry->set_parent(p.parent);
    entry->set_uid(p.uid);
    entry->set_threads(p.threads);
    entry->set_state(p.state);
    entry->set_command(p.command);
    entry->set_cpu_ns(p.cpu_ns);
    entry->set_resident_bytes(p.resident_bytes);
    entry->set_stub(p.stub);
  }
  SendReply(call, reply);
}

void Server::HandleStats(Call& call) {
  absl::StatusOr<ContainerStats> stats = runtime_->Stats(call.request.container());
  if (!stats.ok()) return Finish(call, stats.status());
  Reply reply;
  StatsReply* out = reply.mutable_stats();
  out->set_cpu_ns(stats->cpu_ns);
  out->set_cpu_user_ns(stats->cpu_user_ns);
  out->set_cpu_system_ns(stats->cpu_system_ns);
  out->set_memory_bytes(stats->memory_bytes);
  out->set_processes(stats->processes);
  out->set_threads(stats->threads);
  for (const GpuStats& gpu : stats->gpus) {
    GpuStatsEntry* g = out->add_gpus();
    g->set_minor(gpu.minor);
    g->set_uuid(gpu.uuid);
    g->set_used(gpu.used);
    g->set_peak(gpu.peak);
    g->set_limit(gpu.limit);
  }
  out->set_gpu_host_bytes(stats->gpu_host_bytes);
  out->set_gpu_calls(stats->gpu_calls);
  out->set_gpu_calls_refused(stats->gpu_calls_refused);
  SendReply(call, reply);
}

void Server::HandleDestroy(std::shared_ptr<Call> call) {
  runtime_->DestroyContainer(call->request.container(), [this, call](absl::Status status) {
    Post([this, call, status = std::move(status)] {
      Finish(*call, status);
      if (!status.ok()) return;
      // An init that never ran has no end of its own.
      std::vector<Key> keys;
      for (const auto& [key, record] : records_) {
        if (key.first == call->request.container() && !record->status) keys.push_back(key);
      }
      for (const Key& key : keys) ProcessEnded(key, SIGKILL);
      for (auto it = records_.begin(); it != records_.end();) {
        it = it->first.first == call->request.container() ? records_.erase(it) : std::next(it);
      }
    });
  });
}

}  // namespace amber::control
