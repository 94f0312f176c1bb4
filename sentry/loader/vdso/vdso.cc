#include "sentry/loader/vdso/vdso.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sentry/loader/vdso/params.h"
#include "sentry/loader/vdso/vdso_image.h"

namespace amber::loader {

namespace {

constexpr size_t kImageSize = sizeof(kVdsoImage);

ErrnoOr<UniqueFd> SealedMemfd(const char* name, size_t size, const void* contents, size_t contents_size) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Errno(errno);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  if (contents_size > 0 && pwrite(fd.get(), contents, contents_size, 0) != static_cast<ssize_t>(contents_size)) return Errno(EIO);
  return fd;
}

}  // namespace

uint64_t FindVdsoSymbol(const void* image, std::string_view symbol) {
  const char* base = static_cast<const char*>(image);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* phdrs = reinterpret_cast<const Elf64_Phdr*>(base + header->e_phoff);
  const Elf64_Dyn* dynamic = nullptr;
  uint64_t load_address = 0;  // what the addresses in the file are relative to
  for (int i = 0; i < header->e_phnum; ++i) {
    if (phdrs[i].p_type == PT_LOAD) load_address = phdrs[i].p_vaddr - phdrs[i].p_offset;
    if (phdrs[i].p_type == PT_DYNAMIC) dynamic = reinterpret_cast<const Elf64_Dyn*>(base + phdrs[i].p_offset);
  }
  if (dynamic == nullptr) return 0;
  const Elf64_Sym* symbols = nullptr;
  const char* strings = nullptr;
  const Elf64_Word* hash = nullptr;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    const char* at = base + (dynamic->d_un.d_ptr - load_address);
    if (dynamic->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const Elf64_Sym*>(at);
    if (dynamic->d_tag == DT_STRTAB) strings = at;
    if (dynamic->d_tag == DT_HASH) hash = reinterpret_cast<const Elf64_Word*>(at);
  }
  if (symbols == nullptr || strings == nullptr) return 0;
  // Without DT_HASH (newer kernels) the symbol table ends where the string table begins, as linkers lay them out.
  size_t count = hash != nullptr ? hash[1] : (strings - reinterpret_cast<const char*>(symbols)) / sizeof(Elf64_Sym);
  for (size_t i = 0; i < count; ++i) {
    if (symbols[i].st_shndx != SHN_UNDEF && symbol == strings + symbols[i].st_name) return symbols[i].st_value - load_address;
  }
  return 0;
}

uint64_t Vdso::ImageSize() { return (kImageSize + 4095) & ~uint64_t{4095}; }

ErrnoOr<std::unique_ptr<Vdso>> Vdso::Create(uint64_t host_base) {
  std::unique_ptr<Vdso> vdso(new Vdso());
  vdso->image_ = TRY(SealedMemfd("vdso", ImageSize(), kVdsoImage, kImageSize));
  if (fcntl(vdso->image_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) return Errno(errno);
  vdso->params_ = TRY(VdsoParams::Create());
  vdso_params& page = vdso->params_->page();
  const void* host = reinterpret_cast<const void*>(getauxval(AT_SYSINFO_EHDR));
  if (host != nullptr && host_base != 0) {
    auto find = [&](std::string_view name) {
      uint64_t offset = FindVdsoSymbol(host, name);
      return offset == 0 ? 0 : host_base + offset;
    };
    page.host_clock_gettime = find("__vdso_clock_gettime");
    page.host_clock_getres = find("__vdso_clock_getres");
    page.host_gettimeofday = find("__vdso_gettimeofday");
    page.host_time = find("__vdso_time");
    page.host_getcpu = find("__vdso_getcpu");
  }
  return vdso;
}

ErrnoOr<std::unique_ptr<VdsoParams>> Vdso::OtherParams(int64_t monotonic, int64_t boottime) {
  std::unique_ptr<VdsoParams> other = TRY(VdsoParams::Create());
  other->page() = params_->page();
  other->SetOffsets(monotonic, boottime);
  return other;
}

ErrnoOr<std::unique_ptr<VdsoParams>> VdsoParams::Create() {
  std::unique_ptr<VdsoParams> params(new VdsoParams());
  params->fd_ = TRY(SealedMemfd("vvar", Vdso::kParamsSize, nullptr, 0));
  void* page = mmap(nullptr, Vdso::kParamsSize, PROT_READ | PROT_WRITE, MAP_SHARED, params->fd(), 0);
  if (page == MAP_FAILED) return Errno(errno);
  params->page_ = static_cast<vdso_params*>(page);
  // From here on the page can be written through the mapping above only.
  if (fcntl(params->fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) return Errno(errno);
  return params;
}

VdsoParams::~VdsoParams() {
  if (page_ != nullptr) munmap(page_, Vdso::kParamsSize);
}

void VdsoParams::SetOffsets(int64_t monotonic, int64_t boottime) {
  __atomic_store_n(&page_->monotonic_offset, monotonic, __ATOMIC_RELAXED);
  __atomic_store_n(&page_->boottime_offset, boottime, __ATOMIC_RELAXED);
}

}  // namespace amber::loader
