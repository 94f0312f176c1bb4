"""Running the command line in tests: a root of its own, bundles, engines' behaviour, and what must not stay behind."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
FIRST_HOST_ID = 0x70000000
PR_SET_CHILD_SUBREAPER = 36


def fake_sandbox():
    """The product with a kernel that only pretends."""
    path = os.environ.get("AMBER_SANDBOX_FAKE", os.path.join(TOP, "bazel-bin/test/e2e/sandbox_fake"))
    if "AMBER_SANDBOX_FAKE" not in os.environ:
        subprocess.run(["bazel", "build", "//test/e2e:sandbox_fake"], cwd=TOP, check=True, capture_output=True)
    return path


def become_subreaper():
    """Orphans of our children become ours, as with an engine's shim."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def cgroup_mounts():
    with open("/proc/self/mountinfo") as mounts:
        fields = [line.split() for line in mounts]
    return [f[4] for f in fields if f[f.index("-") + 1] in ("cgroup", "cgroup2")]


def process_state(pid):
    """'R', 'S', ... or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    return process_state(pid) not in (None, "Z", "X")


def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@unittest.skipUnless(os.geteuid() == 0, "needs root")
class SandboxTest(unittest.TestCase):
    binary = None

    @classmethod
    def setUpClass(cls):
        become_subreaper()
        if cls.binary is None:
            cls.binary = fake_sandbox()

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="sandbox-e2e-")
        self.root = os.path.join(self.folder, "state")
        self.known = []
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.addCleanup(self.end_everything)

    def end_everything(self):
        if os.path.isdir(self.root):
            for container in os.listdir(self.root):
                self.run_cli("delete", "--force", container)
        self.reap()

    def reap(self):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def command(self, *arguments):
        return [self.binary, "--root", self.root, *arguments]

    def run_cli(self, *arguments, **options):
        options.setdefault("timeout", 30)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, **options)

    def must(self, *arguments, **options):
        result = self.run_cli(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def detached(self, *arguments):
        """A command whose container keeps its standard descriptors, so that they cannot be pipes that we read."""
        with open(os.path.join(self.folder, "detached.out"), "w+") as out:
            result = subprocess.run(self.command(*arguments), stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=30)
            out.seek(0)
            self.assertEqual(result.returncode, 0, out.read())

    def bundle(self, *program, terminal=False, **changes):
        path = tempfile.mkdtemp(dir=self.folder, prefix="bundle-")
        os.mkdir(os.path.join(path, "rootfs"))
        config = {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {"args": list(program), "cwd": "/", "terminal": terminal},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
        }
        config.update(changes)
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        return path

    def create(self, name, *program, **changes):
        """Creates a container as an engine does; returns the pid that stands for it, which is now our child."""
        bundle = self.bundle(*program, **changes)
        pid_file = os.path.join(bundle, "init.pid")
        with open(os.path.join(bundle, "output"), "w") as output:
            result = subprocess.run(
                self.command("create", "--bundle", bundle, "--pid-file", pid_file, name),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, timeout=30)
        self.output = os.path.join(bundle, "output")
        with open(self.output) as said:
            self.assertEqual(result.returncode, 0, said.read())
        with open(pid_file) as file:
            text = file.read()
        self.assertTrue(text.isdigit(), "the pid file holds digits and nothing else: engines parse it whole")
        return int(text)

    def state(self, name):
        return json.loads(self.must("state", name))

    def details(self, name):
        with open(os.path.join(self.root, name, "state.json")) as file:
            return json.load(file)

    def wait_pid(self, pid, seconds=20):
        """The wait status of the process that stands for a guest process."""
        result = []

        def ended():
            if not result:
                got, status = os.waitpid(pid, os.WNOHANG)
                if got == pid:
                    result.append(status)
            return bool(result)
        self.assertTrue(eventually(ended, seconds), f"{pid} does not end")
        return result[0]

    def assert_no_trace(self, name, details):
        for role in ("waiter", "sentry", "gofer"):
            pid = details[role]["pid"]
            self.assertTrue(eventually(lambda pid=pid: not alive(pid)), f"{role} {pid} still runs")
        # Stubs, and whatever else ran as the sandbox's user.
        self.assertTrue(eventually(lambda: not self.processes_of(details["hostId"])), "processes of the sandbox's user are left")
        self.assertTrue(eventually(lambda: not os.path.exists(os.path.join(self.root, name))), "the state directory is left")
        for group in details["madeCgroups"]:
            self.assertTrue(eventually(lambda group=group: not os.path.exists(group)), f"cgroup {group} is left")

    @staticmethod
    def processes_of(uid):
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or not alive(entry):
                continue
            try:
                with open(f"/proc/{entry}/status") as status:
                    uids = [line for line in status if line.startswith("Uid:")][0].split()[1:]
            except (FileNotFoundError, ProcessLookupError, IndexError):
                continue
            if str(uid) in uids:
                found.append(int(entry))
        return found


def signal_of(status):
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


__all__ = ["SandboxTest", "alive", "cgroup_mounts", "eventually", "fake_sandbox", "signal", "signal_of"]
