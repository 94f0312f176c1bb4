// The NVIDIA driver of this machine.
//
// The command line finds the device nodes and the texts below /proc/driver/nvidia, which a confined sentry does not see; the nodes come as O_PATH
// descriptors and are opened anew through /proc/self/fd for each guest open, since the driver keeps its state per open file. Needs what
// host_rules.h lists and Landlock's leave for those nodes. Never run on a real card so far: docs/gpu says what to look at first.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nvproxy/host.h"

namespace amber::nvproxy {

struct RealNode {
  Node node;
  int path = -1;  // O_PATH; stays open for as long as the driver
};

struct RealConfig {
  std::vector<RealNode> nodes;
  std::map<std::string, std::string> info;  // by path below /proc/driver/nvidia
};

class RealDriver final : public HostDriver {
 public:
  explicit RealDriver(RealConfig config) : config_(std::move(config)) {}

  std::string Version() override;
  ErrnoOr<std::string> ReadInfo(const std::string& path) override;
  ErrnoOr<HostFile> Open(const Node& node, int access) override;
  int Ioctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) override;
  ErrnoOr<HostMapping> Map(HostFile file, uint64_t offset, uint64_t length, int prot) override;
  uint32_t Poll(HostFile file) override;
  int WaitFd(HostFile file) override { return file; }
  void SetReadyCallback(HostFile, std::function<void()>) override {}
  void Close(HostFile file) override;
  ErrnoOr<uint64_t> Alias(std::span<const MemoryPiece> pieces) override { return MapAlias(pieces); }
  void DropAlias(uint64_t address, uint64_t size) override { UnmapAlias(address, size); }

 private:
  const RealConfig config_;
};

}  // namespace amber::nvproxy
