"""Rows about whole sandboxes: start-up, idle memory, checkpoint and restore."""

import os
import select
import shutil
import subprocess
import tempfile
import time

QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
LIMIT = 60


class Failed(Exception):
    """A verb that did not do its work, with the last line that it said."""


def run_quietly(command):
    """Runs a verb with its output in a file: a container that goes on must not hold a pipe."""
    with tempfile.TemporaryFile() as said:
        try:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said,
                                    stderr=subprocess.STDOUT, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {LIMIT} s")
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if status:
        raise Failed(lines[-1][:100] if lines else f"exit status {status}")


def timed(command):
    start = time.monotonic()
    run_quietly(command)
    return (time.monotonic() - start) * 1e3


def parents():
    """Process to parent, of all processes of this machine."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as stat:
                    found[int(name)] = int(stat.read().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                pass
    return found


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def memory_of(pids):
    """(PSS, private) in MiB, added up."""
    totals = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                for line in rollup:
                    key, _, rest = line.partition(":")
                    if key in totals:
                        totals[key] += int(rest.split()[0])
        except OSError:
            pass
    return totals["Pss"] / 1024, (totals["Private_Clean"] + totals["Private_Dirty"]) / 1024


def new_processes(before, program):
    """Processes since `before` that run `program`, and all their descendants."""
    now = parents()
    roots = {pid for pid in now if pid not in before and executable(pid) == program}
    members = set(roots)
    while True:
        more = {pid for pid, parent in now.items() if parent in members} - members
        if not more:
            return members
        members |= more


def start_and_idle(target, sample):
    name, folder = target.bundle(["/bin/sleep", "1000"])
    before = set(parents())
    try:
        begin = time.monotonic()
        run_quietly([*target.runtime, "create", "--bundle", folder, name])
        run_quietly([*target.runtime, "start", name])
        sample("create_start", (time.monotonic() - begin) * 1e3)
        time.sleep(0.5)
        members = new_processes(before, os.path.realpath(target.program))
        if target.name == "runc":  # it leaves nothing of its own behind; the program is all
            members = {pid for pid in set(parents()) - before if executable(pid).endswith("/sleep")}
        pss, private = memory_of(members)
        sample("idle_pss", pss)
        sample("idle_private", private)
        begin = time.monotonic()
        run_quietly([*target.runtime, "kill", name, "KILL"])
        deadline = time.monotonic() + 10
        while True:
            gone = subprocess.run([*target.runtime, "delete", name], **QUIET, timeout=LIMIT)
            if not gone.returncode:
                break
            if time.monotonic() > deadline:
                raise Failed("delete goes on failing after kill")
            time.sleep(0.001)
        sample("kill_delete", (time.monotonic() - begin) * 1e3)
    finally:
        target.delete(name)
        shutil.rmtree(folder, ignore_errors=True)


def lifecycle(target, sample, error):
    """One sample of each row."""
    if target.runtime is None:
        start = time.monotonic()
        subprocess.run(["/bin/true"], **QUIET, check=True)
        for key in ("do_true", "run_true"):
            sample(key, (time.monotonic() - start) * 1e3)
        return
    if target.name in ("sandbox", "runsc"):
        flags = ["--network=none"] if target.name == "runsc" else []
        try:
            sample("do_true", timed([target.program, *flags, "do", "/bin/true"]))
        except Failed as problem:
            error("do_true", problem)
    try:
        command, clean = target.command(["/srv/exit0"])
        try:
            sample("run_true", timed(command))
        finally:
            clean()
    except Failed as problem:
        error("run_true", problem)
    try:
        start_and_idle(target, sample)
    except Failed as problem:
        for key in ("create_start", "kill_delete", "idle_pss", "idle_private"):
            error(key, problem)


def read_line(fd, seconds):
    """The next line of a raw descriptor; raises Failed if none comes in time."""
    line = b""
    deadline = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
            raise Failed("the container printed nothing")
        byte = os.read(fd, 1)
        if not byte:
            raise Failed("the container ended early")
        line += byte
    return line


def image_files(path):
    if os.path.isdir(path):
        return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [path]


def dd_seconds(folder, size):
    """How long dd takes to write and fsync as much, in the same folder."""
    path = os.path.join(folder, "dd.out")
    start = time.monotonic()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={max(1, size >> 20)}",
                    "conv=fsync"], **QUIET, check=True)
    spent = time.monotonic() - start
    os.unlink(path)
    return spent


def checkpoint_size(target, label, mebibytes, sample):
    """Freezes a counting program, brings it back, and checks that it goes on where it was."""
    name, folder = target.bundle(["/srv/ticker", str(mebibytes)])
    image = os.path.join(folder, "image")
    reader, writer = os.pipe()
    plain = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        first = subprocess.Popen([*target.runtime, "run", "--bundle", folder, name],
                                 stdout=writer, **plain)
        os.close(writer)
        if read_line(reader, LIMIT) != b"ready\n":
            raise Failed("the ticker did not start")
        for _ in range(50):
            last = read_line(reader, LIMIT)
        spent = timed([*target.runtime, "checkpoint", "--image-path", image, name])
        sample(f"checkpoint_{label}", spent)
        first.wait(timeout=LIMIT)
        while rest := os.read(reader, 1 << 16):
            last = (last + rest).strip().rsplit(b"\n", 1)[-1]
        os.close(reader)
        size = sum(os.path.getsize(path) for path in image_files(image))
        sample(f"image_{label}", size / (1 << 20))
        if mebibytes >= 1024:
            sample("checkpoint_rate", 100 * dd_seconds(folder, size) / (spent / 1e3))
        reader, writer = os.pipe()
        start = time.monotonic()
        second = subprocess.Popen([*target.runtime, "restore", "--image-path", image, "--bundle",
                                   folder, name], stdout=writer, **plain)
        os.close(writer)
        following = read_line(reader, LIMIT)
        sample(f"restore_{label}", (time.monotonic() - start) * 1e3)
        if int(following) != int(last) + 1:
            raise Failed(f"the count went from {int(last)} to {int(following)}")
        target.delete(name)
        second.wait(timeout=LIMIT)
    except (subprocess.TimeoutExpired, ValueError) as problem:
        raise Failed(str(problem))
    finally:
        os.close(reader)
        target.delete(name)
        shutil.rmtree(folder, ignore_errors=True)


def checkpoint(target, sample, error):
    if target.name not in ("sandbox", "runsc"):
        return
    for label, mebibytes in (("1m", 1), ("256m", 256), ("1g", 1024)):
        try:
            checkpoint_size(target, label, mebibytes, sample)
        except Failed as problem:
            for key in ("checkpoint", "image", "restore"):
                error(f"{key}_{label}", problem)
            if label == "1g":
                error("checkpoint_rate", problem)
