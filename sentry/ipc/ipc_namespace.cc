#include "sentry/ipc/ipc_namespace.h"

#include <linux/capability.h>

#include <cstdio>

#include "sentry/ipc/ipc.pb.h"
#include "sentry/kernel/kernel.h"

namespace amber {

ErrnoOr<void> IpcPerm::Check(const Credentials& creds, uint32_t wanted) const {
  wanted = (wanted >> 6 | wanted >> 3 | wanted) & 7;
  uint32_t granted = mode;
  if (creds.euid == cuid || creds.euid == uid) {
    granted >>= 6;
  } else if (creds.egid == cgid || creds.egid == gid || creds.InGroup(cgid) || creds.InGroup(gid)) {
    granted >>= 3;
  }
  if ((wanted & ~granted & 7) != 0 && !creds.Has(CAP_IPC_OWNER)) return Errno(EACCES);
  return Ok();
}

ErrnoOr<void> IpcPerm::CheckOwner(const Credentials& creds) const {
  if (creds.euid == cuid || creds.euid == uid || creds.Has(CAP_SYS_ADMIN)) return Ok();
  return Errno(EPERM);
}

void IpcPerm::FillOut(struct ipc_perm* out) const {
  *out = {};
  out->__key = key;
  out->uid = uid;
  out->gid = gid;
  out->cuid = cuid;
  out->cgid = cgid;
  out->mode = static_cast<decltype(out->mode)>(mode);
  out->__seq = static_cast<decltype(out->__seq)>(seq);
}

IpcNamespace::~IpcNamespace() {
  for (const auto& [index, segment] : shms_.all()) segment->DropNamespace();
}

namespace {

void Line(std::string* out, const char* format, auto... values) {
  char line[512];
  int n = snprintf(line, sizeof(line), format, values...);
  out->append(line, std::min<size_t>(static_cast<size_t>(std::max(n, 0)), sizeof(line) - 1));
}
using Ull = unsigned long long;
using Ll = long long;

}  // namespace

// The columns of these three are those of sysvipc_*_proc_show().
std::string IpcNamespace::SemText() const {
  std::string out = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
  for (const auto& [index, set] : sems_.all()) {
    const IpcPerm& p = set->perm;
    Line(&out, "%10d %10d  %4o %10u %5u %5u %5u %5u %10llu %10llu\n", p.key, p.id, p.mode, static_cast<unsigned>(set->values.size()), p.uid, p.gid,
         p.cuid, p.cgid, static_cast<Ull>(set->otime), static_cast<Ull>(set->ctime));
  }
  return out;
}

std::string IpcNamespace::MsgText() const {
  std::string out = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n";
  for (const auto& [index, queue] : msgs_.all()) {
    const IpcPerm& p = queue->perm;
    Line(&out, "%10d %10d  %4o  %10llu %10llu %5u %5u %5u %5u %5u %5u %10llu %10llu %10llu\n", p.key, p.id, p.mode, static_cast<Ull>(queue->bytes),
         static_cast<Ull>(queue->messages.size()), queue->last_sender, queue->last_receiver, p.uid, p.gid, p.cuid, p.cgid,
         static_cast<Ull>(queue->stime), static_cast<Ull>(queue->rtime), static_cast<Ull>(queue->ctime));
  }
  return out;
}

std::string IpcNamespace::ShmText(Kernel& kernel) const {
  std::string out =
      "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime   "
      "                rss                  swap\n";
  auto attached = ShmSegment::CountAllAttached(kernel);
  for (const auto& [index, s] : shms_.all()) {
    const IpcPerm& p = s->perm;
    struct stat st{};
    (void)fstat(s->fd(), &st);
    uint32_t mode = p.mode | (s->removed ? 01000u : 0) | (s->locked ? 02000u : 0);
    Line(&out, "%10d %10d  %4o %21llu %5u %5u  %5llu %5u %5u %5u %5u %10llu %10llu %10llu %21llu %21llu\n", p.key, p.id, mode,
         static_cast<Ull>(s->size), s->creator, s->last, static_cast<Ull>(attached[s.get()]), p.uid, p.gid, p.cuid, p.cgid,
         static_cast<Ull>(s->atime), static_cast<Ull>(s->dtime), static_cast<Ull>(s->ctime), static_cast<Ull>(st.st_blocks * 512), Ull{0});
  }
  return out;
}

void SavePerm(const IpcPerm& perm, ipc_state::Perm* out) {
  out->set_key(perm.key);
  out->set_id(perm.id);
  out->set_uid(perm.uid);
  out->set_gid(perm.gid);
  out->set_cuid(perm.cuid);
  out->set_cgid(perm.cgid);
  out->set_mode(perm.mode);
  out->set_seq(perm.seq);
}

IpcPerm LoadPerm(const ipc_state::Perm& in) {
  IpcPerm perm;
  perm.key = in.key();
  perm.id = in.id();
  perm.uid = in.uid();
  perm.gid = in.gid();
  perm.cuid = in.cuid();
  perm.cgid = in.cgid();
  perm.mode = in.mode() & 0777;
  perm.seq = in.seq();
  return perm;
}

namespace {

template <typename T>
void SaveTable(const IpcTable<T>& table, ipc_state::Table* out) {
  out->set_seq(table.seq());
  out->set_last_index(table.last_index());
}

void SaveSem(const SemSet& set, ipc_state::SemSet* out) {
  SavePerm(set.perm, out->mutable_perm());
  for (const SemSet::Value& v : set.values) {
    out->add_value(v.value);
    out->add_pid(v.pid);
  }
  out->set_otime(set.otime);
  out->set_ctime(set.ctime);
}

bool LoadSem(const ipc_state::SemSet& in, SemSet* set) {
  set->perm = LoadPerm(in.perm());
  if (in.value_size() != in.pid_size() || static_cast<size_t>(in.value_size()) > kSemSetMost) return false;
  for (int i = 0; i < in.value_size(); ++i) {
    if (in.value(i) < 0 || in.value(i) > kSemValueMax) return false;
    set->values.push_back({in.value(i), in.pid(i)});
  }
  set->otime = in.otime();
  set->ctime = in.ctime();
  return true;
}

void SaveMsg(const MsgQueue& queue, ipc_state::MsgQueue* out) {
  SavePerm(queue.perm, out->mutable_perm());
  for (const MsgQueue::Message& m : queue.messages) {
    out->add_type(m.type);
    out->add_text(m.text);
  }
  out->set_max_bytes(queue.max_bytes);
  out->set_last_sender(queue.last_sender);
  out->set_last_receiver(queue.last_receiver);
  out->set_stime(queue.stime);
  out->set_rtime(queue.rtime);
  out->set_ctime(queue.ctime);
}

bool LoadMsg(const ipc_state::MsgQueue& in, MsgQueue* queue) {
  queue->perm = LoadPerm(in.perm());
  if (in.type_size() != in.text_size()) return false;
  for (int i = 0; i < in.type_size(); ++i) {
    queue->bytes += in.text(i).size();
    queue->messages.push_back({in.type(i), in.text(i)});
  }
  queue->max_bytes = in.max_bytes();
  queue->last_sender = in.last_sender();
  queue->last_receiver = in.last_receiver();
  queue->stime = in.stime();
  queue->rtime = in.rtime();
  queue->ctime = in.ctime();
  return true;
}

}  // namespace

ErrnoOr<void> IpcNamespace::WriteSysctl(const SysctlRow& row, std::string_view text) {
  SysctlNumbers after = sysctls_;
  TRY(after.Write(row, text));
  if (after[kSysctlSemSets] > kIpcMniMax) return Errno(EINVAL);  // proc_ipc_sem_dointvec()
  sysctls_ = after;
  return Ok();
}

std::string IpcNamespace::Save(state::Saver& saver) const {
  ipc_state::IpcNamespace m;
  SaveTable(sems_, m.mutable_sems());
  SaveTable(msgs_, m.mutable_msgs());
  SaveTable(shms_, m.mutable_shms());
  for (const auto& [index, set] : sems_.all()) SaveSem(*set, m.add_sem());
  for (const auto& [index, queue] : msgs_.all()) SaveMsg(*queue, m.add_msg());
  for (const auto& [index, segment] : shms_.all()) m.add_shm(saver.Ref(segment));
  m.set_mqueue(saver.Ref(mqueue_));
  m.set_ino(ino());
  m.set_owner(SaveOwner(saver));
  for (uint64_t value : sysctls_.values()) m.add_sysctl(value);
  return m.SerializeAsString();
}

bool IpcNamespace::Load(state::Loader& loader, std::string_view bytes) {
  ipc_state::IpcNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("an ipc namespace is malformed");
  sems_.Restore(m.sems().seq(), m.sems().last_index());
  msgs_.Restore(m.msgs().seq(), m.msgs().last_index());
  shms_.Restore(m.shms().seq(), m.shms().last_index());
  for (const auto& in : m.sem()) {
    auto set = MakeRef<SemSet>();
    if (!LoadSem(in, set.get()) || !sems_.RestoreObject(std::move(set))) return loader.Fail("a semaphore set is malformed");
  }
  for (const auto& in : m.msg()) {
    auto queue = MakeRef<MsgQueue>();
    if (!LoadMsg(in, queue.get()) || !msgs_.RestoreObject(std::move(queue))) return loader.Fail("a message queue is malformed");
  }
  if (!sysctls_.Load({m.sysctl().data(), static_cast<size_t>(m.sysctl().size())}) || sysctls_[kSysctlSemSets] > kIpcMniMax)
    return loader.Fail("a limit of an ipc namespace is out of range");
  mqueue_ = loader.GetRef<Mount>(m.mqueue());
  if (!LoadCommon(loader, m.ino(), m.owner())) return false;
  for (uint64_t id : m.shm()) {
    loading_.push_back(loader.GetRef<ShmSegment>(id));
    if (!loading_.back()) return false;
  }
  return true;
}

bool IpcNamespace::AfterLoad(state::Loader& loader) {
  for (RefPtr<ShmSegment>& segment : std::exchange(loading_, {})) {
    segment->ns_ = this;
    if (!shms_.RestoreObject(std::move(segment))) return loader.Fail("two shared memory segments have one id");
  }
  return true;
}

}  // namespace amber
