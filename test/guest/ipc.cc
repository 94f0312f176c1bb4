// System V shared memory, semaphores and messages; POSIX message queues.
#include <fcntl.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Segment {
  explicit Segment(size_t size) { id = MUST(shmget(IPC_PRIVATE, size, IPC_CREAT | 0600)); }
  ~Segment() { shmctl(id, IPC_RMID, nullptr); }
  int id;
};

struct Semaphores {
  explicit Semaphores(int count) { id = MUST(semget(IPC_PRIVATE, count, IPC_CREAT | 0600)); }
  ~Semaphores() { semctl(id, 0, IPC_RMID); }
  int Op(unsigned short which, short change, short flags = 0) const {
    sembuf one = {which, change, flags};
    return semop(id, &one, 1);
  }
  int Value(int which = 0) const { return semctl(id, which, GETVAL); }
  void Set(int which, int value) const { MUST(semctl(id, which, SETVAL, value)); }
  int id;
};

struct Queue {
  Queue() { id = MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600)); }
  ~Queue() { msgctl(id, IPC_RMID, nullptr); }
  int Send(long type, const char* text, int flags = 0) const {
    struct {
      long type;
      char text[64];
    } message = {type, {}};
    strncpy(message.text, text, 63);
    return msgsnd(id, &message, strlen(text) + 1, flags);
  }
  ssize_t Receive(long type, char* text, size_t size, int flags = 0) const {
    struct {
      long type;
      char text[64];
    } message = {};
    const ssize_t got = msgrcv(id, &message, size, type, flags);
    if (got >= 0) memcpy(text, message.text, static_cast<size_t>(got));
    return got;
  }
  int id;
};

}  // namespace

GUEST_TEST(Shm, SharedByAttaching) {
  Segment segment(3 * kPage);
  auto* first = static_cast<char*>(MUST(shmat(segment.id, nullptr, 0)));
  auto* second = static_cast<char*>(MUST(shmat(segment.id, nullptr, 0)));
  EXPECT_NE(first, second);
  first[kPage] = 'x';
  CheckpointHere();
  EXPECT_EQ(second[kPage], 'x');
  JOIN_OK(Fork([&] { first[0] = 'c'; }));
  EXPECT_EQ(second[0], 'c');
  EXPECT_OK(shmdt(first));
  EXPECT_ERRNO(shmdt(first), EINVAL);
}

GUEST_TEST(Shm, CountsAndLivesUntilTheLastDetach) {
  Segment segment(kPage);
  auto* memory = static_cast<char*>(MUST(shmat(segment.id, nullptr, 0)));
  shmid_ds info = {};
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_nattch, 1);
  EXPECT_EQ(info.shm_segsz, kPage);
  EXPECT_EQ(info.shm_cpid, getpid());
  JOIN_OK(Fork([&] {
    MUST(shmctl(segment.id, IPC_STAT, &info));
    EXPECT_EQ(info.shm_nattch, 2);
  }));
  MUST(shmctl(segment.id, IPC_RMID, nullptr));
  memory[0] = 'k';
  CheckpointHere();
  EXPECT_EQ(memory[0], 'k');
  MUST(shmdt(memory));
  EXPECT_ERRNO(shmat(segment.id, nullptr, 0), EINVAL);
}

GUEST_TEST(Shm, KeysAndArguments) {
  const key_t key = 0x47000000 | getpid();
  const int id = MUST(shmget(key, kPage, IPC_CREAT | IPC_EXCL | 0600));
  EXPECT_ERRNO(shmget(key, kPage, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
  EXPECT_EQ(shmget(key, kPage, 0), id);
  EXPECT_ERRNO(shmget(key, 2 * kPage, 0), EINVAL);
  EXPECT_ERRNO(shmget(key + 1, kPage, 0), ENOENT);
  MUST(shmctl(id, IPC_RMID, nullptr));
  EXPECT_ERRNO(shmget(key, kPage, 0), ENOENT);
  EXPECT_ERRNO(shmat(id, nullptr, 0), EINVAL);
}

GUEST_TEST(Shm, ReadOnly) {
  Segment segment(kPage);
  const auto* memory = static_cast<char*>(MUST(shmat(segment.id, nullptr, SHM_RDONLY)));
  const pid_t pid = Fork([&] { *const_cast<volatile char*>(memory) = 1; });
  EXPECT_KILLED(WaitStatus(pid), SIGSEGV);
}

GUEST_TEST(Sem, DownAndUp) {
  Semaphores s(2);
  EXPECT_EQ(s.Value(), 0);
  EXPECT_OK(s.Op(0, 3));
  EXPECT_OK(s.Op(0, -2));
  CheckpointHere();
  EXPECT_EQ(s.Value(), 1);
  EXPECT_ERRNO(s.Op(0, -2, IPC_NOWAIT), EAGAIN);
  EXPECT_ERRNO(s.Op(0, 0, IPC_NOWAIT), EAGAIN);
  EXPECT_OK(s.Op(1, 0, IPC_NOWAIT));
  EXPECT_ERRNO(s.Op(5, 1), EFBIG);
  EXPECT_ERRNO(s.Op(0, 32767), ERANGE);
}

GUEST_TEST(Sem, AllOrNothing) {
  Semaphores s(2);
  s.Set(0, 1);
  sembuf both[2] = {{0, -1, 0}, {1, -1, IPC_NOWAIT}};
  EXPECT_ERRNO(semop(s.id, both, 2), EAGAIN);
  EXPECT_EQ(s.Value(0), 1);
}

GUEST_TEST(Sem, BlocksAndWakes) {
  Semaphores s(1);
  const pid_t pid = Fork([&] { EXPECT_OK(s.Op(0, -2)); });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(semctl(s.id, 0, GETNCNT), 1);
  EXPECT_OK(s.Op(0, 1));
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  EXPECT_OK(s.Op(0, 1));
  JOIN_OK(pid);
  EXPECT_EQ(s.Value(), 0);
  EXPECT_EQ(semctl(s.id, 0, GETPID), pid);
}

GUEST_TEST(Sem, UndoAtExit) {
  Semaphores s(1);
  s.Set(0, 5);
  JOIN_OK(Fork([&] {
    EXPECT_OK(s.Op(0, -3, SEM_UNDO));
    CheckpointHere();
    EXPECT_EQ(s.Value(), 2);
  }));
  EXPECT_EQ(s.Value(), 5);
}

GUEST_TEST(Sem, RemovalWakesWaiters) {
  Semaphores s(1);
  const pid_t pid = Fork([&] { EXPECT_ERRNO(s.Op(0, -1), EIDRM); });
  AwaitAsleep(pid);
  MUST(semctl(s.id, 0, IPC_RMID));
  JOIN_OK(pid);
}

GUEST_TEST(Sem, TimesOut) {
  Semaphores s(1);
  sembuf down = {0, -1, 0};
  const timespec wait = Ns(30 * kMs);
  const int64_t start = NowNs();
  EXPECT_ERRNO(semtimedop(s.id, &down, 1, &wait), EAGAIN);
  EXPECT_GE(NowNs() - start, 30 * kMs);
}

GUEST_TEST(Msg, OrderAndTypes) {
  Queue q;
  MUST(q.Send(2, "two"));
  MUST(q.Send(1, "one"));
  MUST(q.Send(3, "three"));
  CheckpointHere();
  char text[64];
  EXPECT_EQ(q.Receive(1, text, 64), 4);
  EXPECT_STREQ(text, "one");
  EXPECT_EQ(q.Receive(-2, text, 64), 4);  // The lowest type up to 2.
  EXPECT_STREQ(text, "two");
  EXPECT_ERRNO(q.Receive(7, text, 64, IPC_NOWAIT), ENOMSG);
  EXPECT_ERRNO(q.Receive(0, text, 2), E2BIG);
  EXPECT_EQ(q.Receive(0, text, 2, MSG_NOERROR), 2);
  EXPECT_ERRNO(q.Receive(0, text, 64, IPC_NOWAIT), ENOMSG);
  EXPECT_ERRNO(q.Send(0, "x"), EINVAL);
}

GUEST_TEST(Msg, BlockedReceiver) {
  Queue q;
  const pid_t pid = Fork([&] {
    char text[64] = {};
    EXPECT_EQ(q.Receive(9, text, 64), 5);
    EXPECT_STREQ(text, "nine");
  });
  AwaitAsleep(pid);
  MUST(q.Send(8, "eight"));
  CheckpointHere();
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  MUST(q.Send(9, "nine"));
  JOIN_OK(pid);
}

GUEST_TEST(Mqueue, PrioritiesAndLimits) {
  const Str name("/guest-%d", getpid());
  mq_attr attributes = {};
  attributes.mq_maxmsg = 3;
  attributes.mq_msgsize = 16;
  const mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &attributes);
  if (queue < 0 && errno == ENOSYS) Skip("no message queues");
  MUST(queue);
  MUST(mq_unlink(name));
  MUST(mq_send(queue, "low", 3, 1));
  MUST(mq_send(queue, "high", 4, 9));
  MUST(mq_send(queue, "low2", 4, 1));
  EXPECT_ERRNO(mq_send(queue, "x", 1, 1), EAGAIN);
  CheckpointHere();
  char text[17] = {};
  unsigned priority = 0;
  EXPECT_EQ(mq_receive(queue, text, 16, &priority), 4);
  EXPECT_EQ(priority, 9);
  EXPECT_EQ(mq_receive(queue, text, 16, &priority), 3);
  EXPECT_EQ(mq_receive(queue, text, 16, &priority), 4);
  EXPECT_ERRNO(mq_receive(queue, text, 16, &priority), EAGAIN);
  EXPECT_ERRNO(mq_receive(queue, text, 8, &priority), EMSGSIZE);
  EXPECT_ERRNO(mq_send(queue, "too long a message", 18, 1), EMSGSIZE);
  MUST(mq_getattr(queue, &attributes));
  EXPECT_EQ(attributes.mq_curmsgs, 0);
  EXPECT_EQ(attributes.mq_maxmsg, 3);
}

GUEST_TEST(Mqueue, NotifiesOnArrival) {
  const Str name("/guest-n-%d", getpid());
  mq_attr attributes = {};
  attributes.mq_maxmsg = 3;
  attributes.mq_msgsize = 16;
  const mqd_t queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
  if (queue < 0 && errno == ENOSYS) Skip("no message queues");
  MUST(queue);
  MUST(mq_unlink(name));
  CountSignals(SIGUSR1);
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGUSR1;
  MUST(mq_notify(queue, &event));
  EXPECT_ERRNO(mq_notify(queue, &event), EBUSY);
  MUST(mq_send(queue, "x", 1, 1));
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, SI_MESGQ);
  MUST(mq_send(queue, "y", 1, 1));
  EXPECT_EQ(SignalCount(), 1);  // Once.
}
