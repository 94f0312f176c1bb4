// Events of the driver: its poll takes an event from the file as it tells of it (nvidia_poll() of kernel-open/nvidia/nv.c), so each has one taker.
// A device is needed where control 0x20800111 makes one arrive.
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "test/gpu/rawrm.h"

namespace rawrm {
namespace {

constexpr uint32_t kNow = POLLIN | POLLPRI;

void Fire(const Session& s) {
  uint8_t params[64] = {};
  if (Control(s, kSubdevice, 0x20800111, params, sizeof(params)) != kNvOk) Expect(false, "fire");
}

int Polled(int fd, int timeout) {
  pollfd p = {fd, POLLIN | POLLPRI, 0};
  return poll(&p, 1, timeout) == 1 ? p.revents : 0;
}

int Waited(int epoll, int timeout) {
  epoll_event event{};
  return epoll_wait(epoll, &event, 1, timeout) == 1 ? static_cast<int>(event.events) : 0;
}

void Watch(int epoll, int operation, int fd, uint32_t flags) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLPRI | flags;
  if (epoll_ctl(epoll, operation, fd, &event) != 0) Expect(false, "epoll_ctl");
}

void EpollModes(const Session& s) {
  int epoll = epoll_create1(0);
  Watch(epoll, EPOLL_CTL_ADD, s.gpu, 0);
  Expect(Waited(epoll, 0) == 0, "epoll: nothing yet");
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow, "epoll: an event");
  Expect(Waited(epoll, 0) == 0, "epoll: it is taken, level or not");
  Watch(epoll, EPOLL_CTL_MOD, s.gpu, EPOLLET);
  Fire(s), Fire(s);
  Expect(Waited(epoll, 2000) == kNow && Waited(epoll, 0) == 0, "EPOLLET: two before anybody looks are one");
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow && Waited(epoll, 0) == 0, "EPOLLET: the next edge");
  Watch(epoll, EPOLL_CTL_MOD, s.gpu, EPOLLONESHOT);
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow, "EPOLLONESHOT: once");
  Fire(s);
  Expect(Waited(epoll, 100) == 0, "EPOLLONESHOT: and no more");
  Expect(Polled(s.gpu, 0) == kNow, "EPOLLONESHOT: poll has what came then");
  Watch(epoll, EPOLL_CTL_MOD, s.gpu, EPOLLONESHOT | EPOLLET);
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow, "EPOLLONESHOT: armed again");
  close(epoll);
}

struct Taker {
  int fd;
  bool epoll;
  volatile int got = 0;
  pthread_t thread;
};

void* Take(void* argument) {
  auto* taker = static_cast<Taker*>(argument);
  taker->got = taker->epoll ? Waited(taker->fd, 20000) : Polled(taker->fd, 20000);
  return nullptr;
}

// poll and epoll wait at the same time: each event wakes both, and one has it.
void BothAtOnce(const Session& s) {
  int epoll = epoll_create1(0);
  Watch(epoll, EPOLL_CTL_ADD, s.gpu, 0);
  Taker takers[2] = {{.fd = s.gpu, .epoll = false, .thread = {}}, {.fd = epoll, .epoll = true, .thread = {}}};
  for (Taker& t : takers) pthread_create(&t.thread, nullptr, Take, &t);
  usleep(100000);
  Fire(s);
  for (int i = 0; i < 200 && takers[0].got + takers[1].got == 0; ++i) usleep(10000);
  usleep(100000);
  Expect((takers[0].got != 0) != (takers[1].got != 0), "poll and epoll: one of them has the event");
  Fire(s);
  for (Taker& t : takers) pthread_join(t.thread, nullptr);
  Expect(takers[0].got == kNow && takers[1].got == kNow, "poll and epoll: the other has the next");
  close(epoll);
}

void ManyDescriptors(const Session& s) {
  if (s.gpu < 0) return;
  int twin = dup(s.gpu), epoll = epoll_create1(0);
  Watch(epoll, EPOLL_CTL_ADD, twin, EPOLLET);
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow && Polled(s.gpu, 0) == 0, "dup: the same file, the same event");
  close(twin);
  Fire(s);
  Expect(Waited(epoll, 2000) == kNow, "dup: epoll has the file as long as any descriptor is open");
  fflush(stdout);
  int ends[2];
  if (pipe(ends) != 0) return Expect(false, "pipe");
  pid_t child = fork();
  if (child == 0) {
    if (write(ends[1], "x", 1) != 1) _exit(2);
    _exit(Polled(s.gpu, 10000) == kNow ? 0 : 1);
  }
  char byte;
  bool begun = read(ends[0], &byte, 1) == 1;
  usleep(50000);
  Fire(s);
  int status = -1;
  waitpid(child, &status, 0);
  Expect(begun && status == 0, "fork: a child may have its parent's event");
  Expect(Polled(s.gpu, 0) == 0 && (Waited(epoll, 0) == 0), "fork: and then the parent has not");
  close(epoll), close(ends[0]), close(ends[1]);
}

}  // namespace

int Events() {
  Session s = Start();
  OsEvent event{};
  event.hClient = s.client;
  event.hDevice = kDevice;
  event.fd = s.gpu;
  Expect(Call(s.ctl, 0xce, event) == 0 && event.status == kNvOk && event.fd == s.gpu, "an event at this file", event.status);
  Fire(s);
  Expect(Polled(s.gpu, 2000) == kNow && Polled(s.gpu, 0) == 0, "poll: once");
  EpollModes(s);
  BothAtOnce(s);
  ManyDescriptors(s);
  Expect(Call(s.ctl, 0xcf, event) == 0 && event.status == kNvOk, "no more events", event.status);
  Fire(s);
  Expect(Polled(s.gpu, 100) == 0, "none comes");
  // A driver's file that is opened so is deaf (its poll registers nobody); here only the guest's own is.
  int deaf = open("/dev/nvidia0", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  int ctl = s.ctl;
  event.fd = deaf;
  Expect(Call(deaf, 0xc9, ctl) == 0 && Call(s.ctl, 0xce, event) == 0 && event.status == kNvOk, "an event at a file of O_NONBLOCK", event.status);
  Taker taker{.fd = deaf, .epoll = false, .thread = {}};
  pthread_create(&taker.thread, nullptr, Take, &taker);
  usleep(100000);
  Fire(s);
  pthread_join(taker.thread, nullptr);
  Expect(taker.got == kNow, "it comes to who waits", static_cast<uint64_t>(taker.got));
  close(deaf);
  return Verdict();
}

}  // namespace rawrm
