// execve and what a new program finds.
#include <elf.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "test/harness/guest_util.h"

using namespace guest;

extern char** environ;

namespace {

// Executes a helper of this program in a forked child; the wait status.
template <typename... Texts>
pid_t StartHelper(const char* helper, Texts... texts) {
  return Fork([&] {
    const Str name("@%s", helper);
    const char* arguments[] = {SelfPath(), name, texts..., nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), environ);
    _exit(120);
  });
}

template <typename... Texts>
int RunHelper(const char* helper, Texts... texts) {
  return WaitStatus(StartHelper(helper, texts...));
}

int ExecErrno(const char* path) {
  char* arguments[] = {const_cast<char*>(path), nullptr};
  execve(path, arguments, environ);
  return errno;
}

Str Number(long value) { return Str("%ld", value); }

}  // namespace

GUEST_HELPER(ExitWith) { return atoi(argv[2]); }

GUEST_TEST(Exec, RunsAProgram) {
  EXPECT_EXITED(RunHelper("ExitWith", "37"), 37);
  const pid_t pid = StartHelper("ExitWith", "3");
  CheckpointHere();
  EXPECT_EXITED(WaitStatus(pid), 3);
}

GUEST_HELPER(Arguments) {
  ASSERT_EQ(argc, 6);
  EXPECT_STREQ(argv[2], "");
  EXPECT_STREQ(argv[3], "two words");
  EXPECT_STREQ(argv[4], "\xff\x01\n");
  EXPECT_EQ(strlen(argv[5]), 1000);
  EXPECT_EQ(argv[6], nullptr);
  EXPECT_EQ(argv[1], argv[0] + strlen(argv[0]) + 1);  // One after the other in memory.
  ExitWithVerdict();
}

GUEST_TEST(Exec, ArgumentsArrive) {
  char longer[1001] = {};
  memset(longer, 'x', 1000);
  EXPECT_EXITED(RunHelper("Arguments", "", "two words", "\xff\x01\n", static_cast<const char*>(longer)), 0);
}

GUEST_HELPER(Environment) {
  EXPECT_STREQ(getenv("FIRST"), "1");
  EXPECT_STREQ(getenv("SECOND"), "");
  EXPECT_EQ(getenv("HOME"), nullptr);
  EXPECT_STREQ(environ[2], "no-equals-sign");
  EXPECT_EQ(environ[3], nullptr);
  char text[256];
  const size_t length = ReadFile("/proc/self/environ", text, sizeof(text));
  EXPECT_EQ(length, sizeof("FIRST=1\0SECOND=\0no-equals-sign"));
  EXPECT_EQ(memcmp(text, "FIRST=1\0SECOND=\0no-equals-sign", length), 0);
  ExitWithVerdict();
}

GUEST_TEST(Exec, EnvironmentArrives) {
  const pid_t pid = Fork([] {
    const char* arguments[] = {SelfPath(), "@Environment", nullptr};
    const char* environment[] = {"FIRST=1", "SECOND=", "no-equals-sign", nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), const_cast<char**>(environment));
    _exit(120);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(Exec, MissingAndDirectory) {
  EXPECT_EQ(ExecErrno("/no/such/program"), ENOENT);
  EXPECT_EQ(ExecErrno(""), ENOENT);
  EXPECT_EQ(ExecErrno("/tmp"), EACCES);
  EXPECT_EQ(ExecErrno("/dev/null"), EACCES);
  EXPECT_EQ(ExecErrno("/proc/self/exe/x"), ENOTDIR);
  EXPECT_ERRNO(execve(reinterpret_cast<char*>(8), nullptr, nullptr), EFAULT);
}

GUEST_TEST(Exec, NeedsAnExecuteBit) {
  TempDir dir;
  WriteFile(dir / "f", "#!/bin/sh\n", 0644);
  EXPECT_EQ(ExecErrno(dir / "f"), EACCES);  // Even for root.
}

GUEST_TEST(Exec, UnknownFormat) {
  TempDir dir;
  WriteFile(dir / "text", "hello\n", 0755);
  EXPECT_EQ(ExecErrno(dir / "text"), ENOEXEC);
  WriteFile(dir / "empty", "", 0755);
  EXPECT_EQ(ExecErrno(dir / "empty"), ENOEXEC);
  WriteFile(dir / "stub",
            "\x7f"
            "ELF",
            0755);
  EXPECT_EQ(ExecErrno(dir / "stub"), ENOEXEC);
}

GUEST_TEST(Exec, DamagedElf) {
  TempDir dir;
  Elf64_Ehdr header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 0;
  WriteFile(dir / "none", &header, sizeof(header), 0755);
  EXPECT_EQ(ExecErrno(dir / "none"), ENOEXEC);
  header.e_phnum = 1;
  header.e_machine = EM_AARCH64;
  WriteFile(dir / "arm", &header, sizeof(header), 0755);
  EXPECT_EQ(ExecErrno(dir / "arm"), ENOEXEC);
  header.e_machine = EM_X86_64;
  header.e_type = ET_REL;
  WriteFile(dir / "object", &header, sizeof(header), 0755);
  EXPECT_EQ(ExecErrno(dir / "object"), ENOEXEC);
}

GUEST_TEST(Exec, BusyWhileWritten) {
  TempDir dir;
  WriteFile(dir / "script", "#!/bin/true\n", 0755);
  const int fd = MUST(open(dir / "script", O_WRONLY));
  EXPECT_EQ(ExecErrno(dir / "script"), ETXTBSY);
  close(fd);
  const pid_t pid = Fork([&] { _exit(ExecErrno(dir / "script")); });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_HELPER(IsDumpable) { return prctl(PR_GET_DUMPABLE); }

// Whoever may run a program but not read it does not find it in the memory of the process either.
GUEST_TEST(Exec, UnreadableProgramsAreNotDumpable) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  MUST(chmod(dir.path(), 0755));
  static char self[8 << 20];
  const size_t size = ReadFile(SelfPath(), self, sizeof(self));
  const Str copy = dir / "copy";
  WriteFile(copy, self, size, 0755);
  const auto dumpable = [&](bool root) {
    const pid_t pid = Fork([&] {
      if (!root) BecomeUser();
      const char* arguments[] = {copy, "@IsDumpable", nullptr};
      execve(copy, const_cast<char**>(arguments), environ);
      _exit(120);
    });
    return WaitStatus(pid);
  };
  EXPECT_EXITED(dumpable(false), 1);
  MUST(chmod(copy, 0711));
  CheckpointHere();
  EXPECT_EXITED(dumpable(false), 0);
  EXPECT_EXITED(dumpable(true), 1);
}

GUEST_HELPER(SleepUntilEof) {
  char byte;
  MUST(write(atoi(argv[2]), "r", 1));
  while (read(atoi(argv[3]), &byte, 1) > 0) {
  }
  return 0;
}

GUEST_TEST(Exec, RunningProgramIsBusy) {
  TempDir dir;
  static char self[8 << 20];
  const size_t size = ReadFile(SelfPath(), self, sizeof(self));
  const Str copy = dir / "copy";
  WriteFile(copy, self, size, 0755);
  Pipe ready, done;
  const pid_t pid = Fork([&] {
    done.CloseWrite();
    const Str out = Number(ready.w), in = Number(done.r);
    const char* arguments[] = {copy, "@SleepUntilEof", out, in, nullptr};
    execve(copy, const_cast<char**>(arguments), environ);
    _exit(120);
  });
  char byte;
  ASSERT_EQ(read(ready.r, &byte, 1), 1);
  CheckpointHere();
  EXPECT_ERRNO(open(copy, O_WRONLY), ETXTBSY);
  EXPECT_OK(unlink(copy));
  char link[256] = {};
  MUST(readlink(Str("/proc/%d/exe", pid), link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("%s (deleted)", copy.c_str()));
  done.CloseWrite();
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_HELPER(ShowArguments) {
  // 2.. are what the interpreter line and the caller gave.
  for (int i = 2; i < argc; ++i) {
    write(1, argv[i], strlen(argv[i]));
    write(1, "|", 1);
  }
  return 0;
}

GUEST_TEST(Exec, InterpreterLine) {
  TempDir dir;
  // The rest of the line is one argument; blanks around it go. It has to be the helper's name here.
  WriteFile(dir / "script", Str("#! %s   @ShowArguments  \n", SelfPath()), 0755);
  Pipe p;
  const pid_t pid = Fork([&] {
    dup2(p.w, 1);
    const char* arguments[] = {"replaced", "one", "two", nullptr};
    execve(dir / "script", const_cast<char**>(arguments), environ);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
  p.CloseWrite();
  char text[512] = {};
  MUST(read(p.r, text, sizeof(text) - 1));
  EXPECT_STREQ(text, Str("%s|one|two|", (dir / "script").c_str()));
}

GUEST_TEST(Exec, InterpreterProblems) {
  TempDir dir;
  WriteFile(dir / "missing", "#!/no/such/interpreter\n", 0755);
  EXPECT_EQ(ExecErrno(dir / "missing"), ENOENT);
  WriteFile(dir / "blank", "#!   \n", 0755);
  EXPECT_EQ(ExecErrno(dir / "blank"), ENOEXEC);
  const Str loop = dir / "loop";
  WriteFile(loop, Str("#!%s\n", loop.c_str()), 0755);
  EXPECT_EQ(ExecErrno(loop), ELOOP);
}

GUEST_TEST(Exec, ScriptsMayNest) {
  TempDir dir;
  WriteFile(dir / "inner", Str("#!%s @ExitWith\n", SelfPath()), 0755);
  WriteFile(dir / "outer", Str("#!%s 5\n", (dir / "inner").c_str()), 0755);
  const pid_t pid = Fork([&] { _exit(ExecErrno(dir / "outer")); });
  // The helper gets the inner script's path as its number: atoi gives 0.
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_HELPER(OpenDescriptors) {
  EXPECT_EQ(fcntl(60, F_GETFD), 0);
  EXPECT_ERRNO(fcntl(61, F_GETFD), EBADF);
  ExitWithVerdict();
}

GUEST_TEST(Exec, CloseOnExec) {
  MUST(dup3(1, 60, 0));
  MUST(dup3(1, 61, O_CLOEXEC));
  EXPECT_EXITED(RunHelper("OpenDescriptors"), 0);
  EXPECT_OK(fcntl(61, F_GETFD));
}

GUEST_HELPER(Signals) {
  struct sigaction now = {};
  MUST(sigaction(SIGUSR1, nullptr, &now));
  EXPECT_EQ(now.sa_handler, SIG_DFL);  // Was a handler.
  MUST(sigaction(SIGUSR2, nullptr, &now));
  EXPECT_EQ(now.sa_handler, SIG_IGN);
  sigset_t set;
  MUST(sigprocmask(SIG_BLOCK, nullptr, &set));
  EXPECT_EQ(sigismember(&set, SIGTERM), 1);
  MUST(sigpending(&set));
  EXPECT_EQ(sigismember(&set, SIGTERM), 1);
  stack_t stack = {};
  MUST(sigaltstack(nullptr, &stack));
  EXPECT_EQ(stack.ss_flags, SS_DISABLE);
  ExitWithVerdict();
}

GUEST_TEST(Exec, SignalStateOverExec) {
  const pid_t pid = Fork([] {
    static char stack[65536];
    const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
    MUST(sigaltstack(&alternate, nullptr));
    CountSignals(SIGUSR1);
    signal(SIGUSR2, SIG_IGN);
    Block({SIGTERM});
    raise(SIGTERM);
    const char* arguments[] = {SelfPath(), "@Signals", nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), environ);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_HELPER(OneThread) {
  EXPECT_EQ(getpid(), syscall(SYS_gettid));
  EXPECT_EQ(getpid(), atoi(argv[2]));
  EXPECT_EQ(ProcField("/proc/self/status", "Threads"), 1);
  ExitWithVerdict();
}

GUEST_TEST(Exec, EndsOtherThreads) {
  const pid_t pid = Fork([] {
    Thread other([] { pause(); });
    other.AwaitAsleep();
    const Str number = Number(getpid());
    const char* arguments[] = {SelfPath(), "@OneThread", number, nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), environ);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(Exec, FromAnotherThreadTakesTheLeadersPid) {
  const pid_t pid = Fork([] {
    Thread other([] {
      const Str number = Number(getpid());
      const char* arguments[] = {SelfPath(), "@OneThread", number, nullptr};
      execve(SelfPath(), const_cast<char**>(arguments), environ);
    });
    pause();
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(Exec, AfterVfork) {
  const pid_t pid = vfork();
  if (pid == 0) {
    const char* arguments[] = {SelfPath(), "@ExitWith", "9", nullptr};
    execve(SelfPath(), const_cast<char**>(arguments), environ);
    _exit(120);
  }
  EXPECT_EXITED(WaitStatus(pid), 9);
}

GUEST_TEST(Exec, VforkChildMayFailFirst) {
  const pid_t pid = vfork();
  if (pid == 0) {
    const char* arguments[] = {SelfPath(), "@ExitWith", "9", nullptr};
    execve("/no/such", const_cast<char**>(arguments), environ);
    execve(SelfPath(), const_cast<char**>(arguments), environ);
    _exit(120);
  }
  EXPECT_EXITED(WaitStatus(pid), 9);
}

GUEST_HELPER(Auxv) {
  EXPECT_EQ(getauxval(AT_PAGESZ), 4096);
  EXPECT_EQ(getauxval(AT_CLKTCK), 100);
  EXPECT_EQ(getauxval(AT_PHENT), sizeof(Elf64_Phdr));
  EXPECT_GT(getauxval(AT_PHNUM), 3);
  EXPECT_EQ(getauxval(AT_UID), getuid());
  EXPECT_EQ(getauxval(AT_EUID), geteuid());
  EXPECT_EQ(getauxval(AT_GID), getgid());
  EXPECT_EQ(getauxval(AT_SECURE), 0);
  EXPECT_STREQ(reinterpret_cast<char*>(getauxval(AT_EXECFN)), SelfPath());
  EXPECT_STREQ(reinterpret_cast<char*>(getauxval(AT_PLATFORM)), "x86_64");
  EXPECT_NE(getauxval(AT_RANDOM), 0);
  EXPECT_NE(getauxval(AT_SYSINFO_EHDR), 0);
  EXPECT_NE(getauxval(AT_HWCAP), 0);
  EXPECT_GE(getauxval(AT_MINSIGSTKSZ), 1024);
  const auto* header = reinterpret_cast<const unsigned char*>(getauxval(AT_SYSINFO_EHDR));
  EXPECT_EQ(memcmp(header, ELFMAG, SELFMAG), 0);
  char file[1024];
  const size_t length = ReadFile("/proc/self/auxv", file, sizeof(file));
  EXPECT_EQ(length % 16, 0);
  EXPECT_GT(length, 15 * 16);
  ExitWithVerdict();
}

GUEST_TEST(Exec, AuxiliaryVector) { EXPECT_EXITED(RunHelper("Auxv"), 0); }

GUEST_HELPER(RandomBytes) {
  write(1, reinterpret_cast<void*>(getauxval(AT_RANDOM)), 16);
  return 0;
}

GUEST_TEST(Exec, RandomBytesDiffer) {
  char bytes[2][16] = {};
  for (auto& part : bytes) {
    Pipe p;
    const pid_t pid = Fork([&] {
      dup2(p.w, 1);
      const char* arguments[] = {SelfPath(), "@RandomBytes", nullptr};
      execve(SelfPath(), const_cast<char**>(arguments), environ);
    });
    EXPECT_EXITED(WaitStatus(pid), 0);
    EXPECT_EQ(read(p.r, part, 16), 16);
  }
  EXPECT_NE(memcmp(bytes[0], bytes[1], 16), 0);
}

GUEST_TEST(Exec, TooManyArguments) {
  // Stack limit / 4 bounds the sum of arguments and environment, 128 KiB each single text.
  char* text = Pages(33);
  memset(text, 'a', 32 * kPage);
  const char* arguments[] = {SelfPath(), text, nullptr};
  EXPECT_ERRNO(execve(SelfPath(), const_cast<char**>(arguments), environ), E2BIG);
  text[32 * kPage - 1] = '\0';
  const char* many[200];
  for (const char*& one : many) one = text;
  many[199] = nullptr;
  EXPECT_ERRNO(execve(SelfPath(), const_cast<char**>(many), environ), E2BIG);
}

GUEST_HELPER(CountArguments) { return argc == 10002 && strcmp(argv[10001], "z") == 0 ? 0 : 1; }

GUEST_TEST(Exec, TenThousandArguments) {
  static const char* arguments[10003];
  arguments[0] = SelfPath();
  arguments[1] = "@CountArguments";
  for (int i = 2; i < 10002; ++i) arguments[i] = "z";
  const pid_t pid = Fork([] { execve(SelfPath(), const_cast<char**>(arguments), environ); });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_HELPER(Name) {
  char name[16] = {};
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_STREQ(name, argv[2]);
  char text[4096];
  ReadFile("/proc/self/cmdline", text, sizeof(text));
  EXPECT_STREQ(text, argv[0]);
  EXPECT_STREQ(text + strlen(text) + 1, "@Name");
  ExitWithVerdict();
}

GUEST_TEST(Exec, NameIsThatOfTheFile) {
  MUST(prctl(PR_SET_NAME, "before"));
  const char* base = strrchr(SelfPath(), '/');
  Str expected("%.15s", base != nullptr ? base + 1 : SelfPath());
  EXPECT_EXITED(RunHelper("Name", expected.c_str()), 0);
}

GUEST_HELPER(EmptyArgv) { return 0; }

GUEST_TEST(Exec, EmptyArgumentListGetsAnEmptyName) {
  // Since Linux 5.18 argv[0] is "" then, so the program runs its tests as if without arguments; a
  // script shows it.
  TempDir dir;
  WriteFile(dir / "script", Str("#!%s @EmptyArgv\n", SelfPath()), 0755);
  const pid_t pid = Fork([&] {
    char* none[] = {nullptr};
    execve(dir / "script", none, environ);
    _exit(120);
  });
  EXPECT_EXITED(WaitStatus(pid), 0);
}

GUEST_TEST(Exec, ExecveatByDescriptor) {
  const int fd = MUST(open(SelfPath(), O_PATH | O_CLOEXEC));
  const pid_t pid = Fork([&] {
    const char* arguments[] = {SelfPath(), "@ExitWith", "21", nullptr};
    syscall(SYS_execveat, fd, "", arguments, environ, AT_EMPTY_PATH);
    _exit(120);
  });
  EXPECT_EXITED(WaitStatus(pid), 21);
  EXPECT_ERRNO(syscall(SYS_execveat, 999, "x", nullptr, nullptr, 0), EBADF);
  EXPECT_ERRNO(syscall(SYS_execveat, fd, "", nullptr, nullptr, 0), ENOENT);
  EXPECT_ERRNO(syscall(SYS_execveat, AT_FDCWD, "x", nullptr, nullptr, 0x10), EINVAL);
}

GUEST_TEST(Exec, MemfdProgram) {
  static char self[8 << 20];
  const size_t size = ReadFile(SelfPath(), self, sizeof(self));
  const int fd = MUST(memfd_create("prog", MFD_CLOEXEC));
  ASSERT_EQ(write(fd, self, size), size);
  const int read_only = MUST(open(Str("/proc/self/fd/%d", fd), O_RDONLY | O_CLOEXEC));
  close(fd);
  const pid_t pid = Fork([&] {
    const char* arguments[] = {SelfPath(), "@ExitWith", "22", nullptr};
    fexecve(read_only, const_cast<char**>(arguments), environ);
    _exit(120);
  });
  EXPECT_EXITED(WaitStatus(pid), 22);
}

GUEST_TEST(Exec, SelfExeIsTheProgram) {
  char link[1024] = {};
  MUST(readlink("/proc/self/exe", link, sizeof(link) - 1));
  struct stat a = {}, b = {};
  MUST(stat(link, &a));
  MUST(stat("/proc/self/exe", &b));
  EXPECT_EQ(a.st_ino, b.st_ino);
  MUST(stat(SelfPath(), &b));
  EXPECT_EQ(a.st_ino, b.st_ino);
}

GUEST_HELPER(FreshMemory) {
  rlimit limit = {};
  MUST(getrlimit(RLIMIT_NOFILE, &limit));
  EXPECT_EQ(limit.rlim_cur, 123);
  EXPECT_EQ(getppid(), atoi(argv[2]));
  EXPECT_ERRNO(msync(reinterpret_cast<void*>(strtoul(argv[3], nullptr, 16)), kPage, MS_ASYNC), ENOMEM);
  char folder[64] = {};
  ASSERT_NE(getcwd(folder, sizeof(folder)), nullptr);
  EXPECT_STREQ(folder, "/proc");
  EXPECT_EQ(umask(0), 0123);
  ExitWithVerdict();
}

GUEST_TEST(Exec, MemoryGoesLimitsStay) {
  const rlimit limit = {.rlim_cur = 123, .rlim_max = 200};
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  MUST(chdir("/proc"));
  umask(0123);
  char* page = static_cast<char*>(
      MUST(mmap(reinterpret_cast<void*>(0x10'0000'0000), kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)));
  EXPECT_EXITED(RunHelper("FreshMemory", Number(getpid()).c_str(), Str("%lx", (long)page).c_str()), 0);
}
