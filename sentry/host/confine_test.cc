#include "sentry/host/confine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace amber {
namespace {

// What a process that holds a directory can still do; 0 if it is as it should be, else which line is not.
int TryEverything(int directory) {
  struct stat st;
  if (fstatat(directory, "file", &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_size != 3) return __LINE__;
  if (openat(directory, "file", O_RDONLY) >= 0 || errno != EACCES) return __LINE__;
  if (openat(directory, "file", O_WRONLY) >= 0 || errno != EACCES) return __LINE__;
  if (openat(directory, "new", O_RDWR | O_CREAT, 0600) >= 0 || errno != EACCES) return __LINE__;
  if (openat(directory, ".", O_RDONLY | O_DIRECTORY) >= 0 || errno != EACCES) return __LINE__;
  std::string link = "/proc/self/fd/" + std::to_string(directory);
  if (open(link.c_str(), O_RDONLY) >= 0 || errno != EACCES) return __LINE__;
  if (open((link + "/file").c_str(), O_RDONLY) >= 0 || errno != EACCES) return __LINE__;
  int path = openat(directory, "file", O_PATH);
  link = "/proc/self/fd/" + std::to_string(path);
  if (path >= 0 && open(link.c_str(), O_RDONLY) >= 0) return __LINE__;
  if (open("/proc/self/stat", O_RDONLY) < 0) return __LINE__;
  return 0;
}

TEST(ForbidFileOpens, ADirectoryIsForLookingOnly) {
  if (!CanForbidFileOpens()) GTEST_SKIP() << "no Landlock";
  const char* base = getenv("TEST_TMPDIR");
  std::string name = std::string(base != nullptr ? base : "/tmp") + "/confine.XXXXXX";
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  UniqueFd file(open((name + "/file").c_str(), O_RDWR | O_CREAT, 0644));
  ASSERT_EQ(write(file.get(), "abc", 3), 3);
  UniqueFd directory(open(name.c_str(), O_PATH | O_DIRECTORY));
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!ForbidFileOpens().ok()) _exit(1);
    _exit(TryEverything(directory.get()));
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "line " << WEXITSTATUS(status);
  unlink((name + "/file").c_str());
  rmdir(name.c_str());
}

}  // namespace
}  // namespace amber
