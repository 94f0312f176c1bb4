"""Files that host and sandbox share: what the host changes on a bind mount is seen in the sandbox, and the other way round."""

import os
import subprocess
import time
import unittest

from support import TOP, SandboxTest

# Answers one line to each line: the command's output.
GUEST = """
while read -r line; do
  eval "$line" 2>&1 | tr '\\n' ' '
  echo
done
"""


# Makes files as tar does, and looks at them in every way that there is. What is wrong is printed.
UNPACK = """
import os
os.chdir("/mnt/dir")
def make(name, text=b"text"):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, text)
    os.utime(fd, ns=(10**18, 1234567890123456789))
    os.fchown(fd, 0, 0)
    os.fchmod(fd, 0o640)
    return fd
def expect(what, st, mtime=1234567890123456789, mode=0o640):
    if (st.st_mode & 0o7777, st.st_mtime_ns, st.st_uid) != (mode, mtime, 0): print(what, oct(st.st_mode), st.st_mtime_ns, st.st_uid)
for i in range(20): os.close(make(f"first{i}"))
for i in range(20): expect("stat", os.stat(f"first{i}"))
for i in range(5):
    fd = make(f"second{i}")
    expect("fstat", os.fstat(fd))
    os.close(fd)
    os.close(make(f"third{i}"))
    expect("lstat", os.lstat(f"third{i}"))
    os.close(make(f"fourth{i}"))
    os.rename(f"fourth{i}", f"fifth{i}")
    expect("renamed", os.stat(f"fifth{i}"))
    os.close(make(f"link{i}"))
    os.link(f"link{i}", f"other{i}")
    expect("linked", os.stat(f"other{i}"))
    os.close(make(f"listed{i}"))
    expect("listed", [e for e in os.scandir(".") if e.name == f"listed{i}"][0].stat())
    os.close(make(f"child{i}"))
    if os.fork() == 0:
        expect("child", os.stat(f"child{i}"))
        os._exit(0)
    os.wait()
    fd = make(f"written{i}")
    os.write(fd, b"more")
    if os.fstat(fd).st_mtime_ns == 1234567890123456789: print("a write after the times left them")
    os.chmod(f"written{i}", 0o600)
    os.utime(fd, ns=(5, 5))
    os.fsync(fd)
    expect("twice", os.fstat(fd), 5, 0o600)
    os.close(fd)
    os.close(make(f"unlinked{i}"))
    os.unlink(f"unlinked{i}")
    fd = make(f"open{i}")
    os.unlink(f"open{i}")
    expect("deleted", os.fstat(fd))
    os.close(fd)
held = make("held")
"""


class SharedFiles(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    def setUp(self):
        super().setUp()
        self.shared = os.path.join(self.folder, "shared")
        os.makedirs(os.path.join(self.shared, "dir"))
        for i in range(12):
            self.write(f"dir/f{i}", "text")
        bundle = self.bundle(
            "/bin/sh", "-c", GUEST, root={"path": "/", "readonly": True},
            mounts=[{"destination": "/mnt", "type": "bind", "source": self.shared, "options": ["bind", "rw"]}])
        self.process = subprocess.Popen(self.command("run", "--bundle", bundle, "c"), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(self.finish)

    def finish(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()

    def path(self, name):
        return os.path.join(self.shared, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def guest(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def test_host_changes_are_seen(self):
        for settled in (False, True):
            with self.subTest(settled=settled):
                self.assertEqual(self.guest("find /mnt/dir -type f -size -2k | wc -l"), "12")
                self.assertEqual(self.guest("cat /mnt/dir/f1"), "text")
                if settled:
                    time.sleep(0.2)
                    self.guest("find /mnt/dir -size +1k")
                self.write("dir/f1", "by the host")
                self.assertEqual(self.guest("cat /mnt/dir/f1; stat -c ' %s' /mnt/dir/f1"), "by the host 11")
                os.chmod(self.path("dir/f2"), 0o600)
                self.assertEqual(self.guest("stat -c %a /mnt/dir/f2"), "600")
                os.chown(self.path("dir/f3"), 1234, 4321)
                self.assertEqual(self.guest("stat -c %u:%g /mnt/dir/f3"), "1234:4321")
                os.rename(self.path("dir/f4"), self.path("dir/g4"))
                self.assertEqual(self.guest("cat /mnt/dir/g4; test -e /mnt/dir/f4 || echo ' gone'"), "text gone")
                self.write("dir/new", "new")
                self.assertEqual(self.guest("cat /mnt/dir/new; ls /mnt/dir | wc -l"), "new13")
                os.unlink(self.path("dir/new"))
                self.assertEqual(self.guest("test -e /mnt/dir/new || ls /mnt/dir | wc -l"), "12")
                os.rename(self.path("dir/g4"), self.path("dir/f4"))
                self.write("dir/f1", "text")
                os.chmod(self.path("dir/f2"), 0o644)
                os.chown(self.path("dir/f3"), 0, 0)

    def expect_unpacked(self, name):
        st = os.stat(self.path("dir/" + name))
        self.assertEqual((st.st_mode & 0o7777, st.st_mtime_ns), (0o640, 1234567890123456789), name)

    def test_attributes_of_new_files(self):
        self.write("unpack.py", UNPACK + 'os.close(make("last"))\nprint("made", end="")\n')
        self.assertEqual(self.guest("python3 /mnt/unpack.py"), "made")
        names = [n + str(i) for n in ("second", "third", "fifth", "other", "listed", "child") for i in range(5)]
        for name in names + [f"first{i}" for i in range(20)] + ["last"]:
            self.expect_unpacked(name)
        # One that is held open, by a program that goes on.
        for name in os.listdir(self.path("dir")):
            os.unlink(self.path("dir/" + name))
        self.write("unpack.py", UNPACK + 'import time\ntime.sleep(1)\n')
        self.assertEqual(self.guest("python3 /mnt/unpack.py > /mnt/said 2>&1 & echo started"), "started")
        deadline = time.monotonic() + 5
        while not os.path.exists(self.path("dir/held")) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        self.expect_unpacked("held")
        with open(self.path("said")) as file:
            self.assertEqual(file.read(), "")

    def test_the_last_change_is_there_at_the_end(self):
        self.assertEqual(self.guest("echo started"), "started")
        for i in range(5):
            self.write("unpack.py", UNPACK.replace("/mnt/dir", f"/mnt/dir/{i}"))
            os.mkdir(self.path(f"dir/{i}"))
            done = subprocess.run(self.command("exec", "c", "python3", "/mnt/unpack.py"), capture_output=True, text=True, timeout=30)
            self.assertEqual(done.stdout + done.stderr, "")
            self.expect_unpacked(f"{i}/held")

    def test_changes_of_the_sandbox_are_seen_by_the_host(self):
        self.assertEqual(self.guest("echo made > /mnt/dir/made; mv /mnt/dir/f5 /mnt/dir/g5; rm /mnt/dir/f6; stat -c %s /mnt/dir/made"), "5")
        with open(self.path("dir/made")) as file:
            self.assertEqual(file.read(), "made\n")
        self.assertEqual(sorted(os.listdir(self.path("dir")))[-2:], ["g5", "made"])
        self.assertFalse(os.path.exists(self.path("dir/f6")))

    def test_another_owner_is_seen_although_the_sandbox_writes(self):
        # The owner of a file that the sandbox writes at the same time may be seen 50 ms late, not later.
        self.guest("(while echo x > /mnt/dir/f7; test ! -e /mnt/stop; do :; done) > /dev/null 2>&1 &")
        self.guest("stat -c %u /mnt/dir/f7")
        os.chown(self.path("dir/f7"), 1234, 1234)
        time.sleep(0.5)
        self.assertEqual(self.guest("stat -c %u /mnt/dir/f7"), "1234")
        self.write("stop", "")


if __name__ == "__main__":
    unittest.main()
