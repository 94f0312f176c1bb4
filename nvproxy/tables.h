// What the driver accepts and the proxy lets through, per driver branch: the shape of the tables that tools/nvproxy_tables.py writes from
// tables.txt, whose head explains the columns. Constant data; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace amber::nvproxy {

// How an entry is treated. One list for all sections; a handler is found by it.
// clang-format off
enum class Kind : uint8_t {
  kSimple,
  kOpaque,  // a blob of unknown meaning: let through only in permissive mode
  // frontend
  kAllocMemory, kFree, kControl, kAlloc, kDup, kShare, kIdleChannels, kHeap, kMapMemory, kUnmapMemory, kContextDma, kCardInfo,
  kRegisterFd, kOsEvent, kFreeOsEvent, kVersion, kAttachGpus, kSysParams, kRefuse, kDmabuf, kWaitOpen,
  // UVM
  kInitialize, kDeinitialize, kMmInitialize, kRegisterGpu, kRegisterVaspace, kRegisterChannel, kMapExternal, kUnmapExternal,
  kSemaphorePool, kCreateExternal,
  // controls
  kBuildVersion, kP2pCaps, kIdInfo, kInfoList, kU32List, kCapsTable, kChannelList, kMulticastAttach, kRegOps, kDisableChannels,
  kRegisterVaSpace, kReadMemory, kExportObject, kImportObject, kExportInfo, kExportObjects, kImportObjects, kInheritedShare,
  kAttachedIds, kProbedIds, kAttachIds, kDetachIds, kDeviceIds, kActiveIds, kFbInfoV2, kFbInfo, kGpuPids, kGpuPidInfo,
  kBoostGroups, kPerfmonSamples, kScheduling,
  // classes
  kRoot, kDevice, kMemorySystem, kMemoryLocal, kMemoryVirtual, kEvent, kFabric, kMulticast, kDebugger, kImexSession,
};
// clang-format on

// What an object is to those that hang under it.
// clang-format off
enum class Category : uint8_t { kOther, kClient, kDevice, kSubdevice, kChannel, kGroup, kVaspace, kShare, kMemory };
// clang-format on

// clang-format off
enum class ParamRule : uint8_t { kRequired, kOptional, kNone };
// clang-format on

// clang-format off
enum class Role : uint8_t { kClient, kObject, kNew, kGpu, kUuid, kPointer, kFd, kDepends };
// clang-format on

struct Field {
  Role role;
  uint16_t offset;
  uint16_t count;  // of 32-bit words, for handles and GPU ids
};

inline constexpr uint32_t kUnknownSize = ~uint32_t{0};
inline constexpr uint16_t kNoStatus = 0xffff;

// Bits of Entry::caps, and of what a sandbox may use.
// clang-format off
enum Capability : uint8_t { kCompute = 1, kUtility = 2, kGraphics = 4, kVideo = 8, kProfiling = 16, kRdma = 32, kImex = 64 };
// clang-format on
// Bits of Entry::node.
// clang-format off
enum NodeBit : uint8_t { kOnControl = 1, kOnGpu = 2 };
// clang-format on
// Bits of Entry::parents.
// clang-format off
enum Parent : uint8_t { kUnderRoot = 1, kUnderClient = 2, kUnderDevice = 4, kUnderSubdevice = 8, kUnderChannel = 16, kUnderGroup = 32,
                        kUnderAny = 64 };
// clang-format on

struct Entry {
  uint32_t number;
  uint32_t size;    // bytes, kUnknownSize if only the driver knows
  uint16_t status;  // offset of the NvStatus, kNoStatus if there is none
  uint16_t first_field;
  uint8_t field_count;
  Kind kind;
  uint8_t caps, node, parents;
  Category category;
  ParamRule params;
  const char* name;
};

struct Branch {
  uint32_t number;                                          // 580
  std::span<const Entry> frontend, uvm, controls, classes;  // by number
};
struct Version {
  std::string_view text;  // "580.159.04", known to work
  uint32_t branch;
};
struct Named {
  uint32_t number;
  const char* name;
};
struct Legacy {
  uint32_t command, size;
  uint32_t since;  // branch
};

std::span<const Branch> AllBranches();
std::span<const Version> AllVersions();
// Ioctls that exist and are refused by name.
std::span<const Named> RefusedFrontend();
// Recorded commands that go to the firmware as they are.
std::span<const Legacy> LegacyCommands();
std::span<const Field> FieldsOf(const Entry& entry);

const Branch* FindBranch(uint32_t number);
// The entry with `number` in one section of a branch; null if there is none.
const Entry* FindEntry(std::span<const Entry> section, uint32_t number);

// The tables for a driver that calls itself `version`. With `allow_other`, a version that is not known to work gets those of its branch.
// On failure null, and why in `error`.
const Branch* BranchForVersion(std::string_view version, bool allow_other, std::string_view* error);

}  // namespace amber::nvproxy
