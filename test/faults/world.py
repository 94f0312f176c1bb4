"""A runtime, a place to work in, and a watch on what is left behind."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "test", "programs"))
import bundle  # noqa: E402

LIMIT = 30
STRINGS = {"text": True, "encoding": "utf-8", "errors": "replace"}


class Failure(Exception):
    """What a case saw that it must not see."""


def require(condition, what):
    if not condition:
        raise Failure(what)


def processes(program):
    """Host processes that run `program`."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/exe").removesuffix(" (deleted)") == program:
                    found.add(int(name))
            except OSError:
                pass
    return found


def role(pid):
    """The command line of a process, for telling sentry from gofer, and for messages."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/comm") as file:
            return f"{file.read().strip()} [{line[:80]}]"
    except OSError:
        return "(gone)"


def cgroups(word):
    found = set()
    for top in ("/sys/fs/cgroup",):
        for folder, names, _ in os.walk(top):
            found |= {os.path.join(folder, name) for name in names if word in name}
            if folder.count("/") > 7:
                names.clear()
    return found


def mounts():
    with open("/proc/self/mountinfo") as file:
        return {line.split()[4] for line in file}


def temporary_files():
    """Judged on a machine of continuous integration only: elsewhere others may make such files."""
    found = set()
    if not os.environ.get("AMBER_CI"):
        return found
    for folder in ("/tmp", "/run", "/var/tmp", "/dev/shm"):
        if os.path.isdir(folder):
            found |= {os.path.join(folder, name) for name in os.listdir(folder)
                      if re.search(r"sandbox|amber", name)}
    return found


class World:
    """One case's surroundings. Use as a context; leaving it checks that nothing is left."""

    def __init__(self, program, rootfs, name):
        self.program, self.rootfs = os.path.realpath(program), rootfs
        self.id = f"faults-{os.getpid()}-{name}"[:60]
        # Not a name that the watch on temporary files would take for the runtime's.
        self.work = tempfile.mkdtemp(prefix="faults.")
        self.state = os.path.join(self.work, "state")
        self.runtime = [self.program, "--root", self.state]

    def __enter__(self):
        self.before = (processes(self.program), mounts(), temporary_files())
        return self

    def __exit__(self, kind, error, trace):
        try:
            subprocess.run([*self.runtime, "delete", "--force", self.id], timeout=LIMIT,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            left = self.wait_for_nothing(5)
        finally:
            for pid in processes(self.program) - self.before[0]:
                if self.state in role(pid) or self.id in role(pid):
                    os.kill(pid, 9)
            small = os.path.join(self.work, "small")
            if os.path.ismount(small):
                subprocess.run(["umount", small], check=False)
            shutil.rmtree(self.work, ignore_errors=True)
        if left and kind is None:
            raise Failure("left behind: " + "; ".join(left))
        return False

    def leftovers(self):
        """Processes of other sandboxes of this binary count, too: run one such suite at a time."""
        left = [f"process {pid} {role(pid)}" for pid in processes(self.program) - self.before[0]]
        left += [f"mount {path}" for path in mounts() - self.before[1]
                 if not path.startswith(self.work + "/small")]
        left += [f"file {path}" for path in temporary_files() - self.before[2]]
        left += [f"cgroup {path}" for path in cgroups(self.id)]
        if os.path.isdir(self.state):
            left += [f"state {name}" for name in os.listdir(self.state) if self.id in name]
        return left

    def wait_for_nothing(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def bundle(self, arguments, edit=None, name="bundle", **options):
        """A bundle whose config `edit` has changed; a str that `edit` returns replaces the file."""
        import json
        folder = os.path.join(self.work, name)
        options.setdefault("binds", [(self.work, "/srv")])
        config = bundle.config(self.rootfs, arguments, **options)
        text = edit(config) if edit else None
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as file:
            file.write(text if isinstance(text, str) else json.dumps(config))
        return folder

    def call(self, *arguments, limit=LIMIT, runtime=None):
        """Runs a verb to its end."""
        try:
            return subprocess.run([*(runtime or self.runtime), *arguments],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=limit, **STRINGS)
        except subprocess.TimeoutExpired:
            raise Failure(f"`{arguments[0]}` did not end in {limit} s")

    def run(self, folder, **options):
        return self.call("run", "--bundle", folder, self.id, **options)

    def start(self, arguments, **options):
        """Starts a container in the background; returns the process of its `run`."""
        output = open(os.path.join(self.work, "output"), "ab")
        process = subprocess.Popen(
            [*self.runtime, "run", "--bundle", self.bundle(arguments, **options), self.id],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        output.close()
        return process

    def output(self):
        with open(os.path.join(self.work, "output"), errors="replace") as file:
            return file.read()

    def wait_for_output(self, word, seconds=LIMIT):
        deadline = time.monotonic() + seconds
        while word not in self.output():
            require(time.monotonic() < deadline, f"no `{word}` in {self.output()[-200:]!r}")
            time.sleep(0.02)


def fails_clearly(result, *words):
    """A status that is not zero, and one line that says what, naming any of `words`."""
    require(result.returncode > 0, f"it ended with status {result.returncode}")
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    require(lines, "it failed without a word")
    require(len(lines) <= 2, f"it failed with {len(lines)} lines: {lines[0][:100]} …")
    require("Aborted" not in result.stderr and "Check failed" not in result.stderr,
            f"it crashed: {result.stderr[:200]}")
    text = result.stderr.lower()
    if words:
        require(any(word.lower() in text for word in words),
                f"the error names none of {', '.join(words)}: {lines[0][:200]}")
