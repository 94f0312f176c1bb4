#include "sentry/fs/proc/locks_text.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdint>
#include <set>

#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"

namespace amber {
namespace {

using Ull = unsigned long long;

struct Place {
  explicit Place(Task& task, File& file) { (void)file.Stat(task, &st); }
  struct stat st{};
};

void AddPlace(const Place& at, int pid, std::string* out) {
  AppendFormat(out, "%d %02x:%02x:%llu ", pid, major(at.st.st_dev), minor(at.st.st_dev), static_cast<Ull>(at.st.st_ino));
}

void AddLock(const FileLock& lock, const Place& at, std::string* out) {
  const char* kind = lock.kind == LockKind::kFlock ? "FLOCK " : lock.kind == LockKind::kOfd ? "OFDLCK" : "POSIX ";
  AppendFormat(out, "%s ADVISORY  %s ", kind, lock.exclusive ? "WRITE" : "READ");
  AddPlace(at, lock.pid, out);
  if (lock.kind == LockKind::kFlock || lock.end >= INT64_MAX) {
    AppendFormat(out, "%llu EOF\n", static_cast<Ull>(lock.kind == LockKind::kFlock ? 0 : lock.start));
  } else {
    AppendFormat(out, "%llu %llu\n", static_cast<Ull>(lock.start), static_cast<Ull>(lock.end));
  }
}

void AddLease(const Lease& lease, const Place& at, int pid, std::string* out) {
  const char* type = lease.breaking == Lease::kToNone ? "UNLCK" : lease.breaking == Lease::kToRead || !lease.write ? "READ" : "WRITE";
  AppendFormat(out, "LEASE  %s%s ", lease.breaking != Lease::kNot ? "BREAKING  " : "ACTIVE    ", type);
  AddPlace(at, pid, out);
  *out += "0 EOF\n";
}

}  // namespace

std::string FdLocksText(Task& target, File& file) {
  std::string out;
  FileLocks* locks = LocksOf(file, false);
  if (locks == nullptr || (locks->empty() && locks->leases().empty())) return out;
  const Place at(target, file);
  int number = 0;
  for (const FileLock& lock : locks->all()) {
    if (lock.owner != &file && lock.owner != &target.files()) continue;
    AppendFormat(&out, "lock:\t%d: ", ++number);
    AddLock(lock, at, &out);
  }
  for (const Lease& lease : locks->leases()) {
    if (lease.owner != &file) continue;
    AppendFormat(&out, "lock:\t%d: ", ++number);
    AddLease(lease, at, ProcTerms::Now().IdOf(target.group()), &out);
  }
  return out;
}

ErrnoOr<std::string> LocksText(Task& reader, Task*) {
  std::string out;
  std::set<const FileLocks*> seen;
  std::set<const FdTable*> tables;
  int number = 0;
  for (const RefPtr<ThreadGroup>& group : ProcTerms::Now().Groups()) {
    Task* task = group->leader();
    if (group->zombie() || task == nullptr || task->exiting() || !tables.insert(&task->files()).second) continue;
    task->files().ForEach([&](int, const RefPtr<File>& file, bool) {
      FileLocks* locks = LocksOf(*file, false);
      if (locks == nullptr || (locks->empty() && locks->leases().empty()) || !seen.insert(locks).second) return;
      const Place at(reader, *file);
      for (const FileLock& lock : locks->all()) {
        AppendFormat(&out, "%d: ", ++number);
        AddLock(lock, at, &out);
      }
      for (const Lease& lease : locks->leases()) {
        AppendFormat(&out, "%d: ", ++number);
        AddLease(lease, at, ProcTerms::Now().IdOf(*group), &out);
      }
    });
  }
  return out;
}

}  // namespace amber
