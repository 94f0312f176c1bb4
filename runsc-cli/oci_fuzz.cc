// Feeds arbitrary bytes to the readers of OCI JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "runsc-cli/gpu_request.h"
#include "runsc-cli/oci.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto bundle = amber::cli::ParseConfig(text, "/bundle"); bundle.ok()) (void)amber::cli::ReadGpuRequest(*bundle);
  (void)amber::cli::GpuDriverMounts(text);
  (void)amber::cli::ParseProcess(text);
  (void)amber::cli::ParseResources(text);
  return 0;
}
