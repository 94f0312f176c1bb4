// Operations that are system calls: which one, and where its arguments are in a submission.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

namespace amber {

// What headers of older kernels do not have (include/uapi/linux/io_uring.h of Linux 6.18).
inline constexpr uint8_t kOpReadMultishot = 49, kOpFixedFdInstall = 54, kOpFtruncate = 55, kOpBind = 56, kOpListen = 57, kOpLast = 63;
inline constexpr uint16_t kReportUsage = 8;  // IORING_SEND_ZC_REPORT_USAGE

struct OperationCall {
  uint64_t number;
  uint64_t args[6];
};

// False if `sqe` is no such operation. `fd` stands for its descriptor.
bool CallOf(const io_uring_sqe& sqe, int fd, OperationCall* out);
bool IsReadWrite(uint8_t opcode);
// It tells in a second completion that its memory is free again. (Bytes are copied, as Linux does on a loopback.)
bool IsZeroCopy(uint8_t opcode);
// The operation works on the open file that sqe.fd names.
bool TakesFile(uint8_t opcode);
bool IsKnown(uint8_t opcode);

}  // namespace amber
