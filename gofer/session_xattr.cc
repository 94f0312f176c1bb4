// Extended attributes. The calls that take a descriptor refuse O_PATH ones, so all go by the node's name in
// /proc/self/fd; that name leads to the inode itself, symbolic links included.
#include <sys/xattr.h>

#include <string>
#include <utility>

#include "gofer/session.h"

namespace amber::gofer {
namespace {

constexpr size_t kXattrNameMax = 255;  // XATTR_NAME_MAX

bool Visible(std::string_view name) {
  return name.starts_with("user.") || name == "system.posix_acl_access" || name == "system.posix_acl_default" || name == "security.capability";
}

ErrnoOr<std::string> NameOf(capnp::Data::Reader data) {
  std::string_view name = AsString(data);
  if (name.empty() || name.size() > kXattrNameMax) return Errno(ERANGE);
  if (name.find('\0') != std::string_view::npos) return Errno(EINVAL);
  if (!Visible(name)) return Errno(EOPNOTSUPP);
  return std::string(name);
}

}  // namespace

ErrnoOr<void> Session::GetXattr(wire::Xattr::Reader request, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  std::string name = TRY(NameOf(request.getName()));
  scratch_.resize(kXattrValueMax);
  ssize_t length = getxattr(FdName(node->fd()).text, name.c_str(), scratch_.data(), scratch_.size());
  if (length < 0) return Errno(errno);
  response.setBytes(AsData(std::string_view(scratch_.data(), length)));
  return {};
}

ErrnoOr<void> Session::SetXattr(wire::SetXattr::Reader request) {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  if (node->attach().read_only) return Errno(EROFS);
  std::string name = TRY(NameOf(request.getName()));
  uint32_t flags = request.getFlags();
  if (flags != 0 && flags != XATTR_CREATE && flags != XATTR_REPLACE) return Errno(EINVAL);
  auto value = request.getValue();
  if (value.size() > kXattrValueMax) return Errno(E2BIG);
  if (setxattr(FdName(node->fd()).text, name.c_str(), value.begin(), value.size(), static_cast<int>(flags)) != 0) {
    return Errno(errno);
  }
  return {};
}

ErrnoOr<void> Session::ListXattr(uint64_t id, wire::Response::Builder response) {
  RefPtr<HostNode> node = TRY(NodeOf(id));
  scratch_.resize(kXattrListMax);
  ssize_t length = listxattr(FdName(node->fd()).text, scratch_.data(), scratch_.size());
  if (length < 0) return Errno(errno);
  std::string visible;
  for (size_t at = 0; at < static_cast<size_t>(length);) {
    std::string_view name(scratch_.data() + at);  // ends with NUL
    at += name.size() + 1;
    if (Visible(name)) visible.append(name).push_back('\0');
  }
  response.setBytes(AsData(visible));
  return {};
}

ErrnoOr<void> Session::RemoveXattr(wire::Xattr::Reader request) {
  RefPtr<HostNode> node = TRY(NodeOf(request.getNode()));
  if (node->attach().read_only) return Errno(EROFS);
  std::string name = TRY(NameOf(request.getName()));
  if (removexattr(FdName(node->fd()).text, name.c_str()) != 0) return Errno(errno);
  return {};
}

}  // namespace amber::gofer
