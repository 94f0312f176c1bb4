// Flags that say what containers' file systems may do: how much an overlay keeps in memory, and which special files of the host are passed through.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace amber::cli {

// --overlay=memory,size=2g,nr_inodes=100k
struct OverlayFlag {
  std::string kind;                // "", "none" or "memory"
  uint64_t bytes = 0, inodes = 0;  // 0: no word of it
};
absl::StatusOr<OverlayFlag> ParseOverlay(std::string_view text);

// What containers may do with special files of the host in bind mounts, and with its sockets in the root as well; by default nothing. The words are gVisor's.
struct HostFiles {
  bool fifos = false;                  // --host-fifo=open
  bool connect = false, bind = false;  // --host-uds=open, create, all
};
absl::Status ParseHostFifo(std::string_view text, HostFiles* files);
absl::Status ParseHostUds(std::string_view text, HostFiles* files);

// The annotations org.amber.overlay.size and .nr_inodes become plain numbers: those of the flag, or else what they said.
absl::Status SetOverlayLimits(const OverlayFlag& flag, std::map<std::string, std::string>* annotations);

// "64k", "2g", "2GiB", "100": a positive number below 2^55; 0 if it is none.
uint64_t ParseAmount(std::string_view text);

}  // namespace amber::cli
