#include "sentry/loader/elf.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <limits.h>

#include <cerrno>
#include <cstring>
#include <functional>

#include "sentry/loader/host_exec_file.h"
#include "sentry/platform/platform.h"

namespace amber::loader {
namespace {

// A small valid program that tests damage.
struct Draft {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> phdrs;
  std::string tail;  // behind the program headers

  Draft() {
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_phoff = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_entry = 0x1000;
    Add({.p_type = PT_LOAD, .p_flags = PF_R | PF_X, .p_filesz = 0x2000, .p_memsz = 0x2000, .p_align = 0x1000});
    Add({.p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_offset = 0x2100, .p_vaddr = 0x3100, .p_filesz = 0x10, .p_memsz = 0x5000, .p_align = 0x1000});
  }
  void Add(const Elf64_Phdr& p) {
    phdrs.push_back(p);
    header.e_phnum = static_cast<uint16_t>(phdrs.size());
  }
  ErrnoOr<ElfImage> Parse() const {
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    bytes.append(reinterpret_cast<const char*>(phdrs.data()), phdrs.size() * sizeof(Elf64_Phdr));
    BytesExecFile file(bytes + tail);
    return ParseElf(file);
  }
};

TEST(ElfTest, Valid) {
  auto image = Draft().Parse();
  ASSERT_TRUE(image.ok());
  EXPECT_TRUE(image->position_independent);
  EXPECT_EQ(image->loads.size(), 2u);
  EXPECT_EQ(image->low, 0u);
  EXPECT_EQ(image->high, 0x9000u);
  EXPECT_EQ(image->phdr, sizeof(Elf64_Ehdr));
  EXPECT_EQ(image->interpreter, "");
}

TEST(ElfTest, HostileHeaders) {
  struct Case {
    int error;
    std::function<void(Draft&)> damage;
  };
  const Case cases[] = {
      {ENOEXEC, [](Draft& d) { d.header.e_ident[0] = 'x'; }},
      {ENOEXEC, [](Draft& d) { d.header.e_ident[EI_CLASS] = ELFCLASS32; }},
      {ENOEXEC, [](Draft& d) { d.header.e_machine = EM_AARCH64; }},
      {ENOEXEC, [](Draft& d) { d.header.e_type = ET_REL; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phnum = 0; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phnum = 0xffff; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phentsize = 1; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phoff = ~uint64_t{0}; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phoff = INT64_MAX; }},
      {ENOEXEC, [](Draft& d) { d.header.e_phoff = 1 << 30; }},
      {EINVAL, [](Draft& d) { d.phdrs.clear(), d.Add({.p_type = PT_NOTE}); }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_memsz = 0x100; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_memsz = ~uint64_t{0}; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_vaddr = ~uint64_t{0} - 0xfff; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_vaddr = platform::kGuestTop; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_vaddr = platform::kGuestTop - 0x1000; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_offset = ~uint64_t{0} - 0xfff; }},
      {EINVAL, [](Draft& d) { d.phdrs[0].p_offset = INT64_MAX - 0xfff; }},
      {EINVAL, [](Draft& d) { d.phdrs[1].p_offset += 8; }},
      {ENOEXEC, [](Draft& d) { d.Add({.p_type = PT_INTERP, .p_filesz = 1}); }},
      {ENOEXEC, [](Draft& d) { d.Add({.p_type = PT_INTERP, .p_filesz = PATH_MAX + 1}); }},
      {EIO, [](Draft& d) { d.Add({.p_type = PT_INTERP, .p_offset = 1 << 20, .p_filesz = 10}); }},
      {ENOEXEC, [](Draft& d) { d.Add({.p_type = PT_INTERP, .p_offset = ~uint64_t{0}, .p_filesz = 10}); }},
      {ENOEXEC, [](Draft& d) { d.Add({.p_type = PT_INTERP, .p_offset = 0, .p_filesz = 4}); }},  // no NUL at its end
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    Draft draft;
    cases[i].damage(draft);
    auto image = draft.Parse();
    EXPECT_TRUE(image.Is(cases[i].error)) << "case " << i << " gave " << (image.ok() ? 0 : image.error().number());
  }
}

TEST(ElfTest, OddButLegal) {
  Draft d;
  d.phdrs[1].p_align = 3;  // not a power of two: ignored
  EXPECT_TRUE(d.Parse().ok());
  d.phdrs[1].p_align = 1 << 21;
  EXPECT_EQ(d.Parse()->alignment, 1u << 21);
  d.Add({.p_type = PT_LOAD});  // empty segments are skipped
  EXPECT_EQ(d.Parse()->loads.size(), 2u);
  d.Add({.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W | PF_X});
  EXPECT_TRUE(d.Parse()->executable_stack);
}

TEST(ElfTest, Truncated) {
  Draft d;
  std::string header(reinterpret_cast<const char*>(&d.header), sizeof(d.header));
  for (size_t size : {size_t{0}, size_t{4}, size_t{63}, size_t{64}}) {
    BytesExecFile file(header.substr(0, size));
    EXPECT_TRUE(ParseElf(file).Is(ENOEXEC));
  }
}

std::string Padded(std::string line) {
  line.resize(kHeaderBytes, '\0');
  return line;
}

TEST(ScriptTest, Lines) {
  auto parse = [](const std::string& s) { return ParseScript(Padded(s)); };
  EXPECT_EQ(parse("#!/bin/sh\n")->interpreter, "/bin/sh");
  EXPECT_FALSE(parse("#!/bin/sh\n")->has_argument);
  EXPECT_EQ(parse("#! \t/bin/sh  -e  -x \t\nrest")->interpreter, "/bin/sh");
  EXPECT_EQ(parse("#! /bin/sh  -e  -x \t\nrest")->argument, "-e  -x");
  EXPECT_EQ(parse("#!/bin/sh")->interpreter, "/bin/sh");  // ends with the file
  EXPECT_TRUE(parse("#!\n").Is(ENOEXEC));
  EXPECT_TRUE(parse("#!   \n").Is(ENOEXEC));
  EXPECT_TRUE(parse("#!").Is(ENOEXEC));
  EXPECT_TRUE(parse("# /bin/sh\n").Is(ENOEXEC));
  // A name that fills the buffer may be cut off.
  EXPECT_TRUE(ParseScript("#!" + std::string(kHeaderBytes, 'a')).Is(ENOEXEC));
  EXPECT_TRUE(ParseScript("#!" + std::string(kHeaderBytes, ' ')).Is(ENOEXEC));
  EXPECT_EQ(ParseScript("#!/bin/sh " + std::string(kHeaderBytes, 'a'))->argument.size(), kHeaderBytes - 10);
}

}  // namespace
}  // namespace amber::loader
