"""What processes and memory cost, as golden figures: the sandbox's counters for one more of each."""

import os
import subprocess
import time
import unittest

from support import TOP, SandboxTest

# Per thing: guest calls, notifications, trapped calls, operations ordered of stubs. A figure that falls is as much a change as one that rises:
# write down which call it was. (The calls are those of this program's libc.)
#
# fork     trapped call, clone, child's window; its set_robust_list, exit_group; wait4
# exec     vfork: trapped call, clone, child's first; execve, 13 calls of the new libc, 3 operations of them, exit_group; wait4
# thread   trapped call, clone, report; 2 of the parent, 6 of the thread
# mmap     trapped call, operation; munmap
# brk      twice: trapped call, operation
GOLDEN = {
    "fork": (4, 6, 1, 0),
    "exec": (17, 22, 9, 3),
    "thread": (9, 11, 1, 0),
    "mmap": (2, 3, 1, 1),
    "brk": (2, 4, 2, 2),
}
COUNTERS = ("syscalls", "notifications", "stops", "stub_ops")


class Costs(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        subprocess.run(["bazel", "build", "//test/e2e:costs"], cwd=TOP, check=True, capture_output=True)
        cls.program = os.path.join(TOP, "bazel-bin/test/e2e/costs")

    def counters(self, thing, count):
        # Without the fast path: whether a call is posted or notified is a matter of luck.
        process = subprocess.Popen(self.command("do", "--id", "c", "--fast-path=false", os.path.realpath(self.program), thing, str(count)),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(process.stdout.readline(), "done\n")
            stats = self.settled()
        finally:
            self.run_cli("kill", "c", "KILL")
            process.wait(20)
            process.stdout.close()
        return [int(stats[name]) for name in COUNTERS]

    def settled(self):
        """The counters, once the program waits in its last call."""
        last = None
        for _ in range(100):
            stats = dict(line.split() for line in self.must("debug", "--stats", "c").splitlines())
            if stats == last:
                return stats
            last = stats
            time.sleep(0.1)
        self.fail("the counters do not settle")

    def test_golden(self):
        few, more = 5, 25
        found = {}
        for thing in GOLDEN:
            before, after = self.counters(thing, few), self.counters(thing, more)
            found[thing] = tuple((b - a) / (more - few) for a, b in zip(before, after))
        self.assertEqual(found, GOLDEN)


if __name__ == "__main__":
    unittest.main()
