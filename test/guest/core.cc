// Core files: core(5), elf(5), madvise(2) MADV_DONTDUMP, prctl(2) PR_SET_DUMPABLE.
#include <elf.h>
#include <sys/prctl.h>
#include <sys/procfs.h>
#include <sys/resource.h>
#include <sys/user.h>

#include "test/harness/guest_util.h"

namespace guest {
namespace {

// Ends the test where core files do not simply go to the working directory.
void NeedPlainCores() {
  char pattern[256];
  ReadFile("/proc/sys/kernel/core_pattern", pattern, sizeof(pattern));
  if (strcmp(pattern, "core\n") != 0) Skip("core_pattern is not plain");
}

void AllowCores(rlim_t size = RLIM_INFINITY) {
  const rlimit limit = {size, RLIM_INFINITY};
  MUST(setrlimit(RLIMIT_CORE, &limit));
}

Str CoreOf(const TempDir& dir, pid_t pid) {
  char uses_pid[8];
  ReadFile("/proc/sys/kernel/core_uses_pid", uses_pid, sizeof(uses_pid));
  return uses_pid[0] == '1' ? Str("%s/core.%d", dir.path(), pid) : Str("%s/core", dir.path());
}

// A core file, mapped.
class Core {
 public:
  explicit Core(const char* path) {
    const int fd = MUST(open(path, O_RDONLY));
    struct stat st;
    MUST(fstat(fd, &st));
    size_ = static_cast<size_t>(st.st_size);
    data_ = static_cast<const char*>(MUST(mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0)));
    close(fd);
    ASSERT_GE(size_, sizeof(Elf64_Ehdr));
    ASSERT(memcmp(data_, ELFMAG, SELFMAG) == 0);
    EXPECT_EQ(header().e_type, ET_CORE);
    EXPECT_EQ(header().e_machine, EM_X86_64);
  }
  ~Core() { munmap(const_cast<char*>(data_), size_); }
  const Elf64_Ehdr& header() const { return *reinterpret_cast<const Elf64_Ehdr*>(data_); }
  const Elf64_Phdr& segment(int i) const { return reinterpret_cast<const Elf64_Phdr*>(data_ + header().e_phoff)[i]; }
  // The segment with this address, or null.
  const Elf64_Phdr* SegmentOf(const void* address) const {
    const auto a = reinterpret_cast<uint64_t>(address);
    for (int i = 0; i < header().e_phnum; ++i) {
      const Elf64_Phdr& p = segment(i);
      if (p.p_type == PT_LOAD && p.p_vaddr <= a && a < p.p_vaddr + p.p_memsz) return &p;
    }
    return nullptr;
  }
  // The bytes that were at this address, or null.
  const char* At(const void* address) const {
    const Elf64_Phdr* p = SegmentOf(address);
    if (p == nullptr) return nullptr;
    const uint64_t offset = reinterpret_cast<uint64_t>(address) - p->p_vaddr;
    return offset < p->p_filesz && p->p_offset + offset < size_ ? data_ + p->p_offset + offset : nullptr;
  }
  // The index-th note of a type; its size in *size.
  const void* Note(uint32_t type, int index, size_t* size) const {
    for (int i = 0; i < header().e_phnum; ++i) {
      if (segment(i).p_type != PT_NOTE) continue;
      const char* p = data_ + segment(i).p_offset;
      const char* end = p + segment(i).p_filesz;
      while (p < end) {
        const auto* note = reinterpret_cast<const Elf64_Nhdr*>(p);
        const char* body = p + sizeof(*note) + (note->n_namesz + 3) / 4 * 4;
        if (note->n_type == type && index-- == 0) {
          *size = note->n_descsz;
          return body;
        }
        p = body + (note->n_descsz + 3) / 4 * 4;
      }
    }
    return nullptr;
  }
  template <typename T>
  const T* NoteAs(uint32_t type, int index = 0) const {
    size_t size = 0;
    const void* note = Note(type, index, &size);
    return note != nullptr && size >= sizeof(T) ? static_cast<const T*>(note) : nullptr;
  }
  size_t size() const { return size_; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

struct Marks {
  pid_t pid;
  pid_t thread;
  const char* plain;
  const char* hidden;
  const char* untouched;
};

// Waits for a child that must have left a core file.
int DumpStatus(pid_t pid, int signo) {
  const int status = WaitStatus(pid);
  EXPECT_KILLED(status, signo);
  return status;
}

GUEST_TEST(Core, HoldsMemoryAndRegisters) {
  NeedPlainCores();
  TempDir dir;
  Marks* marks = Shared<Marks>();
  const pid_t pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    char* plain = Pages(3);
    strcpy(plain + kPage, "in the core");
    char* hidden = Pages(2);
    strcpy(hidden, "not in the core");
    MUST(madvise(hidden, 2 * kPage, MADV_DONTDUMP));
    *marks = {getpid(), 0, plain, hidden, Pages(64)};
    *reinterpret_cast<volatile char*>(0x1230) = 1;
  });
  EXPECT(WCOREDUMP(DumpStatus(pid, SIGSEGV)));
  const Core core(CoreOf(dir, pid));
  const char* at = core.At(marks->plain + kPage);
  ASSERT_NE(at, nullptr);
  EXPECT_STREQ(at, "in the core");
  EXPECT_EQ(*core.At(marks->plain), 0);
  EXPECT_EQ(core.At(marks->hidden), nullptr);
  ASSERT_NE(core.SegmentOf(marks->hidden), nullptr);
  EXPECT_EQ(core.SegmentOf(marks->hidden)->p_flags, PF_R | PF_W);

  const auto* status = core.NoteAs<elf_prstatus>(NT_PRSTATUS);
  ASSERT_NE(status, nullptr);
  EXPECT_EQ(status->pr_cursig, SIGSEGV);
  EXPECT_EQ(status->pr_pid, pid);
  EXPECT_EQ(status->pr_ppid, getpid());
  const auto* regs = reinterpret_cast<const user_regs_struct*>(&status->pr_reg);
  EXPECT_EQ(static_cast<int64_t>(regs->orig_rax), -1);
  // The instruction pointer lies in this program, and the stack pointer in a stack that was saved.
  ASSERT_NE(core.SegmentOf(reinterpret_cast<void*>(regs->rip)), nullptr);
  EXPECT((core.SegmentOf(reinterpret_cast<void*>(regs->rip))->p_flags & PF_X) != 0);
  EXPECT_NE(core.At(reinterpret_cast<void*>(regs->rsp)), nullptr);
  const auto* process = core.NoteAs<elf_prpsinfo>(NT_PRPSINFO);
  ASSERT_NE(process, nullptr);
  EXPECT_EQ(process->pr_pid, pid);
  EXPECT_STREQ(process->pr_fname, "core");
  const auto* info = core.NoteAs<siginfo_t>(NT_SIGINFO);
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->si_signo, SIGSEGV);
  EXPECT_EQ(info->si_code, SEGV_MAPERR);
  EXPECT_EQ(info->si_addr, reinterpret_cast<void*>(0x1230));
  EXPECT_NE(core.NoteAs<Elf64_auxv_t>(NT_AUXV), nullptr);
  EXPECT_NE(core.NoteAs<user_fpregs_struct>(NT_FPREGSET), nullptr);
  size_t xstate_size = 0;
  ASSERT_NE(core.Note(NT_X86_XSTATE, 0, &xstate_size), nullptr);
  EXPECT_GE(xstate_size, 576);
  size_t files_size = 0;
  const auto* files = static_cast<const uint64_t*>(core.Note(NT_FILE, 0, &files_size));
  ASSERT_NE(files, nullptr);
  ASSERT_GE(files[0], 1);
  EXPECT_EQ(files[1], kPage);
  const char* name = reinterpret_cast<const char*>(files + 2 + 3 * files[0]);
  uint64_t program = 0;
  for (uint64_t i = 0; i < files[0]; ++i, name += strlen(name) + 1) {
    if (strcmp(name, SelfPath()) == 0 && program == 0) program = files[2 + 3 * i];
  }
  // The first page of the program, with its headers.
  ASSERT_NE(program, 0);
  EXPECT_NE(core.At(reinterpret_cast<void*>(program)), nullptr);
}

GUEST_TEST(Core, HasEveryThread) {
  NeedPlainCores();
  TempDir dir;
  Marks* marks = Shared<Marks>();
  const pid_t pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    Thread sleeper([] {
      for (;;) pause();
    });
    Thread spinner([] {
      for (volatile int i = 0;; i = i + 1) {
      }
    });
    sleeper.AwaitAsleep();
    spinner.tid();
    marks->thread = sleeper.tid();
    raise(SIGABRT);
  });
  EXPECT(WCOREDUMP(DumpStatus(pid, SIGABRT)));
  const Core core(CoreOf(dir, pid));
  ASSERT_NE(core.NoteAs<elf_prstatus>(NT_PRSTATUS), nullptr);
  EXPECT_EQ(core.NoteAs<elf_prstatus>(NT_PRSTATUS)->pr_pid, pid);
  EXPECT_EQ(core.NoteAs<elf_prstatus>(NT_PRSTATUS, 3), nullptr);
  bool found = false;
  for (int i = 1; i < 3; ++i) {
    const auto* status = core.NoteAs<elf_prstatus>(NT_PRSTATUS, i);
    ASSERT_NE(status, nullptr);
    EXPECT_NE(core.NoteAs<user_fpregs_struct>(NT_FPREGSET, i), nullptr);
    const auto* regs = reinterpret_cast<const user_regs_struct*>(&status->pr_reg);
    EXPECT_NE(core.At(reinterpret_cast<void*>(regs->rsp)), nullptr);
    if (status->pr_pid != marks->thread) continue;
    found = true;
    EXPECT_EQ(regs->orig_rax, SYS_pause);
  }
  EXPECT(found);
}

GUEST_TEST(Core, WaitidTellsDumped) {
  NeedPlainCores();
  TempDir dir;
  const pid_t pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    raise(SIGQUIT);
  });
  siginfo_t info;
  MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED));
  EXPECT_EQ(info.si_code, CLD_DUMPED);
  EXPECT_EQ(info.si_status, SIGQUIT);
  struct stat st;
  MUST(stat(CoreOf(dir, pid), &st));
  EXPECT_EQ(st.st_mode & 07777, 0600);
}

GUEST_TEST(Core, NoneWithoutLeave) {
  NeedPlainCores();
  TempDir dir;
  struct stat st;
  pid_t pid = Fork([&] {
    AllowCores(0);
    MUST(chdir(dir.path()));
    raise(SIGSEGV);
  });
  EXPECT(!WCOREDUMP(DumpStatus(pid, SIGSEGV)));
  EXPECT_ERRNO(stat(CoreOf(dir, pid), &st), ENOENT);
  pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    MUST(prctl(PR_SET_DUMPABLE, 0));
    raise(SIGSEGV);
  });
  EXPECT(!WCOREDUMP(DumpStatus(pid, SIGSEGV)));
  EXPECT_ERRNO(stat(CoreOf(dir, pid), &st), ENOENT);
  // No core action, no core.
  pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    raise(SIGTERM);
  });
  EXPECT(!WCOREDUMP(DumpStatus(pid, SIGTERM)));
  EXPECT_ERRNO(stat(CoreOf(dir, pid), &st), ENOENT);
}

GUEST_TEST(Core, LimitCutsIt) {
  NeedPlainCores();
  TempDir dir;
  const pid_t pid = Fork([&] {
    AllowCores(64 * 1024);
    MUST(chdir(dir.path()));
    memset(Pages(256), 1, 256 * kPage);
    raise(SIGSEGV);
  });
  DumpStatus(pid, SIGSEGV);
  struct stat st;
  MUST(stat(CoreOf(dir, pid), &st));
  EXPECT_LE(st.st_blocks * 512, 64 * 1024 + 4 * kPage);
  EXPECT_LT(st.st_size, 512 * 1024);
}

GUEST_TEST(Core, FilterIsObeyedAndInherited) {
  NeedPlainCores();
  TempDir dir;
  Marks* marks = Shared<Marks>();
  JOIN_OK(Fork([&] {
    WriteFile("/proc/self/coredump_filter", "0x12\n");
    char text[32];
    ReadFile("/proc/self/coredump_filter", text, sizeof(text));
    EXPECT_STREQ(text, "00000012\n");
    const int fd = MUST(open("/proc/self/coredump_filter", O_WRONLY));
    EXPECT_ERRNO(write(fd, "x", 1), EINVAL);
    CheckpointHere();
    const pid_t pid = Fork([&] {
      AllowCores();
      MUST(chdir(dir.path()));
      char* plain = Pages(1);
      strcpy(plain, "private");
      char* shared = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
      strcpy(shared, "shared");
      *marks = {getpid(), 0, plain, shared, nullptr};
      raise(SIGSEGV);
    });
    EXPECT(WCOREDUMP(DumpStatus(pid, SIGSEGV)));
    const Core core(CoreOf(dir, pid));
    EXPECT_EQ(core.At(marks->plain), nullptr);
    ASSERT_NE(core.At(marks->hidden), nullptr);
    EXPECT_STREQ(core.At(marks->hidden), "shared");
  }));
}

GUEST_TEST(Core, AnOldFileIsReplacedAndLinksAreNotFollowed) {
  NeedPlainCores();
  TempDir dir;
  const Str victim = dir / "victim";
  WriteFile(victim, "precious");
  Gate named;
  const pid_t pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    named.Await();
    raise(SIGSEGV);
  });
  MUST(symlink(victim, CoreOf(dir, pid)));
  named.Open();
  EXPECT(WCOREDUMP(DumpStatus(pid, SIGSEGV)));
  struct stat st;
  MUST(lstat(CoreOf(dir, pid), &st));
  EXPECT(S_ISREG(st.st_mode));
  char text[16];
  ReadFile(victim, text, sizeof(text));
  EXPECT_STREQ(text, "precious");
}

GUEST_TEST(Core, AfterACheckpoint) {
  NeedPlainCores();
  TempDir dir;
  Marks* marks = Shared<Marks>();
  const pid_t pid = Fork([&] {
    AllowCores();
    MUST(chdir(dir.path()));
    char* plain = Pages(2);
    strcpy(plain, "kept");
    *marks = {getpid(), 0, plain, nullptr, nullptr};
    Thread sleeper([] {
      for (;;) pause();
    });
    sleeper.AwaitAsleep();
    __atomic_store_n(&marks->thread, sleeper.tid(), __ATOMIC_RELEASE);
    for (;;) pause();
  });
  while (__atomic_load_n(&marks->thread, __ATOMIC_ACQUIRE) == 0) SleepMs(1);
  AwaitAsleep(pid);
  CheckpointHere();
  MUST(kill(pid, SIGQUIT));
  EXPECT(WCOREDUMP(DumpStatus(pid, SIGQUIT)));
  const Core core(CoreOf(dir, pid));
  ASSERT_NE(core.At(marks->plain), nullptr);
  EXPECT_STREQ(core.At(marks->plain), "kept");
  EXPECT_NE(core.NoteAs<elf_prstatus>(NT_PRSTATUS, 1), nullptr);
}

}  // namespace
}  // namespace guest
