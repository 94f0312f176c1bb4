"""One guest test in a sandbox that is checkpointed, killed and restored at each of the test's marked points.

The test writes `@checkpoint N Family.Name` on its standard output and waits for one byte on its standard input. Both
are pipes of ours; `restore` is given fresh ones, which the sandbox binds in place of the old.
"""

import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time
import uuid

MARK = b"@checkpoint "
# What `sandbox do` gives root.
CAPABILITIES = [f"CAP_{name}" for name in (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_ADMIN NET_RAW "
    "IPC_LOCK IPC_OWNER SYS_BOOT SYS_CHROOT SYS_PTRACE SYS_ADMIN SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE SETFCAP").split()]


class StepFailed(Exception):
    """A step of the session failed; the text says which and how."""


class Session:
    """Runs `name` of `binary`; run() gives its output and a note on how it ended, as run_command does."""

    def __init__(self, sandbox, binary, name, timeout):
        self.sandbox = sandbox  # Command and global flags.
        self.binary = pathlib.Path(binary)
        self.name = name
        self.deadline = time.monotonic() + timeout + 60
        self.timeout = timeout
        self.output = b""
        self.process = None
        self.id = ""
        self.generation = 0

    def run(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guest-checkpoint."))
        note = ""
        try:
            self.start()
            while self.read_until_mark():
                self.checkpoint()
                self.restore()
            self.process.wait(timeout=30)
            if self.process.returncode not in (0, 1):
                note = f"exit status {self.process.returncode}"
        except (StepFailed, subprocess.TimeoutExpired) as failure:
            note = str(failure)
        finally:
            self.clean_up()
        return self.output.decode(errors="replace"), note

    # The steps.

    def start(self):
        """`sandbox run` on a bundle whose root is this machine's, as `sandbox do` has it."""
        bundle = self.folder / "bundle"
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.config()))
        self.launch("run", ["--bundle", str(bundle)])

    def checkpoint(self):
        """Takes an image, which ends the sandbox."""
        image = self.image()
        self.step("checkpoint", "--image-path", str(image), self.id)
        self.process.wait(timeout=60)
        self.step("delete", "--force", self.id)

    def restore(self):
        """Brings the image back under a new name with new standard streams, and lets the test go on."""
        bundle = self.folder / "bundle"
        image = self.image()
        self.generation += 1
        self.launch("restore", ["--image-path", str(image), "--bundle", str(bundle)])
        os.write(self.input, b"g")

    # What they are made of.

    def image(self):
        return self.folder / f"image-{self.generation}"

    def config(self):
        arguments = [os.path.realpath(self.binary), f"--filter={self.name}", f"--timeout={self.timeout}", "--checkpoint=1,0"]
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        # A build whose output lies in /tmp is hidden by the guest's own.
        folder = os.path.dirname(os.path.realpath(self.binary))
        hidden = [{"destination": folder, "type": "bind", "source": folder, "options": ["bind", "ro"]}] if folder.startswith("/tmp/") else []
        return {
            "ociVersion": "1.0.2",
            "root": {"path": "/", "readonly": False},
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": arguments,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
                "cwd": "/",
                "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
                *hidden,
            ],
            "linux": {"namespaces": namespaces},
        }

    def launch(self, verb, arguments):
        self.close_streams()
        self.id = f"guest-{uuid.uuid4().hex[:12]}"
        guest_input, self.input = os.pipe()
        self.from_guest, guest_output = os.pipe()
        self.errors = open(self.folder / f"{verb}-{self.generation}.err", "w+b")
        self.process = subprocess.Popen(
            [*self.sandbox, verb, *arguments, self.id],
            stdin=guest_input, stdout=guest_output, stderr=self.errors, start_new_session=True)
        os.close(guest_input)
        os.close(guest_output)

    def read_until_mark(self):
        """Reads output until a mark (True) or its end (False)."""
        line = b""
        while True:
            ready, _, _ = select.select([self.from_guest], [], [], max(0, self.deadline - time.monotonic()))
            if not ready:
                raise StepFailed("no output before the deadline")
            byte = os.read(self.from_guest, 1)
            if not byte:
                self.output += line
                return False
            line += byte
            if byte == b"\n":
                if line.startswith(MARK):
                    return True
                self.output += line
                line = b""

    def step(self, *arguments):
        done = subprocess.run([*self.sandbox, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
        if done.returncode != 0:
            complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise StepFailed(f"{arguments[0]}: exit status {done.returncode}: {complaint[-300:]}")

    def close_streams(self):
        for name in ("input", "from_guest"):
            if getattr(self, name, -1) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        if getattr(self, "errors", None) is not None:
            self.errors.close()
            self.errors = None

    def clean_up(self):
        if self.process is not None and self.process.poll() is None:
            subprocess.run([*self.sandbox, "delete", "--force", self.id], stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=60, check=False)
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)
                self.process.wait()
        self.close_streams()
        shutil.rmtree(self.folder, ignore_errors=True)
