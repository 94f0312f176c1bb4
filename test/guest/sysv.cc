// System V objects: permissions, information calls, limits, times, what waits and what undoes.
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// Ends with the test's scope, whoever it belongs to by then.
struct Set {
  explicit Set(int count, int mode = 0600) : id(MUST(semget(IPC_PRIVATE, count, IPC_CREAT | mode))) {}
  ~Set() { semctl(id, 0, IPC_RMID); }
  int Op(unsigned short which, short change, short flags = IPC_NOWAIT) const {
    sembuf one = {which, change, flags};
    return semop(id, &one, 1);
  }
  int id;
};
struct Segment {
  explicit Segment(size_t size, int mode = 0600) : id(MUST(shmget(IPC_PRIVATE, size, IPC_CREAT | mode))) {}
  ~Segment() { shmctl(id, IPC_RMID, nullptr); }
  int id;
};
struct Message {
  long type = 1;
  char text[128] = {};
};
struct Queue {
  explicit Queue(int mode = 0600) : id(MUST(msgget(IPC_PRIVATE, IPC_CREAT | mode))) {}
  ~Queue() { msgctl(id, IPC_RMID, nullptr); }
  int Send(long type, size_t size, int flags = IPC_NOWAIT) const {
    Message message = {.type = type};
    return msgsnd(id, &message, size, flags);
  }
  ssize_t Take(long type, int flags = IPC_NOWAIT) const {
    Message message;
    const ssize_t got = msgrcv(id, &message, sizeof(message.text), type, flags);
    return got < 0 ? -1 : message.type;
  }
  int id;
};

key_t FreshKey(int n = 0) { return 0x51000000 + getpid() * 16 + n; }

}  // namespace

GUEST_TEST(SysvShm, SizesAndFlags) {
  EXPECT_ERRNO(shmget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
  EXPECT_ERRNO(shmget(FreshKey(), kPage, 0600), ENOENT);
  Segment odd(kPage + 1);
  shmid_ds info = {};
  MUST(shmctl(odd.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_segsz, kPage + 1);  // Told as asked for, although whole pages lie behind.
  EXPECT_EQ(info.shm_perm.mode, 0600);
  EXPECT_EQ(info.shm_lpid, 0);
  EXPECT_EQ(info.shm_atime, 0);
  EXPECT_GT(info.shm_ctime, 0);
  EXPECT_ERRNO(shmctl(odd.id, 9999, &info), EINVAL);
  EXPECT_ERRNO(shmctl(-1, IPC_STAT, &info), EINVAL);
  EXPECT_ERRNO(shmctl(odd.id, IPC_STAT, kBad), EFAULT);
}

GUEST_TEST(SysvShm, PermissionBits) {
  Segment segment(kPage, 0604);
  AS_USER([&] {
    shmid_ds info = {};
    EXPECT_OK(shmctl(segment.id, IPC_STAT, &info));
    EXPECT_OK(shmat(segment.id, nullptr, SHM_RDONLY));
    EXPECT_ERRNO(shmat(segment.id, nullptr, 0), EACCES);
    EXPECT_ERRNO(shmctl(segment.id, IPC_RMID, nullptr), EPERM);
    EXPECT_ERRNO(shmctl(segment.id, IPC_SET, &info), EPERM);
  });
  shmid_ds info = {};
  MUST(shmctl(segment.id, IPC_STAT, &info));
  info.shm_perm.uid = 1000;
  info.shm_perm.mode = 0400;
  EXPECT_OK(shmctl(segment.id, IPC_SET, &info));
  CheckpointHere();
  AS_USER([&] {
    EXPECT_OK(shmctl(segment.id, IPC_STAT, &info));
    EXPECT_EQ(info.shm_perm.uid, 1000);
    EXPECT_EQ(info.shm_perm.cuid, 0);
    EXPECT_EQ(info.shm_perm.mode, 0400);
    EXPECT_ERRNO(shmat(segment.id, nullptr, 0), EACCES);
    EXPECT_OK(shmctl(segment.id, IPC_RMID, nullptr));
  });
}

GUEST_TEST(SysvShm, AskingForMoreThanTheBits) {
  const key_t key = FreshKey();
  const int id = MUST(shmget(key, kPage, IPC_CREAT | 0640));
  AS_USER([&] {
    EXPECT_ERRNO(shmget(key, kPage, 0600), EACCES);
    EXPECT_ERRNO(shmget(key, kPage, 0004), EACCES);
    EXPECT_EQ(shmget(key, kPage, 0), id);
  });
  shmctl(id, IPC_RMID, nullptr);
}

GUEST_TEST(SysvShm, AttachAddresses) {
  Segment segment(2 * kPage);
  char* room = Pages(4);
  EXPECT_ERRNO(shmat(segment.id, room, 0), EINVAL);  // Something is mapped there.
  MUST(munmap(room, 4 * kPage));
  EXPECT_ERRNO(shmat(segment.id, room + 1, 0), EINVAL);
  EXPECT_EQ(shmat(segment.id, room + 1, SHM_RND), room);
  EXPECT_EQ(shmat(segment.id, room + kPage, SHM_REMAP), room + kPage);
  EXPECT_ERRNO(shmat(segment.id, nullptr, SHM_REMAP), EINVAL);
  EXPECT_ERRNO(shmat(-1, nullptr, 0), EINVAL);
  EXPECT_ERRNO(shmdt(room + 1), EINVAL);
  EXPECT_OK(shmdt(room + kPage));
}

GUEST_TEST(SysvShm, TimesAndPids) {
  Segment segment(kPage);
  void* memory = MUST(shmat(segment.id, nullptr, 0));
  shmid_ds info = {};
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_GT(info.shm_atime, 0);
  EXPECT_EQ(info.shm_dtime, 0);
  EXPECT_EQ(info.shm_lpid, getpid());
  const pid_t pid = Fork([&] { MUST(shmdt(memory)); });
  JOIN_OK(pid);
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_GT(info.shm_dtime, 0);
  EXPECT_EQ(info.shm_lpid, pid);
  EXPECT_EQ(info.shm_nattch, 1);
}

GUEST_TEST(SysvShm, RemovedButAttachedIsMarked) {
  const key_t key = FreshKey();
  const int id = MUST(shmget(key, kPage, IPC_CREAT | 0600));
  MUST(shmat(id, nullptr, 0));
  MUST(shmctl(id, IPC_RMID, nullptr));
  CheckpointHere();
  shmid_ds info = {};
  MUST(shmctl(id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_perm.mode & SHM_DEST, SHM_DEST);
  EXPECT_EQ(info.shm_perm.__key, IPC_PRIVATE);  // Its key is free again.
  const int other = MUST(shmget(key, kPage, IPC_CREAT | IPC_EXCL | 0600));
  EXPECT_NE(other, id);
  MUST(shmctl(other, IPC_RMID, nullptr));
}

GUEST_TEST(SysvShm, Information) {
  Segment segment(3 * kPage);
  shminfo limits = {};
  EXPECT_GE(shmctl(0, IPC_INFO, reinterpret_cast<shmid_ds*>(&limits)), 0);
  EXPECT_EQ(limits.shmmin, 1);
  EXPECT_GE(limits.shmmni, 1);
  EXPECT_GE(limits.shmmax, 3 * kPage);
  shm_info used = {};
  const int highest = shmctl(0, SHM_INFO, reinterpret_cast<shmid_ds*>(&used));
  EXPECT_GE(highest, 0);
  EXPECT_GE(used.used_ids, 1);
  EXPECT_GE(used.shm_tot, 3);
  bool found = false;
  for (int i = 0; i <= highest; ++i) {
    shmid_ds info = {};
    found |= shmctl(i, SHM_STAT, &info) == segment.id;
  }
  EXPECT(found);
  EXPECT_ERRNO(shmctl(highest + 1, SHM_STAT, reinterpret_cast<shmid_ds*>(&used)), EINVAL);
}

GUEST_TEST(SysvShm, LockingIsPermittedToOwners) {
  Segment segment(kPage, 0666);
  EXPECT_OK(shmctl(segment.id, SHM_LOCK, nullptr));
  shmid_ds info = {};
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_perm.mode & SHM_LOCKED, SHM_LOCKED);
  AS_USER([&] { EXPECT_ERRNO(shmctl(segment.id, SHM_UNLOCK, nullptr), EPERM); });
  EXPECT_OK(shmctl(segment.id, SHM_UNLOCK, nullptr));
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_perm.mode & SHM_LOCKED, 0);
}

GUEST_TEST(SysvShm, ExecAndExitDetach) {
  Segment segment(kPage);
  JOIN_OK(Fork([&] { MUST(shmat(segment.id, nullptr, 0)); }));
  shmid_ds info = {};
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_nattch, 0);
  const pid_t pid = Fork([&] {
    MUST(shmat(segment.id, nullptr, 0));
    execl("/bin/true", "true", nullptr);
  });
  WaitStatus(pid);
  MUST(shmctl(segment.id, IPC_STAT, &info));
  EXPECT_EQ(info.shm_nattch, 0);
}

GUEST_TEST(SysvSem, CreationRules) {
  EXPECT_ERRNO(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600), EINVAL);
  EXPECT_ERRNO(semget(IPC_PRIVATE, -1, IPC_CREAT | 0600), EINVAL);
  EXPECT_ERRNO(semget(IPC_PRIVATE, 1'000'000, IPC_CREAT | 0600), EINVAL);
  const key_t key = FreshKey();
  EXPECT_ERRNO(semget(key, 1, 0600), ENOENT);
  const int id = MUST(semget(key, 3, IPC_CREAT | 0600));
  EXPECT_ERRNO(semget(key, 3, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
  EXPECT_EQ(semget(key, 0, 0), id);
  EXPECT_EQ(semget(key, 2, 0), id);
  EXPECT_ERRNO(semget(key, 4, 0), EINVAL);
  MUST(semctl(id, 0, IPC_RMID));
  EXPECT_ERRNO(semctl(id, 0, GETVAL), EINVAL);
}

GUEST_TEST(SysvSem, OperationErrors) {
  Set s(2);
  sembuf one = {0, 1, 0};
  EXPECT_ERRNO(semop(s.id, &one, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_semop, s.id, kBadAddress, 1), EFAULT);
  EXPECT_ERRNO(semop(-1, &one, 1), EINVAL);
  static sembuf many[600];
  EXPECT_ERRNO(semop(s.id, many, 501), E2BIG);
  one.sem_num = 2;
  EXPECT_ERRNO(semop(s.id, &one, 1), EFBIG);
  timespec bad = {0, 1'000'000'000};
  one.sem_num = 0;
  EXPECT_ERRNO(semtimedop(s.id, &one, 1, &bad), EINVAL);
  bad = {-1, 0};
  EXPECT_ERRNO(semtimedop(s.id, &one, 1, &bad), EINVAL);
  EXPECT_ERRNO(semtimedop(s.id, &one, 1, kBad), EFAULT);
}

GUEST_TEST(SysvSem, ValuesHaveARange) {
  Set s(2);
  EXPECT_ERRNO(semctl(s.id, 0, SETVAL, -1), ERANGE);
  EXPECT_ERRNO(semctl(s.id, 0, SETVAL, 32768), ERANGE);
  EXPECT_OK(semctl(s.id, 0, SETVAL, 32767));
  EXPECT_ERRNO(s.Op(0, 1), ERANGE);
  EXPECT_ERRNO(semctl(s.id, 2, SETVAL, 1), EINVAL);
  EXPECT_ERRNO(semctl(s.id, -1, GETVAL), EINVAL);
  unsigned short values[2] = {1, 40000};
  EXPECT_ERRNO(semctl(s.id, 0, SETALL, values), ERANGE);
  EXPECT_EQ(semctl(s.id, 0, GETVAL), 32767);  // None is set if one can't be.
}

GUEST_TEST(SysvSem, AllAtOnce) {
  Set s(3);
  unsigned short values[3] = {4, 5, 6};
  EXPECT_OK(semctl(s.id, 0, SETALL, values));
  CheckpointHere();
  memset(values, 0, sizeof(values));
  EXPECT_OK(semctl(s.id, 0, GETALL, values));
  EXPECT_EQ(values[0], 4);
  EXPECT_EQ(values[2], 6);
  EXPECT_ERRNO(semctl(s.id, 0, GETALL, nullptr), EFAULT);
  EXPECT_ERRNO(semctl(s.id, 0, SETALL, nullptr), EFAULT);
}

GUEST_TEST(SysvSem, SameSemaphoreTwiceInOneCall) {
  Set s(1);
  sembuf up_and_down[2] = {{0, 3, 0}, {0, -2, IPC_NOWAIT}};
  EXPECT_OK(semop(s.id, up_and_down, 2));
  EXPECT_EQ(semctl(s.id, 0, GETVAL), 1);
  sembuf down_first[2] = {{0, -2, IPC_NOWAIT}, {0, 3, 0}};
  EXPECT_ERRNO(semop(s.id, down_first, 2), EAGAIN);  // In the order of the array.
  EXPECT_EQ(semctl(s.id, 0, GETVAL), 1);
}

GUEST_TEST(SysvSem, ZeroWaitersAreCounted) {
  Set s(1);
  MUST(semctl(s.id, 0, SETVAL, 2));
  const pid_t pid = Fork([&] { EXPECT_OK(s.Op(0, 0, 0)); });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(semctl(s.id, 0, GETZCNT), 1);
  EXPECT_EQ(semctl(s.id, 0, GETNCNT), 0);
  EXPECT_OK(s.Op(0, -1));
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  EXPECT_OK(semctl(s.id, 0, SETVAL, 0));  // Setting wakes as an operation does.
  JOIN_OK(pid);
  EXPECT_EQ(semctl(s.id, 0, GETZCNT), 0);
}

GUEST_TEST(SysvSem, SignalInterruptsAndNeverRestarts) {
  Set s(1);
  const pid_t pid = Fork([&] {
    CountSignals(SIGUSR1, SA_RESTART);
    EXPECT_ERRNO(s.Op(0, -1, 0), EINTR);
    EXPECT_EQ(SignalCount(), 1);
  });
  AwaitAsleep(pid);
  kill(pid, SIGUSR1);
  JOIN_OK(pid);
  EXPECT_EQ(semctl(s.id, 0, GETNCNT), 0);
}

GUEST_TEST(SysvSem, Permissions) {
  Set s(1, 0604);
  AS_USER([&] {
    semid_ds info = {};
    EXPECT_EQ(semctl(s.id, 0, GETVAL), 0);
    EXPECT_OK(semctl(s.id, 0, IPC_STAT, &info));
    EXPECT_OK(s.Op(0, 0));  // Waiting for zero reads.
    EXPECT_ERRNO(s.Op(0, 1), EACCES);
    EXPECT_ERRNO(semctl(s.id, 0, SETVAL, 1), EACCES);
    EXPECT_ERRNO(semctl(s.id, 0, IPC_RMID), EPERM);
    EXPECT_ERRNO(semctl(s.id, 0, IPC_SET, &info), EPERM);
  });
}

GUEST_TEST(SysvSem, TimesAndOwner) {
  Set s(2);
  semid_ds info = {};
  MUST(semctl(s.id, 0, IPC_STAT, &info));
  EXPECT_EQ(info.sem_nsems, 2);
  EXPECT_EQ(info.sem_otime, 0);
  EXPECT_GT(info.sem_ctime, 0);
  EXPECT_OK(s.Op(0, 1));
  MUST(semctl(s.id, 0, IPC_STAT, &info));
  EXPECT_GT(info.sem_otime, 0);
  info.sem_perm.gid = 99;
  info.sem_perm.mode = 0640;
  EXPECT_OK(semctl(s.id, 0, IPC_SET, &info));
  MUST(semctl(s.id, 0, IPC_STAT, &info));
  EXPECT_EQ(info.sem_perm.gid, 99);
  EXPECT_EQ(info.sem_perm.mode, 0640);
  EXPECT_ERRNO(semctl(s.id, 0, IPC_STAT, nullptr), EFAULT);
}

GUEST_TEST(SysvSem, Information) {
  Set s(4);
  seminfo info = {};
  EXPECT_GE(semctl(0, 0, IPC_INFO, &info), 0);
  EXPECT_GE(info.semmsl, 250);
  EXPECT_EQ(info.semvmx, 32767);
  const int highest = semctl(0, 0, SEM_INFO, &info);
  EXPECT_GE(highest, 0);
  EXPECT_GE(info.semusz, 1);  // Here it counts the sets,
  EXPECT_GE(info.semaem, 4);  // and here the semaphores.
  bool found = false;
  for (int i = 0; i <= highest; ++i) {
    semid_ds status = {};
    found |= semctl(i, 0, SEM_STAT, &status) == s.id;
  }
  EXPECT(found);
}

GUEST_TEST(SysvSem, SetvalForgetsUndos) {
  Set s(1);
  JOIN_OK(Fork([&] {
    MUST(s.Op(0, 5, SEM_UNDO));
    MUST(semctl(s.id, 0, SETVAL, 2));
  }));
  EXPECT_EQ(semctl(s.id, 0, GETVAL), 2);
}

GUEST_TEST(SysvSem, UndoStopsAtZero) {
  Set s(1);
  Gate taken, left;
  const pid_t pid = Fork([&] {
    MUST(s.Op(0, 3, SEM_UNDO));
    taken.Open();
    left.Await();
  });
  taken.Await();
  MUST(s.Op(0, -2));
  CheckpointHere();
  left.Open();
  JOIN_OK(pid);
  EXPECT_EQ(semctl(s.id, 0, GETVAL), 0);  // 1 - 3 would be less than nothing.
}

GUEST_TEST(SysvMsg, SizesAndTypes) {
  Queue q;
  EXPECT_ERRNO(q.Send(0, 1), EINVAL);
  EXPECT_ERRNO(q.Send(-1, 1), EINVAL);
  EXPECT_OK(q.Send(1, 0));  // An empty message is one.
  Message message;
  EXPECT_ERRNO(msgsnd(q.id, &message, 1 << 20, IPC_NOWAIT), EINVAL);
  EXPECT_ERRNO(Call(SYS_msgsnd, q.id, &message, -1L, IPC_NOWAIT), EINVAL);
  EXPECT_ERRNO(Call(SYS_msgsnd, q.id, kBadAddress, 4, IPC_NOWAIT), EFAULT);
  EXPECT_ERRNO(msgsnd(-1, &message, 1, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_msgrcv, q.id, &message, -1L, 0, IPC_NOWAIT), EINVAL);
  EXPECT_EQ(msgrcv(q.id, &message, 0, 0, IPC_NOWAIT), 0);
  EXPECT_EQ(message.type, 1);
}

GUEST_TEST(SysvMsg, BadPointerLosesTheMessage) {
  // ipc/msg.c, do_msgrcv: the message is off the queue when it is copied out.
  Queue q;
  MUST(q.Send(1, 4));
  EXPECT_ERRNO(Call(SYS_msgrcv, q.id, kBadAddress, 64L, 0L, IPC_NOWAIT), EFAULT);
  EXPECT_ERRNO(q.Take(0), ENOMSG);
}

GUEST_TEST(SysvMsg, ExceptAndLowest) {
  Queue q;
  for (const long type : {5, 3, 9, 3}) MUST(q.Send(type, 4));
  CheckpointHere();
  EXPECT_EQ(q.Take(5, IPC_NOWAIT | MSG_EXCEPT), 3);
  EXPECT_EQ(q.Take(-4), 3);
  EXPECT_ERRNO(q.Take(-4), ENOMSG);
  EXPECT_EQ(q.Take(-100), 5);
  EXPECT_EQ(q.Take(0), 9);
}

GUEST_TEST(SysvMsg, CopyLeavesTheMessage) {
  Queue q;
  for (const long type : {7, 8}) MUST(q.Send(type, 4));
  Message message;
  const ssize_t got = msgrcv(q.id, &message, 64, 1, IPC_NOWAIT | MSG_COPY);
  if (got < 0 && errno == ENOSYS) Skip("no MSG_COPY");
  EXPECT_EQ(got, 4);
  EXPECT_EQ(message.type, 8);  // By its place, from 0.
  EXPECT_ERRNO(msgrcv(q.id, &message, 64, 2, IPC_NOWAIT | MSG_COPY), ENOMSG);
  EXPECT_ERRNO(msgrcv(q.id, &message, 64, 0, MSG_COPY), EINVAL);
  EXPECT_ERRNO(msgrcv(q.id, &message, 64, 0, IPC_NOWAIT | MSG_COPY | MSG_EXCEPT), EINVAL);
  msqid_ds info = {};
  MUST(msgctl(q.id, IPC_STAT, &info));
  EXPECT_EQ(info.msg_qnum, 2);
}

GUEST_TEST(SysvMsg, FullQueue) {
  Queue q;
  msqid_ds info = {};
  MUST(msgctl(q.id, IPC_STAT, &info));
  info.msg_qbytes = 100;
  EXPECT_OK(msgctl(q.id, IPC_SET, &info));
  EXPECT_OK(q.Send(1, 60));
  EXPECT_ERRNO(q.Send(1, 60), EAGAIN);
  const pid_t pid = Fork([&] { EXPECT_OK(q.Send(2, 60, 0)); });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(q.Take(0), 1);
  JOIN_OK(pid);
  EXPECT_EQ(q.Take(0), 2);
}

GUEST_TEST(SysvMsg, StatusTellsWhoAndHowMuch) {
  Queue q;
  msqid_ds info = {};
  MUST(msgctl(q.id, IPC_STAT, &info));
  EXPECT_EQ(info.msg_stime, 0);
  EXPECT_GE(info.msg_qbytes, 1024);
  const pid_t pid = Fork([&] { MUST(q.Send(1, 10)); });
  JOIN_OK(pid);
  MUST(q.Send(1, 20));
  MUST(msgctl(q.id, IPC_STAT, &info));
  EXPECT_EQ(info.msg_qnum, 2);
  EXPECT_EQ(info.__msg_cbytes, 30);
  EXPECT_EQ(info.msg_lspid, getpid());
  EXPECT_EQ(info.msg_lrpid, 0);
  EXPECT_GT(info.msg_stime, 0);
  EXPECT_EQ(q.Take(0), 1);
  MUST(msgctl(q.id, IPC_STAT, &info));
  EXPECT_EQ(info.__msg_cbytes, 20);
  EXPECT_EQ(info.msg_lrpid, getpid());
}

GUEST_TEST(SysvMsg, Permissions) {
  Queue q(0602);
  AS_USER([&] {
    EXPECT_OK(q.Send(1, 4));
    EXPECT_ERRNO(q.Take(0), EACCES);
    msqid_ds info = {};
    EXPECT_ERRNO(msgctl(q.id, IPC_STAT, &info), EACCES);
    EXPECT_ERRNO(msgctl(q.id, IPC_RMID, nullptr), EPERM);
  });
  msqid_ds info = {};
  MUST(msgctl(q.id, IPC_STAT, &info));
  info.msg_perm.uid = 1000;
  MUST(msgctl(q.id, IPC_SET, &info));
  AS_USER([&] {
    info.msg_qbytes = 1 << 20;  // More than the default limit asks for privilege.
    EXPECT_ERRNO(msgctl(q.id, IPC_SET, &info), EPERM);
    info.msg_qbytes = 64;
    EXPECT_OK(msgctl(q.id, IPC_SET, &info));
  });
}

GUEST_TEST(SysvMsg, RemovalAndSignalsEndTheWait) {
  Queue q;
  const pid_t removed = Fork([&] { EXPECT_ERRNO(q.Take(5, 0), EIDRM); });
  const pid_t interrupted = Fork([&] {
    CountSignals(SIGUSR1, SA_RESTART);
    EXPECT_ERRNO(q.Take(6, 0), EINTR);
  });
  AwaitAsleep(removed);
  AwaitAsleep(interrupted);
  kill(interrupted, SIGUSR1);
  JOIN_OK(interrupted);
  MUST(msgctl(q.id, IPC_RMID, nullptr));
  JOIN_OK(removed);
}

GUEST_TEST(SysvMsg, Information) {
  Queue q;
  msginfo info = {};
  EXPECT_GE(msgctl(0, IPC_INFO, reinterpret_cast<msqid_ds*>(&info)), 0);
  EXPECT_GE(info.msgmax, 1024);
  EXPECT_GE(info.msgmni, 1);
  MUST(q.Send(1, 33));
  const int highest = msgctl(0, MSG_INFO, reinterpret_cast<msqid_ds*>(&info));
  EXPECT_GE(highest, 0);
  EXPECT_GE(info.msgpool, 1);  // Queues,
  EXPECT_GE(info.msgmap, 1);   // messages,
  EXPECT_GE(info.msgtql, 33);  // bytes.
  bool found = false;
  for (int i = 0; i <= highest; ++i) {
    msqid_ds status = {};
    found |= msgctl(i, MSG_STAT, &status) == q.id;
  }
  EXPECT(found);
}

GUEST_TEST(SysvNamespace, HasItsOwnObjects) {
  const key_t key = FreshKey();
  const int id = MUST(msgget(key, IPC_CREAT | 0600));
  JOIN_OK(Fork([&] {
    if (unshare(CLONE_NEWIPC) < 0) return;
    EXPECT_ERRNO(msgget(key, 0), ENOENT);
    const int inner = MUST(msgget(key, IPC_CREAT | 0600));
    EXPECT_OK(msgctl(inner, IPC_RMID, nullptr));
  }));
  EXPECT_EQ(msgget(key, 0), id);
  MUST(msgctl(id, IPC_RMID, nullptr));
}
