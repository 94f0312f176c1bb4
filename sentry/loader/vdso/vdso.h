// The guest's vDSO as the sentry holds it: the image and the parameter page, each in a memfd that is mapped into every guest.
//
// One per sandbox, made at the first exec or earlier. Guarded by the kernel lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

struct vdso_params;

namespace amber::loader {

// A parameter page.
class VdsoParams {
 public:
  static ErrnoOr<std::unique_ptr<VdsoParams>> Create();
  ~VdsoParams();
  VdsoParams(const VdsoParams&) = delete;
  VdsoParams& operator=(const VdsoParams&) = delete;

  vdso_params& page() { return *page_; }
  void SetOffsets(int64_t monotonic, int64_t boottime);
  // Mapped MAP_SHARED, PROT_READ; sealed, so that a guest can't make it writable.
  int fd() const { return fd_.get(); }

 private:
  VdsoParams() = default;

  UniqueFd fd_;
  vdso_params* page_ = nullptr;
};

class Vdso {
 public:
  // Sizes of the two mappings; the parameter page lies right below the image.
  static constexpr uint64_t kParamsSize = 4096;
  static uint64_t ImageSize();

  // `host_base`: where the host's vDSO lies in every stub (Platform::host_vdso_base()), 0 if nowhere.
  static ErrnoOr<std::unique_ptr<Vdso>> Create(uint64_t host_base);
  Vdso(const Vdso&) = delete;
  Vdso& operator=(const Vdso&) = delete;

  // The clocks of a restored sandbox (Clocks::monotonic_offset, boottime_offset). Guests see it at their next call.
  void SetOffsets(int64_t monotonic, int64_t boottime) { params_->SetOffsets(monotonic, boottime); }
  // A page for programs whose clocks have other offsets.
  ErrnoOr<std::unique_ptr<VdsoParams>> OtherParams(int64_t monotonic, int64_t boottime);

  // Mapped MAP_PRIVATE, PROT_READ | PROT_EXEC.
  int image_fd() const { return image_.get(); }
  int params_fd() const { return params_->fd(); }

 private:
  Vdso() = default;

  UniqueFd image_;
  std::unique_ptr<VdsoParams> params_;
};

// The offset of `symbol` from the start of the vDSO image that is mapped at `image`, 0 if it has none. The image is the host
// kernel's, not a guest's.
uint64_t FindVdsoSymbol(const void* image, std::string_view symbol);

}  // namespace amber::loader
