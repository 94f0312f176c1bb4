// Files that events tell by handles and names: FAN_REPORT_FID and its kin.
#include <cstring>

#include "sentry/fs/fanotify/fanotify.h"
#include "sentry/fs/fanotify/fanotify.pb.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"

namespace amber {
namespace {

FileHandle HandleOrNone(Inode* inode) { return inode != nullptr ? HandleFor(*inode) : FileHandle(); }

// fanotify_fid_inode() without a directory to be told: what a handle alone is of.
Inode* Subject(const NameEvent& event, uint32_t fids) {
  bool by_dir = (event.mask & kFanNameEvents) != 0 && (fids & FAN_REPORT_TARGET_FID) == 0;
  return by_dir ? event.dir : event.inode;
}

// fanotify_report_child_fid()
bool TellsChild(uint32_t mask, uint32_t fids) {
  if ((mask & kFanNameEvents) != 0) return (fids & FAN_REPORT_TARGET_FID) != 0;
  return (fids & FAN_REPORT_FID) != 0 && (mask & FAN_ONDIR) == 0;
}

// copy_fid_info_to_user(): a header, the file system, the handle, the name with a null, and zeros to the next word.
void AppendInfo(std::string* out, uint8_t type, uint64_t fsid, const FileHandle& handle, std::string_view name) {
  struct {
    fanotify_event_info_header head;
    uint32_t fsid[2];
    uint32_t bytes;
    int32_t type;
  } info;
  static_assert(sizeof(info) == 20);
  size_t size = sizeof(info) + handle.bytes.size() + (name.empty() ? 0 : name.size() + 1);
  size_t padded = (size + 3) & ~size_t{3};
  info = {{type, 0, static_cast<uint16_t>(padded)},
          {static_cast<uint32_t>(fsid), static_cast<uint32_t>(fsid >> 32)},
          static_cast<uint32_t>(handle.bytes.size()),
          handle.type};
  out->append(reinterpret_cast<const char*>(&info), sizeof(info));
  *out += handle.bytes;
  if (!name.empty()) out->append(name).push_back('\0');
  out->append(padded - size, '\0');
}

void SaveHandle(const FileHandle& handle, fanotify_state::Fanotify_Event_Handle* out) {
  out->set_type(static_cast<uint32_t>(handle.type));
  out->set_bytes(handle.bytes);
}

bool LoadHandle(const fanotify_state::Fanotify_Event_Handle& in, FileHandle* out) {
  *out = {static_cast<int>(in.type()), in.bytes()};
  return in.bytes().size() <= kMaxHandleBytes;
}

}  // namespace

// fanotify_alloc_event()
std::unique_ptr<Fanotify::Ids> Fanotify::Identify(const NameEvent& event, uint32_t told, uint32_t matched) const {
  uint32_t fids = init_flags_ & kFanFids;
  bool about_name = (event.mask & kFanNameEvents) != 0, about_dir = (event.mask & FAN_ONDIR) != 0;
  auto ids = std::make_unique<Ids>();
  Inode* subject = Subject(event, fids);
  ids->fsid = subject->fs().dev();
  // fanotify_dfid_inode(): a directory stands for itself, unless the event is about a name of it.
  Inode* dir = !about_name && event.inode->IsDir() ? event.inode : event.dir;
  if ((fids & FAN_REPORT_DIR_FID) == 0 || dir == nullptr) {
    ids->object = HandleFor(*subject);
    return ids;
  }
  Inode* child = TellsChild(event.mask, fids) && subject != dir ? subject : nullptr;
  bool named = (fids & FAN_REPORT_NAME) != 0 && (about_name || !about_dir);
  if (!named && child == nullptr) {
    ids->object = HandleFor(*dir);
    return ids;
  }
  ids->object = HandleOrNone(child);
  bool tells_old = true;
  if ((told & FAN_RENAME) != 0) {
    // Who watches both ends, or all, is told both.
    tells_old = (matched & (kByInode | kByFileSystem)) != 0;
    if ((matched & (kByNewDir | kByFileSystem)) != 0) {
      ids->new_dir = HandleOrNone(event.new_dir);
      ids->new_name = event.new_name;
    }
  }
  if (tells_old) ids->dir = HandleFor(*dir);
  if (tells_old && named) ids->name = event.name;
  return ids;
}

std::string Fanotify::MergeKey(const Event& event) {
  std::string key;
  auto number = [&key](auto n) { key.append(reinterpret_cast<const char*>(&n), sizeof(n)); };
  number(event.pid);
  if (event.ids == nullptr) {
    number(event.place.mount.get());
    number(event.place.dentry.get());
    return key;
  }
  // fanotify_should_merge(): a directory's names and other ones, renames and other events stay apart.
  number(event.mask & (FAN_ONDIR | FAN_RENAME));
  number(event.ids->fsid);
  for (const FileHandle* handle : {&event.ids->dir, &event.ids->new_dir, &event.ids->object}) {
    number(handle->type);
    number(handle->bytes.size());
    key += handle->bytes;
  }
  number(event.ids->name.size());
  return key + event.ids->name + event.ids->new_name;
}

// copy_info_records_to_user()
std::string Fanotify::InfoOf(const Event& event) const {
  std::string out;
  if (event.ids == nullptr) return out;
  const Ids& ids = *event.ids;
  bool renamed = (event.mask & FAN_RENAME) != 0;
  if (!ids.dir.bytes.empty()) {
    uint8_t type = renamed ? FAN_EVENT_INFO_TYPE_OLD_DFID_NAME : ids.name.empty() ? FAN_EVENT_INFO_TYPE_DFID : FAN_EVENT_INFO_TYPE_DFID_NAME;
    AppendInfo(&out, type, ids.fsid, ids.dir, ids.name);
  }
  if (!ids.new_dir.bytes.empty()) AppendInfo(&out, FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, ids.fsid, ids.new_dir, ids.new_name);
  if (ids.object.bytes.empty()) return out;
  uint32_t fids = init_flags_ & kFanFids;
  bool about_dir = (event.mask & FAN_ONDIR) != 0;
  uint8_t type = FAN_EVENT_INFO_TYPE_FID;
  std::string_view name;
  if (fids != FAN_REPORT_FID && out.empty()) {
    if ((fids & FAN_REPORT_NAME) != 0 && about_dir) {
      // A directory is in itself.
      type = FAN_EVENT_INFO_TYPE_DFID_NAME;
      name = ".";
    } else if ((event.mask & kFanNameEvents) != 0 || about_dir) {
      type = FAN_EVENT_INFO_TYPE_DFID;
    }
  }
  AppendInfo(&out, type, ids.fsid, ids.object, name);
  return out;
}

void Fanotify::SaveIds(const Ids& ids, fanotify_state::Fanotify_Event* out) {
  auto* m = out->mutable_ids();
  m->set_fsid(ids.fsid);
  SaveHandle(ids.dir, m->mutable_dir());
  SaveHandle(ids.new_dir, m->mutable_new_dir());
  SaveHandle(ids.object, m->mutable_object());
  m->set_name(ids.name);
  m->set_new_name(ids.new_name);
}

bool Fanotify::LoadIds(const fanotify_state::Fanotify_Event& in, Event* event) {
  event->ids = std::make_unique<Ids>();
  Ids& ids = *event->ids;
  ids.fsid = in.ids().fsid();
  ids.name = in.ids().name();
  ids.new_name = in.ids().new_name();
  if (ids.name.size() > NAME_MAX || ids.new_name.size() > NAME_MAX) return false;
  return LoadHandle(in.ids().dir(), &ids.dir) && LoadHandle(in.ids().new_dir(), &ids.new_dir) && LoadHandle(in.ids().object(), &ids.object);
}

}  // namespace amber
