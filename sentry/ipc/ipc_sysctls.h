// What sysctl(8) sets of an ipc namespace: sysvipc(7), mq_overview(7).
#pragma once

#include "sentry/kernel/sysctl.h"

namespace amber {

enum IpcSysctl : int {
  kSysctlMsgMax,         // bytes of a message
  kSysctlMsgQueueBytes,  // MSGMNB
  kSysctlMsgQueues,      // MSGMNI
  kSysctlSemSetMax,      // SEMMSL
  kSysctlSemMax,         // SEMMNS: all semaphores
  kSysctlSemOps,         // SEMOPM
  kSysctlSemSets,        // SEMMNI
  kSysctlShmMax,         // bytes of a segment
  kSysctlShmAll,         // pages of all
  kSysctlShmSegments,    // SHMMNI
  kSysctlMqQueues,
  kSysctlMqMessages,
  kSysctlMqMessageSize,
  kSysctlMqDefaultMessages,
  kSysctlMqDefaultSize,
};

inline constexpr uint64_t kIpcIntMax = 0x7fffffff, kIpcMniMax = 32768;
// Linux lets the first three be as large as an int. What they bound is kept by the sentry.
inline constexpr uint64_t kIpcMessageMost = 1 << 20, kSemSetMost = 65536, kSemOpsMost = 32000;
inline constexpr uint64_t kShmUnlimited = ~uint64_t{0} - (uint64_t{1} << 24);
inline constexpr SysctlRow kIpcSysctls[] = {
    {"kernel/msgmax", kSysctlMsgMax, 1, {8192}, 0, kIpcMessageMost},
    {"kernel/msgmnb", kSysctlMsgQueueBytes, 1, {16384}, 0, kIpcMessageMost},
    {"kernel/msgmni", kSysctlMsgQueues, 1, {32000}, 0, kIpcMniMax},
    {"kernel/sem", kSysctlSemSetMax, 4, {32000, 1024000000, 500, 32000}, 0, kIpcIntMax},
    {"kernel/shmmax", kSysctlShmMax, 1, {kShmUnlimited}, 0, ~uint64_t{0}},
    {"kernel/shmall", kSysctlShmAll, 1, {kShmUnlimited}, 0, ~uint64_t{0}},
    {"kernel/shmmni", kSysctlShmSegments, 1, {4096}, 0, kIpcMniMax},
    {"fs/mqueue/queues_max", kSysctlMqQueues, 1, {256}, 0, kIpcIntMax},
    {"fs/mqueue/msg_max", kSysctlMqMessages, 1, {10}, 1, 65536},
    {"fs/mqueue/msgsize_max", kSysctlMqMessageSize, 1, {8192}, 128, 16 << 20},
    {"fs/mqueue/msg_default", kSysctlMqDefaultMessages, 1, {10}, 1, 65536},
    {"fs/mqueue/msgsize_default", kSysctlMqDefaultSize, 1, {8192}, 128, 16 << 20},
};

}  // namespace amber
