// What <linux/io_uring.h> of older kernels does not have (include/uapi/linux/io_uring.h of Linux 6.18).
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

namespace amber {

// Operations.
inline constexpr uint8_t kOpReadMultishot = 49, kOpWaitid = 50, kOpFixedFdInstall = 54, kOpFtruncate = 55, kOpBind = 56, kOpListen = 57,
                         kOpEpollWait = 59, kOpReadvFixed = 60, kOpWritevFixed = 61, kOpPipe = 62, kOpLast = 63;

// Flags of submissions.
inline constexpr uint16_t kReportUsage = 8;                      // IORING_SEND_ZC_REPORT_USAGE
inline constexpr uint32_t kSpliceFdInFixed = uint32_t{1} << 31;  // SPLICE_F_FD_IN_FIXED
inline constexpr uint32_t kNopInjectResult = 1;                  // IORING_NOP_INJECT_RESULT
inline constexpr uint32_t kNopTaskWork = 16;                     // IORING_NOP_TW

// Commands of URING_CMD on sockets.
inline constexpr uint32_t kSocketInputQueue = 0, kSocketOutputQueue = 1, kSocketGetOption = 2, kSocketSetOption = 3;

}  // namespace amber
