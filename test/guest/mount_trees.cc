// Trees of mounts that are bound, moved and propagated as a whole; long chains of slaves and of mount namespaces; parents that come behind their children
// (fs/namespace.c: copy_tree(), attach_recursive_mnt(); fs/pnode.c).
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>

#include "test/harness/guest_util.h"
#include "test/harness/mounts.h"

using namespace guest;

namespace {

// The file of a namespace can be mounted only in an older one, and Linux tells ages by numbers of which each CPU has a supply of its own.
void StayOnOneCpu() {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  MUST(sched_setaffinity(0, sizeof(one), &one));
}

void Dir(const char* path) { MUST(mkdir(path, 0755)); }
void Bind(const char* from, const char* to, unsigned long flags = 0) { MUST(mount(from, to, nullptr, MS_BIND | flags, nullptr)); }
void Share(const char* where) { MUST(mount(nullptr, where, nullptr, MS_SHARED, nullptr)); }

// A shared tmpfs at s with a directory x, where a private one at t will come.
void MakeSharedAndTree(const TempDir& dir) {
  for (const char* name : {"s", "t"}) Dir(dir / name);
  Tmpfs(dir / "s");
  Share(dir / "s");
  Dir(dir / "s/x");
  Tmpfs(dir / "t");
}

// How many mounts are at `path`.
int CountMounts(const char* path) {
  static char text[1 << 20];
  ReadFile("/proc/self/mountinfo", text, sizeof(text));
  char want[512];
  snprintf(want, sizeof(want), " %s ", path);
  int found = 0;
  for (char* at = text; (at = strstr(at, want)) != nullptr; at += strlen(want) - 1) ++found;
  return found;
}

}  // namespace

// Peers below what is bound: each place of the copy has one mount, and what was copied has none more.
GUEST_TEST(MountTrees, RecursiveBindOfPeers) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    for (const char* name : {"s", "t"}) Dir(dir / name);
    Tmpfs(dir / "s");
    for (const char* name : {"s/1", "s/2"}) Dir(dir / name);
    Tmpfs(dir / "s/1");
    Share(dir / "s/1");
    Bind(dir / "s/1", dir / "s/2");
    Dir(dir / "s/1/d");
    Tmpfs(dir / "s/1/d");
    EXPECT_EQ(CountMounts(dir / "s/2/d"), 1);
    Bind(dir / "s", dir / "t", MS_REC);
    for (const char* at : {"s/1", "s/2", "s/1/d", "s/2/d", "t", "t/1", "t/2", "t/1/d", "t/2/d"}) EXPECT_EQ(CountMounts(dir / at), 1);
    CheckpointHere();
    // All four of them are peers' mounts at one place.
    MUST(umount(dir / "t/2/d"));
    for (const char* at : {"s/1/d", "s/2/d", "t/1/d", "t/2/d"}) EXPECT_EQ(CountMounts(dir / at), 0);
    for (const char* at : {"t/2", "s/1", "s/2", "t/1"}) MUST(umount2(dir / at, MNT_DETACH));
    CheckpointHere();
    EXPECT_EQ(CountMounts(dir / "t"), 1);
  });
}

// Mounts below what moves into a shared mount arrive at its peers once, and are not mounted again at peers of their own parent.
GUEST_TEST(MountTrees, MovesPropagateWhole) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    for (const char* name : {"to", "peer", "from", "twin"}) Dir(dir / name);
    Tmpfs(dir / "to");
    Share(dir / "to");
    Dir(dir / "to/here");
    Bind(dir / "to", dir / "peer");
    Tmpfs(dir / "from");
    Share(dir / "from");
    Bind(dir / "from", dir / "twin");
    Dir(dir / "from/below");
    Tmpfs(dir / "from/below");
    WriteFile(dir / "from/below/f", "1");
    MUST(mount(dir / "from", dir / "to/here", nullptr, MS_MOVE, nullptr));
    for (const char* at : {"to/here", "to/here/below", "peer/here", "peer/here/below", "twin/below"}) EXPECT_EQ(CountMounts(dir / at), 1);
    CheckpointHere();
    EXPECT_EQ(access(dir / "peer/here/below/f", F_OK), 0);
    // What no copy can be made of does not move there.
    MUST(umount2(dir / "twin", MNT_DETACH));
    Tmpfs(dir / "twin");
    MUST(mount(nullptr, dir / "twin", nullptr, MS_UNBINDABLE, nullptr));
    EXPECT_ERRNO(mount(dir / "twin", dir / "to/here/below", nullptr, MS_MOVE, nullptr), EINVAL);
  });
}

// What is mounted is no target of its own propagation, though it is a peer of the place that it comes to.
GUEST_TEST(MountTrees, TreesAreNotTheirOwnTargets) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MakeSharedAndTree(dir);
    char name[16];
    for (int i = 0; i < 16; ++i) {
      snprintf(name, sizeof(name), "t/%d", i);
      Dir(dir / name);
      Bind(dir / "s", dir / name);
    }
    static char text[1 << 20];
    auto lines = [&] {
      const size_t n = ReadFile("/proc/self/mountinfo", text, sizeof(text) - 1);
      int out = 0;
      for (size_t i = 0; i < n; ++i) out += text[i] == '\n';
      return out;
    };
    const int before = lines();
    Bind(dir / "t", dir / "s/x", MS_REC);
    // The tree of 17 at s/x, and at x of the 16 peers.
    EXPECT_EQ(lines(), before + 17 * 17);
    CheckpointHere();
    EXPECT_EQ(CountMounts(dir / "t/3/x/5"), 1);
    EXPECT_EQ(CountMounts(dir / "s/x/3/x"), 0);
  });
}

// "." and descriptors lead below what covers a place: the old root comes on top of it.
GUEST_TEST(MountTrees, PivotToCoveredPlaces) {
  for (const bool descriptor : {false, true}) {
    TempDir dir;
    InOwnMounts(dir, [&] {
      MUST(chdir(dir.path()));
      char name[64] = ".";
      if (descriptor) snprintf(name, sizeof(name), "/proc/self/fd/%d", MUST(open(".", O_PATH | O_DIRECTORY)));
      Tmpfs(".");
      MUST(syscall(SYS_pivot_root, ".", name));
      // The root is below what covers it, ".." of it is not.
      EXPECT_EQ(access("/proc/self/stat", F_OK), -1);
      EXPECT_EQ(access("/../proc/self/stat", F_OK), 0);
      CheckpointHere();
      EXPECT_EQ(access("/../proc/self/stat", F_OK), 0);
      MUST(umount2("/..", MNT_DETACH));
      EXPECT_EQ(access("/../proc/self/stat", F_OK), -1);
    });
  }
}

// What propagates into the mounts of someone less privileged is locked there: it cannot be uncovered, nor made writable.
GUEST_TEST(MountTrees, LockedWhereTheyPropagateTo) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    MakeSharedAndTree(dir);
    Dir(dir / "t/below");
    MUST(mount("none", dir / "t/below", "tmpfs", MS_RDONLY, nullptr));
    Gate made, seen;
    const pid_t child = Fork([&] {
      MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
      made.Open();
      seen.Await();
      EXPECT_EQ(CountMounts(dir / "s/x/below"), 1);
      EXPECT_ERRNO(umount(dir / "s/x/below"), EINVAL);
      EXPECT_ERRNO(mount(nullptr, dir / "s/x/below", nullptr, MS_REMOUNT | MS_BIND, nullptr), EPERM);
      MUST(umount2(dir / "s/x", MNT_DETACH));
    });
    made.Await();
    Bind(dir / "t", dir / "s/x", MS_REC);
    seen.Open();
    JOIN_OK(child);
  });
}

GUEST_TEST(MountTrees, LongChainsOfSlaves) {
  constexpr int kLinks = 1200;
  TempDir dir;
  InOwnMounts(dir, [&] {
    char last[128], next[128];
    snprintf(last, sizeof(last), "%s/0", dir.path());
    Dir(last);
    Tmpfs(last);
    Share(last);
    Dir(dir / "0/x");
    for (int i = 1; i <= kLinks; ++i) {
      snprintf(next, sizeof(next), "%s/%d", dir.path(), i);
      Dir(next);
      Bind(last, next);
      MUST(mount(nullptr, next, nullptr, MS_SLAVE, nullptr));
      Share(next);
      strcpy(last, next);
    }
    Tmpfs(dir / "0/x");
    WriteFile(dir / "0/x/f", "1");
    strcat(next, "/x/f");
    EXPECT_EQ(access(next, F_OK), 0);
    CheckpointHere();
    MUST(umount(dir / "0/x"));
    EXPECT_EQ(access(next, F_OK), -1);
  });
}

// Each namespace has the file of the next one mounted: they all go with the first.
GUEST_TEST(MountTrees, LongChainsOfNamespaces) {
  constexpr int kLinks = 600;
  TempDir dir;
  StayOnOneCpu();
  InOwnMounts(dir, [&] {
    WriteFile(dir / "f", "");
    // Few mounts, as there will be many copies: only what is needed here.
    Dir(dir / "proc");
    Dir(dir / "old");
    MUST(mount("proc", dir / "proc", "proc", 0, nullptr));
    MUST(chdir(dir.path()));
    MUST(syscall(SYS_pivot_root, ".", "old"));
    MUST(chdir("/"));
    MUST(umount2("/old", MNT_DETACH));
    const int first = MUST(open("/proc/self/ns/mnt", O_RDONLY));
    int here = MUST(dup(first));
    for (int i = 0; i < kLinks; ++i) {
      MUST(unshare(CLONE_NEWNS));
      const int next = MUST(open("/proc/self/ns/mnt", O_RDONLY));
      MUST(setns(here, CLONE_NEWNS));
      char name[64];
      snprintf(name, sizeof(name), "/proc/self/fd/%d", next);
      Bind(name, "/f");
      MUST(setns(next, CLONE_NEWNS));
      // The copy that the next one is made as shall not have it.
      EXPECT_EQ(CountMounts("/f"), 0);
      close(here);
      here = next;
    }
    MUST(setns(first, CLONE_NEWNS));
    close(here);
    close(first);
    MUST(umount("/f"));
    EXPECT_EQ(CountMounts("/f"), 0);
  });
}

// The file of a mount namespace does not come along where the tree that it is in propagates to: that might be the namespace itself.
GUEST_TEST(MountTrees, NamespacesDoNotPropagate) {
  TempDir dir;
  StayOnOneCpu();
  InOwnMounts(dir, [&] {
    for (const char* name : {"shared", "moved"}) Dir(dir / name);
    Tmpfs(dir / "shared");
    Share(dir / "shared");
    Dir(dir / "shared/d");
    Gate made, moved;
    const pid_t child = Fork([&] {
      MUST(unshare(CLONE_NEWNS));
      made.Open();
      moved.Await();
      EXPECT_EQ(CountMounts(dir / "shared/d"), 1);
      EXPECT_EQ(CountMounts(dir / "shared/d/f"), 0);
    });
    made.Await();
    Tmpfs(dir / "moved");
    WriteFile(dir / "moved/f", "");
    char name[64];
    snprintf(name, sizeof(name), "/proc/%d/ns/mnt", child);
    Bind(name, dir / "moved/f");
    MUST(mount(dir / "moved", dir / "shared/d", nullptr, MS_MOVE, nullptr));
    EXPECT_EQ(CountMounts(dir / "shared/d/f"), 1);
    CheckpointHere();
    moved.Open();
    JOIN_OK(child);
  });
}

// Parents that were moved or pivoted below their children's age: all go in some order when the last process does.
GUEST_TEST(MountTrees, ParentsBehindTheirChildren) {
  TempDir dir;
  InOwnMounts(dir, [&] {
    for (const char* name : {"a", "b", "old"}) Dir(dir / name);
    Tmpfs(dir / "a");
    Tmpfs(dir / "b");
    Dir(dir / "b/x");
    MUST(mount(dir / "a", dir / "b/x", nullptr, MS_MOVE, nullptr));
    CheckpointHere();
    MUST(chdir(dir.path()));
    MUST(syscall(SYS_pivot_root, ".", "old"));
    MUST(chdir("/"));
    EXPECT_EQ(access("/b/x", F_OK), 0);
  });
}
