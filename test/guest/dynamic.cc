// A dynamically linked program: the loader's work, shared libraries in memory, loading at run time.
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <math.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

char text[1 << 18];

int constructed = 0;
[[gnu::constructor]] void Construct() { constructed = 42; }

thread_local int local = 5;

}  // namespace

GUEST_TEST(Dynamic, LoaderIsMapped) {
  EXPECT_NE(getauxval(AT_BASE), 0);
  ReadFile("/proc/self/maps", text, sizeof(text));
  EXPECT_NE(strstr(text, "libc.so.6"), nullptr);
  EXPECT_NE(strstr(text, "ld-linux-x86-64.so.2"), nullptr);
  const auto* header = reinterpret_cast<const unsigned char*>(getauxval(AT_BASE));
  EXPECT_EQ(memcmp(header, ELFMAG, SELFMAG), 0);
}

GUEST_TEST(Dynamic, ConstructorsHaveRun) { EXPECT_EQ(constructed, 42); }

GUEST_TEST(Dynamic, EntryAndHeadersAreMine) {
  EXPECT_NE(getauxval(AT_ENTRY), 0);
  int count = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        if (info->dlpi_addr + info->dlpi_phdr[0].p_vaddr != 0) ++*static_cast<int*>(data);
        return 0;
      },
      &count);
  EXPECT_GE(count, 3);  // Program, libc, loader; the vdso besides.
}

GUEST_TEST(Dynamic, LoadsALibraryAtRunTime) {
  void* library = dlopen("libm.so.6", RTLD_NOW);
  ASSERT_NE(library, nullptr);
  auto* cosine = reinterpret_cast<double (*)(double)>(dlsym(library, "cos"));
  ASSERT_NE(cosine, nullptr);
  CheckpointHere();
  EXPECT_EQ(cosine(0.0) == 1.0, true);
  EXPECT_EQ(dlopen("libdoes-not-exist.so.9", RTLD_NOW), nullptr);
  EXPECT_EQ(dlclose(library), 0);
}

GUEST_TEST(Dynamic, ThreadLocalStorage) {
  local = 1;
  Thread other([] {
    EXPECT_EQ(local, 5);
    local = 6;
  });
  other.Join();
  CheckpointHere();
  EXPECT_EQ(local, 1);
}

GUEST_TEST(Dynamic, HeapOfEverySize) {
  void* blocks[64];
  for (int i = 0; i < 64; ++i) {
    const size_t size = 1UL << (i % 22);
    blocks[i] = malloc(size);
    ASSERT_NE(blocks[i], nullptr);
    memset(blocks[i], i, size);
  }
  CheckpointHere();
  for (int i = 0; i < 64; ++i) {
    const size_t size = 1UL << (i % 22);
    EXPECT_EQ(static_cast<char*>(blocks[i])[size - 1], i);
    free(blocks[i]);
  }
}

GUEST_TEST(Dynamic, ExecutesAnotherDynamicProgram) {
  Pipe p;
  const pid_t pid = Fork([&] {
    dup2(p.w, 1);
    execl("/bin/sh", "sh", "-c", "echo $((6 * 7))", nullptr);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
  char answer[8] = {};
  EXPECT_EQ(read(p.r, answer, 8), 3);
  EXPECT_STREQ(answer, "42\n");
}

GUEST_HELPER(Preload) {
  EXPECT_EQ(getauxval(AT_SECURE), 0);
  ExitWithVerdict();
}

GUEST_TEST(Dynamic, LoaderAsProgram) {
  ReadFile("/proc/self/maps", text, sizeof(text));
  JOIN_OK(Fork([] {
    execl("/lib64/ld-linux-x86-64.so.2", "ld.so", SelfPath(), "@Preload", nullptr);
    _exit(120);
  }));
}

GUEST_TEST(Dynamic, PositionsAreRandom) {
  // Two runs put the heap's library somewhere else (unless randomisation is off).
  char setting[8] = {};
  ReadFile("/proc/sys/kernel/randomize_va_space", setting, sizeof(setting));
  if (setting[0] == '0') Skip("address randomisation is off");
  unsigned long bases[4] = {};
  for (unsigned long& base : bases) {
    Pipe p;
    JOIN_OK(Fork([&] {
      dup2(p.w, 1);
      execl(SelfPath(), SelfPath(), "@ShowBase", nullptr);
    }));
    EXPECT_EQ(read(p.r, &base, sizeof(base)), sizeof(base));
  }
  EXPECT(bases[0] != bases[1] || bases[1] != bases[2] || bases[2] != bases[3]);
}

GUEST_HELPER(ShowBase) {
  const unsigned long base = getauxval(AT_BASE);
  MUST(write(1, &base, sizeof(base)));
  return 0;
}

GUEST_TEST(Dynamic, VdsoHasItsFunctions) {
  const auto base = getauxval(AT_SYSINFO_EHDR);
  ASSERT_NE(base, 0);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  EXPECT_EQ(header->e_machine, EM_X86_64);
  EXPECT_EQ(header->e_type, ET_DYN);
  void* vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(vdso, nullptr);
  for (const char* name : {"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu", "__vdso_clock_getres"}) {
    if (dlsym(vdso, name) == nullptr) Fail(__FILE__, __LINE__, false, "the vdso has no %s", name);
  }
}
