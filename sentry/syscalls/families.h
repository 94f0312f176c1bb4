// One function per family of system calls: it enters the family's handlers into the table.
#pragma once

namespace amber {

class SyscallTable;

void RegisterProcessCalls(SyscallTable& table);  // fork, exec, wait, exit, ids: process_calls.cc and beside it
void RegisterSignalCalls(SyscallTable& table);   // signal_calls.cc

}  // namespace amber
