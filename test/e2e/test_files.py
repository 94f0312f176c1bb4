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
