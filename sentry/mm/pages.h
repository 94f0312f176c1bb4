// Which bytes of an address space a checkpoint must keep, and how a restored one is built.
//
// Kernel lock held, all tasks of the address space stopped, no memory operation under way (MemoryManager::idle()).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/platform/platform.h"

namespace amber {

class Task;

// Guest memory [start, end) whose contents the image must hold.
struct PageRun {
  uint64_t start = 0, end = 0;
  // True: these pages came from the image that the process was restored from, and may not even be present; read them through
  // AddressSpace::Read() like the others (or copy them from that image at `image_offset`).
  bool from_image = false;
  uint64_t image_offset = 0;
};

// The pages of private memory that exist and are not what their file holds: present or swapped anonymous pages, and everything
// that still lies in an image. Shared memory is not listed: its files are saved as files. A page may still turn out to be all
// zeros. In ascending order; neighbouring pages are joined.
ErrnoOr<std::vector<PageRun>> PagesToSave(const MemoryManager& mm);

// Where the image keeps [start, end): page aligned, in ascending order.
struct ImageRun {
  uint64_t start = 0, end = 0;
  uint64_t image_offset = 0;
};

struct RestoreSources {
  int image_fd = -1;                      // stays open until the operations ran
  int vdso_fd = -1, vdso_params_fd = -1;  // loader::SharedVdso()
  uint64_t vdso_size = 0;                 // of the image that this binary has
  // What a file mapping maps: File::Map() with a task of the process, or nobody if that needs none.
  std::function<ErrnoOr<MapSource>(const Vma& vma)> map_file;
};

// The operations that build the memory of `mm` (a loaded tree) in a fresh stub, for platform::ExecPlan::ops. Private memory that
// `runs` names is mapped from the image and marked so in the tree. `copies` gets the runs that cannot be mapped (memory with MADV_WIPEONFORK
// or userfaultfd, which the host refuses on file mappings): the caller writes their bytes afterwards. EINVAL if a run does not lie in private memory.
ErrnoOr<std::vector<platform::StubOp>> RestoreOps(MemoryManager& mm, std::span<const ImageRun> runs, const RestoreSources& sources,
                                                  std::vector<ImageRun>* copies);

}  // namespace amber
