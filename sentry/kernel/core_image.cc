#include "sentry/kernel/core_image.h"

#include <elf.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/pages.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

// Bits of coredump_filter (core(5)).
constexpr uint32_t kAnonPrivate = 1, kAnonShared = 2, kMappedPrivate = 4, kMappedShared = 8, kElfHeaders = 16;

bool IsElf(Task& task, const Vma& vma) {
  char magic[SELFMAG];
  return task.CopyInBytes(vma.start, magic, sizeof(magic)).ok() && memcmp(magic, ELFMAG, SELFMAG) == 0;
}

// vma_dump_size(). `touched`: it has pages that are not its file's.
uint64_t DumpSize(Task& task, const Vma& vma, uint32_t filter, bool touched) {
  if (vma.name == VmaName::kVdso) return vma.size();
  if (vma.name == VmaName::kVvar || (vma.flags & Vma::kDontDump) != 0) return 0;
  if (vma.shared) {
    const Dentry* dentry = vma.file ? vma.file->dentry() : nullptr;
    bool named = dentry != nullptr && !dentry->negative() && dentry->inode()->links() > 0;
    return (filter & (named ? kMappedShared : kAnonShared)) != 0 ? vma.size() : 0;
  }
  if (touched && (filter & kAnonPrivate) != 0) return vma.size();
  if (!vma.file) return 0;
  if ((filter & kMappedPrivate) != 0) return vma.size();
  if ((filter & kElfHeaders) == 0 || vma.offset != 0 || (vma.prot & PROT_READ) == 0) return 0;
  return IsElf(task, vma) ? kPageSize : 0;
}

void AppendNote(std::string* out, const char* name, uint32_t type, const void* data, size_t size) {
  Elf64_Nhdr header{static_cast<uint32_t>(strlen(name) + 1), static_cast<uint32_t>(size), type};
  out->append(reinterpret_cast<const char*>(&header), sizeof(header));
  auto padded = [&](const void* bytes, size_t n) {
    out->append(static_cast<const char*>(bytes), n);
    out->append(-n % 4, '\0');
  };
  padded(name, header.n_namesz);
  padded(data, size);
}

timeval TimeOf(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond / 1000}; }

// fill_prstatus()
void AppendStatus(const CoreThread& thread, const SigInfo& info, std::string* out) {
  const Task& task = *thread.task;
  const ThreadGroup& group = task.group();
  elf_prstatus s{};
  s.pr_info.si_signo = info.raw.si_signo;
  s.pr_cursig = static_cast<short>(info.raw.si_signo);
  s.pr_sigpend = task.own_pending();
  s.pr_sighold = task.blocked();
  const PidNamespace& pids = group.pids();
  s.pr_pid = pids.IdOf(task);
  s.pr_ppid = group.parent_pid();
  s.pr_pgrp = pids.IdOf(group.process_group());
  s.pr_sid = pids.IdOf(group.session());
  s.pr_utime = TimeOf(task.CpuTime());
  const platform::Registers& r = thread.regs;
  user_regs_struct regs{};
  regs.r15 = r.r15, regs.r14 = r.r14, regs.r13 = r.r13, regs.r12 = r.r12, regs.rbp = r.rbp, regs.rbx = r.rbx;
  regs.r11 = r.r11, regs.r10 = r.r10, regs.r9 = r.r9, regs.r8 = r.r8, regs.rax = r.rax, regs.rcx = r.rcx;
  regs.rdx = r.rdx, regs.rsi = r.rsi, regs.rdi = r.rdi, regs.rip = r.rip, regs.rsp = r.rsp, regs.eflags = r.rflags;
  regs.orig_rax = static_cast<unsigned long long>(thread.orig_rax);
  regs.cs = kUserCs, regs.ss = kUserSs;
  regs.fs_base = thread.fs_base, regs.gs_base = thread.gs_base;
  static_assert(sizeof(regs) == sizeof(s.pr_reg));
  memcpy(&s.pr_reg, &regs, sizeof(regs));
  s.pr_fpvalid = 1;
  AppendNote(out, "CORE", NT_PRSTATUS, &s, sizeof(s));
}

// fill_psinfo()
void AppendProcess(Task& task, std::string* out) {
  const ThreadGroup& group = task.group();
  elf_prpsinfo p{};
  p.pr_sname = 'R';
  p.pr_nice = static_cast<char>(group.nice());
  p.pr_uid = task.creds().uid;
  p.pr_gid = task.creds().gid;
  const PidNamespace& pids = group.pids();
  p.pr_pid = pids.IdOf(group);
  p.pr_ppid = group.parent_pid();
  p.pr_pgrp = pids.IdOf(group.process_group());
  p.pr_sid = pids.IdOf(group.session());
  task.name().copy(p.pr_fname, sizeof(p.pr_fname) - 1);
  const MemoryLayout& layout = task.mm().layout();
  size_t size = std::min<uint64_t>(layout.arg_end - layout.arg_start, sizeof(p.pr_psargs) - 1);
  if (layout.arg_end > layout.arg_start && task.CopyInBytes(layout.arg_start, p.pr_psargs, size).ok()) {
    std::replace(p.pr_psargs, p.pr_psargs + size, '\0', ' ');
  }
  AppendNote(out, "CORE", NT_PRPSINFO, &p, sizeof(p));
}

// fill_files_note()
void AppendFiles(Task& task, std::string* out) {
  std::vector<uint64_t> numbers = {0, kPageSize};
  std::string names;
  for (const auto& [start, vma] : task.mm().vmas()) {
    if (!vma.file) continue;
    ++numbers[0];
    numbers.insert(numbers.end(), {vma.start, vma.end, vma.offset / kPageSize});
    names += vma.file->path() != nullptr && vma.file->dentry() != nullptr ? PathName(*vma.file->path(), task.fs().root()) : vma.file->LinkName();
    names += '\0';
  }
  if (numbers[0] == 0) return;
  std::string data(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(uint64_t));
  data += names;
  AppendNote(out, "CORE", NT_FILE, data.data(), data.size());
}

// NT_FPREGSET and NT_X86_XSTATE from the state as a signal frame has it, whose software bytes tell the features (xstateregs_get()).
void AppendExtended(Task& task, std::string* out) {
  auto held = task.thread()->xstate();
  if (!held.ok() || held->size() < kLegacyXstateSize) return;
  std::vector<uint8_t> state(held->begin(), held->end());
  XstateSoftware software;
  memcpy(&software, &state[kXstateSoftwareOffset], sizeof(software));
  memset(&state[kXstateSoftwareOffset], 0, sizeof(software));
  AppendNote(out, "CORE", NT_FPREGSET, state.data(), kLegacyXstateSize);
  if (software.magic1 != kXstateMagic1 || software.xstate_size > state.size()) return;
  memcpy(&state[kXstateSoftwareOffset], &software.features, sizeof(software.features));
  AppendNote(out, "LINUX", NT_X86_XSTATE, state.data(), software.xstate_size);
}

}  // namespace

std::vector<CoreSegment> CoreSegments(Task& task, uint32_t filter) {
  MemoryManager& mm = task.mm();
  // Without knowledge of pages everything is read; what cannot be is a hole.
  ErrnoOr<std::vector<PageRun>> pages = mm.idle() ? PagesToSave(mm) : ErrnoOr<std::vector<PageRun>>(Errno(EBUSY));
  std::vector<CoreSegment> segments;
  size_t at = 0;
  for (const auto& [start, vma] : mm.vmas()) {
    CoreSegment segment{vma.start, vma.end, 0, vma.prot, {}};
    bool touched = !pages.ok();
    if (pages.ok()) {
      while (at < pages->size() && (*pages)[at].end <= vma.start) ++at;
      for (size_t i = at; i < pages->size() && (*pages)[i].start < vma.end; ++i) {
        touched = true;
        if (vma.anonymous()) segment.runs.push_back({std::max((*pages)[i].start, vma.start), std::min((*pages)[i].end, vma.end)});
      }
    }
    segment.file_size = DumpSize(task, vma, filter, touched);
    if (segment.file_size == 0) {
      segment.runs.clear();
    } else if (!pages.ok() || !vma.anonymous() || vma.name == VmaName::kVdso) {
      segment.runs = {{vma.start, vma.start + segment.file_size}};
    }
    segments.push_back(std::move(segment));
  }
  return segments;
}

std::string CoreNotes(const std::vector<CoreThread>& threads, const SigInfo& info) {
  std::string out;
  for (const CoreThread& thread : threads) {
    AppendStatus(thread, info, &out);
    if (&thread == &threads.front()) {
      AppendProcess(*thread.task, &out);
      AppendNote(&out, "CORE", NT_SIGINFO, &info.raw, sizeof(info.raw));
      const std::vector<uint64_t>& auxv = thread.task->mm().auxv();
      AppendNote(&out, "CORE", NT_AUXV, auxv.data(), auxv.size() * sizeof(uint64_t));
      AppendFiles(*thread.task, &out);
    }
    AppendExtended(*thread.task, &out);
  }
  return out;
}

std::string CoreHeader(const std::vector<CoreSegment>& segments, const std::string& notes) {
  size_t count = segments.size() + 1;
  bool many = count >= PN_XNUM;  // then the number stands in the one section header
  Elf64_Ehdr e{};
  memcpy(e.e_ident, ELFMAG, SELFMAG);
  e.e_ident[EI_CLASS] = ELFCLASS64;
  e.e_ident[EI_DATA] = ELFDATA2LSB;
  e.e_ident[EI_VERSION] = EV_CURRENT;
  e.e_type = ET_CORE;
  e.e_machine = EM_X86_64;
  e.e_version = EV_CURRENT;
  e.e_phoff = sizeof(e);
  e.e_ehsize = sizeof(e);
  e.e_phentsize = sizeof(Elf64_Phdr);
  e.e_phnum = static_cast<uint16_t>(many ? PN_XNUM : count);
  Elf64_Shdr section{};
  uint64_t offset = sizeof(e) + count * sizeof(Elf64_Phdr);
  if (many) {
    e.e_shoff = offset;
    e.e_shentsize = sizeof(section);
    e.e_shnum = 1;
    section.sh_size = 1;
    section.sh_info = static_cast<uint32_t>(count);
    offset += sizeof(section);
  }
  std::string out(reinterpret_cast<const char*>(&e), sizeof(e));
  auto add = [&](const Elf64_Phdr& p) { out.append(reinterpret_cast<const char*>(&p), sizeof(p)); };
  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = offset;
  note.p_filesz = notes.size();
  note.p_align = 4;
  add(note);
  offset = PageUp(offset + notes.size());
  uint64_t data = offset;
  for (const CoreSegment& s : segments) {
    Elf64_Phdr p{};
    p.p_type = PT_LOAD;
    p.p_offset = offset;
    p.p_vaddr = s.start;
    p.p_filesz = s.file_size;
    p.p_memsz = s.end - s.start;
    p.p_flags = ((s.prot & PROT_READ) != 0 ? PF_R : 0u) | ((s.prot & PROT_WRITE) != 0 ? PF_W : 0u) | ((s.prot & PROT_EXEC) != 0 ? PF_X : 0u);
    p.p_align = kPageSize;
    add(p);
    offset += s.file_size;
  }
  if (many) out.append(reinterpret_cast<const char*>(&section), sizeof(section));
  out += notes;
  out.resize(data, '\0');
  return out;
}

}  // namespace amber
