#include "sentry/fs/anon/anon.h"

#include <string.h>
#include <sys/sysmacros.h>

#include <atomic>

namespace amber {
namespace {
std::atomic<uint64_t> last_ino{1000};
}

uint64_t NextAnonIno() { return last_ino.fetch_add(1, std::memory_order_relaxed) + 1; }

void NoteAnonIno(uint64_t ino) {
  uint64_t seen = last_ino.load(std::memory_order_relaxed);
  while (seen < ino && !last_ino.compare_exchange_weak(seen, ino, std::memory_order_relaxed)) {
  }
}

void FillAnonStat(struct stat* out, uint32_t minor, uint64_t ino, mode_t mode, uid_t uid, gid_t gid) {
  memset(out, 0, sizeof(*out));
  out->st_dev = makedev(0, minor);
  out->st_ino = ino;
  out->st_mode = mode;
  out->st_nlink = 1;
  out->st_uid = uid;
  out->st_gid = gid;
  out->st_blksize = 4096;
}

}  // namespace amber
