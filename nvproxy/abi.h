// Blocks that user space exchanges with the driver. Each line `struct Name {  // LAYOUT FROM-UNTIL` is compared by the build with the layout of
// that name in tables.txt, for every branch in the range ("prefix": later branches add fields behind). Names are the driver's own; an
// underscore stands for the dot of a nested name.
#pragma once

#include <cstdint>

namespace amber::nvproxy {

struct RmControl {  // NVOS54_PARAMETERS 535-595
  uint32_t hClient;
  uint32_t hObject;
  uint32_t cmd;
  uint32_t flags;
  uint64_t params;
  uint32_t paramsSize;
  uint32_t status;
};

struct RmAlloc {  // NVOS64_PARAMETERS 535-595
  uint32_t hRoot;
  uint32_t hObjectParent;
  uint32_t hObjectNew;
  uint32_t hClass;
  uint64_t pAllocParms;
  uint64_t pRightsRequested;
  uint32_t paramsSize;
  uint32_t flags;
  uint32_t status;
  uint32_t pad;
};

struct RmAllocShort {  // NVOS21_PARAMETERS 535-595
  uint32_t hRoot;
  uint32_t hObjectParent;
  uint32_t hObjectNew;
  uint32_t hClass;
  uint64_t pAllocParms;
  uint32_t paramsSize;
  uint32_t status;
};

struct RmFree {  // NVOS00_PARAMETERS 535-595
  uint32_t hRoot;
  uint32_t hObjectParent;
  uint32_t hObjectOld;
  uint32_t status;
};

// The driver's structure, followed by the descriptor that its Unix frontend adds.
struct RmAllocMemory {  // NVOS02_PARAMETERS 535-595 prefix
  uint32_t hRoot;
  uint32_t hObjectParent;
  uint32_t hObjectNew;
  uint32_t hClass;
  uint32_t flags;
  uint32_t pad0;
  uint64_t pMemory;
  uint64_t limit;
  uint32_t status;
  uint32_t pad1;
  int32_t pad_fd;
  uint32_t pad2;
};
static_assert(sizeof(RmAllocMemory) == 56);

struct RmMapMemory {  // NVOS33_PARAMETERS 535-595 prefix
  uint32_t hClient;
  uint32_t hDevice;
  uint32_t hMemory;
  uint32_t pad0;
  uint64_t offset;
  uint64_t length;
  uint64_t pLinearAddress;
  uint32_t status;
  uint32_t flags;
  int32_t pad_fd;
  uint32_t pad1;
};
static_assert(sizeof(RmMapMemory) == 56);

struct RmUnmapMemory {  // NVOS34_PARAMETERS 535-595
  uint32_t hClient;
  uint32_t hDevice;
  uint32_t hMemory;
  uint32_t pad;
  uint64_t pLinearAddress;
  uint32_t status;
  uint32_t flags;
};

struct RmDup {  // NVOS55_PARAMETERS 535-595
  uint32_t hClient;
  uint32_t hParent;
  uint32_t hObject;
  uint32_t hClientSrc;
  uint32_t hObjectSrc;
  uint32_t flags;
  uint32_t status;
};

struct RmShare {  // NVOS57_PARAMETERS 535-595
  uint32_t hClient;
  uint32_t hObject;
  uint32_t sharePolicy_target;
  uint32_t sharePolicy_accessMask;
  uint16_t sharePolicy_type;
  uint8_t sharePolicy_action;
  uint8_t pad;
  uint32_t status;
};

// The policy alone, as control 0xd04 has it.
struct SharePolicy {  // NV0000_CTRL_CLIENT_SET_INHERITED_SHARE_POLICY_PARAMS 535-595
  uint32_t sharePolicy_target;
  uint32_t sharePolicy_accessMask;
  uint16_t sharePolicy_type;
  uint8_t sharePolicy_action;
  uint8_t pad;
};

struct RmHeap {  // NVOS32_PARAMETERS 535-595
  uint32_t hRoot;
  uint32_t hObjectParent;
  uint32_t function;
  uint32_t hVASpace;
  int16_t ivcHeapNumber;
  uint16_t pad0;
  uint32_t status;
  uint64_t total;
  uint64_t free;
  uint32_t AllocSize_owner;
  uint32_t AllocSize_hMemory;
  uint32_t AllocSize_type;
  uint32_t AllocSize_flags;
  uint32_t AllocSize_attr;
  uint32_t AllocSize_format;
  uint32_t pad1[6];
  uint64_t AllocSize_size;
  uint64_t AllocSize_alignment;
  uint64_t AllocSize_offset;
  uint64_t AllocSize_limit;
  uint64_t AllocSize_address;
  uint64_t AllocSize_rangeBegin;
  uint64_t AllocSize_rangeEnd;
  uint32_t AllocSize_attr2;
  uint32_t pad2[9];
};

struct ContextDma {  // NVOS39_PARAMETERS 535-595
  uint32_t hObjectParent;
  uint32_t hSubDevice;
  uint32_t hObjectNew;
  uint32_t hClass;
  uint32_t flags;
  uint32_t selector;
  uint32_t hMemory;
  uint32_t pad0;
  uint64_t offset;
  uint64_t limit;
  uint32_t status;
  uint32_t pad1;
};

struct IdleChannels {  // NVOS30_PARAMETERS 535-595
  uint32_t hClient;
  uint32_t hDevice;
  uint32_t hChannel;
  uint32_t numChannels;
  uint64_t phClients;
  uint64_t phDevices;
  uint64_t phChannels;
  uint32_t flags;
  uint32_t timeout;
  uint32_t status;
  uint32_t pad;
};

struct DeviceParams {  // NV0080_ALLOC_PARAMETERS 535-595 prefix
  uint32_t deviceId;
  uint32_t hClientShare;
  uint32_t hTargetClient;
  uint32_t hTargetDevice;
  uint32_t flags;
};

struct EventParams {  // NV0005_ALLOC_PARAMETERS 535-595
  uint32_t hParentClient;
  uint32_t hSrcResource;
  uint32_t hClass;
  uint32_t notifyIndex;
  uint64_t data;
};

struct MemoryParams {  // NV_MEMORY_ALLOCATION_PARAMS 535-595 prefix
  uint32_t owner;
  uint32_t type;
  uint32_t flags;
  uint32_t width;
  uint32_t height;
  int32_t pitch;
  uint32_t attr;
  uint32_t attr2;
  uint32_t format;
  uint32_t comprCovg;
  uint32_t zcullCovg;
  uint32_t pad0;
  uint64_t rangeLo;
  uint64_t rangeHi;
  uint64_t size;
  uint64_t alignment;
  uint64_t offset;
  uint64_t limit;
  uint64_t address;
  uint32_t ctagOffset;
  uint32_t hVASpace;
};

struct UvmInitialize {  // UVM_INITIALIZE_PARAMS 535-595
  uint64_t flags;
  uint32_t rmStatus;
  uint32_t pad;
};

struct UvmRange {  // UVM_CREATE_EXTERNAL_RANGE_PARAMS 535-595
  uint64_t base;
  uint64_t length;
  uint32_t rmStatus;
  uint32_t pad;
};

struct UvmUnmapExternal {  // UVM_UNMAP_EXTERNAL_PARAMS 535-595
  uint64_t base;
  uint64_t length;
  uint8_t gpuUuid[16];
  uint32_t rmStatus;
  uint32_t pad;
};

struct GpuIdInfo {  // NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS 535-595
  uint32_t gpuId;
  uint32_t gpuFlags;
  uint32_t deviceInstance;
  uint32_t subDeviceInstance;
  uint32_t sliStatus;
  uint32_t boardId;
  uint32_t gpuInstance;
  int32_t numaId;
};

struct GpuUuidInfo {  // NV0000_CTRL_GPU_GET_UUID_FROM_GPU_ID_PARAMS 535-595
  uint32_t gpuId;
  uint32_t flags;
  uint8_t gpuUuid[256];
  uint32_t uuidStrLen;
};

struct GpuPids {  // NV2080_CTRL_GPU_GET_PIDS_PARAMS 535-595
  uint32_t idType;
  uint32_t id;
  uint32_t pidTblCount;
  uint32_t pidTbl[950];
};

// The frontend's own structures, which no table has: sizes from nv-ioctl.h.
struct CardInfo {
  uint8_t valid;
  uint8_t pad0[3];
  uint32_t domain;
  uint8_t bus, slot, function, pad1;
  uint16_t vendor, device;
  uint32_t gpu_id;
  uint16_t irq;
  uint16_t pad2;
  uint64_t reg_address, reg_size, fb_address, fb_size;
  uint32_t minor;
  uint8_t name[10];
  uint8_t pad3[2];
};
static_assert(sizeof(CardInfo) == 72);

struct OsEvent {
  uint32_t hClient, hDevice;
  int32_t fd;
  uint32_t status;
};
static_assert(sizeof(OsEvent) == 16);

struct VersionCheck {
  uint32_t cmd, reply;
  char text[64];
};
static_assert(sizeof(VersionCheck) == 72);

}  // namespace amber::nvproxy
