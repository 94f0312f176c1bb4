// Feeds arbitrary bytes to the readers of OCI JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "runsc-cli/oci.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)amber::cli::ParseConfig(text, "/bundle");
  (void)amber::cli::ParseProcess(text);
  (void)amber::cli::ParseResources(text);
  return 0;
}
