"""Fifos of the host in bind mounts (--host-fifo), and access control lists of its files."""

import os
import struct
import subprocess
import unittest

from support import TOP, SandboxTest, eventually


class Shared(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    def setUp(self):
        super().setUp()
        self.shared = os.path.join(self.folder, "shared")
        os.mkdir(self.shared)
        self.output = os.path.join(self.folder, "output")

    def config(self, *program, source=None):
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"},
                  {"destination": "/mnt", "type": "bind", "source": source or self.shared, "options": ["rbind", "rw"]}]
        capabilities = ["CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]
        process = {"args": list(program), "cwd": "/", "terminal": False,
                   "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}}
        return self.bundle(root={"path": "/"}, mounts=mounts, process=process)

    def start(self, flags, verb, *arguments):
        with open(self.output, "a") as file:
            return subprocess.Popen(self.command("--overlay=memory", *flags, verb, *arguments), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def said(self):
        with open(self.output) as file:
            return file.read()

    def run_python(self, flags, text, *arguments, source=None):
        process = self.start(flags, "run", "--bundle", self.config("/usr/bin/python3", "-c", text, *arguments, source=source), "c")
        self.assertEqual(process.wait(30), 0, self.said())
        return self.said()


class HostFiles(Shared):
    def test_fifos(self):
        names = [os.path.join(self.shared, name) for name in ("in", "out")]
        for name in names:
            os.mkfifo(name)
        script = "read -r line < /mnt/in; echo \"$line\" > /mnt/out; cat /mnt/in > /mnt/copy"
        process = self.start(["--host-fifo=open"], "run", "--bundle", self.config("/bin/bash", "-c", script), "c")
        with open(names[0], "w") as file:  # waits until the guest has opened it
            file.write("question\n")
        with open(names[1]) as file:
            self.assertEqual(file.read(), "question\n")
        with open(names[0], "w") as file:
            for i in range(100000):
                file.write(f"{i}\n")
        self.assertEqual(process.wait(20), 0, self.said())
        with open(os.path.join(self.shared, "copy")) as file:
            self.assertEqual(file.read(), "".join(f"{i}\n" for i in range(100000)))

    def test_fifos_without_the_option_stay_inside(self):
        os.mkfifo(os.path.join(self.shared, "in"))
        script = "(echo inside > /mnt/in) & cat < /mnt/in"
        process = self.start([], "run", "--bundle", self.config("/bin/bash", "-c", script), "c")
        self.assertEqual(process.wait(20), 0, self.said())
        self.assertEqual(self.said(), "inside\n")

    def test_an_open_one_is_not_saved(self):
        os.mkfifo(os.path.join(self.shared, "in"))
        script = "import time; f = open('/mnt/in', 'r+b', 0); print('open', flush=True); time.sleep(60)"
        process = self.start(["--host-fifo=open"], "run", "--bundle", self.config("/usr/bin/python3", "-c", script), "c")
        self.assertTrue(eventually(lambda: self.said() == "open\n", 20), self.said())
        said = self.run_cli("checkpoint", "--image-path", os.path.join(self.folder, "point"), "c")
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("a fifo of the host's is open", said.stderr)
        self.run_cli("kill", "c", "KILL")
        process.wait(20)


def packed(*entries):
    """An access control list as an extended attribute; entries are (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, number) for tag, perm, number in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xffffffff
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def private(user, perm, mask=7):
    return packed((USER_OBJ, 6, NOBODY), (USER, perm, user), (GROUP_OBJ, 0, NOBODY), (MASK, mask, NOBODY), (OTHER, 0, NOBODY))


class HostLists(Shared):
    """Access control lists of files in bind mounts."""

    def setUp(self):
        super().setUp()
        os.chmod(self.folder, 0o755)
        for name in ("mine", "masked", "others", "plain"):
            with open(os.path.join(self.shared, name), "w") as file:
                file.write(name)
            os.chmod(os.path.join(self.shared, name), 0o600)
        try:
            os.setxattr(os.path.join(self.shared, "mine"), ACCESS, private(1000, 4))
        except OSError as e:
            self.skipTest(f"no access control lists here: {e}")
        os.setxattr(os.path.join(self.shared, "masked"), ACCESS, private(1000, 6, mask=2))
        os.setxattr(os.path.join(self.shared, "others"), ACCESS, private(1001, 6))

    def test_they_count(self):
        said = self.run_python([], """
import os
os.setgroups([]); os.setgid(1000); os.setuid(1000)
for name in ("mine", "masked", "others", "plain"):
    for mode in ("r", "r+"):
        try:
            print(name, mode, open("/mnt/" + name, mode).read())
        except OSError as e:
            print(name, mode, e.errno)
""")
        self.assertEqual(said, "mine r mine\nmine r+ 13\nmasked r 13\nmasked r+ 13\nothers r 13\nothers r+ 13\nplain r 13\nplain r+ 13\n")

    def test_they_are_set_and_change_with_the_mode(self):
        said = self.run_python([], f"""
import os
path = "/mnt/plain"
os.setxattr(path, {ACCESS!r}, {private(1000, 6)!r})
print(oct(os.stat(path).st_mode & 0o777), os.getxattr(path, {ACCESS!r}) == {private(1000, 6)!r}, {ACCESS!r} in os.listxattr(path))
os.chmod(path, 0o640)
print(os.getxattr(path, {ACCESS!r}) == {private(1000, 6, mask=4)!r})
os.removexattr("/mnt/mine", {ACCESS!r})
try:
    os.getxattr("/mnt/mine", {ACCESS!r})
except OSError as e:
    print(e.errno)
os.setgroups([]); os.setgid(1000); os.setuid(1000)
print(os.access(path, os.R_OK), os.access(path, os.W_OK), os.access("/mnt/mine", os.R_OK))
try:
    os.setxattr(path, {ACCESS!r}, {private(1000, 7)!r})
except OSError as e:
    print(e.errno)
""")
        self.assertEqual(said, "0o670 True True\nTrue\n61\nTrue False False\n1\n")
        self.assertEqual(os.getxattr(os.path.join(self.shared, "plain"), ACCESS), private(1000, 6, mask=4))

    def test_what_the_host_changes_is_seen(self):
        process = self.start([], "run", "--bundle", self.config("/usr/bin/python3", "-c", """
import os, time
os.setgroups([]); os.setgid(1000); os.setuid(1000)
print(os.access("/mnt/mine", os.R_OK), flush=True)
while not os.path.exists("/mnt/go"):
    time.sleep(0.05)
print(os.access("/mnt/mine", os.R_OK), flush=True)
"""), "c")
        self.assertTrue(eventually(lambda: self.said() == "True\n", 20), self.said())
        os.setxattr(os.path.join(self.shared, "mine"), ACCESS, private(1000, 0))
        with open(os.path.join(self.shared, "go"), "w"):
            pass
        self.assertEqual(process.wait(20), 0, self.said())
        self.assertEqual(self.said(), "True\nFalse\n")

    def test_directories_hand_them_down(self):
        default = packed((USER_OBJ, 7, NOBODY), (USER, 7, 1000), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 5, NOBODY))
        said = self.run_python([], f"""
import os, socket
os.umask(0o077)
os.mkdir("/mnt/d")
os.chmod("/mnt/d", 0o755)
os.setxattr("/mnt/d", {DEFAULT!r}, {default!r})
os.close(os.open("/mnt/d/f", os.O_CREAT | os.O_WRONLY, 0o666))
os.mkdir("/mnt/d/e", 0o777)
os.mkfifo("/mnt/d/p", 0o666)
os.close(os.open("/mnt/g", os.O_CREAT | os.O_WRONLY, 0o666))
for name in ("d/f", "d/e", "d/p", "g"):
    print(name, oct(os.stat("/mnt/" + name).st_mode & 0o777), {ACCESS!r} in os.listxattr("/mnt/" + name), {DEFAULT!r} in os.listxattr("/mnt/" + name))
os.setgroups([]); os.setgid(1000); os.setuid(1000)
print(os.access("/mnt/d/f", os.W_OK))
""")
        self.assertEqual(said, "d/f 0o664 True False\nd/e 0o775 True True\nd/p 0o664 True False\ng 0o600 False False\nTrue\n")
        self.assertEqual(os.stat(os.path.join(self.shared, "d/f")).st_mode & 0o777, 0o664)


if __name__ == "__main__":
    unittest.main()
