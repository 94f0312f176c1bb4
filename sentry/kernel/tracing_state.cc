// Saving and loading tracees.
#include <string.h>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"

namespace amber {

std::string Tracing::Save(state::Saver& saver, const Tracee& t) {
  proto::Tracee m;
  m.set_tracer(saver.Ref(RefPtr<ThreadGroup>(t.tracer)));
  m.set_options(t.options);
  m.set_seized(t.seized);
  m.set_run(static_cast<int>(t.run));
  m.set_stop(static_cast<int>(t.stop));
  m.set_code(t.code);
  m.set_reported(t.reported);
  m.set_message(t.message);
  m.set_info(&t.info.raw, sizeof(t.info.raw));
  m.set_orig_rax(t.orig_rax);
  for (const Tracee::Pending& p : t.pending) {
    auto* out = m.add_pending();
    out->set_stop(static_cast<int>(p.stop));
    out->set_code(p.code);
    out->set_message(p.message);
  }
  m.set_interrupt(t.interrupt);
  m.set_listening(t.listening);
  m.set_group_stop_seen(t.group_stop_seen);
  m.set_injecting(t.injecting);
  m.set_in_call(t.in_call);
  m.set_goes_on(t.goes_on);
  m.set_call_is_new(t.call_is_new);
  m.set_exit_told(t.exit_told);
  m.set_stepping(t.stepping);
  m.set_death(t.death);
  m.set_filter_told(t.filter_told);
  for (int i = 0; t.debug != nullptr && i < DebugRegisters::kCount; ++i) m.add_debug(t.debug->Get(i));
  return m.SerializeAsString();
}

bool Tracing::Load(state::Loader& loader, const std::string& bytes, Task& task) {
  proto::Tracee m;
  auto is_stop = [](int stop) { return stop >= 0 && stop <= static_cast<int>(Tracee::Stop::kGroup); };
  if (!m.ParseFromString(bytes) || m.run() < 0 || m.run() > static_cast<int>(Tracee::Run::kSysemu) || !is_stop(m.stop()) ||
      m.info().size() != sizeof(siginfo_t) || m.death() < 0 || m.death() > kNumSignals) {
    return loader.Fail("a traced task's state is malformed");
  }
  auto* tracer = loader.Get<ThreadGroup>(m.tracer());
  if (tracer == nullptr) return loader.Fail("a traced task has no tracer");
  Link(task, *tracer, m.options(), m.seized());
  Tracee& t = Of(task);
  t.run = static_cast<Tracee::Run>(m.run());
  t.stop = static_cast<Tracee::Stop>(m.stop());
  t.code = m.code();
  t.reported = m.reported();
  t.message = m.message();
  memcpy(&t.info.raw, m.info().data(), sizeof(siginfo_t));
  if (t.info.signo() < 0 || t.info.signo() > kNumSignals) return loader.Fail("a traced task's signal is malformed");
  t.orig_rax = m.orig_rax();
  for (const auto& p : m.pending()) {
    if (!is_stop(p.stop())) return loader.Fail("a traced task's stop is malformed");
    t.pending.push_back({static_cast<Tracee::Stop>(p.stop()), p.code(), p.message()});
  }
  t.interrupt = m.interrupt();
  t.listening = m.listening();
  t.group_stop_seen = m.group_stop_seen();
  t.injecting = m.injecting();
  t.in_call = m.in_call();
  t.goes_on = m.goes_on();
  t.call_is_new = m.call_is_new();
  t.exit_told = m.exit_told();
  t.stepping = m.stepping();
  t.death = m.death();
  t.filter_told = m.filter_told();
  if (m.debug_size() > 0) {
    if (m.debug_size() != DebugRegisters::kCount) return loader.Fail("a traced task's debug registers are malformed");
    t.debug = std::make_unique<DebugRegisters>();
    for (int i : {0, 1, 2, 3, DebugRegisters::kStatus, DebugRegisters::kControl}) {
      if (!t.debug->Set(i, m.debug(i)).ok()) return loader.Fail("a traced task's debug registers are malformed");
    }
  }
  return true;
}

}  // namespace amber
