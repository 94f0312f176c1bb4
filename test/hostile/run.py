#!/usr/bin/env python3
"""A hostile guest: random system calls in a sandbox, which must neither end nor hang, nor grow without end.

  test/hostile/run.py --sandbox bazel-bin/sandbox [--seconds 60] [--seed N] [--checkpoints]

Each round takes a second; the program (random_calls.cc) ends everything that it started after it. With --checkpoints the container is
frozen in the middle of a round, killed, and brought back. Ends with `N passed, N failed`: one case for each round.
"""

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ROUND_MS = 1000
# What a round may take in all, and how long its keeper may be kept from running, on a machine with two CPUs that are all busy.
ROUND_SECONDS, PAUSE_MS = 60, 5000

CAPABILITIES = ["CAP_" + name for name in (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN "
    "NET_RAW IPC_LOCK IPC_OWNER SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE SETFCAP SYSLOG WAKE_ALARM BLOCK_SUSPEND").split()]


def write_bundle(folder, program, arguments):
    root = os.path.join(folder, "root")
    for name in ("proc", "sys", "dev", "tmp"):
        os.makedirs(os.path.join(root, name))
    shutil.copy2(program, os.path.join(root, "random_calls"))
    sets = ("bounding", "effective", "permitted")
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": "root", "readonly": True},
        "hostname": "hostile",
        "process": {"args": ["/random_calls", *arguments], "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0},
                    "capabilities": {name: CAPABILITIES for name in sets}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "size=1m"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=16m"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=64m"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts", "network", "cgroup")]},
    }
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)


class Container:
    """One container that prints a line for each round."""

    def __init__(self, options, folder, rounds):
        self.options, self.folder, self.name = options, folder, f"hostile-{os.getpid()}"
        self.runtime = [options.sandbox, *options.sandbox_flag, "--root", os.path.join(folder, "state")]
        write_bundle(folder, options.program, [str(rounds), str(ROUND_MS), str(options.seed)])
        self.errors = open(os.path.join(folder, "errors"), "w+")
        self.reader, self.writer = os.pipe()
        self.text = b""
        self.start("run", "--bundle", folder)

    def start(self, *arguments):
        self.process = subprocess.Popen([*self.runtime, *arguments, self.name], stdin=subprocess.DEVNULL, stdout=self.writer,
                                        stderr=self.errors)

    def line(self, seconds):
        """The next line; None if there is none in time, or the container has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.text:
            ready, _, _ = select.select([self.reader], [], [], 0.2)
            if ready:
                self.text += os.read(self.reader, 65536)
            elif self.process.poll() is not None or time.monotonic() > deadline:
                return None
        line, self.text = self.text.split(b"\n", 1)
        return line.decode()

    def freeze_and_restore(self):
        image = os.path.join(self.folder, "image")
        shutil.rmtree(image, ignore_errors=True)
        said = subprocess.run([*self.runtime, "checkpoint", "--image-path", image, self.name], capture_output=True, text=True, timeout=60)
        if said.returncode != 0:
            return "checkpoint: " + said.stderr.strip()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            return "the container goes on after its checkpoint"
        subprocess.run([*self.runtime, "delete", "--force", self.name], capture_output=True, timeout=60)
        self.start("restore", "--image-path", image, "--bundle", self.folder)
        return None

    def state(self):
        status = self.process.poll()
        return "runs" if status is None else f"ended with {status}"

    def said(self):
        self.errors.flush()
        with open(self.errors.name, errors="replace") as file:
            return "; ".join(file.read().strip().splitlines()[-8:])

    def end(self):
        subprocess.run([*self.runtime, "delete", "--force", self.name], capture_output=True, timeout=60)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self.reader)
        os.close(self.writer)
        self.errors.close()


def judge(line):
    """None, or what was wrong with a round."""
    words = line.split()
    if words[:1] != ["round"]:
        return line
    told = dict(zip(words[2::2], words[3::2]))
    if int(told["calls"]) < 100:
        return f"no more than {told['calls']} calls were made"
    if int(told["longest-pause-ms"]) > PAUSE_MS:
        return f"its keeper did not run for {told['longest-pause-ms']} ms"
    return None


def run(options, folder):
    rounds = max(1, int(options.seconds * 1000 / ROUND_MS))
    deadline = time.monotonic() + options.seconds
    container = Container(options, folder, rounds)
    dice = random.Random(options.seed)
    passed, failures = 0, []
    try:
        for number in range(rounds):
            if time.monotonic() > deadline and number > 0:
                break
            problem = None
            if options.checkpoints:
                time.sleep(dice.uniform(0.2, 0.9))
                problem = container.freeze_and_restore()
            line = None if problem else container.line(ROUND_SECONDS)
            if problem is None:
                problem = judge(line) if line else f"no word of it, the runtime {container.state()}"
            if problem is None:
                passed += 1
                if options.verbose:
                    print(line, flush=True)
                continue
            failures.append(f"FAIL round {number}, seed {options.seed}: {problem}; {container.said()}")
            break
    finally:
        container.end()
    return passed, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("--sandbox-flag", action="append", default=[], help="a global flag for the sandbox, repeatable")
    parser.add_argument("--program", default=os.path.join(ROOT, "bazel-bin", "test", "hostile", "random_calls"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoints", action="store_true", help="freeze, kill and restore in each round")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the image behind if a round failed")
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="amber-hostile-")
    passed, failures = run(options, folder)
    for failure in failures:
        print(failure)
    if failures and options.keep:
        print("kept:", folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
