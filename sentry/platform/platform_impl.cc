#include "sentry/platform/platform_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/fast_sites.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/ranges.h"
#include "sentry/platform/stub_sys.h"
#include "sentry/platform/stub_text.h"

namespace amber::platform {
namespace {

int CountCpus() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 1;
  return std::max(1, CPU_COUNT(&cpus));
}

}  // namespace

PlatformImpl::PlatformImpl(Client& client, const Options& options)
    : client_(client), options_(options), max_receivers_(options.max_receivers > 0 ? options.max_receivers : CountCpus()), seed_(windows_),
      fast_path_(options.fast_path), watcher_(options.watch_always || CountCpus() > 1, options.watch_always), monitor_(*this) {}

PlatformImpl::~PlatformImpl() {
  stopping_ = true;
  watcher_.Stop();
  monitor_.KillAll();
  // Receivers end when the last process of their listener has; late children are killed and reaped
  // meanwhile.
  workers_.Drain();
  monitor_.Stop();
  std::vector<ReadyStub> pool;
  {
    absl::MutexLock lock(&pool_mu_);
    pool.swap(pool_);
  }
  for (ReadyStub& stub : pool) seed_.Discard(std::move(stub));
  decltype(births_) births;
  std::vector<RefPtr<ThreadImpl>> orphans;
  {
    absl::MutexLock lock(&mu_);
    births.swap(births_);
    orphans.swap(orphans_);
  }
  for (const RefPtr<ThreadImpl>& thread : orphans) thread->Release();
}

bool PlatformImpl::Start(std::string* error) {
  if (!xstate_layout_.Probe()) {
    *error = "this CPU or kernel has no XSAVE signal frames";
    return false;
  }
  proc_.reset(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!windows_.Start()) {
    *error = "cannot make the mailboxes' memfd";
    return false;
  }
  if (!seed_.Start(error)) return false;
  if (!monitor_.Start()) {
    *error = "cannot start the monitor thread";
    return false;
  }
  Refill();
  return true;
}

Stats PlatformImpl::stats() const {
  auto get = [](const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  const Counters& c = counters_;
  return {get(c.notifications), get(c.stops),      get(c.faults),      get(c.kicks),         get(c.kick_resends),
          get(c.stub_ops),      get(c.forks),      get(c.execs),       get(c.clones),        get(c.answers_continue),
          get(c.parks),         get(c.fast_calls), get(c.fast_redone), get(c.patched_sites), get(c.posted_contacts)};
}

PlatformImpl::HostThread PlatformImpl::LookAt(pid_t tid) const {
  HostThread thread;
  auto read_file = [&](const char* name, char* buffer, size_t size) {
    char path[32];
    snprintf(path, sizeof(path), "%d/%s", tid, name);
    UniqueFd fd(openat(proc_.get(), path, O_RDONLY | O_CLOEXEC));
    ssize_t n = fd.valid() ? read(fd.get(), buffer, size - 1) : 0;
    buffer[n > 0 ? n : 0] = 0;
  };
  char buffer[512];
  read_file("stat", buffer, sizeof(buffer));
  // pid (comm) state: the name may hold anything, so look for the last parenthesis.
  const char* end = strrchr(buffer, ')');
  if (end != nullptr && end[1] == ' ') thread.state = end[2];
  read_file("schedstat", buffer, sizeof(buffer));
  thread.cpu_time = strtoll(buffer, nullptr, 10);
  return thread;
}

int PlatformImpl::HostThreads(pid_t pid) const {
  char path[32];
  snprintf(path, sizeof(path), "%d/task", pid);
  struct stat status;
  if (fstatat(proc_.get(), path, &status, 0) != 0) return -1;
  return static_cast<int>(status.st_nlink) - 2;
}

// --- births ---

uint64_t PlatformImpl::AddBirth(std::unique_ptr<Birth> birth) {
  uint64_t nonce = 0;
  while (nonce == 0) {
    if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce)) nonce = 0;
  }
  birth->nonce = nonce;
  absl::MutexLock lock(&mu_);
  births_[nonce] = std::move(birth);
  return nonce;
}

std::unique_ptr<Birth> PlatformImpl::TakeBirth(uint64_t nonce) {
  absl::MutexLock lock(&mu_);
  auto it = births_.find(nonce);
  if (it == births_.end()) return nullptr;
  std::unique_ptr<Birth> birth = std::move(it->second);
  births_.erase(it);
  return birth;
}

namespace {

// Whether a forked child maps the window that is its own.
bool IsBirthCall(const Birth& birth, const seccomp_data& data) {
  const uint64_t expected[6] = {kWindowAddress,
                                kWindowSize,
                                PROT_READ | PROT_WRITE,
                                BirthFlags(MAP_SHARED | MAP_FIXED, birth.nonce),
                                BirthFd(static_cast<uint64_t>(birth.fd), birth.nonce),
                                birth.core->lease().index * kWindowSize};
  return std::equal(std::begin(expected), std::end(expected), std::begin(data.args), std::end(data.args));
}

}  // namespace

void PlatformImpl::OnStranger(Listener& listener, const seccomp_notif& notification) {
  pid_t tid = static_cast<pid_t>(notification.pid);
  const seccomp_data& data = notification.data;
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, tid, 0)));
  bool shares = static_cast<uint32_t>(data.nr) == kStubCall && data.args[0] == kContactChild;
  bool call = InStubText(data.instruction_pointer) && (shares || data.nr == SYS_mmap);
  std::unique_ptr<Birth> birth;
  if (call && !stopping()) birth = TakeBirth(shares ? data.args[1] : data.args[4] >> 32 | (data.args[3] & ~uint64_t{0xffffffff}));
  // Without a descriptor left for the child its parent hears of that.
  bool lost = birth != nullptr && !pidfd.valid();
  std::shared_ptr<SpaceCore> core = birth != nullptr && birth->shares_memory ? birth->core : nullptr;
  uint32_t slot = birth != nullptr ? birth->slot : 0;
  if (birth != nullptr) {
    bool fits = !lost && birth->shares_memory == shares && &birth->parent->process().listener() == &listener;
    if (fits && (shares ? birth->context == data.args[2] : IsBirthCall(*birth, data))) {
      if (Born(listener, notification.id, tid, std::move(pidfd), std::move(birth))) return;
      pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, tid, 0)));
    } else {
      birth->parent->FinishBirth(birth->nonce, Errno(EAGAIN));
    }
  }
  // A thread that its process hides, or a child nobody waits for. kill() takes any thread's number.
  kill(tid, SIGKILL);
  if (core != nullptr) core->FreeSlot(slot);
  if (pidfd.valid()) monitor_.WatchStray(tid, std::move(pidfd));
  if (lost) wait4(tid, nullptr, __WALL, nullptr);
}

bool PlatformImpl::Born(Listener& listener, uint64_t id, pid_t pid, UniqueFd pidfd, std::unique_ptr<Birth> birth) {
  auto process = std::make_shared<Process>(birth->core, listener.shared_from_this(), pid, std::move(pidfd));
  RefPtr<SpaceImpl> space = birth->shares_memory ? birth->core->handle() : MakeRef<SpaceImpl>(birth->core);
  if (!space || !monitor_.Watch(process)) {
    birth->parent->FinishBirth(birth->nonce, Errno(EAGAIN));
    return false;
  }
  auto child = MakeRef<ThreadImpl>(*this, process, std::move(space), pid, birth->slot);
  child->Ref();  // the client's, until Release()
  child->SetFirstFrame(birth->frame, birth->context, birth->load_bases);
  bool shares_memory = birth->shares_memory;
  child->ExpectBirth(std::move(birth));
  process->space().AddProcess(process);
  if (!process->AddThread(child)) {
    // Dead already: the monitor found no thread to take apart.
    process->space().RemoveProcess(process.get());
    child->SetGone();
    child->FreeSlot();
    child->DropOrders();
    child->Release();
    return true;
  }
  // The answer goes last, so that the child finds its first order there.
  if (shares_memory) {
    listener.Answer(id, 0);  // its mailbox is in the window that it has
  } else {
    listener.Continue(id);
  }
  child->CompleteBirth();
  return true;
}

void PlatformImpl::OnDeath(Process& process, std::span<const RefPtr<ThreadImpl>> threads, int status, const rusage& usage) {
  if (stopping()) {
    // The client hears of nothing any more; what it has not released goes when its callbacks are
    // over.
    absl::MutexLock lock(&mu_);
    orphans_.insert(orphans_.end(), threads.begin(), threads.end());
    return;
  }
  for (const auto& done : process.TakeWhenReaped()) done(usage);
  std::vector<Thread*> ended;
  for (const RefPtr<ThreadImpl>& thread : threads) {
    if (!thread->released()) ended.push_back(thread.get());
  }
  RefPtr<SpaceImpl> space = process.space().handle();
  if (space) client_.OnProcessDeath(*space, ended, status);
}

// --- exec ---

ErrnoOr<ReadyStub> PlatformImpl::TakeStub() {
  {
    absl::MutexLock lock(&pool_mu_);
    if (!pool_.empty()) {
      ReadyStub stub = std::move(pool_.back());
      pool_.pop_back();
      return stub;
    }
  }
  return seed_.Clone();
}

// Fills the pool on a worker.
void PlatformImpl::Refill() {
  {
    absl::MutexLock lock(&pool_mu_);
    if (refilling_ || stopping() || static_cast<int>(pool_.size()) >= options_.ready_stubs) return;
    refilling_ = true;
  }
  bool ok = workers_.Run([this] {
    for (;;) {
      {
        absl::MutexLock lock(&pool_mu_);
        if (stopping() || static_cast<int>(pool_.size()) >= options_.ready_stubs) {
          refilling_ = false;
          return;
        }
      }
      ErrnoOr<ReadyStub> stub = seed_.Clone();
      absl::MutexLock lock(&pool_mu_);
      if (!stub.ok()) {
        refilling_ = false;
        return;
      }
      pool_.push_back(std::move(*stub));
    }
  });
  if (ok) return;
  absl::MutexLock lock(&pool_mu_);
  refilling_ = false;
}

ErrnoOr<Thread*> PlatformImpl::Exec(const ExecPlan& plan) {
  counters_.execs.fetch_add(1, std::memory_order_relaxed);
  Listener::BeforeLongWork();
  for (const StubOp& op : plan.ops) {
    unsigned long args[6];
    std::copy(std::begin(op.args), std::end(op.args), args);
    if (TouchesStubRegion(op.number, args)) return Errno(EINVAL);
  }
  ErrnoOr<ReadyStub> stub = TakeStub();
  if (!stub.ok()) return stub.error();
  ErrnoOr<void> built = seed_.RunBatch(*stub, plan.ops, true);
  if (!built.ok()) {
    seed_.Discard(std::move(*stub));
    Refill();
    return built.error();
  }
  ErrnoOr<Thread*> thread = Enter(std::move(*stub), plan);
  if (!Listener::RefillAfterwards()) Refill();
  return thread;
}

// The stub has its filter and waits on its mailbox: from here on it is a guest process.
ErrnoOr<Thread*> PlatformImpl::Enter(ReadyStub stub, const ExecPlan& plan) {
  const WindowHeader& header = stub.lease.window->header;
  uint64_t context = header.context;
  UniqueFd listener_fd(static_cast<int>(syscall(SYS_pidfd_getfd, stub.pidfd.get(), header.listener, 0)));
  if (!listener_fd.valid()) {
    int failure = errno;
    seed_.Discard(std::move(stub));
    return Errno(failure);
  }
  pid_t pid = stub.pid;
  auto core = std::make_shared<SpaceCore>(*this, stub.lease);
  core->TakeSlot(0);
  if (fast_path_ && !plan.fast_areas.empty()) core->set_fast_sites(std::make_unique<FastSites>(plan.fast_areas));
  auto listener = std::make_shared<Listener>(*this, std::move(listener_fd));
  auto process = std::make_shared<Process>(core, listener, pid, std::move(stub.pidfd));
  auto thread = MakeRef<ThreadImpl>(*this, process, MakeRef<SpaceImpl>(core), pid, 0);
  thread->SetFirstFrame(plan.frame, context, true);
  thread->SetListenerOpen();
  thread->Ref();  // the client's, until Release(); before the process may be found dead
  core->AddProcess(process);
  process->AddThread(thread);
  if (!monitor_.Watch(process)) {
    process->Kill();
    core->RemoveTid(pid);
    core->RemoveProcess(process.get());
    listener->Remove(pid);
    process->TakeThreads();
    thread->Release();
    int status;
    wait4(pid, &status, __WALL, nullptr);
    return Errno(EAGAIN);
  }
  ErrnoOr<void> filled = listener->Start() ? Fill(*thread, *core, plan) : ErrnoOr<void>(Errno(EAGAIN));
  if (!filled.ok()) {
    process->Kill();  // the monitor takes it apart; nobody hears of it, since no reference is left
    thread->Release();
    return filled.error();
  }
  return static_cast<Thread*>(thread.get());
}

ErrnoOr<void> PlatformImpl::Fill(ThreadImpl& thread, SpaceCore& core, const ExecPlan& plan) {
  // All in one call, mostly.
  std::vector<iovec> to, from;
  size_t all = 0;
  for (const ExecPlan::Bytes& bytes : plan.writes) {
    to.push_back({reinterpret_cast<void*>(bytes.address), bytes.data.size()});
    from.push_back({const_cast<char*>(bytes.data.data()), bytes.data.size()});
    all += bytes.data.size();
  }
  bool filled = all == 0 || (to.size() <= IOV_MAX && TRY(core.Copy(to, from, true)) == all);
  for (const ExecPlan::Bytes& bytes : plan.writes) {
    if (filled) break;
    size_t done = 0;
    while (done < bytes.data.size()) {
      iovec guest = {reinterpret_cast<void*>(bytes.address + done), bytes.data.size() - done};
      iovec local = {const_cast<char*>(bytes.data.data()) + done, bytes.data.size() - done};
      done += TRY(core.Copy({&guest, 1}, {&local, 1}, true));
    }
  }
  if (plan.xstate.empty()) return Ok();
  return thread.set_xstate(plan.xstate);
}

std::unique_ptr<Platform> Platform::Create(Client& client, const Options& options, std::string* error) {
  auto platform = std::make_unique<PlatformImpl>(client, options);
  if (!platform->Start(error)) return nullptr;
  return platform;
}

}  // namespace amber::platform
