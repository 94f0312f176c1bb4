"""How much an overlay may keep in memory (--overlay=memory,size=...), also across a checkpoint."""

import os
import subprocess
import unittest

from support import TOP, SandboxTest, eventually

FILL = """
yes | head -c 700k > /tmp/first || exit 1
echo filled
until [ -e /tmp/go ]; do sleep 0.1; done
yes | head -c 700k > /tmp/second
stat -f -c %a /
rm /tmp/first
yes | head -c 500k > /tmp/third && echo done
"""


class OverlayLimits(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    def shell(self, overlay, script):
        return self.run_cli(f"--overlay={overlay}", "do", "/bin/bash", "-c", script)

    def test_no_more_than_was_given(self):
        said = self.shell("memory,size=1m", "stat -f -c '%S %b' /; head -c 3m /dev/zero > /tmp/f; stat -c %s /tmp/f; stat -f -c %a /; rm /tmp/f; stat -f -c %a /")
        self.assertEqual(said.stdout.split(), ["4096", "256", str(1 << 20), "0", "256"], said.stderr)
        self.assertIn("No space left on device", said.stderr)

    def test_copies_of_the_lower_layer_count(self):
        size = os.stat("/bin/bash").st_size
        self.assertGreater(size, 256 << 10)
        said = self.shell("memory,size=256k", "chmod 700 /bin/bash; echo x > /tmp/small && rm /bin/true && ls /bin/true; cat /tmp/small")
        self.assertIn("/bin/bash': No space left on device", said.stderr)
        self.assertIn("cannot access '/bin/true'", said.stderr)
        self.assertEqual(said.stdout, "x\n")

    def test_files_without_contents_count(self):
        said = self.shell("memory,size=1g,nr_inodes=40", "for i in $(seq 100); do : > /tmp/$i || break; done; ls /tmp/[0-9]* | wc -l")
        self.assertIn("No space left on device", said.stderr)
        self.assertLess(int(said.stdout), 40)

    def test_bad_values(self):
        for value in ("file", "memory,size=0", "memory,size=much", "memory,size=-1", "memory,colour=red", "none,size=1g", "memory,nr_inodes=0"):
            with self.subTest(value=value):
                said = self.shell(value, "echo it ran")
                self.assertNotEqual(said.returncode, 0)
                self.assertIn("--overlay", said.stderr)
                self.assertEqual(said.stdout, "")

    def test_checkpoint(self):
        output = os.path.join(self.folder, "output")

        def run(*command):
            with open(output, "a") as file:
                return subprocess.Popen(self.command(*command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

        def said():
            with open(output) as file:
                return file.read()
        bundle = self.bundle("/bin/bash", "-c", FILL, root={"path": "/"}, mounts=[{"destination": "/tmp/shared", "type": "tmpfs", "source": "none"}])
        process = run("--overlay=memory,size=1m", "run", "--bundle", bundle, "c")
        self.assertTrue(eventually(lambda: said() == "filled\n", 20), said())
        point = os.path.join(self.folder, "point")
        self.must("checkpoint", "--image-path", point, "c")
        process.wait(20)
        self.run_cli("delete", "--force", "c")
        # The image knows the limit, whatever the command line says now.
        process = run("--overlay=memory", "restore", "--image-path", point, "--bundle", bundle, "c")
        self.assertTrue(eventually(lambda: self.run_cli("exec", "c", "/bin/touch", "/tmp/go").returncode == 0, 20), said())
        self.assertEqual(process.wait(20), 0, said())
        self.assertIn("No space left on device", said())
        self.assertTrue(said().endswith("\n0\ndone\n"), said())


if __name__ == "__main__":
    unittest.main()
