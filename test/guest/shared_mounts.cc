// Shared, slave and private mounts (mount_namespaces(7), SHARED SUBTREES), and pivot_root.
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>

#include "test/harness/guest_util.h"
#include "test/harness/mounts.h"

using namespace guest;

namespace {

bool Exists(const char* path) { return access(path, F_OK) == 0; }

// Two places, a tmpfs with `propagation` at the first.
void MakeTwo(const TempDir& dir, unsigned long propagation) {
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  Tmpfs(dir / "a");
  MUST(mount(nullptr, dir / "a", nullptr, propagation, nullptr));
}

}  // namespace

GUEST_TEST(SharedMounts, PeersSeeEachOther) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MakeTwo(dir, MS_SHARED);
    MUST(mkdir(dir / "a/x", 0755));
    MUST(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr));
    Tmpfs(dir / "b/x");
    WriteFile(dir / "b/x/f", "1");
    EXPECT(Exists(dir / "a/x/f"));
    CheckpointHere();
    MUST(mkdir(dir / "a/x/y", 0755));
    Tmpfs(dir / "a/x/y");  // What came by propagation propagates.
    WriteFile(dir / "a/x/y/g", "1");
    EXPECT(Exists(dir / "b/x/y/g"));
    MUST(umount(dir / "b/x/y"));
    EXPECT(!Exists(dir / "a/x/y/g"));
    MUST(umount(dir / "a/x"));
    EXPECT(!Exists(dir / "b/x/f"));
  });
}

GUEST_TEST(SharedMounts, SlavesTakeAndDoNotGive) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MakeTwo(dir, MS_SHARED);
    MUST(mkdir(dir / "a/x", 0755));
    MUST(mkdir(dir / "a/y", 0755));
    MUST(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr));
    MUST(mount(nullptr, dir / "b", nullptr, MS_SLAVE, nullptr));
    CheckpointHere();
    Tmpfs(dir / "a/x");
    WriteFile(dir / "a/x/f", "1");
    EXPECT(Exists(dir / "b/x/f"));
    Tmpfs(dir / "b/y");
    WriteFile(dir / "b/y/f", "1");
    EXPECT(!Exists(dir / "a/y/f"));
    // A private one takes nothing either.
    MUST(mount(nullptr, dir / "b", nullptr, MS_PRIVATE, nullptr));
    MUST(umount(dir / "a/x"));
    EXPECT(Exists(dir / "b/x/f"));
  });
}

GUEST_TEST(SharedMounts, ReachOtherNamespaces) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MUST(mkdir(dir / "x", 0755));
    MUST(mount(nullptr, dir.path(), nullptr, MS_SHARED, nullptr));
    Gate made, seen;
    const pid_t child = Fork([&] {
      MUST(unshare(CLONE_NEWNS));
      made.Open();
      seen.Await();
      EXPECT(Exists(dir / "x/f"));
      MUST(umount(dir / "x"));
    });
    made.Await();
    Tmpfs(dir / "x");
    WriteFile(dir / "x/f", "1");
    CheckpointHere();
    seen.Open();
    JOIN_OK(child);
    EXPECT(!Exists(dir / "x/f"));
  });
}

GUEST_TEST(SharedMounts, InfoTells) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MUST(mount(nullptr, dir.path(), nullptr, MS_SHARED, nullptr));
    static char text[65536];
    ReadFile("/proc/self/mountinfo", text, sizeof(text));
    char* line = strstr(text, dir.path());
    ASSERT_NE(line, nullptr);
    *strchr(line, '\n') = 0;
    EXPECT_NE(strstr(line, " shared:"), nullptr);
    EXPECT_ERRNO(mount(nullptr, dir.path(), nullptr, MS_SHARED | MS_PRIVATE, nullptr), EINVAL);
    MUST(mkdir(dir / "sub", 0755));
    EXPECT_ERRNO(mount(nullptr, dir / "sub", nullptr, MS_SHARED, nullptr), EINVAL);
  });
}

GUEST_TEST(SharedMounts, UnbindableStays) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MakeTwo(dir, MS_UNBINDABLE);
    EXPECT_ERRNO(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr), EINVAL);
  });
}

GUEST_TEST(SharedMounts, PivotRoot) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MUST(mkdir(dir / "old", 0755));
    WriteFile(dir / "here", "1");
    MUST(chdir(dir.path()));
    EXPECT_ERRNO(syscall(SYS_pivot_root, "old", "old"), EINVAL);  // No mount.
    MUST(syscall(SYS_pivot_root, ".", "old"));
    MUST(chdir("/"));
    EXPECT(Exists("/here"));
    EXPECT(Exists("/old/proc"));
    MUST(umount2("/old", MNT_DETACH));
    EXPECT(!Exists("/old/proc"));
  });
}
