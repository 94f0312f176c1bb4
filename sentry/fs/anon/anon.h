// Inode numbers and stat(2) for files without a directory entry: pipes, sockets, eventfds and their kin.
#pragma once

#include <sys/stat.h>

#include <cstdint>

namespace amber {

// Minor device numbers (major 0) of the file systems that such files live on, as a small Linux machine numbers them.
inline constexpr uint32_t kSockfsMinor = 8;
inline constexpr uint32_t kPipefsMinor = 14;
inline constexpr uint32_t kAnonMinor = 15;

// A number that no other such file has. Any thread.
uint64_t NextAnonIno();
// `ino` came from an image: numbers handed out from now on are higher.
void NoteAnonIno(uint64_t ino);

// Fills `out` for a file of `mode` (type and permissions) that belongs to `uid` and `gid`.
void FillAnonStat(struct stat* out, uint32_t minor, uint64_t ino, mode_t mode, uid_t uid = 0, gid_t gid = 0);

}  // namespace amber
