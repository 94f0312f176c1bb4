"""Docker drives the sandbox through its stock shim: a private containerd and dockerd, an imported busybox, no network."""

import json
import os
import pty
import select
import shutil
import subprocess
import tempfile
import time
import unittest

from support import TOP, eventually

# A stand-in for the client may come first in PATH.
DOCKER = "/usr/bin/docker"
BUSYBOX = "/bin/busybox"
APPLETS = "sh ls cat echo sleep true id ps wc head grep touch env mount stty tty kill seq".split()


def missing():
    if os.geteuid() != 0:
        return "needs root"
    for program in (DOCKER, "dockerd", "containerd", BUSYBOX):
        if not shutil.which(program):
            return f"needs {program} (Debian: docker.io, containerd, busybox-static)"
    return None


@unittest.skipIf(missing(), missing())
class Docker(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="sandbox-docker-")
        cls.daemons = []
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.addClassCleanup(cls.stop)
        binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))
        cls.binary = shutil.copy(os.path.realpath(binary), os.path.join(cls.folder, "sandbox"))
        cls.start()
        cls.import_image()

    @classmethod
    def path(cls, name):
        return os.path.join(cls.folder, name)

    @classmethod
    def start(cls):
        with open(cls.path("containerd.toml"), "w") as file:
            file.write(f"""version = 2
root = "{cls.path('c-root')}"
state = "{cls.path('c-state')}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = 0
[grpc]
  address = "{cls.path('containerd.sock')}"
[ttrpc]
  address = "{cls.path('containerd.ttrpc')}"
""")
        with open(cls.path("daemon.json"), "w") as file:
            json.dump({"runtimes": {"sandbox": {"path": cls.binary}}, "default-runtime": "sandbox", "data-root": cls.path("data"),
                       "exec-root": cls.path("exec"), "pidfile": cls.path("docker.pid"), "hosts": ["unix://" + cls.path("docker.sock")],
                       "bridge": "none", "iptables": False, "ip6tables": False, "storage-driver": "vfs", "experimental": True,
                       "containerd": cls.path("containerd.sock")}, file)
        for name, command in (("containerd", ["containerd", "-c", cls.path("containerd.toml")]),
                              ("dockerd", ["dockerd", "--config-file", cls.path("daemon.json")])):
            log = open(cls.path(name + ".log"), "w")
            cls.daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))
            log.close()
            if name == "containerd" and not eventually(lambda: os.path.exists(cls.path("containerd.sock")), 30):
                raise unittest.SkipTest("containerd does not start here")
        if not eventually(lambda: cls.call("info").returncode == 0, 60):
            raise unittest.SkipTest("dockerd does not start here")

    @classmethod
    def stop(cls):
        if cls.daemons:
            ids = cls.call("ps", "-aq").stdout.split()
            if ids:
                cls.call("rm", "-f", *ids)
        for daemon in reversed(cls.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # Mounts that a daemon which was killed leaves.
        with open("/proc/self/mountinfo") as mounts:
            left = [line.split()[4] for line in mounts if line.split()[4].startswith(cls.folder)]
        for mount in reversed(left):
            subprocess.run(["umount", "-l", mount], check=False)

    @classmethod
    def import_image(cls):
        root = cls.path("image")
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
            os.makedirs(os.path.join(root, name))
        shutil.copy(BUSYBOX, os.path.join(root, "bin/busybox"))
        for applet in APPLETS:
            os.symlink("busybox", os.path.join(root, "bin", applet))
        with open(os.path.join(root, "etc/passwd"), "w") as file:
            file.write("root:x:0:0:root:/root:/bin/sh\n")
        tar = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(cls.docker("import", "-", "bb"), stdin=tar.stdout, check=True, capture_output=True, timeout=60)
        tar.stdout.close()
        tar.wait()

    @classmethod
    def docker(cls, *arguments):
        return [DOCKER, "--host", "unix://" + cls.path("docker.sock"), *arguments]

    @classmethod
    def call(cls, *arguments, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(cls.docker(*arguments), capture_output=True, text=True, timeout=60, **options)

    def must(self, *arguments, **options):
        result = self.call(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def detached(self, name, *program):
        self.must("run", "-d", "--network", "none", "--name", name, "bb", *program)
        self.addCleanup(self.call, "rm", "-f", name)

    def test_run(self):
        self.assertEqual(self.must("run", "--rm", "--network", "none", "bb", "echo", "hello"), "hello\n")
        self.assertEqual(self.must("run", "--rm", "-i", "--network", "none", "bb", "cat", stdin=None, input="typed\n"), "typed\n")
        for code in (0, 7, 255):
            self.assertEqual(self.call("run", "--rm", "--network", "none", "bb", "sh", "-c", f"exit {code}").returncode, code)
        missing_program = self.call("run", "--rm", "--network", "none", "bb", "no-such-program")
        self.assertEqual(missing_program.returncode, 127)
        self.assertIn("no-such-program", missing_program.stderr)

    def test_logs_exec_stop(self):
        self.detached("life", "sh", "-c", "echo started; sleep 1000")
        self.assertTrue(eventually(lambda: self.must("logs", "life") == "started\n"))
        self.assertEqual(self.must("exec", "life", "echo", "inside"), "inside\n")
        self.assertEqual(self.call("exec", "life", "sh", "-c", "exit 9").returncode, 9)
        self.assertEqual(self.must("exec", "-i", "life", "wc", "-c", stdin=None, input="12345").strip(), "5")
        self.assertIn("sandbox-waiter", self.must("top", "life"))
        self.must("stop", "-t", "1", "life")
        self.assertEqual(self.must("inspect", "-f", "{{.State.Status}}", "life"), "exited\n")
        self.must("start", "life")
        self.assertEqual(self.must("exec", "life", "echo", "again"), "again\n")

    def test_kill(self):
        self.detached("victim", "sleep", "1000")
        self.must("kill", "victim")
        self.assertTrue(eventually(lambda: self.must("inspect", "-f", "{{.State.ExitCode}}", "victim") == "137\n"))

    def test_files_are_written_through(self):
        self.detached("writer", "sleep", "1000")
        self.must("exec", "writer", "sh", "-c", "echo new > /root/f")
        self.assertIn("A /root/f", self.must("diff", "writer"))

    def test_limits(self):
        self.assertEqual(self.must("run", "--rm", "--network", "none", "--memory", "64m", "--pids-limit", "20", "bb", "echo", "ok"), "ok\n")

    def test_pause(self):
        self.detached("pausing", "sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done")
        self.assertTrue(eventually(lambda: self.must("logs", "pausing")))
        self.must("pause", "pausing")
        before = self.must("logs", "pausing")
        time.sleep(0.5)
        self.assertEqual(self.must("logs", "pausing"), before)
        self.must("unpause", "pausing")
        self.assertTrue(eventually(lambda: self.must("logs", "pausing") != before))

    def test_terminal(self):
        pid, master = pty.fork()
        if pid == 0:
            os.execv(DOCKER, self.docker("run", "--rm", "-it", "--network", "none", "bb", "sh"))
        seen = b""
        sent = 0
        script = [b"tty\n", b"echo $((40+2))\n", b"exit 3\n"]
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.5)[0]:
                try:
                    seen += os.read(master, 4096)
                except OSError:
                    break
            if sent < len(script) and seen.count(b"#") > sent:
                os.write(master, script[sent])
                sent += 1
        os.close(master)
        _, status = os.waitpid(pid, 0)
        self.assertIn(b"42", seen)
        self.assertIn(b"/dev/", seen)
        self.assertEqual(os.WEXITSTATUS(status), 3, seen)

    def test_top(self):
        self.detached("several", "sh", "-c", "sleep 50 & sleep 50 & echo up; sleep 50; true")
        self.assertTrue(eventually(lambda: "up" in self.must("logs", "several")))
        # The process that stands for the container, and one for each of its own: the shell and three sleeps.
        self.assertTrue(eventually(lambda: len(self.must("top", "several").splitlines()) == 1 + 1 + 4), self.must("top", "several"))

    def test_checkpoint(self):
        self.detached("counter", "sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done")
        self.assertTrue(eventually(lambda: len(self.must("logs", "counter").split()) > 3))
        saved = self.call("checkpoint", "create", "counter", "point")
        self.assertEqual(saved.returncode, 0, saved.stderr)
        self.assertTrue(eventually(lambda: self.must("inspect", "-f", "{{.State.Status}}", "counter") == "exited\n"))
        count = len(self.must("logs", "counter").split())
        self.must("start", "--checkpoint", "point", "counter")
        self.assertTrue(eventually(lambda: len(self.must("logs", "counter").split()) > count + 3))
        numbers = [int(n) for n in self.must("logs", "counter").split()]
        self.assertEqual(numbers, list(range(len(numbers))), "the count goes on where it was")


if __name__ == "__main__":
    unittest.main()
