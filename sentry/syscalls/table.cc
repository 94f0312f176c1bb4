#include "sentry/syscalls/table.h"

#include "sentry/base/check.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/ptrace_registers.h"

namespace amber {

void SyscallTable::Set(uint64_t number, SyscallEntry entry) {
  AMBER_CHECK(number < entries_.size() && entries_[number].handler == nullptr);
  entry.name = SyscallName(number);
  AMBER_CHECK(entry.name != nullptr);
  entries_[number] = entry;
}

SyscallTable::SyscallTable() {
  for (uint64_t n = 0; n < entries_.size(); ++n) entries_[n].name = SyscallName(n);
  RegisterProcessCalls(*this);
  RegisterSignalCalls(*this);
  RegisterWaitCalls(*this);
  RegisterTimeCalls(*this);
  RegisterTimerCalls(*this);
  RegisterCredentialCalls(*this);
  RegisterPrctlCalls(*this);
  RegisterSystemCalls(*this);
  RegisterFutexCalls(*this);
  RegisterMemoryCalls(*this);
  RegisterMempolicyCalls(*this);
  RegisterEventCalls(*this);
  RegisterEpollCalls(*this);
  RegisterPollCalls(*this);
  RegisterSocketCalls(*this);
  RegisterMessageCalls(*this);
  RegisterSpliceCalls(*this);
  RegisterPidfdCalls(*this);
  RegisterReadWriteCalls(*this);
  RegisterOpenCalls(*this);
  RegisterFcntlCalls(*this);
  RegisterStatCalls(*this);
  RegisterNameCalls(*this);
  RegisterAttrCalls(*this);
  RegisterDirCalls(*this);
  RegisterCopyCalls(*this);
  RegisterXattrCalls(*this);
  RegisterMountCalls(*this);
  RegisterUnshareCalls(*this);
  RegisterSeccompCalls(*this);
  RegisterSemCalls(*this);
  RegisterMsgCalls(*this);
  RegisterShmCalls(*this);
  RegisterMqueueCalls(*this);
  RegisterSchedCalls(*this);
  RegisterCompareCalls(*this);
  RegisterAbsentCalls(*this);
  RegisterInotifyCalls(*this);
  RegisterFanotifyCalls(*this);
  RegisterUserfaultCalls(*this);
  RegisterFutex2Calls(*this);
  RegisterRseqCalls(*this);
  RegisterIoUringCalls(*this);
  RegisterKeyCalls(*this);
  RegisterLandlockCalls(*this);
  RegisterNewMountCalls(*this);
  RegisterAioCalls(*this);
  RegisterPtraceCalls(*this);
  RegisterStatMountCalls(*this);
}

const SyscallTable& SyscallTable::Get() {
  static const SyscallTable table;
  return table;
}

}  // namespace amber
