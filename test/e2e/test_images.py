"""Root file systems and mounts that are one file: EROFS images and tar archives, without a gofer; also across a checkpoint."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import unittest

from support import TOP, SandboxTest, eventually

PROGRAMS = ("bash", "cat", "ls", "md5sum", "sleep", "stat")

COUNT = """
echo changed > /changed
exec 3< /data
read -r line <&3; echo $line
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done
read -r line <&3; echo $line
cat /changed
md5sum < /bin/bash
"""


def libraries(program):
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", said)


# Ways of mkfs.erofs to make an image.
EROFS = {"erofs": (), "lz4": ("-zlz4hc",), "lz4-full": ("-zlz4", "-Elegacy-compress"), "lz4-big": ("-zlz4hc,9", "-C65536")}


class ImageFiles(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if shutil.which("mkfs.erofs") is None:
            raise RuntimeError("mkfs.erofs is missing: ./dev setup installs it (package erofs-utils)")

    def setUp(self):
        super().setUp()
        self.tree = os.path.join(self.folder, "tree")
        for name in PROGRAMS:
            self.add(f"/bin/{name}")
            for library in libraries(f"/bin/{name}"):
                self.add(library)
        for name in ("proc", "sys", "dev"):
            os.mkdir(os.path.join(self.tree, name))
        # Longer than a page, and its end is not one.
        with open(os.path.join(self.tree, "data"), "w") as file:
            file.writelines(f"line {i}\n" for i in range(1000))
        with open("/bin/bash", "rb") as file:
            self.digest = hashlib.md5(file.read()).hexdigest()

    def add(self, path):
        copy = self.tree + path
        if not os.path.exists(copy):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy(path, copy)

    def image(self, kind, name="root"):
        path = os.path.join(self.folder, f"{name}.{kind}")
        if kind == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(self.tree, ".")
        else:
            subprocess.run(["mkfs.erofs", "--quiet", *EROFS[kind], path, self.tree], capture_output=True, check=True)
        return path

    def test_a_root_without_a_gofer(self):
        for kind in ("erofs", "tar"):
            with self.subTest(kind=kind):
                self.detached("run", "--detach", "--bundle", self.bundle("/bin/sleep", "60", root={"path": self.image(kind)}), kind)
                with open(os.path.join(self.root, kind, "state.json")) as file:
                    self.assertEqual(json.load(file)["gofer"]["pid"], 0)
                seen = self.must("exec", kind, "/bin/bash", "-c", "md5sum < /bin/bash; stat -c %s /data; echo x > /new; cat /new; ls /")
                self.assertEqual(seen.split(), [self.digest, "-", str(os.stat(self.tree + "/data").st_size), "x", *sorted([*os.listdir(self.tree), "new"])])
                self.must("delete", "--force", kind)

    def test_compressed(self):
        plain = os.stat(self.image("erofs")).st_size
        for kind in ("lz4", "lz4-full", "lz4-big"):
            with self.subTest(kind=kind):
                image = self.image(kind)
                self.assertLess(os.stat(image).st_size, plain * 3 // 4)
                said = self.must("do", "--rootfs", image, "/bin/bash", "-c", "md5sum < /bin/bash; md5sum /data /bin/* /lib/*/*.so*")
                sums = [line.split() for line in said.splitlines()]
                self.assertEqual(sums[0][0], self.digest)
                self.assertGreater(len(sums), 6)
                for digest, path in sums[1:]:
                    with open(self.tree + path, "rb") as file:
                        self.assertEqual(digest, hashlib.md5(file.read()).hexdigest(), path)
        # What is packed in ways that are not known is said at once.
        path = os.path.join(self.folder, "tails.erofs")
        if subprocess.run(["mkfs.erofs", "--quiet", "-zlz4hc", "-Eztailpacking", path, self.tree], capture_output=True).returncode == 0:
            self.assertIn("ztailpacking", self.run_cli("do", "--rootfs", path, "/bin/bash").stderr)

    def test_a_read_only_root(self):
        for kind in ("erofs", "tar"):
            with self.subTest(kind=kind):
                said = self.run_cli("--overlay=none", "do", "--rootfs", self.image(kind), "/bin/bash", "-c", "echo x > /new")
                self.assertIn("Read-only file system", said.stderr)

    def test_beyond_the_end_of_a_mapped_file(self):
        """Programs of the test's own tree: the last page of a library holds nothing but the library's bytes and zeros."""
        said = self.must("do", "--rootfs", self.image("erofs"), "/bin/bash", "-c", "cat /proc/self/maps; md5sum < /bin/ls")
        with open(self.tree + "/bin/ls", "rb") as file:
            self.assertIn(hashlib.md5(file.read()).hexdigest(), said)
        self.assertIn("/bin/cat", said)

    def test_checkpoint(self):
        for kind in ("erofs", "lz4", "tar"):
            with self.subTest(kind=kind):
                bundle = self.bundle("/bin/bash", "-c", COUNT, root={"path": self.image(kind)})
                output = os.path.join(self.folder, "output")

                def run(*command):
                    with open(output, "w") as file:
                        return subprocess.Popen(self.command(*command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)

                def said():
                    with open(output) as file:
                        return file.read()
                process = run("run", "--bundle", bundle, "c")
                self.assertTrue(eventually(lambda: said() == "line 0\n", 20), said())
                point = os.path.join(self.folder, "point-" + kind)
                self.must("checkpoint", "--image-path", point, "c")
                process.wait(20)
                self.run_cli("delete", "--force", "c")
                process = run("restore", "--image-path", point, "--bundle", bundle, "c")
                self.assertEqual(process.wait(20), 0, said())
                self.assertEqual(said(), f"line 1\nchanged\n{self.digest}  -\n")
                # Another image is not taken for it, and neither is a directory.
                with open(self.tree + "/more", "w") as file:
                    file.write("more")
                other = self.image(kind, "other")
                for path, part in ((other, "another image file"), (self.tree, "the new configuration has none")):
                    changed = self.bundle("/bin/bash", "-c", COUNT, root={"path": path})
                    refused = self.run_cli("restore", "--image-path", point, "--bundle", changed, "c")
                    self.assertNotEqual(refused.returncode, 0)
                    self.assertIn(part, refused.stderr)
                os.unlink(self.tree + "/more")

    def test_a_mount_beside_the_root(self):
        for kind in ("erofs", "tar"):
            with self.subTest(kind=kind):
                bundle = self.bundle("/bin/bash", "-c", "md5sum < /tmp/bin/bash; echo x > /tmp/new", root={"path": "/", "readonly": True},
                                     mounts=[{"destination": "/tmp", "type": kind, "source": self.image(kind)}])
                said = self.run_cli("run", "--bundle", bundle, kind)
                self.assertIn(self.digest, said.stdout)
                self.assertIn("Read-only file system", said.stderr)

    def test_files_that_are_no_image(self):
        with open(os.path.join(self.folder, "junk"), "w") as file:
            file.write("junk " * 1000)
        said = self.run_cli("do", "--rootfs", os.path.join(self.folder, "junk"), "/bin/true")
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("neither an EROFS image nor a tar archive", said.stderr)
        with open(self.image("erofs"), "rb") as file:
            half = file.read(20000)
        with open(os.path.join(self.folder, "half"), "wb") as file:
            file.write(half)
        said = self.run_cli("do", "--rootfs", os.path.join(self.folder, "half"), "/bin/bash", "-c", "true")
        self.assertNotEqual(said.returncode, 0)
        self.assertTrue(said.stderr.strip(), "it says something")


if __name__ == "__main__":
    unittest.main()
