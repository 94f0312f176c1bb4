// Images whose processes hang together as those of no kernel do: plain pointers between them would lead to nothing.
#include <gtest/gtest.h>
#include <signal.h>

#include <functional>
#include <string>
#include <vector>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/test_task.h"

namespace amber {
namespace {

constexpr uint64_t kKernelId = 1, kPids = 2, kHandlers = 3, kSessionId = 4, kJobs = 5, kParent = 10, kParentTask = 11, kChild = 20, kChildTask = 21;

// A zombie and its dead child, which nobody has waited for.
struct World {
  proto::Kernel kernel;
  proto::PidNamespace pids;
  proto::SignalHandlers handlers;
  proto::Session session;
  proto::ProcessGroup jobs;
  proto::ThreadGroup parent, child;
  proto::Task parent_task, child_task;

  World() {
    for (int i = 0; i < kNumSignals; ++i) handlers.add_action();
    session.set_id(1);
    session.set_pids(kPids);
    jobs.set_id(1);
    jobs.set_session(kSessionId);
    jobs.set_pids(kPids);
    Fill(&parent, &parent_task, 1, kParent, kParentTask);
    Fill(&child, &child_task, 2, kChild, kChildTask);
  }

  static void Fill(proto::ThreadGroup* group, proto::Task* task, int pid, uint64_t group_id, uint64_t task_id) {
    group->set_pid(pid);
    group->set_leader(task_id);
    group->add_tasks(task_id);
    group->set_pids(kPids);
    group->set_process_group(kJobs);
    group->set_handlers(kHandlers);
    group->set_zombie(true);
    for (int i = 0; i < RLIM_NLIMITS; ++i) group->add_limits();
    task->set_tid(pid);
    task->set_group(group_id);
    task->set_exiting(true);
    task->set_exit_signal(SIGCHLD);
  }

  std::vector<state::Saver::Record> Records() const {
    using enum state::Kind;
    return {{kKernelId, kKernel, kernel.SerializeAsString()},           {kPids, kPidNamespace, pids.SerializeAsString()},
            {kHandlers, kSignalHandlers, handlers.SerializeAsString()}, {kSessionId, kSession, session.SerializeAsString()},
            {kJobs, kProcessGroup, jobs.SerializeAsString()},           {kParent, kThreadGroup, parent.SerializeAsString()},
            {kParentTask, kTask, parent_task.SerializeAsString()},      {kChild, kThreadGroup, child.SerializeAsString()},
            {kChildTask, kTask, child_task.SerializeAsString()}};
  }
};

// Why the world, changed so, is refused; "" if it is loaded. Each has a kernel of its own, which is left as it is.
std::string Refusal(const std::function<void(World&)>& change, size_t* processes = nullptr) {
  World world;
  change(world);
  auto* here = new TestTask;
  size_t before = here->kernel().groups().size();
  state::Loader loader([](uint64_t) { return -1; });
  loader.Provide(kKernelId, &here->kernel());
  bool good = loader.Run(world.Records());
  if (processes != nullptr) *processes = here->kernel().groups().size() - before;
  return good ? "" : loader.error();
}

TEST(ProcessGraph, Loads) {
  size_t processes = 0;
  EXPECT_EQ(Refusal([](World&) {}, &processes), "");
  EXPECT_EQ(processes, 2u);
}

TEST(ProcessGraph, ReapedProcessIsNoneAnyMore) {
  size_t processes = 0;
  auto reap = [](World& w) {
    w.child.clear_leader();
    w.child.clear_tasks();
    w.child.clear_process_group();
  };
  EXPECT_EQ(Refusal(reap, &processes), "");
  EXPECT_EQ(processes, 1u);
  EXPECT_NE(Refusal([&](World& w) {
              reap(w);
              w.child.set_zombie(false);
            }),
            "");
}

TEST(ProcessGraph, ParentsLive) {
  EXPECT_NE(Refusal([](World& w) { w.child.set_parent(kParent); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.set_parent(kChild); }), "");
}

TEST(ProcessGraph, LeadersAreThreads) {
  EXPECT_NE(Refusal([](World& w) { w.child.set_leader(kParentTask); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.clear_leader(); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.clear_tasks(); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.set_pid(7); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.clear_process_group(); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child_task.set_exiting(false); }), "");
}

TEST(ProcessGraph, IdsAreTakenOnce) {
  EXPECT_NE(Refusal([](World& w) {
              w.child.set_pid(1);
              w.child_task.set_tid(1);
            }),
            "");
}

TEST(ProcessGraph, NumbersOfSignals) {
  EXPECT_NE(Refusal([](World& w) { w.child_task.set_exit_signal(1000); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child_task.set_parent_death_signal(-1); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.set_stop_signal(65); }), "");
  for (int signo : {0, -1, 65, 100000}) {
    EXPECT_NE(Refusal([&](World& w) { w.child.add_posix_timer()->set_signo(signo); }), "") << signo;
  }
  EXPECT_EQ(Refusal([](World& w) { w.child.add_posix_timer()->set_signo(SIGALRM); }), "");
}

// Who owns what on a GPU goes by them: nobody else ever has the number of a process, whatever an image says.
TEST(ProcessGraph, Serials) {
  auto with = [](uint64_t serial) {
    proto::GroupExtras extras;
    extras.set_serial(serial);
    return extras.SerializeAsString();
  };
  TestTask before;
  uint64_t next = GroupExtras::NextSerial();
  EXPECT_LT(before.task().group().extras().serial, next);
  EXPECT_EQ(Refusal([&](World& w) {
              w.kernel.set_next_serial(next + 1000);
              w.parent.set_extras(with(next + 10));
              w.child.set_extras(with(next + 2000));
            }),
            "");
  EXPECT_GT(GroupExtras::NextSerial(), next + 2000);
  TestTask after;
  EXPECT_GT(after.task().group().extras().serial, next + 2000);
  EXPECT_NE(Refusal([&](World& w) {
              w.parent.set_extras(with(7777));
              w.child.set_extras(with(7777));
            }),
            "");
  for (uint64_t wrong : {~uint64_t{0}, uint64_t{1} << 63}) {
    EXPECT_NE(Refusal([&](World& w) { w.kernel.set_next_serial(wrong); }), "");
    EXPECT_NE(Refusal([&](World& w) { w.child.set_extras(with(wrong)); }), "");
  }
  EXPECT_LT(GroupExtras::NextSerial(), next + 10000);
}

TEST(ProcessGraph, Times) {
  EXPECT_NE(Refusal([](World& w) { w.kernel.set_monotonic(-1); }), "");
  EXPECT_NE(Refusal([](World& w) { w.kernel.set_boottime(INT64_MAX - 1); }), "");
  EXPECT_NE(Refusal([](World& w) { w.child.set_real_interval(-5); }), "");
  EXPECT_NE(Refusal([](World& w) {
              auto* timer = w.child.add_posix_timer();
              timer->set_signo(SIGALRM);
              timer->set_interval(-1);
            }),
            "");
  EXPECT_NE(Refusal([](World& w) { w.child.set_child_usage("short"); }), "");
}

}  // namespace
}  // namespace amber
