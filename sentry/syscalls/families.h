// One function per family of system calls: it enters the family's handlers into the table.
#pragma once

namespace amber {

class SyscallTable;

void RegisterProcessCalls(SyscallTable& table);     // fork, exec, wait, exit, ids: process_calls.cc and beside it
void RegisterSignalCalls(SyscallTable& table);      // signal_calls.cc
void RegisterWaitCalls(SyscallTable& table);        // wait_calls.cc
void RegisterTimeCalls(SyscallTable& table);        // time_calls.cc: clocks and sleeping
void RegisterTimerCalls(SyscallTable& table);       // timer_calls.cc: itimers and POSIX timers
void RegisterCredentialCalls(SyscallTable& table);  // cred_calls.cc
void RegisterPrctlCalls(SyscallTable& table);       // prctl_calls.cc, and rlimits
void RegisterSystemCalls(SyscallTable& table);      // system_calls.cc: uname, sysinfo, personality
void RegisterFutexCalls(SyscallTable& table);       // futex_calls.cc
void RegisterMempolicyCalls(SyscallTable& table);   // mempolicy_calls.cc
void RegisterMemoryCalls(SyscallTable& table);      // memory_misc.cc and beside it
void RegisterEventCalls(SyscallTable& table);       // event_calls.cc: pipe, eventfd, timerfd, signalfd
void RegisterEpollCalls(SyscallTable& table);       // epoll_calls.cc
void RegisterPollCalls(SyscallTable& table);        // poll_calls.cc: poll, select
void RegisterSocketCalls(SyscallTable& table);      // socket_calls.cc
void RegisterMessageCalls(SyscallTable& table);     // message_calls.cc: sendmsg, recvmsg
void RegisterReadWriteCalls(SyscallTable& table);   // rw_calls.cc: read, write, lseek
void RegisterOpenCalls(SyscallTable& table);        // open_calls.cc: open, close, dup
void RegisterFcntlCalls(SyscallTable& table);       // fcntl_calls.cc: fcntl, flock, ioctl
void RegisterStatCalls(SyscallTable& table);        // stat_calls.cc: stat, statfs, access, readlink
void RegisterNameCalls(SyscallTable& table);        // name_calls.cc: mkdir, link, unlink, rename
void RegisterAttrCalls(SyscallTable& table);        // attr_calls.cc: chmod, chown, utimes, truncate
void RegisterDirCalls(SyscallTable& table);         // dir_calls.cc: chdir, getdents, fsync
void RegisterCopyCalls(SyscallTable& table);        // copy_calls.cc: sendfile, copy_file_range
void RegisterXattrCalls(SyscallTable& table);       // xattr_calls.cc
void RegisterMountCalls(SyscallTable& table);       // mount_calls.cc: mount, umount2, pivot_root
void RegisterPidfdCalls(SyscallTable& table);       // pidfd_calls.cc
void RegisterUnshareCalls(SyscallTable& table);     // unshare_calls.cc
void RegisterSeccompCalls(SyscallTable& table);     // seccomp_calls.cc
void RegisterSemCalls(SyscallTable& table);         // sem_calls.cc: System V semaphores
void RegisterMsgCalls(SyscallTable& table);         // msg_calls.cc: System V messages
void RegisterShmCalls(SyscallTable& table);         // shm_calls.cc: System V shared memory
void RegisterMqueueCalls(SyscallTable& table);      // mqueue_calls.cc: POSIX message queues
void RegisterSchedCalls(SyscallTable& table);       // sched_calls.cc: scheduling, nice, I/O priorities
void RegisterCompareCalls(SyscallTable& table);     // compare_calls.cc: kcmp
void RegisterAbsentCalls(SyscallTable& table);      // absent_calls.cc: what this kernel is built without
void RegisterInotifyCalls(SyscallTable& table);     // inotify_calls.cc
void RegisterFanotifyCalls(SyscallTable& table);    // fanotify_calls.cc
void RegisterUserfaultCalls(SyscallTable& table);   // userfault_calls.cc
void RegisterFutex2Calls(SyscallTable& table);      // futex2_calls.cc: futex_wake and its kin
void RegisterRseqCalls(SyscallTable& table);        // rseq_calls.cc
void RegisterKeyCalls(SyscallTable& table);
void RegisterLandlockCalls(SyscallTable& table);
void RegisterIoUringCalls(SyscallTable& table);    // io_uring_calls.cc
void RegisterNewMountCalls(SyscallTable& table);   // new_mount_calls.cc: fsopen and its kin
void RegisterStatMountCalls(SyscallTable& table);  // statmount_calls.cc
void RegisterAioCalls(SyscallTable& table);        // aio_calls.cc: io_setup and its kin
void RegisterSpliceCalls(SyscallTable& table);     // splice_calls.cc: splice, tee, vmsplice

}  // namespace amber
