#!/usr/bin/env python3
"""The main job on real input: freeze a running Python program, kill it, bring it back.

Starts program.py in a sandbox on a Debian root, lets it count, checkpoints it into one image,
shows that it is gone, restores it, and checks that everything goes on where it was.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "test", "programs"))
import bundle  # noqa: E402

LIMIT = 60


class Broken(Exception):
    """The demo cannot go on; the text says why."""


class Program:
    """One run of the guest program: the runtime's process and the states that it prints."""

    def __init__(self, command):
        self.states, self.words = [], []
        self.changed = threading.Condition()
        self.started = time.monotonic()
        self.first_output = None
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                if self.first_output is None:
                    self.first_output = time.monotonic() - self.started
                try:
                    self.states.append(json.loads(line))
                except ValueError:
                    self.words.append(line.strip())
                self.changed.notify_all()
        with self.changed:
            self.words.append("")
            self.changed.notify_all()

    def wait_for(self, count, what):
        """Waits until the program has printed `count` states."""
        deadline = time.monotonic() + LIMIT
        with self.changed:
            while len(self.states) < count:
                if not self.reader.is_alive() or self.words[-1:] == [""]:
                    said = " ".join(word for word in self.words if word)[-300:]
                    raise Broken(f"{what}: the program ended ({said or 'it said nothing'})")
                if time.monotonic() > deadline:
                    raise Broken(f"{what}: {len(self.states)} ticks in {LIMIT} s")
                self.changed.wait(0.2)

    def end(self):
        """Waits for the end of the runtime's process; the last state that was printed."""
        try:
            self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise Broken("the frozen sandbox is still running")
        self.reader.join(timeout=5)
        return self.states[-1]


def step(words):
    print(f"\n— {words}", flush=True)


def verb(runtime, *arguments):
    """Runs a verb to its end; returns milliseconds."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        try:
            status = subprocess.run([*runtime, *arguments], stdin=subprocess.DEVNULL, stdout=said,
                                    stderr=subprocess.STDOUT, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            raise Broken(f"`{arguments[0]}` did not end in {LIMIT} s")
        said.seek(0)
        text = said.read().strip()
    if status:
        raise Broken(f"`{arguments[0]}` ended with status {status}: {text[-300:]}")
    return (time.monotonic() - start) * 1e3


def show(state):
    print("   " + ", ".join(f"{key} {value}" for key, value in state.items()), flush=True)


def check(condition, what, failures):
    print(f"   {'ok ' if condition else 'NO '} {what}", flush=True)
    if not condition:
        failures.append(what)


def compare(last, first, later):
    """Last state before the image, first after it, and one much later."""
    failures = []
    check(first["tick"] == last["tick"] + 1, f"the count goes on: {last['tick']} → {first['tick']}",
          failures)
    check(first["thread"] == last["thread"] + 1, "the thread counted on", failures)
    check(first["child"] == 2 * first["tick"], "the child answers through its pipe", failures)
    check(first["file"] == last["file"] + 1, "the open file has all its lines", failures)
    check(first["deleted"] == last["deleted"] + 1 and first["links"] == 0,
          "the deleted file is still there and still deleted", failures)
    check(first["pid"] == last["pid"], "the process id is the same", failures)
    check(later["alarms"] > first["alarms"], "the timer goes on", failures)
    check(later.get("bad_pages") == 0, "all 65,536 pages of the heap are as they were", failures)
    return failures


def heap_check(program):
    """The next state that carries a check of the heap."""
    seen = 0
    while True:
        program.wait_for(seen + 1, "after the restore")
        if "bad_pages" in program.states[seen]:
            return program.states[seen]
        seen += 1


def dd_milliseconds(folder, size):
    path = os.path.join(folder, "dd.out")
    start = time.monotonic()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size >> 20}",
                    "conv=fsync"], stderr=subprocess.DEVNULL, check=True)
    os.unlink(path)
    return (time.monotonic() - start) * 1e3


def table(rows):
    print()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"   {name.ljust(width)}   {value}")


def play(runtime, folder, work):
    """The four acts; returns what failed."""
    name, image = f"demo-{os.getpid()}", os.path.join(work, "demo.image")
    try:
        step("Starting a Python program: threads, a child on a pipe, files, a timer, 256 MB of heap")
        before = Program([*runtime, "run", "--bundle", folder, name])
        before.wait_for(50, "the start")
        show(before.states[-1])
        step("Freezing it into one image while it runs")
        frozen = verb(runtime, "checkpoint", "--image-path", image, name)
        last = before.end()
        size = os.path.getsize(image) if os.path.isfile(image) else sum(
            os.path.getsize(os.path.join(image, part)) for part in os.listdir(image))
        print(f"   {image}: {size / (1 << 20):.1f} MiB")
        step("It is gone; the last thing that it said was")
        show(last)
        step("Bringing it back from the image")
        after = Program([*runtime, "restore", "--image-path", image, "--bundle", folder, name])
        after.wait_for(1, "the restore")
        show(after.states[0])
        later = heap_check(after)
        step("Comparing")
        failures = compare(last, after.states[0], later)
        verb(runtime, "kill", name, "KILL")
        disk = dd_milliseconds(work, size)
        table([
            ("start to first output (it fills the heap)", f"{before.first_output * 1e3:8.0f} ms"),
            ("checkpoint", f"{frozen:8.0f} ms"),
            ("  as much by dd with fsync", f"{disk:8.0f} ms"),
            ("  size of the image", f"{size / (1 << 20):8.1f} MiB"),
            ("restore to first output", f"{after.first_output * 1e3:8.1f} ms"),
        ])
        return failures
    finally:
        subprocess.run([*runtime, "delete", "--force", name], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    options = parser.parse_args()
    made = subprocess.run([os.path.join(ROOT, "tools", "rootfs.sh")], text=True,
                          stdout=subprocess.PIPE)
    if made.returncode:
        sys.exit("The demo needs a Debian root file system, and it could not be made.")
    cache = os.environ.get("AMBER_CACHE", os.path.expanduser("~/.cache/amber"))
    work = tempfile.mkdtemp(prefix="demo.", dir=cache)
    try:
        folder = bundle.write(os.path.join(work, "bundle"), made.stdout.strip(),
                              ["/usr/bin/python3", "-u", "/srv/program.py"], binds=[(HERE, "/srv")])
        runtime = [os.path.abspath(options.sandbox), "--root", os.path.join(work, "state")]
        failures = play(runtime, folder, work)
    except (Broken, OSError) as problem:
        print(f"\nThe demo failed: {problem}")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if failures:
        print(f"\nThe demo failed: {'; '.join(failures)}")
        return 1
    print("\nFrozen, killed, brought back: everything went on where it was.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
