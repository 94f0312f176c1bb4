// What few open files have: who gets a signal when they become ready (fcntl F_SETOWN, F_SETSIG and O_ASYNC), and, for those without a place
// in the tree, record locks.
//
// Owned by the File. Only what the File must know of it; the rest is in sentry/kernel/sigio.h.
#pragma once

#include "sentry/vfs/file.h"

namespace amber {

class FileOwner {
 public:
  virtual ~FileOwner() = default;
  // A descriptor of the file was closed by `task`.
  virtual void OnClose(Task& task) = 0;
};

// A descriptor that referred to `file` was closed by `task`.
inline void TellClosed(File& file, Task& task) {
  file.OnClose(task);
  if (file.owner() != nullptr) file.owner()->OnClose(task);
}

}  // namespace amber
