#include "sentry/loader/load.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "sentry/loader/stack.h"
#include "sentry/loader/vdso/vdso.h"

namespace amber::loader {

namespace {

using platform::kGuestTop;
using platform::kMinAddress;

// Programs that are told of FSGSBASE may use gs, which the fast path does (getauxval(3), arch/x86/include/uapi/asm/hwcap2.h).
constexpr uint64_t kHwcap2FsGsBase = 2;

constexpr int kMaxScriptDepth = 5;  // exec_binprm(): ELOOP beyond
constexpr uint64_t kUnlimitedStack = 64 << 20;
constexpr uint64_t kMaxStack = 1 << 30;
constexpr uint64_t kMinStack = 128 << 10;  // beside the arguments
constexpr uint64_t kStackGap = 128 << 20;  // between stack and mappings, the stack included (Linux: MIN_GAP)
// Position independent programs start from two thirds of the address space (ELF_ET_DYN_BASE).
constexpr uint64_t kPieBase = PageDown(kGuestTop / 3 * 2);
constexpr uint64_t kMmapRandomPages = uint64_t{1} << 28;   // mmap_rnd_bits
constexpr uint64_t kStackRandomPages = uint64_t{1} << 22;  // STACK_RND_MASK
constexpr uint64_t kBrkRandomPages = (32 << 20) / kPageSize;
// The host's vDSO has its data pages below it.
constexpr uint64_t kHostVvarReserve = 16 * kPageSize;

// Builds the plan and the tree side by side.
class ProgramLoader {
 public:
  ProgramLoader(LoadEnvironment environment, const ExecRequest& request) : env_(std::move(environment)), request_(request) {
    result_.mm = MakeRef<MemoryManager>();
  }

  ErrnoOr<LoadResult> Run();

 private:
  uint64_t RandomPages(uint64_t below) {
    if (!request_.randomize) return 0;
    uint64_t value = 0;
    env_.random(&value, sizeof(value));
    return value % below * kPageSize;
  }

  ErrnoOr<void> FollowScripts();
  ErrnoOr<void> PlaceStack();
  ErrnoOr<uint64_t> PlaceImage(const ElfImage& image, bool is_program);
  ErrnoOr<void> MapImage(ExecFile& file, const ElfImage& image, uint64_t bias, bool is_program);
  ErrnoOr<void> MapSegment(ExecFile& file, const ElfSegment& segment, uint64_t bias, uint64_t* bss_end);
  ErrnoOr<void> MapVdso();
  void MapFastAreas();
  void PlaceBrk(uint64_t end, const ElfImage& image);
  ErrnoOr<void> WriteStack(const ElfImage& image, uint64_t bias, uint64_t interpreter_bias);
  void Map(Vma vma, const MapSource& source, int flags = 0) {
    result_.plan.ops.push_back(MemoryManager::MapOp(vma, source, flags));
    result_.mm->Record(std::move(vma));
  }
  MemoryLayout& layout() { return result_.mm->layout(); }

  LoadEnvironment env_;
  const ExecRequest& request_;
  std::vector<std::string> argv_;
  LoadResult result_;
  ExecIdentity identity_;
  uint64_t stack_top_ = 0;
  uint64_t program_end_ = 0;  // of the highest segment, bss included
};

// Replaces the file by its interpreter and puts the script's name into the arguments, as fs/binfmt_script.c.
ErrnoOr<void> ProgramLoader::FollowScripts() {
  std::string path = request_.path;
  argv_ = request_.argv;
  if (argv_.empty()) argv_.emplace_back();  // Linux 5.18: argc is at least 1
  for (int depth = 0;; ++depth) {
    char head[kHeaderBytes] = {};
    for (size_t done = 0; done < sizeof(head);) {
      size_t n = TRY(env_.file->ReadAt(head + done, sizeof(head) - done, done));
      if (n == 0) break;
      done += n;
    }
    if (head[0] != '#' || head[1] != '!') return Ok();
    if (depth >= kMaxScriptDepth) return Errno(ELOOP);
    Script script = TRY(ParseScript(std::string_view(head, sizeof(head))));
    if (request_.path_vanishes) return Errno(ENOENT);
    std::vector<std::string> argv = {script.interpreter};
    if (script.has_argument) argv.push_back(script.argument);
    argv.push_back(path);
    argv.insert(argv.end(), std::make_move_iterator(argv_.begin() + 1), std::make_move_iterator(argv_.end()));
    argv_ = std::move(argv);
    path = script.interpreter;
    env_.file = TRY(env_.open(path));
  }
}

ErrnoOr<void> ProgramLoader::PlaceStack() {
  MemoryManager& mm = *result_.mm;
  if (env_.host_vdso_base != 0) {
    mm.Reserve(env_.host_vdso_base - kHostVvarReserve, PageUp(env_.host_vdso_base + env_.host_vdso_size));
  }
  uint64_t arguments = 0;
  for (const std::vector<std::string>* list : {&std::as_const(argv_), &request_.envp}) {
    for (const std::string& s : *list) arguments += s.size() + 1 + sizeof(uint64_t);
  }
  uint64_t size = request_.stack_limit == ~uint64_t{0} ? kUnlimitedStack : std::min(request_.stack_limit, kMaxStack);
  size = std::max(PageUp(size), PageUp(arguments) + kMinStack);
  stack_top_ = kGuestTop - RandomPages(kStackRandomPages);
  if (!mm.IsGuestRange(stack_top_ - size, stack_top_)) {
    // The host's vDSO is in the way: go below it.
    stack_top_ = env_.host_vdso_base - kHostVvarReserve - RandomPages(kStackRandomPages);
  }
  Vma stack;
  stack.start = stack_top_ - size;
  stack.end = stack_top_;
  stack.prot = PROT_READ | PROT_WRITE | (result_.executable_stack ? PROT_EXEC : 0);
  stack.name = VmaName::kStack;
  if (!mm.IsGuestRange(stack.start, stack.end)) return Errno(ENOMEM);
  uint64_t gap = size < kStackGap ? kStackGap - size : 0;
  layout().mmap_base = PageDown(stack.start - gap - RandomPages(kMmapRandomPages) - (1 << 20));
  Map(std::move(stack), {}, MAP_NORESERVE | MAP_STACK);
  return Ok();
}

// The bias that is added to the addresses in the file.
ErrnoOr<uint64_t> ProgramLoader::PlaceImage(const ElfImage& image, bool is_program) {
  MemoryManager& mm = *result_.mm;
  if (!image.position_independent) {
    if (!mm.IsGuestRange(image.low, image.high) || !mm.vmas().IsFree(image.low, image.high)) return Errno(EINVAL);
    return 0;
  }
  uint64_t size = image.high - image.low;
  uint64_t mask = image.alignment - 1;
  uint64_t start = 0;
  if (is_program && !image.interpreter.empty()) {
    start = (kPieBase + RandomPages(kMmapRandomPages)) & ~mask;
    if (start > kGuestTop - size || !mm.IsGuestRange(start, start + size) || !mm.vmas().IsFree(start, start + size)) start = 0;
  }
  if (start == 0) {
    if (size > kGuestTop - image.alignment) return Errno(ENOMEM);
    start = (TRY(mm.Place(0, size + mask - (kPageSize - 1))) + mask) & ~mask;
  }
  return start - PageDown(image.low);
}

ErrnoOr<void> ProgramLoader::MapSegment(ExecFile& file, const ElfSegment& s, uint64_t bias, uint64_t* bss_end) {
  uint64_t start = s.vaddr + bias, file_end = start + s.filesz, end = start + s.memsz;
  Vma vma;
  vma.start = PageDown(start);
  vma.prot = s.prot;
  if (s.filesz > 0) {
    vma.end = PageUp(file_end);
    vma.offset = PageDown(s.offset);
    vma.file = file.file();
    MapSource source = TRY(file.Map(vma.offset, vma.size(), s.prot));
    MemoryManager::AppendMapOps(vma, source, 0, &result_.plan.ops);
    uint64_t next = vma.end;
    result_.mm->Record(std::move(vma));
    if (s.memsz > s.filesz && (s.prot & PROT_WRITE) != 0 && file_end != next) {
      result_.plan.writes.push_back({file_end, std::string(next - file_end, '\0')});
    }
    vma = Vma();
    vma.start = next;
  }
  vma.end = PageUp(end);
  if (vma.start < vma.end) {  // bss: readable and writable whatever the segment says (vm_brk_flags)
    vma.prot = PROT_READ | PROT_WRITE | (s.prot & PROT_EXEC);
    Map(std::move(vma), {});
  }
  *bss_end = std::max(*bss_end, end);
  return Ok();
}

ErrnoOr<void> ProgramLoader::MapImage(ExecFile& file, const ElfImage& image, uint64_t bias, bool is_program) {
  uint64_t end = 0;
  MemoryLayout& l = layout();
  if (is_program) l.start_code = ~uint64_t{0};
  for (const ElfSegment& s : image.loads) {
    TRY(MapSegment(file, s, bias, &end));
    if (!is_program) continue;
    uint64_t start = s.vaddr + bias, file_end = start + s.filesz;
    if ((s.prot & PROT_EXEC) != 0) {
      l.start_code = std::min(l.start_code, start);
      l.end_code = std::max(l.end_code, file_end);
    }
    l.start_data = std::max(l.start_data, start);
    l.end_data = std::max(l.end_data, file_end);
  }
  if (!is_program) return Ok();
  program_end_ = end;
  if (l.end_code == 0) l.start_code = 0;
  return Ok();
}

ErrnoOr<void> ProgramLoader::MapVdso() {
  if (env_.vdso == nullptr) return Ok();
  uint64_t size = Vdso::kParamsSize + Vdso::ImageSize();
  uint64_t at = TRY(result_.mm->Place(0, size));
  Vma params;
  params.start = at;
  params.end = at + Vdso::kParamsSize;
  params.prot = params.max_prot = PROT_READ;
  params.shared = true;
  params.name = VmaName::kVvar;
  Vma image;
  image.start = params.end;
  image.end = at + size;
  image.prot = PROT_READ | PROT_EXEC;
  image.name = VmaName::kVdso;
  layout().vdso = image.start;
  for (auto& [vma, fd] : {std::pair(params, env_.vdso_params_fd), std::pair(image, env_.vdso->image_fd())}) {
    result_.plan.ops.push_back(MemoryManager::MapOp(vma, {.fd = fd}));
    result_.mm->Record(vma);
  }
  return Ok();
}

// One area near the libraries to come, and one near the program if that is out of a jump's reach. No program needs them to run.
void ProgramLoader::MapFastAreas() {
  constexpr uint64_t kReach = uint64_t{1} << 30;
  std::vector<uint64_t> starts;
  if (auto at = result_.mm->Place(0, platform::kFastAreaSize); at.ok()) starts.push_back(*at);
  uint64_t program = PageDown(layout().start_code);
  if (!starts.empty() && starts[0] - program < kReach) program = 0;
  uint64_t below = program - 4 * platform::kFastAreaSize;
  if (program > platform::kMinAddress + 8 * platform::kFastAreaSize && result_.mm->vmas().IsFree(below, below + platform::kFastAreaSize)) {
    starts.push_back(below);
  }
  for (uint64_t start : starts) {
    Vma area;
    area.start = start;
    area.end = start + platform::kFastAreaSize;
    area.prot = PROT_READ | PROT_EXEC;
    area.max_prot = PROT_READ | PROT_EXEC;
    area.name = VmaName::kFast;
    Map(std::move(area), {});
  }
  result_.plan.fast_areas = result_.mm->FastAreas();
}

void ProgramLoader::PlaceBrk(uint64_t end, const ElfImage& image) {
  uint64_t start = PageUp(end);
  // A loader that is run as a program lies among the mappings, where the heap could not grow (load_elf_binary).
  if (image.position_independent && image.interpreter.empty()) start = kPieBase;
  start += RandomPages(kBrkRandomPages);
  layout().start_brk = layout().brk = start;
}

ErrnoOr<void> ProgramLoader::WriteStack(const ElfImage& image, uint64_t bias, uint64_t interpreter_bias) {
  StackInput in;
  in.top = stack_top_;
  if (request_.randomize) {
    uint16_t shift = 0;
    env_.random(&shift, sizeof(shift));
    in.shift = shift % 8192;
  }
  in.argv = argv_;
  in.envp = request_.envp;
  in.path = request_.path;
  env_.random(in.random.data(), in.random.size());
  if (layout().vdso != 0) in.auxv.emplace_back(AT_SYSINFO_EHDR, layout().vdso);
  const std::pair<uint64_t, uint64_t> rest[] = {
      {AT_MINSIGSTKSZ, getauxval(AT_MINSIGSTKSZ)},
      {AT_HWCAP, getauxval(AT_HWCAP)},
      {AT_PAGESZ, kPageSize},
      {AT_CLKTCK, 100},
      {AT_PHDR, image.phdr + bias},
      {AT_PHENT, sizeof(Elf64_Phdr)},
      {AT_PHNUM, image.phnum},
      {AT_BASE, interpreter_bias},
      {AT_FLAGS, 0},
      {AT_ENTRY, image.entry + bias},
      {AT_UID, identity_.uid},
      {AT_EUID, identity_.euid},
      {AT_GID, identity_.gid},
      {AT_EGID, identity_.egid},
      {AT_SECURE, identity_.secure ? 1 : 0},
      {AT_HWCAP2, getauxval(AT_HWCAP2) & ~kHwcap2FsGsBase},
  };
  in.auxv.insert(in.auxv.end(), std::begin(rest), std::end(rest));
  StackImage stack = BuildStack(in);
  MemoryLayout& l = layout();
  l.start_stack = stack.sp;
  l.arg_start = stack.arg_start, l.arg_end = stack.arg_end;
  l.env_start = stack.env_start, l.env_end = stack.env_end;
  result_.mm->set_auxv(std::move(stack.auxv));
  result_.plan.writes.push_back({stack.sp, std::move(stack.bytes)});
  return Ok();
}

ErrnoOr<LoadResult> ProgramLoader::Run() {
  TRY(CheckArguments(request_.argv, request_.envp, request_.path, request_.stack_limit));
  TRY(FollowScripts());
  TRY(CheckArguments(argv_, request_.envp, request_.path, request_.stack_limit));
  identity_ = TRY(env_.identity(*env_.file));
  ElfImage image = TRY(ParseElf(*env_.file));
  result_.executable_stack = image.executable_stack;

  std::unique_ptr<ExecFile> interpreter;
  std::optional<ElfImage> interpreter_image;
  if (!image.interpreter.empty()) {
    interpreter = TRY(env_.open(image.interpreter));
    auto parsed = ParseElf(*interpreter);
    if (!parsed.ok()) return parsed.Is(ENOEXEC) ? Errno(ELIBBAD) : parsed.error();
    interpreter_image = std::move(*parsed);
  }

  TRY(PlaceStack());
  uint64_t bias = TRY(PlaceImage(image, true));
  TRY(MapImage(*env_.file, image, bias, true));
  uint64_t interpreter_bias = 0;
  if (interpreter) {
    interpreter_bias = TRY(PlaceImage(*interpreter_image, false));
    TRY(MapImage(*interpreter, *interpreter_image, interpreter_bias, false));
  }
  TRY(MapVdso());
  MapFastAreas();
  PlaceBrk(program_end_, image);
  TRY(WriteStack(image, bias, interpreter_bias));

  platform::Registers& regs = result_.plan.frame.regs;
  regs = {};
  regs.rip = interpreter ? interpreter_image->entry + interpreter_bias : image.entry + bias;
  regs.rsp = layout().start_stack;
  regs.rflags = 0x202;
  if (regs.rip >= kGuestTop) return Errno(EINVAL);
  result_.plan.frame.fs_base = result_.plan.frame.gs_base = 0;
  result_.exe = env_.file->file();
  result_.mm->set_exe(result_.exe);
  size_t slash = request_.path.find_last_of('/');
  result_.comm = request_.path.substr(slash == std::string::npos ? 0 : slash + 1).substr(0, 15);
  return std::move(result_);
}

}  // namespace

ErrnoOr<LoadResult> Load(LoadEnvironment environment, const ExecRequest& request) { return ProgramLoader(std::move(environment), request).Run(); }

}  // namespace amber::loader
