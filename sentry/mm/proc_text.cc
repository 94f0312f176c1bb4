#include "sentry/mm/proc_text.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/mm/guard.h"
#include "sentry/mm/moved.h"

namespace amber {

namespace {

template <typename... Args>
void Append(std::string* out, const char* format, Args... args) {
  char line[256];
  int n = snprintf(line, sizeof(line), format, args...);
  out->append(line, std::min<size_t>(static_cast<size_t>(std::max(n, 0)), sizeof(line) - 1));
}

// A file of the stub's directory in the host's /proc; "" if it cannot be read.
std::string ReadHostFile(const MemoryManager& mm, const char* name) {
  int pid = mm.attached() ? mm.space().host_pid() : 0;
  if (pid == 0) return "";
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
  UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return "";
  std::string text;
  std::array<char, 16384> buffer;
  for (ssize_t n; (n = read(fd.get(), buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), static_cast<size_t>(n));
  return text;
}

// The number in the line "KEY:   123 kB" of `text`, in KiB; 0 if there is none.
uint64_t HostValue(std::string_view text, std::string_view key) {
  for (size_t at = 0; (at = text.find(key, at)) != std::string_view::npos; at += key.size()) {
    if ((at != 0 && text[at - 1] != '\n') || at + key.size() >= text.size() || text[at + key.size()] != ':') continue;
    return strtoull(std::string(text.substr(at + key.size() + 1, 32)).c_str(), nullptr, 10);
  }
  return 0;
}

}  // namespace

std::vector<Vma> GuestMappings(const MemoryManager& mm) {
  std::vector<Vma> list;
  for (const auto& [start, vma] : mm.vmas()) {
    Vma plain = GuestView(vma);
    if (!list.empty() && list.back().MergesWith(plain)) {
      list.back().end = plain.end;
    } else {
      list.push_back(std::move(plain));
    }
  }
  return list;
}

namespace {

const char* NameOf(VmaName name) {
  switch (name) {
    case VmaName::kHeap: return "[heap]";
    case VmaName::kStack: return "[stack]";
    case VmaName::kVdso: return "[vdso]";
    case VmaName::kVvar: return "[vvar]";
    case VmaName::kFast: return "[amber]";
    case VmaName::kNone: return "";
  }
  return "";
}

// show_map_vma() of fs/proc/task_mmu.c.
void AppendMapping(const Vma& vma, const MapsContext& context, std::string* out) {
  struct stat st = {};
  std::string name = NameOf(vma.name);
  if (vma.file) {
    if (!vma.file->Stat(context.reader, &st).ok()) st = {};
    name = vma.file->dentry() != nullptr && context.path_of ? context.path_of(*vma.file) : vma.file->LinkName();
  }
  size_t line_start = out->size();
  Append(out, "%08" PRIx64 "-%08" PRIx64 " %c%c%c%c %08" PRIx64 " %02x:%02x %" PRIu64 " ", vma.start, vma.end,
         (vma.prot & PROT_READ) != 0 ? 'r' : '-', (vma.prot & PROT_WRITE) != 0 ? 'w' : '-', (vma.prot & PROT_EXEC) != 0 ? 'x' : '-',
         vma.shared && vma.file && !IsMoved(vma) ? 's' : 'p', vma.offset, major(st.st_dev), minor(st.st_dev), static_cast<uint64_t>(st.st_ino));
  if (!name.empty()) {
    size_t length = out->size() - line_start;
    if (length < 73) out->append(73 - length, ' ');
    for (char c : name) {
      if (c == '\n') {
        *out += "\\012";
      } else {
        *out += c;
      }
    }
  }
  *out += '\n';
}

// The lines of smaps that are sums of kilobytes.
constexpr const char* kSmapsKeys[] = {
    "Rss",       "Pss",     "Pss_Dirty", "Shared_Clean",  "Shared_Dirty",   "Private_Clean", "Private_Dirty",  "Referenced",
    "Anonymous", "KSM",     "LazyFree",  "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb",
    "Swap",      "SwapPss", "Locked"};
constexpr size_t kSmapsCount = std::size(kSmapsKeys);
constexpr size_t kSmapsRss = 0, kSmapsPss = 1, kSmapsPssDirty = 2, kSmapsAnonymous = 8;
using Sums = std::array<uint64_t, kSmapsCount>;

struct HostMapping {
  uint64_t start = 0;
  Sums sums{};
};

std::vector<HostMapping> ReadHostSmaps(const MemoryManager& mm) {
  std::vector<HostMapping> list;
  std::string text = ReadHostFile(mm, "smaps");
  std::string_view rest = text;
  while (!rest.empty()) {
    size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    uint64_t start = 0, stop = 0;
    if (line.size() > 20 && line[0] != ' ' && (isdigit(line[0]) || (line[0] >= 'a' && line[0] <= 'f')) &&
        sscanf(std::string(line.substr(0, 40)).c_str(), "%" SCNx64 "-%" SCNx64, &start, &stop) == 2) {
      list.push_back({start, {}});
      continue;
    }
    size_t colon = line.find(':');
    if (list.empty() || colon == std::string_view::npos) continue;
    for (size_t i = 0; i < kSmapsCount; ++i) {
      if (line.substr(0, colon) != kSmapsKeys[i]) continue;
      list.back().sums[i] = strtoull(std::string(line.substr(colon + 1, 32)).c_str(), nullptr, 10);
    }
  }
  return list;
}

void AppendSum(const char* name, uint64_t kilobytes, std::string* out) {
  Append(out, "%-16s%8" PRIu64 " kB\n", (std::string(name) + ":").c_str(), kilobytes);
}

void AppendSums(const Sums& sums, size_t first, size_t end, std::string* out) {
  for (size_t i = first; i < end; ++i) AppendSum(kSmapsKeys[i], sums[i], out);
}

void AppendVmFlags(const Vma& vma, std::string* out) {
  *out += "VmFlags:";
  auto flag = [&](bool on, const char* text) {
    if (on) Append(out, " %s", text);
  };
  flag((vma.prot & PROT_READ) != 0, "rd");
  flag((vma.prot & PROT_WRITE) != 0, "wr");
  flag((vma.prot & PROT_EXEC) != 0, "ex");
  flag(vma.shared && (vma.max_prot & PROT_WRITE) != 0, "sh");
  flag((vma.max_prot & PROT_READ) != 0, "mr");
  flag((vma.max_prot & PROT_WRITE) != 0, "mw");
  flag((vma.max_prot & PROT_EXEC) != 0, "me");
  flag(vma.shared, "ms");
  flag(vma.grows_down(), "gd");
  flag(vma.locked(), "lo");
  flag((vma.flags & Vma::kSequential) != 0, "sr");
  flag((vma.flags & Vma::kRandom) != 0, "rr");
  flag((vma.flags & Vma::kDontFork) != 0, "dc");
  flag(vma.data(), "ac");
  flag((vma.flags & Vma::kNoReserve) != 0, "nr");
  flag((vma.flags & Vma::kWipeOnFork) != 0, "wf");
  flag((vma.flags & Vma::kDontDump) != 0, "dd");
  flag((vma.flags & Vma::kHuge) != 0, "hg");
  flag((vma.flags & Vma::kNoHuge) != 0, "nh");
  *out += " \n";
}

}  // namespace

MemoryManager::Usage MemoryManager::GetUsage() const {
  Usage u;
  u.total = vmas_.total();
  u.peak = std::max(peak_total_, u.total);
  u.locked = vmas_.locked();
  u.text = PageUp(layout_.end_code) - PageDown(layout_.start_code);
  for (const auto& [start, vma] : vmas_) {
    if (vma.name == VmaName::kStack) u.stack += vma.size();
    if (vma.data()) u.data += vma.size();
    if (!vma.shared && (vma.prot & (PROT_EXEC | PROT_WRITE)) == PROT_EXEC) u.lib += vma.size();
  }
  u.lib = u.lib > u.text ? u.lib - u.text : 0;
  std::string status = ReadHostFile(*this, "status");
  u.resident = HostValue(status, "VmRSS") * 1024;
  u.resident_file = HostValue(status, "RssFile") * 1024;
  u.resident_shared = HostValue(status, "RssShmem") * 1024;
  peak_resident_ = std::max({peak_resident_, u.resident, HostValue(status, "VmHWM") * 1024});
  u.resident_peak = peak_resident_;
  return u;
}

std::string MapsText(const MemoryManager& mm, const MapsContext& context) {
  std::string out;
  for (const Vma& vma : GuestMappings(mm)) AppendMapping(vma, context, &out);
  return out;
}

std::string SmapsText(const MemoryManager& mm, const MapsContext& context) {
  std::string out;
  std::vector<HostMapping> host = ReadHostSmaps(mm);
  auto at = host.begin();
  for (const Vma& vma : GuestMappings(mm)) {
    Sums sums{};
    while (at != host.end() && at->start < vma.start) ++at;
    for (; at != host.end() && at->start < vma.end; ++at) {
      for (size_t i = 0; i < kSmapsCount; ++i) sums[i] += at->sums[i];
    }
    AppendMapping(vma, context, &out);
    Append(&out, "Size:           %8" PRIu64 " kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n", vma.size() / 1024);
    AppendSums(sums, 0, kSmapsCount, &out);
    Append(&out, "THPeligible:    %8d\n", vma.anonymous() && (vma.flags & Vma::kHuge) != 0 ? 1 : 0);
    AppendVmFlags(vma, &out);
  }
  return out;
}

// show_numa_map() of fs/proc/task_mmu.c.
std::string NumaMapsText(const MemoryManager& mm, const MapsContext& context, const MemoryPolicy& policy) {
  constexpr size_t kRss = 0, kSharedDirty = 4, kPrivateDirty = 6, kReferenced = 7, kAnonymous = 8;
  std::string out;
  std::vector<HostMapping> host = ReadHostSmaps(mm);
  auto at = host.begin();
  for (const Vma& vma : GuestMappings(mm)) {
    Sums sums{};
    while (at != host.end() && at->start < vma.start) ++at;
    for (; at != host.end() && at->start < vma.end; ++at) {
      for (size_t i = 0; i < kSmapsCount; ++i) sums[i] += at->sums[i];
    }
    auto pages = [&](size_t i) { return sums[i] * 1024 / kPageSize; };
    Append(&out, "%08" PRIx64 " %s", vma.start, (vma.policy.mode != MemoryPolicy::kDefault ? vma.policy : policy).Text().c_str());
    if (vma.file) {
      out += " file=";
      std::string name = vma.file->dentry() != nullptr && context.path_of ? context.path_of(*vma.file) : vma.file->LinkName();
      for (char c : name) {
        if (c == '\n' || c == '\t' || c == ' ' || c == '=') {
          Append(&out, "\\%03o", static_cast<unsigned>(c));
        } else {
          out += c;
        }
      }
    } else if (vma.name == VmaName::kHeap || vma.name == VmaName::kStack) {
      out += vma.name == VmaName::kHeap ? " heap" : " stack";
    }
    uint64_t all = pages(kRss), anonymous = pages(kAnonymous), dirty = pages(kSharedDirty) + pages(kPrivateDirty);
    auto tell = [&](const char* key, uint64_t n) { Append(&out, " %s=%" PRIu64, key, n); };
    if (all > 0) {
      if (anonymous > 0) tell("anon", anonymous);
      if (dirty > 0) tell("dirty", dirty);
      if (all != anonymous && all != dirty) tell("mapped", all);
      if (pages(kReferenced) < all) tell("active", pages(kReferenced));
      tell("N0", all);
      tell("kernelpagesize_kB", 4);
    }
    out += '\n';
  }
  return out;
}

std::string SmapsRollupText(const MemoryManager& mm) {
  Sums sums{};
  // The share in memory of programs' own, of files, and of memory files.
  uint64_t own = 0, files = 0, memory_files = 0;
  for (const HostMapping& h : ReadHostSmaps(mm)) {
    const Vma* vma = mm.vmas().Find(h.start);
    if (vma == nullptr) continue;
    for (size_t i = 0; i < kSmapsCount; ++i) sums[i] += h.sums[i];
    uint64_t rss = h.sums[kSmapsRss], pss = h.sums[kSmapsPss];
    uint64_t anonymous = !vma->file ? pss : rss == 0 ? 0 : pss * std::min(h.sums[kSmapsAnonymous], rss) / rss;
    own += anonymous;
    (vma->file && vma->file->dentry() == nullptr ? memory_files : files) += pss - anonymous;
  }
  std::string out;
  uint64_t start = mm.vmas().count() > 0 ? mm.vmas().begin()->second.start : 0;
  uint64_t end = mm.vmas().count() > 0 ? std::prev(mm.vmas().end())->second.end : 0;
  Append(&out, "%08" PRIx64 "-%08" PRIx64 " ---p 00000000 00:00 0 ", start, end);
  out.append(out.size() < 73 ? 73 - out.size() : 0, ' ');
  out += "[rollup]\n";
  AppendSums(sums, 0, kSmapsPssDirty + 1, &out);
  AppendSum("Pss_Anon", own, &out);
  AppendSum("Pss_File", files, &out);
  AppendSum("Pss_Shmem", memory_files, &out);
  AppendSums(sums, kSmapsPssDirty + 1, kSmapsCount, &out);
  return out;
}

std::string StatmText(const MemoryManager& mm) {
  MemoryManager::Usage u = mm.GetUsage();
  std::string out;
  Append(&out, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " 0 %" PRIu64 " 0\n", u.total / kPageSize, u.resident / kPageSize,
         (u.resident_file + u.resident_shared) / kPageSize, u.text / kPageSize, (u.data + u.stack) / kPageSize);
  return out;
}

std::string StatusMemoryText(const MemoryManager& mm) {
  MemoryManager::Usage u = mm.GetUsage();
  std::string status = ReadHostFile(mm, "status");
  uint64_t in_files = u.resident_file + u.resident_shared;
  const std::pair<const char*, uint64_t> lines[] = {
      {"VmPeak:", u.peak / 1024},
      {"VmSize:", u.total / 1024},
      {"VmLck:", u.locked / 1024},
      {"VmPin:", 0},
      {"VmHWM:", u.resident_peak / 1024},
      {"VmRSS:", u.resident / 1024},
      {"RssAnon:", (u.resident > in_files ? u.resident - in_files : 0) / 1024},
      {"RssFile:", u.resident_file / 1024},
      {"RssShmem:", u.resident_shared / 1024},
      {"VmData:", u.data / 1024},
      {"VmStk:", u.stack / 1024},
      {"VmExe:", u.text / 1024},
      {"VmLib:", u.lib / 1024},
      {"VmPTE:", HostValue(status, "VmPTE")},
      {"VmSwap:", HostValue(status, "VmSwap")},
  };
  std::string out;
  for (const auto& [key, kilobytes] : lines) Append(&out, "%s\t%8" PRIu64 " kB\n", key, kilobytes);
  return out;
}

std::string ReadRange(const MemoryManager& mm, uint64_t start, uint64_t end, size_t limit) {
  if (end <= start || !mm.attached()) return "";
  std::string bytes(std::min<uint64_t>(end - start, limit), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    auto n = mm.space().Read(start + done, bytes.data() + done, bytes.size() - done);
    if (!n.ok() || *n == 0) break;
    done += *n;
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace amber
