// Operations that are system calls: which one, and where its arguments are in a submission.
#pragma once

#include <linux/io_uring.h>

#include <cstdint>

namespace amber {

struct OperationCall {
  uint64_t number;
  uint64_t args[6];
};

// False if `sqe` is no such operation. `fd` stands for its descriptor.
bool CallOf(const io_uring_sqe& sqe, int fd, OperationCall* out);
bool IsReadWrite(uint8_t opcode);
// The operation works on the open file that sqe.fd names.
bool TakesFile(uint8_t opcode);
bool IsKnown(uint8_t opcode);

}  // namespace amber
