// Who gets a signal when an open file becomes ready (fcntl F_SETOWN, F_SETSIG and O_ASYNC).
//
// Owned by the File. Only what the File must know of it; the rest is in sentry/syscalls/sigio.h.
#pragma once

namespace amber {

class FileOwner {
 public:
  virtual ~FileOwner() = default;
};

}  // namespace amber
