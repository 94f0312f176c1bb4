#include "sentry/ipc/shm.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/anon/anon.h"
#include "sentry/ipc/ipc.pb.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"

namespace amber {
namespace {

constexpr uint32_t kShmemMinor = 1;  // the kernel's internal shmem mount

}  // namespace

ErrnoOr<RefPtr<ShmSegment>> ShmSegment::Make(IpcNamespace& ns, uint64_t size) {
  auto segment = MakeRef<ShmSegment>();
  segment->ns_ = &ns;
  segment->size = size;
  uint64_t bytes = PageUp(size);
  if (bytes == 0 || bytes > INT64_MAX) return Errno(ENOMEM);
  segment->fd_ = GuestFd(memfd_create("guest", MFD_CLOEXEC));
  if (!segment->fd_.valid()) return Errno(errno == EMFILE ? ENOSPC : errno);
  if (ftruncate(segment->fd_.get(), static_cast<off_t>(bytes)) != 0) return Errno(ENOMEM);
  return segment;
}

std::map<const ShmSegment*, uint64_t> ShmSegment::CountAllAttached(Kernel& kernel) {
  std::map<const ShmSegment*, uint64_t> counts;
  std::set<const MemoryManager*> seen;
  for (const RefPtr<ThreadGroup>& group : kernel.groups()) {
    for (const RefPtr<Task>& task : group->tasks()) {
      if (!task->has_mm() || !seen.insert(&task->mm()).second) continue;
      for (const auto& [start, vma] : task->mm().vmas()) {
        auto* file = dynamic_cast<const ShmFile*>(vma.file.get());
        if (file != nullptr) ++counts[&file->segment()];
      }
    }
  }
  return counts;
}

uint64_t ShmSegment::CountAttached(Kernel& kernel) const {
  if (files_ == 0) return 0;
  auto counts = CountAllAttached(kernel);
  auto it = counts.find(this);
  return it == counts.end() ? 0 : it->second;
}

void ShmSegment::FileGone() {
  --files_;
  dtime = time(nullptr);
  if (files_ > 0 || !removed || ns_ == nullptr) return;
  ns_->shms().Remove(perm.id);
}

std::string ShmSegment::Save(state::Saver& saver) const {
  ipc_state::ShmSegment m;
  SavePerm(perm, m.mutable_perm());
  m.set_size(size);
  m.set_file(saver.File(fd_.get(), PageUp(size)));
  m.set_removed(removed);
  m.set_locked(locked);
  m.set_creator(creator);
  m.set_last(last);
  m.set_atime(atime);
  m.set_dtime(dtime);
  m.set_ctime(ctime);
  return m.SerializeAsString();
}

bool ShmSegment::Load(state::Loader& loader, std::string_view bytes) {
  ipc_state::ShmSegment m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a shared memory segment is malformed");
  perm = LoadPerm(m.perm());
  size = m.size();
  fd_.reset(loader.OpenFile(m.file()));
  if (!fd_.valid()) return loader.Fail("the contents of a shared memory segment are missing");
  removed = m.removed();
  locked = m.locked();
  creator = m.creator();
  last = m.last();
  atime = m.atime();
  dtime = m.dtime();
  ctime = m.ctime();
  return true;
}

ShmFile::ShmFile(RefPtr<ShmSegment> segment, bool read_only) : segment_(std::move(segment)) {
  set_flags(read_only ? O_RDONLY : O_RDWR);
  segment_->FileMade();
}

ShmFile::~ShmFile() {
  if (!segment_) return;
  // It may be the table's reference that goes: keep the segment until it has said so.
  RefPtr<ShmSegment> segment = segment_;
  segment->FileGone();
}

ErrnoOr<MapSource> ShmFile::Map(Task&, uint64_t, uint64_t, int, bool) {
  MapSource source;
  source.fd = segment_->fd();
  source.sentry_owned = true;
  return source;
}

ErrnoOr<void> ShmFile::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kShmemMinor, static_cast<uint64_t>(segment_->perm.id), S_IFREG | segment_->perm.mode, segment_->perm.uid, segment_->perm.gid);
  out->st_size = static_cast<off_t>(segment_->size);
  return Ok();
}

std::string ShmFile::LinkName() const {
  char name[40];
  snprintf(name, sizeof(name), "/SYSV%08x (deleted)", static_cast<unsigned>(segment_->perm.key));
  return name;
}

std::string ShmFile::Save(state::Saver& saver) const {
  ipc_state::ShmFile m;
  m.set_segment(saver.Ref(segment_));
  m.set_read_only(!writable());
  return m.SerializeAsString();
}

bool ShmFile::Load(state::Loader& loader, std::string_view bytes) {
  ipc_state::ShmFile m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a shared memory attachment is malformed");
  segment_ = loader.GetRef<ShmSegment>(m.segment());
  if (!segment_) return loader.Fail("a shared memory attachment has no segment");
  set_flags(m.read_only() ? O_RDONLY : O_RDWR);
  segment_->FileMade();
  return true;
}

bool ShmFile::AfterLoad(state::Loader&) { return true; }

}  // namespace amber
