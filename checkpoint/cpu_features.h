// What the processor offers to guest programs, and whether another one offers it, too.
//
// Guest code executes cpuid natively and keeps what it learned (glibc chooses its memcpy once), so a restored program may use any instruction
// that the machine of the checkpoint had. A value; no threads.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace amber::checkpoint {

namespace proto {
class Cpu;
}

struct CpuFeatures {
  // cpuid 1 ecx, edx; 7.0 ebx, ecx, edx; 7.1 eax, edx; 0xd.1 eax; 0x80000001 ecx, edx.
  static constexpr size_t kWords = 10;

  std::string vendor;
  std::array<uint32_t, kWords> words{};
  uint64_t xfeatures = 0;
  uint32_t xsave_size = 0;

  static CpuFeatures Here();
  void Save(proto::Cpu* out) const;
  static CpuFeatures Load(const proto::Cpu& in);
  // What `needed` has and this lacks, by name, or "".
  std::string Missing(const CpuFeatures& needed) const;
};

}  // namespace amber::checkpoint
