// Other network namespaces, as this one calls them: RTM_NEWNSID, RTM_GETNSID (net/core/net_namespace.c).
#include <linux/capability.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/netlink/route_messages.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

RefPtr<NetNamespace> Named(RouteRequest& r, const NetlinkReader& in, int* error) {
  *error = EINVAL;
  if (auto pid = in.Value<int32_t>(NETNSA_PID)) return NamespaceOfPid(r.task, *pid, error);
  if (auto fd = in.Value<int32_t>(NETNSA_FD)) return NamespaceOfFd(r.task, *fd, error);
  return nullptr;
}

void Put(int id, uint16_t flags, NetlinkWriter& out) {
  rtgenmsg head{};
  out.Begin(RTM_NEWNSID, flags, head);
  out.Attribute<int32_t>(NETNSA_NSID, id);
}

}  // namespace

RefPtr<NetNamespace> NamespaceOfFd(Task& task, int fd, int* error) {
  auto file = task.files().Get(fd);
  *error = file.ok() ? EINVAL : EBADF;
  NsFile* ns = file.ok() ? NsFile::From(**file) : nullptr;
  auto* net = ns != nullptr ? dynamic_cast<NetNamespace*>(ns->ref().ns.get()) : nullptr;
  if (net != nullptr) *error = 0;
  return RefPtr<NetNamespace>(net);
}

RefPtr<NetNamespace> NamespaceOfPid(Task& task, int pid, int* error) {
  Task* target = task.group().pids().FindTask(pid);
  bool there = target != nullptr && !target->exiting();
  *error = there ? 0 : ESRCH;
  return RefPtr<NetNamespace>(there ? &NetNamespace::Of(*target) : nullptr);
}

int ChangeNamespaceId(RouteRequest& r) {
  NetlinkReader in(r.body);
  if (!in.Structure<rtgenmsg>()) return EINVAL;
  auto id = in.Value<int32_t>(NETNSA_NSID);
  if (!id) return EINVAL;
  int error = 0;
  RefPtr<NetNamespace> other = Named(r, in, &error);
  if (!other) return error;
  if (r.net.IdOf(*other, false) >= 0) return EEXIST;
  return r.net.SetId(*other, *id) ? 0 : EEXIST;
}

int GetNamespaceId(RouteRequest& r) {
  if (r.dump) {
    for (const auto& [other, id] : r.net.ids()) {
      if (r.out.Next()) Put(id, NLM_F_MULTI, r.out);
    }
    return 0;
  }
  NetlinkReader in(r.body);
  if (!in.Structure<rtgenmsg>()) return EINVAL;
  if (auto id = in.Value<int32_t>(NETNSA_NSID)) {
    for (const auto& [other, known] : r.net.ids()) {
      if (known != *id) continue;
      Put(known, 0, r.out);
      return 0;
    }
    return ENOENT;
  }
  int error = 0;
  RefPtr<NetNamespace> other = Named(r, in, &error);
  if (!other) return error;
  Put(r.net.IdOf(*other, false), 0, r.out);
  return 0;
}

}  // namespace amber
