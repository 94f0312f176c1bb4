#include "sentry/loader/load.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>

#include "sentry/loader/host_exec_file.h"
#include "sentry/loader/vdso/vdso.h"

namespace amber::loader {
namespace {

class LoadTest : public testing::Test {
 protected:
  void SetUp() override { vdso_ = std::move(Vdso::Create(getauxval(AT_SYSINFO_EHDR)).value()); }

  LoadEnvironment Environment(std::unique_ptr<ExecFile> file) {
    LoadEnvironment env;
    env.file = std::move(file);
    env.open = [this](const std::string& path) -> ErrnoOr<std::unique_ptr<ExecFile>> {
      if (auto it = scripts_.find(path); it != scripts_.end()) {
        return std::unique_ptr<ExecFile>(new BytesExecFile(it->second));
      }
      return HostExecFile::Open(path);
    };
    env.identity = [](ExecFile&) -> ErrnoOr<ExecIdentity> { return ExecIdentity{1, 2, 3, 4, true}; };
    env.random = [](void* out, size_t size) { ASSERT_EQ(getrandom(out, size, 0), static_cast<ssize_t>(size)); };
    env.vdso = vdso_.get();
    env.vdso_params_fd = env.vdso->params_fd();
    env.host_vdso_base = getauxval(AT_SYSINFO_EHDR);
    env.host_vdso_size = 8192;
    return env;
  }
  ErrnoOr<LoadResult> LoadPath(const std::string& path, std::vector<std::string> argv) {
    ExecRequest request;
    request.path = path;
    request.argv = std::move(argv);
    request.envp = {"PATH=/usr/bin:/bin", "LC_ALL=C"};
    auto env = Environment(nullptr);
    auto file = env.open(path);
    if (!file.ok()) return file.error();
    return Load(Environment(std::move(*file)), request);
  }
  // Builds the program in a child of this process, with nothing of ours in its way, and starts it there.
  std::string RunProgram(const LoadResult& program, int* status);

  std::unique_ptr<Vdso> vdso_;
  std::map<std::string, std::string> scripts_;
};

// True if the plan would overwrite memory that this process uses.
bool Collides(const LoadResult& program) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0, end = 0;
    sscanf(line.c_str(), "%lx-%lx", &start, &end);
    if (start < platform::kGuestTop && !program.mm->vmas().IsFree(start, std::min(end, platform::kGuestTop))) return true;
  }
  return false;
}

[[noreturn]] void Become(const LoadResult& program) {
  for (const platform::StubOp& op : program.plan.ops) {
    uint64_t fd = op.fd >= 0 ? static_cast<uint64_t>(op.fd) : op.args[4];
    if (syscall(static_cast<long>(op.number), op.args[0], op.args[1], op.args[2], op.args[3], fd, op.args[5]) == -1) _exit(101);
  }
  for (const auto& w : program.plan.writes) memcpy(reinterpret_cast<void*>(w.address), w.data.data(), w.data.size());
  const platform::Registers& r = program.plan.frame.regs;
  asm volatile("mov %0, %%rsp; xor %%edx, %%edx; xor %%ebp, %%ebp; jmp *%1" : : "r"(r.rsp), "r"(r.rip) : "rdx", "memory");
  __builtin_unreachable();
}

std::string LoadTest::RunProgram(const LoadResult& program, int* status) {
  int fds[2];
  EXPECT_EQ(pipe(fds), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(fds[1], 1);
    alarm(20);
    Become(program);
  }
  close(fds[1]);
  std::string output;
  char buffer[4096];
  for (ssize_t n; (n = read(fds[0], buffer, sizeof(buffer))) > 0;) output.append(buffer, static_cast<size_t>(n));
  close(fds[0]);
  waitpid(child, status, 0);
  return output;
}

TEST_F(LoadTest, RunsPrograms) {
  struct {
    std::string path;
    std::vector<std::string> argv;
    std::string output;
  } cases[] = {
      {"/bin/echo", {"echo", "hello", "world"}, "hello world\n"},
      {"/bin/sh", {"sh", "-c", "echo $0 $1; /bin/echo two", "zero", "one"}, "zero one\ntwo\n"},
      {"/lib64/ld-linux-x86-64.so.2", {"ld.so", "/bin/echo", "through the loader"}, "through the loader\n"},
      {"/script", {"ignored", "a", "b"}, "/script a b\n"},
      {"/script-with-argument", {"ignored", "a"}, "x -y /script-with-argument a\n"},
  };
  scripts_["/script"] = "#!/bin/echo\n";
  scripts_["/script-with-argument"] = "#! /bin/echo  x -y \n";
  for (const auto& c : cases) {
    auto program = LoadPath(c.path, c.argv);
    for (int tries = 0; program.ok() && Collides(*program) && tries < 20; ++tries) program = LoadPath(c.path, c.argv);
    ASSERT_TRUE(program.ok()) << c.path << ": " << program.error().number();
    int status = -1;
    EXPECT_EQ(RunProgram(*program, &status), c.output) << c.path;
    EXPECT_EQ(status, 0) << c.path;
  }
}

TEST_F(LoadTest, RunsStaticPrograms) {
  struct {
    const char* path;
    std::vector<std::string> argv;
  } cases[] = {{"/bin/busybox", {"echo", "static"}}, {"/sbin/ldconfig", {"ldconfig", "--version"}}};
  for (const auto& c : cases) {
    if (access(c.path, X_OK) != 0) continue;
    auto program = LoadPath(c.path, c.argv);
    for (int tries = 0; program.ok() && Collides(*program) && tries < 20; ++tries) program = LoadPath(c.path, c.argv);
    ASSERT_TRUE(program.ok());
    int status = -1;
    EXPECT_NE(RunProgram(*program, &status), "") << c.path;
    EXPECT_EQ(status, 0) << c.path;
  }
}

TEST_F(LoadTest, TreeDescribesThePlan) {
  auto program = LoadPath("/bin/sh", {"sh"});
  ASSERT_TRUE(program.ok());
  const MemoryLayout& l = program->mm->layout();
  EXPECT_LT(l.start_code, l.end_code);
  EXPECT_LE(l.end_code, l.end_data);
  EXPECT_LE(l.end_data, l.start_brk);
  EXPECT_EQ(program->mm->vmas().Find(l.start_code)->prot, PROT_READ | PROT_EXEC);
  EXPECT_EQ(program->mm->vmas().Find(l.start_stack)->name, VmaName::kStack);
  EXPECT_EQ(program->mm->vmas().Find(l.start_stack)->size(), 8u << 20);
  EXPECT_EQ(program->mm->vmas().Find(l.vdso)->name, VmaName::kVdso);
  EXPECT_EQ(program->mm->vmas().Find(l.vdso - 1)->name, VmaName::kVvar);
  EXPECT_EQ(program->comm, "sh");
  std::map<uint64_t, uint64_t> auxv;
  for (size_t i = 0; i < program->mm->auxv().size(); i += 2) auxv[program->mm->auxv()[i]] = program->mm->auxv()[i + 1];
  EXPECT_EQ(auxv[AT_SYSINFO_EHDR], l.vdso);
  EXPECT_EQ(auxv[AT_UID], 1u);
  EXPECT_EQ(auxv[AT_EGID], 4u);
  EXPECT_EQ(auxv[AT_SECURE], 1u);
  EXPECT_EQ(auxv[AT_PHENT], sizeof(Elf64_Phdr));
  EXPECT_NE(auxv[AT_BASE], 0u);
  EXPECT_FALSE(auxv.contains(AT_NULL) && auxv[AT_NULL] != 0);
  for (const auto& op : program->plan.ops) EXPECT_EQ(op.number, static_cast<uint64_t>(SYS_mmap));
}

TEST_F(LoadTest, SameAddressesWithoutRandomization) {
  ExecRequest request;
  request.path = "/bin/sh";
  request.argv = {"sh"};
  request.randomize = false;
  auto first = Load(Environment(std::move(HostExecFile::Open("/bin/sh").value())), request);
  auto second = Load(Environment(std::move(HostExecFile::Open("/bin/sh").value())), request);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->plan.frame.regs.rip, second->plan.frame.regs.rip);
  EXPECT_EQ(first->plan.frame.regs.rsp, second->plan.frame.regs.rsp);
  request.randomize = true;
  auto third = Load(Environment(std::move(HostExecFile::Open("/bin/sh").value())), request);
  ASSERT_TRUE(third.ok());
  EXPECT_NE(first->plan.frame.regs.rsp, third->plan.frame.regs.rsp);
}

TEST_F(LoadTest, Errors) {
  auto error = [&](const std::string& path) {
    auto program = LoadPath(path, {"x"});
    return program.ok() ? 0 : program.error().number();
  };
  EXPECT_EQ(error("/etc/passwd"), ENOEXEC);
  scripts_["/missing"] = "#!/no/such/interpreter\n";
  EXPECT_EQ(error("/missing"), ENOENT);
  scripts_["/loop"] = "#!/loop\n";
  EXPECT_EQ(error("/loop"), ELOOP);
  scripts_["/empty"] = "";
  EXPECT_EQ(error("/empty"), ENOEXEC);
  // Five scripts deep is the limit.
  scripts_["/1"] = "#!/2\n";
  scripts_["/2"] = "#!/3\n";
  scripts_["/3"] = "#!/4\n";
  scripts_["/4"] = "#!/5\n";
  scripts_["/5"] = "#!/bin/sh\n";
  EXPECT_EQ(error("/1"), 0);
  scripts_["/0"] = "#!/1\n";
  EXPECT_EQ(error("/0"), ELOOP);
  ExecRequest vanishing;
  vanishing.path = "/dev/fd/3";
  vanishing.path_vanishes = true;
  EXPECT_TRUE(Load(Environment(std::make_unique<BytesExecFile>("#!/bin/sh\n")), vanishing).Is(ENOENT));
}

}  // namespace
}  // namespace amber::loader
