// Save and load of MemoryManager: the tree. What the pages hold is the checkpoint's business (see pages.h).
#include "sentry/mm/guard.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/mm/mm.pb.h"
#include "sentry/mm/userfault.h"

namespace amber {

namespace {

constexpr uint32_t kAllFlags = Vma::kLocked | Vma::kGrowsDown | Vma::kDontFork | Vma::kWipeOnFork | Vma::kDontDump | Vma::kNoReserve | Vma::kHuge |
                               Vma::kNoHuge | Vma::kSequential | Vma::kRandom | Vma::kSealed | kGuard | kUffdBits;
constexpr uint32_t kAllProt = PROT_READ | PROT_WRITE | PROT_EXEC;

void SaveLayout(const MemoryLayout& l, mm_state::Layout* out) {
  out->set_start_code(l.start_code);
  out->set_end_code(l.end_code);
  out->set_start_data(l.start_data);
  out->set_end_data(l.end_data);
  out->set_start_brk(l.start_brk);
  out->set_brk(l.brk);
  out->set_start_stack(l.start_stack);
  out->set_arg_start(l.arg_start);
  out->set_arg_end(l.arg_end);
  out->set_env_start(l.env_start);
  out->set_env_end(l.env_end);
  out->set_mmap_base(l.mmap_base);
  out->set_vdso(l.vdso);
}

MemoryLayout LoadLayout(const mm_state::Layout& in) {
  MemoryLayout l;
  l.start_code = in.start_code();
  l.end_code = in.end_code();
  l.start_data = in.start_data();
  l.end_data = in.end_data();
  l.start_brk = in.start_brk();
  l.brk = in.brk();
  l.start_stack = in.start_stack();
  l.arg_start = in.arg_start();
  l.arg_end = in.arg_end();
  l.env_start = in.env_start();
  l.env_end = in.env_end();
  l.mmap_base = in.mmap_base();
  l.vdso = in.vdso();
  return l;
}

}  // namespace

std::string MemoryManager::Save(state::Saver& saver) const {
  mm_state::MemoryManager out;
  for (const auto& [start, vma] : vmas_) {
    mm_state::Vma* v = out.add_vmas();
    v->set_start(vma.start);
    v->set_end(vma.end);
    v->set_prot(static_cast<uint32_t>(vma.prot));
    v->set_max_prot(static_cast<uint32_t>(vma.max_prot));
    v->set_shared(vma.shared);
    v->set_name(static_cast<uint32_t>(vma.name));
    v->set_flags(vma.flags);
    v->set_policy(vma.policy.Pack());
    v->set_file(saver.Ref(vma.file));
    v->set_offset(vma.offset);
  }
  SaveLayout(layout_, out.mutable_layout());
  for (uint64_t word : auxv_) out.add_auxv(word);
  out.set_exe(saver.Ref(exe_));
  out.set_user_namespace(saver.Ref(MemoryOwner::Of(*this)));
  out.set_default_flags(default_flags_);
  out.set_membarrier(membarrier_);
  out.set_peak_total(peak_total_);
  out.set_peak_resident(peak_resident_);
  return out.SerializeAsString();
}

bool MemoryManager::Load(state::Loader& loader, std::string_view bytes) {
  mm_state::MemoryManager in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("an address space is malformed");
  uint64_t last_end = platform::kMinAddress;
  for (const mm_state::Vma& v : in.vmas()) {
    Vma vma;
    vma.start = v.start();
    vma.end = v.end();
    if (vma.start < last_end || vma.end <= vma.start || vma.end > platform::kGuestTop || vma.start % kPageSize != 0 || vma.end % kPageSize != 0 ||
        v.offset() % kPageSize != 0 || v.offset() > INT64_MAX - vma.size() || v.name() > static_cast<uint32_t>(VmaName::kFast) ||
        ((v.prot() | v.max_prot()) & ~kAllProt) != 0) {
      return loader.Fail("an address space has mappings that make no sense");
    }
    last_end = vma.end;
    vma.prot = static_cast<int>(v.prot());
    vma.max_prot = static_cast<int>(v.max_prot());
    vma.shared = v.shared();
    vma.name = static_cast<VmaName>(v.name());
    vma.flags = v.flags() & kAllFlags;
    vma.policy = MemoryPolicy::Unpack(v.policy());
    vma.file = loader.GetRef<File>(v.file());
    vma.offset = v.offset();
    if (v.file() != 0 && !vma.file) return false;
    if (vma.shared && !vma.file && vma.name != VmaName::kVvar) return loader.Fail("a shared mapping has no file");
    vmas_.Insert(std::move(vma));
  }
  layout_ = LoadLayout(in.layout());
  if (layout_.brk > platform::kGuestTop || layout_.start_brk > layout_.brk || layout_.mmap_base > platform::kGuestTop) {
    return loader.Fail("an address space has a layout that makes no sense");
  }
  auxv_.assign(in.auxv().begin(), in.auxv().end());
  exe_ = loader.GetRef<File>(in.exe());
  MemoryOwner::Set(*this, loader.GetRef<UserNamespace>(in.user_namespace()));
  default_flags_ = in.default_flags() & kAllFlags & ~kUffdBits;
  membarrier_ = in.membarrier();
  peak_total_ = in.peak_total();
  peak_resident_ = in.peak_resident();
  return in.exe() == 0 || exe_;
}

std::string MemoryManager::CannotSave() const { return idle() ? "" : "a memory operation of a process is under way"; }

}  // namespace amber
