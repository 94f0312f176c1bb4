// One function per family of system calls: it enters the family's handlers into the table.
#pragma once

namespace amber {

class SyscallTable;

void RegisterProcessCalls(SyscallTable& table);  // fork, exec, wait, exit, ids: process_calls.cc and beside it
void RegisterSignalCalls(SyscallTable& table);   // signal_calls.cc
void RegisterWaitCalls(SyscallTable& table);     // wait_calls.cc
void RegisterTimeCalls(SyscallTable& table);     // time_calls.cc: clocks and sleeping
void RegisterTimerCalls(SyscallTable& table);    // timer_calls.cc: itimers and POSIX timers
void RegisterCredentialCalls(SyscallTable& table);  // cred_calls.cc
void RegisterPrctlCalls(SyscallTable& table);    // prctl_calls.cc, and rlimits
void RegisterSystemCalls(SyscallTable& table);   // system_calls.cc: uname, sysinfo, scheduling
void RegisterFutexCalls(SyscallTable& table);    // futex_calls.cc
void RegisterMemoryCalls(SyscallTable& table);   // memory_misc.cc and beside it
void RegisterEventCalls(SyscallTable& table);    // event_calls.cc: pipe, eventfd, timerfd, signalfd
void RegisterEpollCalls(SyscallTable& table);    // epoll_calls.cc
void RegisterPollCalls(SyscallTable& table);     // poll_calls.cc: poll, select
void RegisterSocketCalls(SyscallTable& table);   // socket_calls.cc
void RegisterMessageCalls(SyscallTable& table);  // message_calls.cc: sendmsg, recvmsg

}  // namespace amber
