#include "sentry/loader/elf.h"

#include <elf.h>
#include <limits.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "sentry/mm/vma.h"
#include "sentry/platform/platform.h"

namespace amber::loader {

namespace {

using platform::kGuestTop;

// Linux refuses more than 64 KiB of program headers (load_elf_phdrs).
constexpr size_t kMaxPhdrBytes = 65536;

ErrnoOr<void> ReadFully(ExecFile& file, void* data, size_t size, uint64_t offset, int short_error) {
  size_t done = 0;
  while (done < size) {
    size_t n = TRY(file.ReadAt(static_cast<char*>(data) + done, size - done, offset + done));
    if (n == 0) return Errno(short_error);
    done += n;
  }
  return Ok();
}

bool IsProgram(const Elf64_Ehdr& h) {
  return memcmp(h.e_ident, ELFMAG, SELFMAG) == 0 && h.e_ident[EI_CLASS] == ELFCLASS64 && (h.e_type == ET_EXEC || h.e_type == ET_DYN) &&
         h.e_machine == EM_X86_64 && h.e_phentsize == sizeof(Elf64_Phdr) && h.e_phnum > 0 && h.e_phnum * sizeof(Elf64_Phdr) <= kMaxPhdrBytes &&
         h.e_phoff <= INT64_MAX - kMaxPhdrBytes;
}

ErrnoOr<std::string> ReadInterpreter(ExecFile& file, const Elf64_Phdr& p) {
  if (p.p_filesz > PATH_MAX || p.p_filesz < 2 || p.p_offset > INT64_MAX - PATH_MAX) return Errno(ENOEXEC);
  std::string path(p.p_filesz, '\0');
  TRY(ReadFully(file, path.data(), path.size(), p.p_offset, EIO));
  if (path.back() != '\0') return Errno(ENOEXEC);
  path.resize(strlen(path.c_str()));
  if (path.empty()) return Errno(ENOENT);  // what opening "" gives
  return path;
}

ErrnoOr<ElfSegment> CheckLoad(const Elf64_Phdr& p) {
  if (p.p_filesz > p.p_memsz || p.p_memsz > kGuestTop || p.p_vaddr > kGuestTop - p.p_memsz) return Errno(EINVAL);
  if (p.p_offset > INT64_MAX - p.p_filesz - kPageSize) return Errno(EINVAL);
  if (p.p_filesz > 0 && p.p_vaddr % kPageSize != p.p_offset % kPageSize) return Errno(EINVAL);
  int prot = ((p.p_flags & PF_R) != 0 ? PROT_READ : 0) | ((p.p_flags & PF_W) != 0 ? PROT_WRITE : 0) | ((p.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
  return ElfSegment{p.p_vaddr, p.p_offset, p.p_filesz, p.p_memsz, prot};
}

}  // namespace

uint64_t ElfSegment::page_start() const { return PageDown(vaddr); }
uint64_t ElfSegment::page_end() const { return PageUp(vaddr + memsz); }

ErrnoOr<ElfImage> ParseElf(ExecFile& file) {
  Elf64_Ehdr header;
  TRY(ReadFully(file, &header, sizeof(header), 0, ENOEXEC));
  if (!IsProgram(header)) return Errno(ENOEXEC);
  std::vector<Elf64_Phdr> phdrs(header.e_phnum);
  TRY(ReadFully(file, phdrs.data(), phdrs.size() * sizeof(Elf64_Phdr), header.e_phoff, ENOEXEC));

  ElfImage image;
  image.position_independent = header.e_type == ET_DYN;
  image.entry = header.e_entry;
  image.phnum = header.e_phnum;
  image.alignment = kPageSize;
  image.low = UINT64_MAX;
  bool seen_interpreter = false;
  for (const Elf64_Phdr& p : phdrs) {
    if (p.p_type == PT_INTERP && !seen_interpreter) {
      image.interpreter = TRY(ReadInterpreter(file, p));
      seen_interpreter = true;
    } else if (p.p_type == PT_GNU_STACK) {
      image.executable_stack = (p.p_flags & PF_X) != 0;
    } else if (p.p_type == PT_LOAD) {
      ElfSegment segment = TRY(CheckLoad(p));
      if (segment.memsz == 0) continue;
      image.low = std::min(image.low, segment.page_start());
      image.high = std::max(image.high, segment.page_end());
      if (std::has_single_bit(p.p_align)) image.alignment = std::max<uint64_t>(image.alignment, p.p_align);
      if (p.p_offset <= header.e_phoff && header.e_phoff - p.p_offset < p.p_filesz) {
        image.phdr = header.e_phoff - p.p_offset + p.p_vaddr;
      }
      image.loads.push_back(segment);
    }
  }
  if (image.loads.empty()) return Errno(EINVAL);
  if (image.high > kGuestTop || image.alignment > kGuestTop) return Errno(EINVAL);
  return image;
}

// fs/binfmt_script.c. Blanks are spaces and tabs; a NUL ends a name as well.
ErrnoOr<Script> ParseScript(std::string_view head) {
  head = head.substr(0, kHeaderBytes);
  if (!head.starts_with("#!")) return Errno(ENOEXEC);
  std::string_view line = head.substr(2);
  size_t newline = line.find('\n');
  auto skip_blanks = [](std::string_view s) {
    size_t at = s.find_first_not_of(" \t");
    return at == std::string_view::npos ? std::string_view() : s.substr(at);
  };
  constexpr std::string_view kTerminators(" \t\0", 3);
  if (newline == std::string_view::npos) {
    // The line is cut off; that may cost the argument's end, but not the interpreter's.
    std::string_view name = skip_blanks(line);
    if (name.empty() || name.find_first_of(kTerminators) == std::string_view::npos) return Errno(ENOEXEC);
  } else {
    line = line.substr(0, newline);
  }
  while (!line.empty() && (line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
  line = skip_blanks(line);
  size_t end = line.find_first_of(kTerminators);
  Script script;
  script.interpreter = std::string(line.substr(0, end));
  if (script.interpreter.empty()) return Errno(ENOEXEC);
  if (end != std::string_view::npos && line[end] != '\0') {
    std::string_view argument = skip_blanks(line.substr(end));
    argument = argument.substr(0, argument.find('\0'));
    script.has_argument = !argument.empty();
    script.argument = std::string(argument);
  }
  return script;
}

}  // namespace amber::loader
