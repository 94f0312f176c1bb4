#!/usr/bin/env python3
"""Runs Debian's programs natively and in the sandbox, and compares output and exit status.

  test/programs/run.py --sandbox bazel-bin/sandbox [--modes do,run,checkpoint] [CASE...]
  test/programs/run.py --native            only natively, each twice: are the cases themselves sound?
  test/programs/run.py --modes runc        the bundle under runc instead: is the bundle sound?
  test/programs/run.py --set big [CASE...] servers, databases, interpreters, test suites: modes run and checkpoint

Mode `do` is `sandbox do` over this machine's root; `run` is `sandbox run` of an OCI bundle over a
Debian root file system (tools/rootfs.sh), compared with a chroot there; `checkpoint` is the same,
frozen into an image and restored in the middle. Without a sandbox binary only the native runs
are made. Ends with `N passed, N failed, N skipped`.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time

import bundle
import cases

ROOT = os.path.dirname(os.path.dirname(cases.HERE))
KNOWN = os.path.join(cases.HERE, "known.txt")
OUTPUT_LIMIT = 1 << 20
ENDED_EARLY = "it ended before the checkpoint"
# What `checkpoint` says of a container that has just ended, or ends meanwhile.
ENDED = ("does not exist", "it is stopped", "the sandbox ended before it answered")


class Run:
    """The visible result of one run: standard output and error together, and the status."""

    def __init__(self, status, output, seconds, note=""):
        self.status, self.output, self.seconds, self.note = status, output, seconds, note

    def same(self, other):
        return (self.status, self.output) == (other.status, other.output) and not self.note


def environment():
    return dict(bundle.BASE_ENVIRONMENT)


def start(command, output):
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        env=environment(), cwd="/tmp", start_new_session=True,
    )


def finish(process, limit):
    """Waits; returns a note if it had to be killed."""
    try:
        process.wait(timeout=limit)
        return ""
    except subprocess.TimeoutExpired:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        return f"no end after {limit:.0f} s"


def execute(command, limit):
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = start(command, output)
        note = finish(process, limit)
        output.seek(0)
        text = output.read(OUTPUT_LIMIT)
    return Run(process.returncode, text, time.monotonic() - begin, note)


class Modes:
    """How a case runs in each mode. Containers get names of their own and are always deleted."""

    def __init__(self, options, work):
        self.options, self.work, self.count, self._rootfs = options, work, 0, None
        self.state = os.path.join(work, "state")
        self.folder = os.path.join(cases.HERE, options.set)
        # Servers write below these, too; `big` alone has any.
        self.scratch = ["/run", "/root"] if options.set == "big" else []

    @property
    def rootfs(self):
        if self._rootfs is None:
            command = [os.path.join(ROOT, "tools", "rootfs.sh")]
            made = subprocess.run(command + (["big"] if self.options.set == "big" else []), text=True,
                                  stdout=subprocess.PIPE)
            if made.returncode:
                raise SystemExit("FAIL the Debian root file system cannot be made\n"
                                 "0 passed, 1 failed, 0 skipped")
            self._rootfs = made.stdout.strip()
        return self._rootfs

    def native(self, case):
        return execute(case.command(self.folder), case.timeout)

    def chroot(self, case):
        """Native on the container's root: the same view as in the bundle, by unshare and pivot_root."""
        mounts = "\n".join([
            "set -e",
            f"mount --rbind {self.rootfs} /mnt && mount -o remount,bind,ro /mnt",
            "mount -t proc proc /mnt/proc",
            "mount -t tmpfs -o size=4g,mode=1777 tmpfs /mnt/tmp",
            "mount --rbind /dev /mnt/dev",
            f"mount --bind {self.folder} /mnt/srv",
            *(f"mount -t tmpfs -o mode=755 tmpfs /mnt{path}" for path in self.scratch),
            "ip link set lo up 2>/dev/null || chroot /mnt ip link set lo up 2>/dev/null || true",
            # Not chroot: in one there are no user namespaces to be had.
            "cd /mnt && pivot_root . . && umount -l .",
            'exec "$@"',
        ])
        command = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork",
                   "--kill-child", "sh", "-c", mounts, "sh", *case.command("/srv")]
        return execute(command, case.timeout)

    def do(self, case):
        command = [self.options.sandbox, *self.options.flag, "do", *case.command(self.folder)]
        return execute(command, case.timeout)

    def _bundle(self, case):
        self.count += 1
        name = f"programs-{os.getpid()}-{self.count}"
        folder = os.path.join(self.work, name)
        bundle.write(folder, self.rootfs, case.command("/srv"), pids=case.pids,
                     binds=[(self.folder, "/srv")], scratch=self.scratch)
        return name, folder

    def _delete(self, runtime, name):
        subprocess.run([*runtime, "delete", "--force", name], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def _run(self, runtime, case):
        name, folder = self._bundle(case)
        try:
            return execute([*runtime, "run", "--bundle", folder, name], case.timeout)
        finally:
            self._delete(runtime, name)

    def run(self, case):
        return self._run([self.options.sandbox, *self.options.flag, "--root", self.state], case)

    def runc(self, case):
        return self._run(["runc", "--root", self.state + "-runc"], case)

    def checkpoint(self, case, seconds):
        """Runs for about half of `seconds` (sooner if it was over), or until it says that it is ready; then freezes and restores."""
        if case.mark:
            return self._checkpoint_after(case, lambda process, output: self._await_mark(case, process, output))
        for share in (2, 4, 10):
            delay = max(0.1, seconds / share)
            run = self._checkpoint_after(case, lambda *_, delay=delay: time.sleep(delay))
            if run.note != ENDED_EARLY:
                break
        return run

    def _await_mark(self, case, process, output):
        end = time.monotonic() + case.timeout
        while time.monotonic() < end and process.poll() is None:
            if case.mark.encode() in os.pread(output.fileno(), OUTPUT_LIMIT, 0):
                return
            time.sleep(0.1)

    def _checkpoint_after(self, case, wait):
        """Freezes once wait(process, output) has returned, restores, as often as the case wants; all the output in one."""
        runtime = [self.options.sandbox, *self.options.flag, "--root", self.state]
        name, folder = self._bundle(case)
        begin = time.monotonic()
        try:
            with tempfile.TemporaryFile() as output:
                process, note = start([*runtime, "run", "--bundle", folder, name], output), ""
                wait(process, output)
                for n in range(case.freezes):
                    if n:
                        time.sleep(1)
                    process, note = self._freeze(runtime, case, (name, folder, f"image{n}"), process, output)
                    if note:
                        break
                note = finish(process, case.timeout) or note
                output.seek(0)
                text = output.read(OUTPUT_LIMIT)
            return Run(process.returncode, text, time.monotonic() - begin, note)
        except subprocess.TimeoutExpired:
            return Run(-1, b"", time.monotonic() - begin, "checkpoint did not end")
        finally:
            self._delete(runtime, name)

    def _freeze(self, runtime, case, container, process, output):
        """Checkpoint and restore; returns the restored process, or the ended one and why."""
        name, folder, file = container
        image = os.path.join(folder, file)
        early = process.poll() is not None
        frozen = subprocess.run([*runtime, "checkpoint", "--image-path", image, name], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=case.timeout)
        message = frozen.stdout.decode(errors="replace").strip()
        if frozen.returncode == 0:
            note = finish(process, 30)
            return start([*runtime, "restore", "--image-path", image, "--bundle", folder, name], output), note
        finish(process, 30)
        if early or (process.returncode == 0 and any(text in message for text in ENDED)):
            return process, ENDED_EARLY  # perhaps only just, while the command line was starting
        return process, f"checkpoint failed: {message[-200:]}"


class Tally:
    def __init__(self, known):
        self.passed = self.failed = self.skipped = 0
        self.known = known
        self.differences = []

    def add(self, mode, case, problem, seconds):
        reason = self.known.pop((mode, case.name), None)
        label = f"{mode:<11}{case.name:<24}"
        if problem and reason:
            self.skipped += 1
            print(f"known {label}{reason}", flush=True)
        elif problem:
            self.failed += 1
            print(f"FAIL  {label}{problem[0]}", flush=True)
            for line in problem[1:]:
                print("      " + line[:160], flush=True)
        elif reason and not reason.startswith("flaky:"):
            self.failed += 1
            print(f"FAIL  {label}passes now; take it from known.txt", flush=True)
        else:
            self.passed += 1
            print(f"ok    {label}{seconds:6.1f} s", flush=True)


def first_difference(expected, got):
    """Lines that show where two outputs part."""
    left, right = expected.splitlines(), got.splitlines()
    for number, (a, b) in enumerate(zip(left + [b"(end)"], right + [b"(end)"]), 1):
        if a != b:
            return [f"line {number}", f"expected: {a.decode(errors='replace')}",
                    f"got:      {b.decode(errors='replace')}"]
    return ["the outputs differ in length"]


def compare(expected, run):
    """None if equal, else lines that say how they differ."""
    if run.same(expected):
        return None
    if run.note:
        last = run.output.decode(errors="replace").strip().splitlines()[-3:]
        return [run.note, *last]
    if run.status != expected.status:
        last = run.output.decode(errors="replace").strip().splitlines()[-3:]
        return [f"exit status {run.status}, natively {expected.status}", *last]
    return first_difference(expected.output, run.output)


def read_known():
    """(mode, case) to reason, from lines `MODE CASE REASON`."""
    known = {}
    if os.path.exists(KNOWN):
        with open(KNOWN) as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    mode, name, reason = line.split(None, 2)
                    known[mode, name] = reason.strip()
    return known


def check_native(case, modes, tally):
    """Each case must end with status 0 and print the same thing twice."""
    for mode, run in (("native", modes.native), ("chroot", modes.chroot)):
        if {"native": "do", "chroot": "run"}[mode] not in case.modes:
            continue
        first, second = run(case), run(case)
        problem = compare(Run(0, second.output, 0), first)
        tally.add(mode, case, problem, first.seconds)


def reference(case, mode, modes, made):
    """The native result that `mode` is compared with, made once."""
    if not case.native:
        return Run(0, (case.expect + "\n").encode(), 1.0)
    kind = "native" if mode == "do" else "chroot"
    if kind not in made:
        made[kind] = getattr(modes, kind)(case)
    return made[kind]


def check_case(case, wanted, modes, tally):
    made, seconds = {}, None
    for mode in wanted:
        if mode not in case.modes and not (mode == "runc" and "run" in case.modes):
            continue
        expected = reference(case, mode, modes, made)
        if expected.note or expected.status:
            tally.add("native", case, compare(Run(0, b"", 0), expected), expected.seconds)
            return
        seconds = seconds or expected.seconds
        if mode == "checkpoint":
            run = modes.checkpoint(case, seconds)
        else:
            run = getattr(modes, mode)(case)
            seconds = run.seconds  # it need not take as long as natively
        tally.add(mode, case, compare(expected, run), run.seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("--flag", action="append", default=[], help="a global flag, repeatable")
    parser.add_argument("--modes", default="do,run,checkpoint")
    parser.add_argument("--set", choices=cases.SETS, default="cases", help="which folder of cases")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    options.sandbox = os.path.abspath(options.sandbox)
    everything = cases.load(os.path.join(cases.HERE, options.set))
    if options.set == "big":  # what they need is in the root file system that is made for them
        for case in everything:
            case.modes = [mode for mode in case.modes if mode != "do"]
    unknown = set(options.cases) - {case.name for case in everything}
    if unknown:
        parser.error(f"no case named {', '.join(sorted(unknown))}")
    chosen = [case for case in everything if not options.cases or case.name in options.cases]
    wanted = options.modes.split(",")
    native_only = options.native or (
        set(wanted) != {"runc"} and not os.path.exists(options.sandbox))
    if native_only and not options.native:
        print("There is no sandbox binary; the cases run only natively.")
    tally = Tally(read_known())
    with tempfile.TemporaryDirectory(prefix="amber-programs.") as work:
        modes = Modes(options, work)
        for case in chosen:
            if native_only:
                if case.native:
                    check_native(case, modes, tally)
            else:
                check_case(case, wanted, modes, tally)
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
