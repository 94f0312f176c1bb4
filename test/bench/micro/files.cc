// Path and file calls, on the root and on a bind mount. The data folder has `file` (4 MiB) and
// `thousand/` (1,000 entries).
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "test/bench/micro/micro.h"

namespace amber::bench {
namespace {

constexpr char kRootFile[] = "/usr/bin/env";

int64_t TimeStat(const char* path, int64_t count, int expected_errno) {
  struct stat result;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int status = stat(path, &result);
    Require(expected_errno ? status < 0 && errno == expected_errno : status == 0, path);
  }
  return Now() - start;
}

int64_t StatRoot(const Context&, int64_t count) { return TimeStat(kRootFile, count, 0); }

int64_t StatBind(const Context& context, int64_t count) { return TimeStat((context.data + "/file").c_str(), count, 0); }

int64_t StatMissing(const Context&, int64_t count) { return TimeStat("/usr/bin/no-such-file", count, ENOENT); }

int64_t TimeOpen(const char* path, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    Require(fd >= 0, path);
    close(fd);
  }
  return Now() - start;
}

int64_t OpenRoot(const Context&, int64_t count) { return TimeOpen(kRootFile, count); }

int64_t OpenBind(const Context& context, int64_t count) { return TimeOpen((context.data + "/file").c_str(), count); }

int64_t TimePread(const Context& context, int64_t count, size_t size) {
  int fd = open((context.data + "/file").c_str(), O_RDONLY);
  Require(fd >= 0, "open data file");
  std::vector<char> buffer(size);
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    off_t offset = static_cast<off_t>(i % 2) * static_cast<off_t>(size);
    Require(pread(fd, buffer.data(), size, offset) == static_cast<ssize_t>(size), "pread");
  }
  int64_t spent = Now() - start;
  close(fd);
  return spent;
}

int64_t Pread4K(const Context& context, int64_t count) { return TimePread(context, count, 4096); }
int64_t Pread1M(const Context& context, int64_t count) { return TimePread(context, count, 1 << 20); }

// One operation lists the whole folder.
int64_t GetDents(const Context& context, int64_t count) {
  int fd = open((context.data + "/thousand").c_str(), O_RDONLY | O_DIRECTORY);
  Require(fd >= 0, "open data folder");
  std::vector<char> buffer(32768);
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    Require(lseek(fd, 0, SEEK_SET) == 0, "lseek");
    int64_t total = 0, got;
    while ((got = syscall(SYS_getdents64, fd, buffer.data(), buffer.size())) > 0) total += got;
    Require(got == 0 && total > 20'000, "getdents64");
  }
  int64_t spent = Now() - start;
  close(fd);
  return spent;
}

// Create, write 4 KiB, close, unlink, in /tmp.
int64_t CreateUnlink(const Context&, int64_t count) {
  std::string path = "/tmp/micro-" + std::to_string(getpid());
  char block[4096] = {};
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int fd = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
    Require(fd >= 0 && write(fd, block, sizeof(block)) == sizeof(block), path.c_str());
    close(fd);
    unlink(path.c_str());
  }
  return Now() - start;
}

constexpr Row kRows[] = {
    {"stat_root", StatRoot}, {"stat_bind", StatBind}, {"stat_missing", StatMissing}, {"open_root", OpenRoot},         {"open_bind", OpenBind},
    {"pread_4k", Pread4K},   {"pread_1m", Pread1M},   {"getdents_1000", GetDents},   {"create_unlink", CreateUnlink},
};

}  // namespace

std::span<const Row> FileRows() { return kRows; }

}  // namespace amber::bench
