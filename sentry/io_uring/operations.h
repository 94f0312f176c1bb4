// Operations that are system calls: which one, and where its arguments are in a submission.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

#include "sentry/io_uring/abi.h"

namespace amber {

struct OperationCall {
  uint64_t number;
  uint64_t args[6];
};

// False if `sqe` is no such operation. `fd` stands for its descriptor.
bool CallOf(const io_uring_sqe& sqe, int fd, OperationCall* out);
bool IsReadWrite(uint8_t opcode);
// What moved less than it was asked to has failed: nothing that is linked behind it begins.
bool MustBeWhole(uint8_t opcode);
// It tells in a second completion that its memory is free again. (Bytes are copied, as Linux does on a loopback.)
bool IsZeroCopy(uint8_t opcode);
// It sends or receives.
bool IsMessage(uint8_t opcode);
// The operation works on the open file that sqe.fd names.
bool TakesFile(uint8_t opcode);
bool IsKnown(uint8_t opcode);

}  // namespace amber
