"""What a sentry and its waiter can still do on the host."""

import os
import unittest

from support import FIRST_HOST_ID, SandboxTest, eventually


class Sentry(SandboxTest):
    def setUp(self):
        super().setUp()
        self.create("c", "wait")
        self.must("start", "c")
        self.pid = self.details("c")["sentry"]["pid"]

    def status(self, pid=None):
        with open(f"/proc/{pid or self.pid}/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

    def test_user(self):
        host_id = self.details("c")["hostId"]
        self.assertGreaterEqual(host_id, FIRST_HOST_ID)
        status = self.status()
        self.assertEqual(status["Uid"].split(), [str(host_id)] * 4)
        self.assertEqual(status["Gid"].split(), [str(host_id)] * 4)
        self.assertEqual(status["Groups"].split(), [])
        with open(f"/proc/{self.pid}/uid_map") as file:
            self.assertEqual(file.read().split(), ["0", str(host_id), "1"])

    def test_privileges(self):
        status = self.status()
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[name], 16), 0, name)
        self.assertEqual(status["NoNewPrivs"], "1")
        self.assertEqual(status["Seccomp"], "2")
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            self.assertEqual(self.status(f"{self.pid}/task/{thread}")["Seccomp"], "2")

    def test_namespaces(self):
        for name in ("user", "pid", "mnt", "ipc", "uts", "net"):
            if name == "pid":
                self.assertEqual(self.status()["NSpid"].split()[-1], "1")
                continue
            self.assertNotEqual(os.readlink(f"/proc/{self.pid}/ns/{name}"), os.readlink(f"/proc/self/ns/{name}"), name)

    def test_root(self):
        root = f"/proc/{self.pid}/root"
        self.assertEqual(os.listdir(root), ["proc"])
        self.assertFalse(os.path.exists(root + "/proc/sys"))
        self.assertFalse(os.path.exists(root + "/proc/kcore"))
        with open(f"/proc/{self.pid}/mountinfo") as file:
            mounts = [line.split() for line in file]
        self.assertEqual(sorted(m[4] for m in mounts), ["/", "/proc"])
        self.assertIn("ro", [m[5] for m in mounts if m[4] == "/"][0].split(","))

    def test_limits_and_descriptors(self):
        with open(f"/proc/{self.pid}/limits") as file:
            core = [line.split() for line in file if line.startswith("Max core")][0]
        self.assertEqual(core[4:6], ["1", "1"])
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            target = os.readlink(f"/proc/{self.pid}/fd/{fd}")
            self.assertTrue(target.startswith(("socket:", "pipe:", "anon_inode:", "/dev/null", "/null", "/memfd:", "/proc"))
                            or target.endswith("/output"), target)

    def test_forbidden_host_call_ends_it(self):
        # getpriority
        self.create("bad", "hostcall", "140")
        self.must("start", "bad")
        self.assertTrue(eventually(lambda: self.state("bad")["status"] == "stopped"))
        with open(f"/proc/self/status"):
            pass

    def test_waiter_is_small(self):
        waiter = self.details("c")["waiter"]["pid"]
        with open(f"/proc/{waiter}/smaps_rollup") as file:
            private = sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
        self.assertLess(private, 100)


if __name__ == "__main__":
    unittest.main()
