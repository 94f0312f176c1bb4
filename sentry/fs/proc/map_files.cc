// /proc/PID/map_files: a link for each mapping of a file, called after its addresses (fs/proc/base.c).
#include <dirent.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/proc_text.h"

namespace amber {
namespace {

// dname_to_vma_addr()
bool ParseAddress(std::string_view text, uint64_t* out) {
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out, 16);
  return error == std::errc() && end == text.data() + text.size();
}

std::string NameOf(const Vma& vma) {
  char name[40];
  snprintf(name, sizeof(name), "%llx-%llx", static_cast<unsigned long long>(vma.start), static_cast<unsigned long long>(vma.end));
  return name;
}

}  // namespace

bool ProcInode::IsMapFiles() const { return scope_ == Scope::kProcess && path_ == "map_files"; }

RefPtr<File> ProcInode::MappedFile() const {
  if (!target_ || !IsMapping() || target_->exiting() || !target_->has_mm()) return nullptr;
  std::string_view name = std::string_view(path_).substr(sizeof("map_files/") - 1);
  size_t dash = std::min(name.find('-'), name.size());
  uint64_t start = 0, end = 0;
  if (!ParseAddress(name.substr(0, dash), &start) || !ParseAddress(name.substr(std::min(dash + 1, name.size())), &end)) return nullptr;
  for (const Vma& vma : GuestMappings(target_->mm())) {
    if (vma.start == start && vma.end == end) return vma.file;
  }
  return nullptr;
}

void ProcInode::ListMappings(std::vector<DirEnt>* out) const {
  if (target_->exiting() || !target_->has_mm()) return;
  for (const Vma& vma : GuestMappings(target_->mm())) {
    if (!vma.file) continue;
    std::string name = NameOf(vma);
    uint64_t ino = Child(name)->ino();
    out->push_back({std::move(name), ino, DT_LNK});
  }
}

}  // namespace amber
