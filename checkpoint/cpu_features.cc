#include "checkpoint/cpu_features.h"

#include <cpuid.h>

#include <algorithm>

#include "checkpoint/image.pb.h"

namespace amber::checkpoint {
namespace {

struct Regs {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Regs Cpuid(uint32_t leaf, uint32_t subleaf) {
  Regs r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}

uint64_t Xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

// Bits that programs cannot use, or that say something else than "there is an instruction": privileged features and changing state.
// clang-format off: a table
constexpr std::array<uint32_t, CpuFeatures::kWords> kIgnored = {
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT, SDBG, xTPR, PDCM, PCID, DCA, x2APIC, TSC-deadline, OSXSAVE, hypervisor
    1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 10 | 1u << 11 | 1u << 14 | 1u << 15 | 1u << 17 |
        1u << 18 | 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31,
    // VME, DE, PSE, MSR, PAE, MCE, APIC, MTRR, PGE, MCA, PAT, PSE36, PSN, DS, ACPI, SS, HTT, TM, IA64, PBE
    1u << 1 | 1u << 2 | 1u << 3 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 16 | 1u << 17 |
        1u << 18 | 1u << 21 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29 | 1u << 30 | 1u << 31,
    // TSC_ADJUST, SGX, FDP_EXCPTN, SMEP, PQM, deprecated FCS, MPX, PQE, SMAP, PT
    1u << 1 | 1u << 2 | 1u << 6 | 1u << 7 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 15 | 1u << 20 | 1u << 25,
    // UMIP, PKU and OSPKE (pkey_alloc is refused), TME, LA57, MAWAU, KEY_LOCKER, BUS_LOCK_DETECT, ENQCMD, SGX_LC, PKS
    1u << 2 | 1u << 3 | 1u << 4 | 1u << 7 | 1u << 13 | 1u << 16 | 0x1fu << 17 | 1u << 23 | 1u << 24 | 1u << 29 | 1u << 30 | 1u << 31,
    // All of 7.0 edx but FSRM, AVX512_4VNNIW, AVX512_4FMAPS, VP2INTERSECT, SERIALIZE, TSXLDTRK, AMX, AVX512_FP16
    ~(1u << 2 | 1u << 3 | 1u << 4 | 1u << 8 | 1u << 14 | 1u << 16 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25),
    // 7.1 eax: FRED, LKGS, WRMSRNS, LAM, HRESET and unnamed ones
    ~(1u << 0 | 1u << 1 | 1u << 2 | 1u << 4 | 1u << 5 | 1u << 7 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 21 | 1u << 23),
    // 7.1 edx: only AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, PREFETCHI, AVX10
    ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 14 | 1u << 19),
    // 0xd.1: XSAVES, XFD
    1u << 3 | 1u << 4,
    // 0x80000001 ecx: only LAHF, ABM, SSE4A, misaligned SSE, prefetch, XOP, FMA4, TBM
    ~(1u << 0 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 8 | 1u << 11 | 1u << 16 | 1u << 21),
    // edx: only SYSCALL, MMXEXT, RDTSCP, 3DNow!
    ~(1u << 11 | 1u << 22 | 1u << 27 | 1u << 30 | 1u << 31),
};
// clang-format on

struct Name {
  uint8_t word, bit;
  const char* name;
};

// The ones that people know; others are given by number.
// clang-format off: a table
constexpr Name kNames[] = {
    {0, 0, "sse3"},      {0, 1, "pclmulqdq"}, {0, 9, "ssse3"},     {0, 12, "fma"},       {0, 13, "cx16"},     {0, 19, "sse4_1"},
    {0, 20, "sse4_2"},   {0, 22, "movbe"},    {0, 23, "popcnt"},   {0, 25, "aes"},       {0, 26, "xsave"},    {0, 28, "avx"},
    {0, 29, "f16c"},     {0, 30, "rdrand"},   {2, 0, "fsgsbase"},  {2, 3, "bmi1"},       {2, 4, "hle"},       {2, 5, "avx2"},
    {2, 8, "bmi2"},      {2, 9, "erms"},      {2, 10, "invpcid"},  {2, 11, "rtm"},       {2, 16, "avx512f"},  {2, 17, "avx512dq"},
    {2, 18, "rdseed"},   {2, 19, "adx"},      {2, 21, "avx512ifma"}, {2, 23, "clflushopt"}, {2, 24, "clwb"},  {2, 28, "avx512cd"},
    {2, 29, "sha_ni"},   {2, 30, "avx512bw"}, {2, 31, "avx512vl"}, {3, 1, "avx512vbmi"}, {3, 5, "waitpkg"},   {3, 6, "avx512_vbmi2"},
    {3, 8, "gfni"},      {3, 9, "vaes"},      {3, 10, "vpclmulqdq"}, {3, 11, "avx512_vnni"}, {3, 12, "avx512_bitalg"},
    {3, 14, "avx512_vpopcntdq"}, {3, 22, "rdpid"}, {3, 27, "movdiri"}, {3, 28, "movdir64b"}, {4, 22, "amx_bf16"},
    {4, 23, "avx512_fp16"}, {4, 24, "amx_tile"}, {4, 25, "amx_int8"}, {5, 4, "avx_vnni"}, {5, 5, "avx512_bf16"}, {8, 5, "abm"},
    {8, 6, "sse4a"},     {8, 11, "xop"},      {8, 16, "fma4"},     {9, 27, "rdtscp"},
};
// clang-format on

std::string NameOf(size_t word, size_t bit) {
  for (const Name& n : kNames) {
    if (n.word == word && n.bit == bit) return n.name;
  }
  return "cpuid word " + std::to_string(word) + " bit " + std::to_string(bit);
}

}  // namespace

CpuFeatures CpuFeatures::Here() {
  CpuFeatures f;
  Regs id = Cpuid(0, 0);
  for (uint32_t part : {id.b, id.d, id.c}) f.vendor.append(reinterpret_cast<const char*>(&part), 4);
  Regs one = Cpuid(1, 0), seven = Cpuid(7, 0), seven1 = Cpuid(7, 1), xsave = Cpuid(0xd, 0), xsave1 = Cpuid(0xd, 1), extended = Cpuid(0x80000001, 0);
  if (seven.a < 1) seven1 = {};
  f.words = {one.c, one.d, seven.b, seven.c, seven.d, seven1.a, seven1.d, xsave1.a, extended.c, extended.d};
  if ((one.c & 1u << 27) != 0) {
    f.xfeatures = Xcr0();
    f.xsave_size = xsave.b;
  }
  return f;
}

void CpuFeatures::Save(proto::Cpu* out) const {
  out->set_vendor(vendor);
  for (uint32_t w : words) out->add_words(w);
  out->set_xfeatures(xfeatures);
  out->set_xsave_size(xsave_size);
}

CpuFeatures CpuFeatures::Load(const proto::Cpu& in) {
  CpuFeatures f;
  f.vendor = in.vendor();
  for (int i = 0; i < std::min<int>(in.words_size(), kWords); ++i) f.words[static_cast<size_t>(i)] = in.words(i);
  f.xfeatures = in.xfeatures();
  f.xsave_size = in.xsave_size();
  return f;
}

std::string CpuFeatures::Missing(const CpuFeatures& needed) const {
  std::string missing;
  auto add = [&](const std::string& name) { missing += (missing.empty() ? "" : ", ") + name; };
  for (size_t w = 0; w < kWords; ++w) {
    uint32_t lacking = needed.words[w] & ~words[w] & ~kIgnored[w];
    for (size_t bit = 0; bit < 32; ++bit) {
      if ((lacking >> bit & 1) != 0) add(NameOf(w, bit));
    }
  }
  // Signal frames and saved registers have the layout of the enabled features: bits beyond x87 and SSE must be enabled here.
  if ((needed.xfeatures & ~xfeatures & ~uint64_t{3}) != 0) add("extended states of xcr0");
  return missing;
}

}  // namespace amber::checkpoint
