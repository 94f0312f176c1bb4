// Any bytes as a filter: what is accepted must run to a return, whatever the call.
#include <cstring>

#include "sentry/kernel/seccomp_program.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  seccomp_data data{};
  if (size < sizeof(data)) return 0;
  memcpy(&data, bytes, sizeof(data));
  std::vector<sock_filter> program((size - sizeof(data)) / sizeof(sock_filter));
  if (!program.empty()) memcpy(program.data(), bytes + sizeof(data), program.size() * sizeof(sock_filter));
  if (amber::CheckSeccompProgram(program).ok()) (void)amber::RunSeccompProgram(program, data);
  return 0;
}
