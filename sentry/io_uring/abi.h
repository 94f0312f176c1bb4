// What <linux/io_uring.h> of older kernels does not have (include/uapi/linux/io_uring.h of Linux 6.18).
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

namespace amber {

// Operations.
inline constexpr uint8_t kOpReadMultishot = 49, kOpWaitid = 50, kOpFixedFdInstall = 54, kOpFtruncate = 55, kOpBind = 56, kOpListen = 57,
                         kOpEpollWait = 59, kOpReadvFixed = 60, kOpWritevFixed = 61, kOpPipe = 62, kOpLast = 63;

// Flags of submissions.
inline constexpr uint16_t kReportUsage = 8;                           // IORING_SEND_ZC_REPORT_USAGE
inline constexpr uint32_t kSpliceFdInFixed = uint32_t{1} << 31;       // SPLICE_F_FD_IN_FIXED
inline constexpr uint32_t kNopInjectResult = 1;                       // IORING_NOP_INJECT_RESULT
inline constexpr uint32_t kTimeoutMultishot = 64;                     // IORING_TIMEOUT_MULTISHOT
inline constexpr uint16_t kAcceptDontWait = 2, kAcceptPollFirst = 4;  // IORING_ACCEPT_DONTWAIT, _POLL_FIRST
inline constexpr uint32_t kNopTaskWork = 16;                          // IORING_NOP_TW

inline constexpr uint32_t kCancelFdFixed = 8, kCancelOp = 32;  // IORING_ASYNC_CANCEL_FD_FIXED, _OP
inline constexpr uint32_t kCancelFlags =
    IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ANY | kCancelFdFixed | IORING_ASYNC_CANCEL_USERDATA | kCancelOp;

inline constexpr uint16_t kBundle = 16, kVectorized = 32;  // IORING_RECVSEND_BUNDLE, IORING_SEND_VECTORIZED

// MSG_RING: commands, and their flags.
inline constexpr uint64_t kMessageData = 0, kMessageFile = 1;
inline constexpr uint32_t kMessageSkip = 1, kMessagePassFlags = 2;

// Flags of rings, and of io_uring_enter(2).
inline constexpr uint32_t kSetupNoSqArray = 1 << 16;         // IORING_SETUP_NO_SQARRAY
inline constexpr uint32_t kFeatureRegisteredRing = 1 << 13;  // IORING_FEAT_REG_REG_RING
inline constexpr uint32_t kFeatureNoIoWait = 1 << 17;        // IORING_FEAT_NO_IOWAIT
inline constexpr uint32_t kEnterRegistered = 1 << 4, kEnterAbsoluteTime = 1 << 5, kEnterNoIoWait = 1 << 7;

inline constexpr uint32_t kFeatureBundle = 1 << 14;     // IORING_FEAT_RECVSEND_BUNDLE
inline constexpr uint64_t kOffsetBuffers = 0x80000000;  // IORING_OFF_PBUF_RING
inline constexpr uint32_t kCompletionBufferMore = 16;   // IORING_CQE_F_BUF_MORE

// io_uring_register(2).
inline constexpr uint32_t kRegisterPbufStatus = 26, kRegisterClock = 29, kRegisterCloneBuffers = 30, kRegisterSendMessage = 31, kRegisterLast = 36;
inline constexpr uint32_t kRegisterOnOwnRing = uint32_t{1} << 31;  // IORING_REGISTER_USE_REGISTERED_RING
inline constexpr uint32_t kCloneFromRegistered = 1, kCloneReplace = 2;

// Commands of URING_CMD on sockets.
inline constexpr uint32_t kSocketInputQueue = 0, kSocketOutputQueue = 1, kSocketGetOption = 2, kSocketSetOption = 3;

}  // namespace amber
