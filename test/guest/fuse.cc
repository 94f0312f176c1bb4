// FUSE: what a file system shows that a process of the sandbox serves (fuse(4), mount(8)).
#include <dirent.h>
#include <errno.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#include "test/harness/fuse_server.h"

using namespace guest;

namespace {

// "hello" and "folder/inner", of a server that everybody may use.
void AddHello(FuseServer& s) {
  s.Add(1, "hello", S_IFREG | 0644, "hello, world\n");
  const uint64_t folder = s.Add(1, "folder", S_IFDIR | 0755);
  s.Add(folder, "inner", S_IFREG | 0600, "inside");
}

void ExpectFile(const char* path, const char* expected) {
  const int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
  ExpectContent(fd, expected);
  close(fd);
}

}  // namespace

GUEST_TEST(Fuse, LookAndRead) {
  FuseServer server("", AddHello);
  struct stat st;
  MUST(stat(server / "hello", &st));
  EXPECT_EQ(st.st_mode, S_IFREG | 0644u);
  EXPECT_EQ(st.st_size, 13);
  EXPECT_EQ(st.st_ino, server.Find(1, "hello"));
  EXPECT_ERRNO(stat(server / "nothing", &st), ENOENT);
  EXPECT_ERRNO(stat(server / "hello/x", &st), ENOTDIR);
  const int fd = MUST(open(server / "hello", O_RDONLY));
  char text[64] = {};
  EXPECT_EQ(read(fd, text, 5), 5);
  CheckpointHere();
  EXPECT_EQ(read(fd, text + 5, sizeof(text) - 5), 8);
  EXPECT_STREQ(text, "hello, world\n");
  EXPECT_EQ(read(fd, text, sizeof(text)), 0);
  EXPECT_EQ(pread(fd, text, 5, 7), 5);
  EXPECT_EQ(memcmp(text, "world", 5), 0);
  EXPECT_EQ(lseek(fd, -6, SEEK_END), 7);
  ExpectFile(server / "folder/inner", "inside");
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 13);
  close(fd);
  struct statfs sf;
  MUST(statfs(server.path(), &sf));
  EXPECT_EQ(sf.f_type, 0x65735546);
  EXPECT_EQ(sf.f_blocks, 1000u);
  EXPECT_EQ(sf.f_namelen, 63);
  CheckpointHere();
  ExpectFile(server / "hello", "hello, world\n");
  EXPECT_EQ(static_cast<int>(server.shared().uid), 0);
  EXPECT_EQ(static_cast<int>(server.shared().pid), getpid());
}

GUEST_TEST(Fuse, Directories) {
  FuseServer server("", [](FuseServer& s) {
    for (int i = 0; i < 40; ++i) {
      char name[60];
      snprintf(name, sizeof(name), "a-rather-long-name-of-a-file-%d", i);
      s.Add(1, name, S_IFREG | 0644);
    }
  });
  const int fd = MUST(open(server.path(), O_RDONLY | O_DIRECTORY));
  int files = 0, dots = 0;
  char buffer[512];
  int64_t middle = 0;
  for (;;) {
    const long n = MUST(syscall(SYS_getdents64, fd, buffer, sizeof(buffer)));
    if (n == 0) break;
    for (long at = 0; at < n;) {
      auto* d = reinterpret_cast<dirent64*>(buffer + at);
      if (d->d_name[0] == '.') {
        ++dots;
      } else {
        ++files;
        EXPECT_EQ(d->d_type, DT_REG);
      }
      if (files == 20 && middle == 0) middle = d->d_off;
      at += d->d_reclen;
    }
    if (files == 8) CheckpointHere();
  }
  EXPECT_EQ(files, 40);
  EXPECT_EQ(dots, 2);
  // From a place that was told, and from the start.
  EXPECT_EQ(lseek(fd, middle, SEEK_SET), middle);
  int rest = 0;
  for (long n; (n = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0;) {
    for (long at = 0; at < n; at += reinterpret_cast<dirent64*>(buffer + at)->d_reclen) ++rest;
  }
  EXPECT_EQ(rest, 20);
  close(fd);
}

GUEST_TEST(Fuse, MakeAndChange) {
  FuseServer server("", AddHello);
  umask(022);
  MUST(mkdir(server / "new", 0777));
  struct stat st;
  MUST(stat(server / "new", &st));
  EXPECT_EQ(st.st_mode, S_IFDIR | 0755u);
  const int fd = MUST(open(server / "new/file", O_CREAT | O_EXCL | O_RDWR, 0666));
  EXPECT_EQ(server.count(FUSE_CREATE), 1);
  EXPECT_EQ(write(fd, "0123456789", 10), 10);
  CheckpointHere();
  EXPECT_EQ(pwrite(fd, "xy", 2, 4), 2);
  ExpectFile(server / "new/file", "0123xy6789");
  MUST(ftruncate(fd, 5));
  ExpectFile(server / "new/file", "0123x");
  EXPECT_ERRNO(open(server / "new/file", O_CREAT | O_EXCL | O_RDWR, 0666), EEXIST);
  const int append = MUST(open(server / "new/file", O_WRONLY | O_APPEND));
  EXPECT_EQ(write(append, "+1", 2), 2);
  EXPECT_EQ(write(append, "+2", 2), 2);
  ExpectFile(server / "new/file", "0123x+1+2");
  close(append);
  CheckpointHere();
  MUST(fchmod(fd, 0640));
  MUST(fchown(fd, 12, 34));
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_mode, S_IFREG | 0640u);
  EXPECT_EQ(st.st_uid, 12u);
  EXPECT_EQ(st.st_gid, 34u);
  const timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 1000, .tv_nsec = 0}};
  MUST(futimens(fd, times));
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_mtim.tv_sec, 1000);
  MUST(fsync(fd));
  MUST(fdatasync(fd));
  EXPECT_EQ(server.count(FUSE_FSYNC), 2);
  MUST(fallocate(fd, 0, 0, 100));
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 100);
  close(fd);
  MUST(close(MUST(open(server / "new/file", O_WRONLY | O_TRUNC))));
  MUST(stat(server / "new/file", &st));
  EXPECT_EQ(st.st_size, 0);
}

GUEST_TEST(Fuse, NamesMove) {
  FuseServer server("", AddHello);
  struct stat st;
  MUST(rename(server / "hello", server / "folder/hello"));
  EXPECT_ERRNO(access(server / "hello", F_OK), ENOENT);
  ExpectFile(server / "folder/hello", "hello, world\n");
  MUST(renameat2(AT_FDCWD, server / "folder/hello", AT_FDCWD, server / "folder/inner", 2));  // RENAME_EXCHANGE
  ExpectFile(server / "folder/inner", "hello, world\n");
  CheckpointHere();
  EXPECT_ERRNO(renameat2(AT_FDCWD, server / "folder/hello", AT_FDCWD, server / "folder/inner", 1), EEXIST);
  MUST(link(server / "folder/inner", server / "other"));
  ExpectFile(server / "other", "hello, world\n");
  MUST(stat(server / "other", &st));
  EXPECT_EQ(st.st_nlink, 2u);
  MUST(symlink("folder/inner", server / "link"));
  char target[64] = {};
  EXPECT_EQ(readlink(server / "link", target, sizeof(target)), 12);
  EXPECT_STREQ(target, "folder/inner");
  ExpectFile(server / "link", "hello, world\n");
  MUST(mknod(server / "fifo", S_IFIFO | 0600, 0));
  MUST(lstat(server / "fifo", &st));
  EXPECT_EQ(st.st_mode, S_IFIFO | 0600u);
  EXPECT_ERRNO(rmdir(server / "folder"), ENOTEMPTY);
  CheckpointHere();
  MUST(unlink(server / "folder/inner"));
  MUST(unlink(server / "folder/hello"));
  MUST(rmdir(server / "folder"));
  EXPECT_ERRNO(access(server / "folder", F_OK), ENOENT);
  ExpectFile(server / "other", "hello, world\n");
  MUST(unlink(server / "other"));
  EXPECT_EQ(server.count(FUSE_UNLINK), 3);
  EXPECT_EQ(server.count(FUSE_RMDIR), 2);
}

GUEST_TEST(Fuse, WithoutCreate) {
  // A server that only makes and opens.
  FuseServer server("", [](FuseServer& s) { s.shared().lacks[FUSE_CREATE] = 1; });
  for (const char* name : {"a", "b"}) {
    const int fd = MUST(open(server / name, O_CREAT | O_EXCL | O_WRONLY, 0600));
    EXPECT_EQ(write(fd, "x", 1), 1);
    close(fd);
    ExpectFile(server / name, "x");
  }
  EXPECT_EQ(server.count(FUSE_MKNOD), 2);
  EXPECT_EQ(server.count(FUSE_CREATE), 1);
}

GUEST_TEST(Fuse, ExtendedAttributes) {
  FuseServer server("", AddHello);
  char value[64] = {};
  EXPECT_ERRNO(getxattr(server / "hello", "user.x", value, sizeof(value)), ENODATA);
  MUST(setxattr(server / "hello", "user.x", "value", 5, 0));
  CheckpointHere();
  EXPECT_EQ(getxattr(server / "hello", "user.x", value, sizeof(value)), 5);
  EXPECT_STREQ(value, "value");
  EXPECT_EQ(getxattr(server / "hello", "user.x", nullptr, 0), 5);
  EXPECT_ERRNO(getxattr(server / "hello", "user.x", value, 2), ERANGE);
  EXPECT_EQ(listxattr(server / "hello", value, sizeof(value)), 7);
  EXPECT_STREQ(value, "user.x");
  MUST(removexattr(server / "hello", "user.x"));
  EXPECT_EQ(listxattr(server / "hello", value, sizeof(value)), 0);
}

GUEST_TEST(Fuse, LargeTransfers) {
  FuseServer server("", [](FuseServer& s) { s.Add(1, "big", S_IFREG | 0644); });
  constexpr size_t kSize = 3 << 20;
  char* out = Pages(kSize / kPage);
  char* in = Pages(kSize / kPage);
  for (size_t i = 0; i < kSize; ++i) out[i] = static_cast<char>(i * 7 + i / 4096);
  const int fd = MUST(open(server / "big", O_RDWR));
  EXPECT_EQ(write(fd, out, kSize), static_cast<ssize_t>(kSize));
  EXPECT_GE(server.count(FUSE_WRITE), 24);
  CheckpointHere();
  EXPECT_EQ(pread(fd, in, kSize, 0), static_cast<ssize_t>(kSize));
  EXPECT_EQ(memcmp(in, out, kSize), 0);
  // Past the end, and from its middle.
  EXPECT_EQ(pread(fd, in, kSize, 1 << 20), 2 << 20);
  EXPECT_EQ(memcmp(in, out + (1 << 20), 2 << 20), 0);
  EXPECT_EQ(pread(fd, in, kSize, kSize), 0);
  close(fd);
}

GUEST_TEST(Fuse, CopiesInTheKernel) {
  FuseServer server("", [](FuseServer& s) { s.Add(1, "big", S_IFREG | 0644); });
  TempDir dir;
  constexpr size_t kSize = 300'000;
  char* bytes = Pages(kSize / kPage + 1);
  for (size_t i = 0; i < kSize; ++i) bytes[i] = static_cast<char>(i * 13);
  WriteFile(dir / "from", static_cast<const void*>(bytes), kSize);
  const int from = MUST(open(dir / "from", O_RDONLY)), big = MUST(open(server / "big", O_RDWR));
  auto all = [](int to, int of, size_t size) {
    for (size_t done = 0; done < size;) {
      const ssize_t n = MUST(sendfile(to, of, nullptr, size - done));
      if (n == 0) break;
      done += static_cast<size_t>(n);
    }
  };
  all(big, from, kSize);
  struct stat st;
  MUST(fstat(big, &st));
  EXPECT_EQ(st.st_size, static_cast<off_t>(kSize));
  const int back = MUST(open(dir / "back", O_CREAT | O_RDWR, 0600));
  MUST(lseek(big, 0, SEEK_SET));
  all(back, big, kSize);
  char* got = Pages(kSize / kPage + 1);
  EXPECT_EQ(pread(back, got, kSize, 0), static_cast<ssize_t>(kSize));
  EXPECT_EQ(memcmp(got, bytes, kSize), 0);
  // Through a pipe.
  Pipe pipe;
  loff_t at = 100;
  const ssize_t moved = MUST(splice(big, &at, pipe.w, nullptr, 4096, 0));
  EXPECT_EQ(moved, 4096);
  EXPECT_EQ(read(pipe.r, got, 4096), 4096);
  EXPECT_EQ(memcmp(got, bytes + 100, 4096), 0);
  MUST(write(pipe.w, "spliced", 7));
  at = 10;
  EXPECT_EQ(splice(pipe.r, nullptr, big, &at, 7, 0), 7);
  EXPECT_EQ(pread(big, got, 7, 10), 7);
  EXPECT_EQ(memcmp(got, "spliced", 7), 0);
  EXPECT_EQ(Queued(pipe.r), 0);
}

GUEST_TEST(Fuse, KindsOfOpenFiles) {
  FuseServer server("", AddHello);
  char text[64] = {};
  // Without a position.
  server.shared().open_flags = FOPEN_NONSEEKABLE | FOPEN_DIRECT_IO;
  int fd = MUST(open(server / "hello", O_RDONLY));
  EXPECT_ERRNO(lseek(fd, 0, SEEK_SET), ESPIPE);
  EXPECT_ERRNO(pread(fd, text, 4, 0), ESPIPE);
  EXPECT_EQ(read(fd, text, 5), 5);
  EXPECT_EQ(read(fd, text, sizeof(text)), 8);
  close(fd);
  // Past the size that the server has told.
  server.shared().open_flags = FOPEN_DIRECT_IO;
  fd = MUST(open(server / "hello", O_RDWR));
  server.shared().attr_valid = 1000;
  struct stat st;
  MUST(fstat(fd, &st));
  server.node(server.Find(1, "hello")).size = 20;
  CheckpointHere();
  EXPECT_EQ(pread(fd, text, sizeof(text), 0), 20);
  EXPECT_EQ(static_cast<int>(server.shared().last_size), 64);
  // A server without OPEN and OPENDIR.
  server.shared().attr_valid = 0;
  server.shared().lacks[FUSE_OPENDIR] = 1;
  const int dir = MUST(open(server.path(), O_RDONLY | O_DIRECTORY));
  EXPECT_GT(syscall(SYS_getdents64, dir, text, sizeof(text)), 0);
  close(dir);
  close(fd);
}

GUEST_TEST(Fuse, KnownForAWhile) {
  FuseServer server("", [](FuseServer& s) {
    s.shared().entry_valid = s.shared().attr_valid = 1000;
    s.keep_device = true;
    AddHello(s);
  });
  struct stat st;
  MUST(stat(server / "hello", &st));
  const int lookups = server.count(FUSE_LOOKUP), attrs = server.count(FUSE_GETATTR);
  for (int i = 0; i < 5; ++i) MUST(stat(server / "hello", &st));
  EXPECT_EQ(server.count(FUSE_LOOKUP), lookups);
  EXPECT_EQ(server.count(FUSE_GETATTR), attrs);
  // That something is missing is known, too.
  EXPECT_ERRNO(stat(server / "missing", &st), ENOENT);
  EXPECT_ERRNO(stat(server / "missing", &st), ENOENT);
  EXPECT_EQ(server.count(FUSE_LOOKUP), lookups + 1);
  // Until the server says otherwise.
  const uint64_t node = server.Find(1, "hello");
  server.node(node).size = 5;
  fuse_notify_inval_inode_out inode{.ino = node, .off = 0, .len = 0};
  EXPECT_EQ(server.Notify(FUSE_NOTIFY_INVAL_INODE, &inode, sizeof(inode)), 0);
  MUST(stat(server / "hello", &st));
  EXPECT_EQ(st.st_size, 5);
  EXPECT_EQ(server.count(FUSE_GETATTR), attrs + 1);
  struct {
    fuse_notify_inval_entry_out out;
    char name[6];
  } entry{{.parent = 1, .namelen = 5, .flags = 0}, "hello"};
  EXPECT_EQ(server.Notify(FUSE_NOTIFY_INVAL_ENTRY, &entry, sizeof(entry.out) + 6), 0);
  MUST(stat(server / "hello", &st));
  EXPECT_EQ(server.count(FUSE_LOOKUP), lookups + 2);
  inode.ino = 77;
  EXPECT_EQ(server.Notify(FUSE_NOTIFY_INVAL_INODE, &inode, sizeof(inode)), -ENOENT);
  EXPECT_EQ(server.Notify(FUSE_NOTIFY_INVAL_INODE, &inode, 3), -EINVAL);
  EXPECT_EQ(server.Notify(99, &inode, sizeof(inode)), -EINVAL);
}

GUEST_TEST(Fuse, Forgets) {
  FuseServer server("", AddHello);
  struct stat st;
  for (int i = 0; i < 3; ++i) MUST(stat(server / "hello", &st));
  const uint64_t node = server.Find(1, "hello");
  EXPECT_GE(server.node(node).lookups, 1u);
  MUST(unlink(server / "hello"));
  while (server.node(node).lookups != 0) SleepMs(1);
  EXPECT_GE(server.count(FUSE_FORGET) + server.count(FUSE_BATCH_FORGET), 1);
}

GUEST_TEST(Fuse, ReleaseComesLast) {
  FuseServer server("", AddHello);
  const int fd = MUST(open(server / "hello", O_RDONLY));
  const int copy = MUST(dup(fd));
  close(fd);
  EXPECT_EQ(server.count(FUSE_FLUSH), 1);
  EXPECT_EQ(server.count(FUSE_RELEASE), 0);
  CheckpointHere();
  close(copy);
  EXPECT_EQ(server.count(FUSE_FLUSH), 2);
  server.AwaitCount(FUSE_RELEASE, 0);
  // close(2) tells what the server says.
  server.shared().fails[FUSE_FLUSH] = EDQUOT;
  const int other = MUST(open(server / "hello", O_RDWR));
  EXPECT_ERRNO(close(other), EDQUOT);
  EXPECT_ERRNO(close(other), EBADF);
}
