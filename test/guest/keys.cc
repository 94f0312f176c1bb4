// keyrings(7): add_key(2), request_key(2), keyctl(2).
#include <linux/keyctl.h>

#include "test/harness/guest_util.h"

namespace guest {
namespace {

using Serial = int32_t;

long AddKey(const char* type, const char* name, const void* data, size_t size, Serial ring) {
  return syscall(SYS_add_key, type, name, data, size, ring);
}
long AddUser(const char* name, const char* text, Serial ring) { return AddKey("user", name, text, strlen(text), ring); }
long Request(const char* type, const char* name, Serial ring = 0) { return syscall(SYS_request_key, type, name, nullptr, ring); }
template <typename... Args>
long Ctl(int command, Args... args) {
  return syscall(SYS_keyctl, command, args...);
}

void NeedKeys() {
  if (Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1) < 0) Skip("no key rings");
  MUST(Ctl(KEYCTL_JOIN_SESSION_KEYRING, nullptr));
}

GUEST_TEST(Keys, AddReadUpdate) {
  NeedKeys();
  const Serial key = static_cast<Serial>(MUST(AddUser("a:name", "payload", KEY_SPEC_SESSION_KEYRING)));
  EXPECT_GT(key, 0);
  CheckpointHere();
  char text[64] = {};
  EXPECT_EQ(Ctl(KEYCTL_READ, key, text, sizeof(text)), 7);
  EXPECT_STREQ(text, "payload");
  // Too small a buffer is left alone.
  char small[4] = "abc";
  EXPECT_EQ(Ctl(KEYCTL_READ, key, small, 3), 7);
  EXPECT_EQ(Ctl(KEYCTL_READ, key, nullptr, 0), 7);
  // The same name is the same key.
  EXPECT_EQ(AddUser("a:name", "other", KEY_SPEC_SESSION_KEYRING), key);
  EXPECT_EQ(Ctl(KEYCTL_READ, key, text, sizeof(text)), 5);
  MUST(Ctl(KEYCTL_UPDATE, key, "third", 5));
  EXPECT_EQ(Ctl(KEYCTL_DESCRIBE, key, text, sizeof(text)), static_cast<long>(strlen(text)) + 1);
  EXPECT_STREQ(text, Str("user;%d;%d;3f010000;a:name", getuid(), getgid()));
  EXPECT_EQ(Request("user", "a:name"), key);
  EXPECT_ERRNO(Request("user", "a:nobody"), ENOKEY);
}

GUEST_TEST(Keys, ArgumentsAreChecked) {
  NeedKeys();
  EXPECT_ERRNO(AddUser("x", "", KEY_SPEC_SESSION_KEYRING), EINVAL);
  EXPECT_ERRNO(AddKey("nosuchtype", "x", "y", 1, KEY_SPEC_SESSION_KEYRING), ENODEV);
  EXPECT_ERRNO(AddKey(".user", "x", "y", 1, KEY_SPEC_SESSION_KEYRING), EPERM);
  EXPECT_ERRNO(AddKey("", "x", "y", 1, KEY_SPEC_SESSION_KEYRING), EINVAL);
  EXPECT_ERRNO(AddKey("keyring", ".x", nullptr, 0, KEY_SPEC_SESSION_KEYRING), EPERM);
  EXPECT_ERRNO(AddKey("keyring", "x", "y", 1, KEY_SPEC_SESSION_KEYRING), EINVAL);
  EXPECT_ERRNO(AddKey("logon", "noprefix", "y", 1, KEY_SPEC_SESSION_KEYRING), EINVAL);
  EXPECT_ERRNO(AddUser("x", "y", 0x7ffffff0), ENOKEY);
  EXPECT_ERRNO(AddUser("x", "y", 0), EINVAL);
  EXPECT_ERRNO(AddUser("x", "y", -100), EINVAL);
  const Serial key = static_cast<Serial>(MUST(AddUser("plain", "y", KEY_SPEC_SESSION_KEYRING)));
  EXPECT_ERRNO(AddUser("x", "y", key), ENOTDIR);
  EXPECT_ERRNO(Ctl(9999), EOPNOTSUPP);
  EXPECT_ERRNO(Ctl(KEYCTL_SETPERM, key, 0xffffffff), EINVAL);
  EXPECT_ERRNO(Ctl(KEYCTL_READ, -100, nullptr, 0), ENOKEY);
}

GUEST_TEST(Keys, LogonCannotBeRead) {
  NeedKeys();
  const Serial key = static_cast<Serial>(MUST(AddKey("logon", "svc:me", "pw", 2, KEY_SPEC_SESSION_KEYRING)));
  char text[64];
  EXPECT_ERRNO(Ctl(KEYCTL_READ, key, text, sizeof(text)), EOPNOTSUPP);
  EXPECT_EQ(Request("logon", "svc:me"), key);
}

GUEST_TEST(Keys, RingsLinkAndSearch) {
  NeedKeys();
  const Serial outer = static_cast<Serial>(MUST(AddKey("keyring", "outer", nullptr, 0, KEY_SPEC_SESSION_KEYRING)));
  const Serial inner = static_cast<Serial>(MUST(AddKey("keyring", "inner", nullptr, 0, outer)));
  const Serial key = static_cast<Serial>(MUST(AddUser("deep", "x", inner)));
  EXPECT_EQ(Ctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "deep", 0), key);
  EXPECT_ERRNO(Ctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "none", 0), ENOKEY);
  EXPECT_ERRNO(Ctl(KEYCTL_LINK, outer, inner), EDEADLK);
  MUST(Ctl(KEYCTL_LINK, key, outer));
  CheckpointHere();
  Serial links[4] = {};
  EXPECT_EQ(Ctl(KEYCTL_READ, outer, links, sizeof(links)), 8);
  EXPECT((links[0] == inner && links[1] == key) || (links[0] == key && links[1] == inner));
  MUST(Ctl(KEYCTL_UNLINK, key, inner));
  EXPECT_ERRNO(Ctl(KEYCTL_UNLINK, key, inner), ENOENT);
  EXPECT_EQ(Ctl(KEYCTL_SEARCH, outer, "user", "deep", 0), key);
  MUST(Ctl(KEYCTL_CLEAR, outer));
  EXPECT_ERRNO(Ctl(KEYCTL_SEARCH, outer, "user", "deep", 0), ENOKEY);
  // Nothing refers to it any more.
  for (int i = 0; i < 1000; ++i) {
    errno = 0;
    if (Ctl(KEYCTL_DESCRIBE, key, nullptr, 0) < 0) break;
    SleepMs(5);
  }
  EXPECT_EQ(errno, ENOKEY);
}

GUEST_TEST(Keys, RevokedExpiredInvalidated) {
  NeedKeys();
  Serial key = static_cast<Serial>(MUST(AddUser("r", "x", KEY_SPEC_SESSION_KEYRING)));
  MUST(Ctl(KEYCTL_REVOKE, key));
  char text[8];
  EXPECT_ERRNO(Ctl(KEYCTL_READ, key, text, sizeof(text)), EKEYREVOKED);
  EXPECT_ERRNO(Ctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "r", 0), EKEYREVOKED);
  // What another ring does not have at all counts for more.
  EXPECT_ERRNO(Request("user", "r"), ENOKEY);
  key = static_cast<Serial>(MUST(AddUser("e", "x", KEY_SPEC_SESSION_KEYRING)));
  MUST(Ctl(KEYCTL_SET_TIMEOUT, key, 1));
  EXPECT_OK(Ctl(KEYCTL_READ, key, text, sizeof(text)));
  CheckpointHere();
  SleepMs(2100);
  EXPECT_ERRNO(Ctl(KEYCTL_READ, key, text, sizeof(text)), EKEYEXPIRED);
  key = static_cast<Serial>(MUST(AddUser("i", "x", KEY_SPEC_SESSION_KEYRING)));
  MUST(Ctl(KEYCTL_INVALIDATE, key));
  // Not possessed, or gone, whichever is seen first.
  EXPECT_LT(Ctl(KEYCTL_READ, key, text, sizeof(text)), 0);
}

GUEST_TEST(Keys, PermissionsOfOthers) {
  if (geteuid() != 0) Skip("needs root to drop it");
  NeedKeys();
  const Serial key = static_cast<Serial>(MUST(AddUser("mine", "x", KEY_SPEC_SESSION_KEYRING)));
  JOIN_OK(Fork([&] {
    // Who possesses it may read it, whoever that is.
    char text[8];
    MUST(setresuid(4242, 4242, 4242));
    EXPECT_EQ(Ctl(KEYCTL_READ, key, text, sizeof(text)), 1);
    EXPECT_ERRNO(Ctl(KEYCTL_CHOWN, key, 4242, -1), EACCES);
    MUST(Ctl(KEYCTL_JOIN_SESSION_KEYRING, nullptr));
    EXPECT_ERRNO(Ctl(KEYCTL_READ, key, text, sizeof(text)), EACCES);
    EXPECT_ERRNO(Ctl(KEYCTL_DESCRIBE, key, nullptr, 0), EACCES);
    EXPECT_ERRNO(Ctl(KEYCTL_REVOKE, key), EACCES);
  }));
  MUST(Ctl(KEYCTL_SETPERM, key, 0x3f3f0000 | 0x03));
  JOIN_OK(Fork([&] {
    char text[8];
    MUST(setresuid(4242, 4242, 4242));
    MUST(Ctl(KEYCTL_JOIN_SESSION_KEYRING, nullptr));
    EXPECT_EQ(Ctl(KEYCTL_READ, key, text, sizeof(text)), 1);
    EXPECT_ERRNO(Ctl(KEYCTL_UPDATE, key, "y", 1), EACCES);
  }));
}

GUEST_TEST(Keys, WhoHasWhichRing) {
  NeedKeys();
  const auto session = MUST(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
  const auto process = MUST(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1));
  const auto thread = MUST(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 1));
  EXPECT_NE(process, thread);
  EXPECT_EQ(MUST(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 0)), thread);
  Thread([&] {
    // One of its own, as its maker had one.
    EXPECT_NE(MUST(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 0)), thread);
    EXPECT_EQ(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0), process);
  }).Join();
  JOIN_OK(Fork([&] {
    EXPECT_EQ(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0), session);
    EXPECT_ERRNO(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0), ENOKEY);
  }));
  CheckpointHere();
  EXPECT_EQ(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0), session);
  EXPECT_EQ(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0), process);
  char text[128];
  MUST(Ctl(KEYCTL_DESCRIBE, KEY_SPEC_USER_KEYRING, text, sizeof(text)));
  EXPECT_STREQ(text, Str("keyring;%d;65534;1f3f0000;_uid.%d", getuid(), getuid()));
  MUST(Ctl(KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof(text)));
  EXPECT_STREQ(text, Str("keyring;%d;%d;3f030000;_ses", getuid(), getgid()));
}

GUEST_TEST(Keys, MoveAndProc) {
  NeedKeys();
  const Serial a = static_cast<Serial>(MUST(AddKey("keyring", "a", nullptr, 0, KEY_SPEC_SESSION_KEYRING)));
  const Serial b = static_cast<Serial>(MUST(AddKey("keyring", "b", nullptr, 0, KEY_SPEC_SESSION_KEYRING)));
  const Serial key = static_cast<Serial>(MUST(AddUser("mover", "12345", a)));
  MUST(Ctl(KEYCTL_MOVE, key, a, b, 0));
  EXPECT_ERRNO(Ctl(KEYCTL_MOVE, key, a, b, 0), ENOENT);
  EXPECT_ERRNO(Ctl(KEYCTL_SEARCH, a, "user", "mover", 0), ENOKEY);
  EXPECT_EQ(Ctl(KEYCTL_SEARCH, b, "user", "mover", 0), key);
  static char text[65536];
  ReadFile("/proc/keys", text, sizeof(text));
  const char* line = strstr(text, Str("%08x I--Q---", key));
  ASSERT_NE(line, nullptr);
  EXPECT_NE(strstr(line, "user      mover: 5\n"), nullptr);
  ReadFile("/proc/key-users", text, sizeof(text));
  EXPECT_NE(strstr(text, Str("%5d: ", getuid())), nullptr);
}

GUEST_TEST(Keys, QuotaOfUsers) {
  if (geteuid() != 0) Skip("needs root to drop it");
  NeedKeys();
  JOIN_OK(Fork([] {
    MUST(setresuid(4243, 4243, 4243));
    MUST(Ctl(KEYCTL_JOIN_SESSION_KEYRING, nullptr));
    static char big[15000];
    memset(big, 'x', sizeof(big));
    const auto key = MUST(AddKey("user", "big", big, sizeof(big), KEY_SPEC_SESSION_KEYRING));
    EXPECT_ERRNO(AddKey("user", "bigger", big, sizeof(big), KEY_SPEC_SESSION_KEYRING), EDQUOT);
    MUST(Ctl(KEYCTL_UNLINK, key, KEY_SPEC_SESSION_KEYRING));
  }));
}

// Who has no room for rings of the user's own gets none, and no image suffers from it.
GUEST_TEST(Keys, RingsOfUsersCountToo) {
  if (geteuid() != 0) Skip("needs root to drop it");
  NeedKeys();
  JOIN_OK(Fork([] {
    MUST(setresuid(4244, 4244, 4244));
    MUST(Ctl(KEYCTL_JOIN_SESSION_KEYRING, nullptr));
    int made = 0;
    while (made < 1000 && AddUser(Str("k%d", made), "x", KEY_SPEC_SESSION_KEYRING) > 0) ++made;
    EXPECT(made < 1000);
    EXPECT_ERRNO(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1), ENOKEY);
    EXPECT_ERRNO(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_SESSION_KEYRING, 1), ENOKEY);
    CheckpointHere();
    EXPECT_ERRNO(Ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1), ENOKEY);
    MUST(Ctl(KEYCTL_CLEAR, KEY_SPEC_SESSION_KEYRING));
  }));
}

}  // namespace
}  // namespace guest
