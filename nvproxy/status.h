// The driver's status words that the proxy and its fake driver use (nvstatuscodes.h of the open kernel modules).
#pragma once

#include <cstdint>

namespace amber::nvproxy {

enum NvStatus : uint32_t {
  kNvOk = 0x0,
  kNvGpuIsLost = 0xf,
  kNvIllegalAction = 0x16,
  kNvInUse = 0x17,
  kNvInsertDuplicateName = 0x19,
  kNvInsufficientResources = 0x1a,
  kNvInsufficientPermissions = 0x1b,
  kNvInvalidAddress = 0x1e,
  kNvInvalidArgument = 0x1f,
  kNvInvalidClass = 0x22,
  kNvInvalidClient = 0x23,
  kNvInvalidDevice = 0x26,
  kNvInvalidFunction = 0x2a,
  kNvInvalidLimit = 0x2e,
  kNvInvalidObject = 0x31,
  kNvInvalidObjectHandle = 0x33,
  kNvInvalidObjectNew = 0x34,
  kNvInvalidObjectParent = 0x36,
  kNvInvalidParamStruct = 0x3a,
  kNvInvalidState = 0x40,
  kNvNoMemory = 0x51,
  kNvNotSupported = 0x56,
  kNvObjectNotFound = 0x57,
  kNvStateInUse = 0x63,
};

}  // namespace amber::nvproxy
