// /proc/cpuinfo, from the CPUID instruction (arch/x86/kernel/cpu/proc.c).
#include <cpuid.h>
#include <string.h>

#include <string>

#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"

namespace amber {
namespace {

struct Flag {
  uint32_t leaf;
  char reg;  // a, b, c, d
  int bit;
  const char* name;
};

// In Linux's order, for what programs look at (arch/x86/include/asm/cpufeatures.h).
// clang-format off: a table
constexpr Flag kFlags[] = {
    {1, 'd', 0, "fpu"}, {1, 'd', 1, "vme"}, {1, 'd', 2, "de"}, {1, 'd', 3, "pse"}, {1, 'd', 4, "tsc"}, {1, 'd', 5, "msr"},
    {1, 'd', 6, "pae"}, {1, 'd', 7, "mce"}, {1, 'd', 8, "cx8"}, {1, 'd', 9, "apic"}, {1, 'd', 11, "sep"},
    {1, 'd', 12, "mtrr"}, {1, 'd', 13, "pge"}, {1, 'd', 14, "mca"}, {1, 'd', 15, "cmov"}, {1, 'd', 16, "pat"},
    {1, 'd', 17, "pse36"}, {1, 'd', 19, "clflush"}, {1, 'd', 23, "mmx"}, {1, 'd', 24, "fxsr"}, {1, 'd', 25, "sse"},
    {1, 'd', 26, "sse2"}, {1, 'd', 27, "ss"}, {1, 'd', 28, "ht"}, {0x80000001, 'd', 11, "syscall"},
    {0x80000001, 'd', 20, "nx"}, {0x80000001, 'd', 26, "pdpe1gb"}, {0x80000001, 'd', 27, "rdtscp"},
    {0x80000001, 'd', 29, "lm"}, {1, 'c', 0, "pni"}, {1, 'c', 1, "pclmulqdq"}, {1, 'c', 9, "ssse3"}, {1, 'c', 12, "fma"},
    {1, 'c', 13, "cx16"}, {1, 'c', 17, "pcid"}, {1, 'c', 19, "sse4_1"}, {1, 'c', 20, "sse4_2"}, {1, 'c', 21, "x2apic"},
    {1, 'c', 22, "movbe"}, {1, 'c', 23, "popcnt"}, {1, 'c', 25, "aes"}, {1, 'c', 26, "xsave"}, {1, 'c', 28, "avx"},
    {1, 'c', 29, "f16c"}, {1, 'c', 30, "rdrand"}, {1, 'c', 31, "hypervisor"}, {0x80000001, 'c', 0, "lahf_lm"},
    {0x80000001, 'c', 5, "abm"}, {0x80000001, 'c', 6, "sse4a"}, {0x80000001, 'c', 8, "3dnowprefetch"},
    {7, 'b', 0, "fsgsbase"}, {7, 'b', 3, "bmi1"}, {7, 'b', 5, "avx2"}, {7, 'b', 7, "smep"}, {7, 'b', 8, "bmi2"},
    {7, 'b', 9, "erms"}, {7, 'b', 10, "invpcid"}, {7, 'b', 16, "avx512f"}, {7, 'b', 17, "avx512dq"},
    {7, 'b', 18, "rdseed"}, {7, 'b', 19, "adx"}, {7, 'b', 20, "smap"}, {7, 'b', 21, "avx512ifma"},
    {7, 'b', 23, "clflushopt"}, {7, 'b', 24, "clwb"}, {7, 'b', 28, "avx512cd"}, {7, 'b', 29, "sha_ni"},
    {7, 'b', 30, "avx512bw"}, {7, 'b', 31, "avx512vl"}, {7, 'c', 1, "avx512vbmi"}, {7, 'c', 6, "avx512_vbmi2"},
    {7, 'c', 8, "gfni"}, {7, 'c', 9, "vaes"}, {7, 'c', 10, "vpclmulqdq"}, {7, 'c', 11, "avx512_vnni"},
    {7, 'c', 12, "avx512_bitalg"}, {7, 'c', 14, "avx512_vpopcntdq"}, {7, 'c', 22, "rdpid"}, {7, 'd', 4, "fsrm"},
};
// clang-format on

struct Leaf {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  explicit Leaf(uint32_t number) { __get_cpuid_count(number, 0, &a, &b, &c, &d); }
  uint32_t of(char reg) const { return reg == 'a' ? a : reg == 'b' ? b : reg == 'c' ? c : d; }
};

std::string FlagsText() {
  std::string out;
  for (const Flag& f : kFlags) {
    if ((Leaf(f.leaf).of(f.reg) >> f.bit & 1) != 0) out += std::string(out.empty() ? "" : " ") + f.name;
  }
  return out;
}

std::string VendorText() {
  Leaf l(0);
  char name[13] = {};
  memcpy(name, &l.b, 4);
  memcpy(name + 4, &l.d, 4);
  memcpy(name + 8, &l.c, 4);
  return name;
}

std::string ModelName() {
  char name[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    Leaf l(0x80000002 + i);
    memcpy(name + i * 16, &l, 16);
  }
  std::string text = name;
  text.erase(0, text.find_first_not_of(' '));
  return text;
}

}  // namespace

std::string CpuInfoText() {
  Leaf one(1);
  uint32_t family = one.a >> 8 & 0xf;
  uint32_t model = one.a >> 4 & 0xf;
  if (family == 6 || family == 15) model |= (one.a >> 16 & 0xf) << 4;
  if (family == 15) family += one.a >> 20 & 0xff;
  uint32_t size = Leaf(0x80000008).a;
  std::string vendor = VendorText(), name = ModelName(), flags = FlagsText();
  uint32_t cpus = Machine::Get().cpus;
  std::string out;
  for (uint32_t i = 0; i < cpus; ++i) {
    AppendFormat(&out,
                 "processor\t: %u\nvendor_id\t: %s\ncpu family\t: %u\nmodel\t\t: %u\nmodel name\t: %s\nstepping\t: %u\n"
                 "microcode\t: 0x1\ncpu MHz\t\t: %u.000\ncache size\t: %u KB\nphysical id\t: 0\nsiblings\t: %u\n"
                 "core id\t\t: %u\ncpu cores\t: %u\napicid\t\t: %u\ninitial apicid\t: %u\nfpu\t\t: yes\n"
                 "fpu_exception\t: yes\ncpuid level\t: %u\nwp\t\t: yes\n",
                 i, vendor.c_str(), family, model, name.c_str(), one.a & 0xf, Leaf(0x16).a & 0xffff, Leaf(0x80000006).c >> 16, cpus, i, cpus, i, i,
                 Leaf(0).a);
    out += "flags\t\t: " + flags + "\nbugs\t\t:\nbogomips\t: 4000.00\n";
    AppendFormat(&out, "clflush size\t: %u\ncache_alignment\t: %u\naddress sizes\t: %u bits physical, %u bits virtual\npower management:\n\n",
                 (one.b >> 8 & 0xff) * 8, (one.b >> 8 & 0xff) * 8, size & 0xff, size >> 8 & 0xff);
  }
  return out;
}

}  // namespace amber
