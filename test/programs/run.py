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

Set `big` has two cases at a time, the longest first (--jobs), says which begins, and ends after 58 minutes: no case gets more time
than is left, and what has not begun by then has failed (--minutes). A case that hangs is ended; what its tasks were doing is told.
"""

import argparse
import difflib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import bundle
import cases

ROOT = os.path.dirname(os.path.dirname(cases.HERE))
KNOWN = os.path.join(cases.HERE, "known.txt")
OUTPUT_LIMIT = 1 << 20
DIFFERENCES = 12  # lines told of two outputs that differ
BIG_MINUTES = 58  # tools/suites.py gives it an hour
RUNNING = set()  # what has been started and not ended
ENDED_EARLY = "it ended before the checkpoint"
# What `checkpoint` says of a container that has just ended, or ends meanwhile.
ENDED = ("does not exist", "it is stopped", "the sandbox ended before it answered", "cannot reach the sandbox")


class Run:
    """The visible result of one run: standard output and error together, and the status."""

    def __init__(self, status, output, seconds, note=""):
        self.status, self.output, self.seconds, self.note = status, output, seconds, note

    def same(self, other):
        return (self.status, self.output) == (other.status, other.output) and not self.note


def environment():
    return dict(bundle.BASE_ENVIRONMENT)


def output_file():
    """For what a run says. Whoever opens /proc/PID/fd/1 of another and moves the offset changes nothing: natively the offset is that of
    a new file; in the sandbox, which cannot open a file of the host that it was only handed, it is the host's one (by design)."""
    file = tempfile.TemporaryFile()
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def start(command, output):
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        env=environment(), cwd="/tmp", start_new_session=True,
    )
    RUNNING.add(process)
    return process


def end(process):
    """Kills its process group, unless it has been waited for."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    RUNNING.discard(process)


def finish(process, limit, look=lambda: ""):
    """Waits; returns a note if it had to be killed, with what look() says of it before."""
    try:
        process.wait(timeout=limit)
        return ""
    except subprocess.TimeoutExpired:
        return f"no end after {limit:.0f} s" + look()
    finally:
        end(process)


def execute(command, limit, look=lambda: ""):
    begin = time.monotonic()
    with output_file() as output:
        process = start(command, output)
        note = finish(process, limit, look)
        output.seek(0)
        text = output.read(OUTPUT_LIMIT)
    return Run(process.returncode, text, time.monotonic() - begin, note)


class Modes:
    """How a case runs in each mode. Containers get names of their own and are always deleted."""

    def __init__(self, options, work):
        self.options, self.work, self.count, self._rootfs = options, work, 0, None
        self.lock, self.containers = threading.Lock(), set()  # of those that have not been deleted: (runtime, name)
        self.state = os.path.join(work, "state")
        self.folder = os.path.join(cases.HERE, options.set)
        # Servers write below these, too; `big` alone has any.
        self.scratch = ["/run", "/root"] if options.set == "big" else []
        self.end = time.monotonic() + options.minutes * 60 if options.minutes else None

    def left(self):
        """Seconds that the set has left; None if it has no bound."""
        return None if self.end is None else self.end - time.monotonic()

    def limit(self, case):
        """Seconds that one run of the case may take now: more while the machine has much else to do."""
        if self.end is None:
            return case.timeout
        busy = os.getloadavg()[0] / (2 * os.cpu_count())
        return max(1, min(case.timeout * min(4, max(1, busy)), self.left()))

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
        return execute(case.command(self.folder), self.limit(case))

    def chroot(self, case):
        """Native on the container's root: the same view as in the bundle, by unshare and pivot_root."""
        mounts = "\n".join([
            "set -e",
            f"mount --rbind {self.rootfs} /mnt && mount -o remount,bind,ro /mnt",
            f"hostname {bundle.HOSTNAME}",  # this machine may have none, without which some servers do not start
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
        return execute(command, self.limit(case))

    def do(self, case):
        command = [self.options.sandbox, *self.options.flag, "do", *case.command(self.folder)]
        return execute(command, self.limit(case))

    def _bundle(self, runtime, case):
        with self.lock:
            self.count += 1
            name = f"programs-{os.getpid()}-{self.count}"
            self.containers.add((tuple(runtime), name))
        folder = os.path.join(self.work, name)
        bundle.write(folder, self.rootfs, case.command("/srv"), pids=case.pids,
                     binds=[(self.folder, "/srv")], scratch=self.scratch)
        return name, folder

    def _ask(self, *command):
        """What a command of the runtime's says; it may not answer at all, where something hangs."""
        try:
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                  errors="replace", timeout=60).stdout
        except subprocess.TimeoutExpired:
            return "(no answer)"

    def _delete(self, runtime, name):
        self._ask(*runtime, "delete", "--force", name)
        with self.lock:
            self.containers.discard((tuple(runtime), name))

    def stop(self):
        """Ends what still runs."""
        for process in list(RUNNING):
            end(process)
        for runtime, name in list(self.containers):
            self._delete(runtime, name)

    def _look(self, runtime, name):
        """What the tasks of a container that hangs are doing."""
        return "" if runtime[0] == "runc" else "\n" + self._ask(*runtime, "debug", "--stacks", name)

    def _run(self, runtime, case):
        name, folder = self._bundle(runtime, case)
        try:
            return execute([*runtime, "run", "--bundle", folder, name], self.limit(case), lambda: self._look(runtime, name))
        finally:
            self._delete(runtime, name)

    def run(self, case):
        return self._run([self.options.sandbox, *self.options.flag, "--root", self.state], case)

    def runc(self, case):
        return self._run(["runc", "--root", self.state + "-runc"], case)

    def checkpoint(self, case, seconds):
        """Runs for about half of `seconds` (sooner if it was over), or until it says that it is ready; then freezes and restores."""
        for share in (2, 4, 10):
            delay = max(0.1, seconds / share)
            if case.mark:
                run = self._checkpoint_after(case, lambda process, output: self._await_mark(case, process, output))
            else:
                run = self._checkpoint_after(case, lambda *_, delay=delay: time.sleep(delay))
            if run.note != ENDED_EARLY:
                break
        return run

    def _await_mark(self, case, process, output):
        last = time.monotonic() + self.limit(case)
        while time.monotonic() < last and process.poll() is None:
            if case.mark.encode() in os.pread(output.fileno(), OUTPUT_LIMIT, 0):
                return
            time.sleep(0.1)

    def _checkpoint_after(self, case, wait):
        """Freezes once wait(process, output) has returned, restores, as often as the case wants; all the output in one."""
        runtime = [self.options.sandbox, *self.options.flag, "--root", self.state]
        name, folder = self._bundle(runtime, case)
        begin, process = time.monotonic(), None
        try:
            with output_file() as output:
                process, note = start([*runtime, "run", "--bundle", folder, name], output), ""
                wait(process, output)
                for n in range(case.freezes):
                    if n:
                        time.sleep(1)
                    process, note = self._freeze(runtime, case, (name, folder, f"image{n}"), process, output)
                    if note == ENDED_EARLY and n:
                        note = ""  # a machine under load freezes it as often as it comes to it
                        break
                    if note:
                        break
                note = note or finish(process, self.limit(case), lambda: self._look(runtime, name))
                output.seek(0)
                text = output.read(OUTPUT_LIMIT)
            return Run(process.returncode, text, time.monotonic() - begin, note)
        except subprocess.TimeoutExpired:
            return Run(-1, b"", time.monotonic() - begin, "checkpoint did not end" + self._look(runtime, name))
        finally:
            if process:
                end(process)
            self._delete(runtime, name)

    def _freeze(self, runtime, case, container, process, output):
        """Checkpoint and restore; returns the restored process, or the ended one and why."""
        name, folder, file = container
        image = os.path.join(folder, file)
        early = process.poll() is not None
        frozen = subprocess.run([*runtime, "checkpoint", "--image-path", image, name], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=min(120, self.limit(case)))
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
        self.lock = threading.Lock()

    def add(self, mode, case, problem, seconds, note=""):
        with self.lock:
            self._add(mode, case, problem, seconds, note)

    def _add(self, mode, case, problem, seconds, note):
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
            print(f"ok    {label}{seconds:6.1f} s{note}", flush=True)


def differences(expected, got):
    """Lines that show how two outputs differ: what is missing, what is new, and the line before."""
    left, right = (text.decode(errors="replace").splitlines() for text in (expected, got))
    found = [line for line in list(difflib.unified_diff(left, right, lineterm="", n=1))[2:]]
    if not found:
        return ["the outputs differ in how a line ends"]
    more = [f"… {len(found) - DIFFERENCES} lines more"] if len(found) > DIFFERENCES else []
    return ["other output (-: natively)", *found[:DIFFERENCES], *more]


def compare(expected, run):
    """None if equal, else lines that say how they differ."""
    if run.same(expected):
        return None
    if run.note:
        last = run.output.decode(errors="replace").strip().splitlines()[-3:]
        return [*run.note.splitlines(), *last]
    if run.status != expected.status:
        last = run.output.decode(errors="replace").strip().splitlines()[-3:]
        return [f"exit status {run.status}, natively {expected.status}", *last]
    return differences(expected.output, run.output)


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
        tally.add(mode, case, compare(expected, run), run.seconds, f"  (natively {expected.seconds:.1f})" if case.native else "")


def check_all(chosen, options, native_only, modes, tally):
    """All of them, in as many threads as there are jobs."""
    begin, waiting, errors = time.monotonic(), list(enumerate(chosen, 1)), []

    def one(number, case):
        if options.set == "big":
            passed = int(time.monotonic() - begin)
            print(f"[{number}/{len(chosen)} {passed // 60}:{passed % 60:02d}] {case.name}", flush=True)
        if modes.end is not None and modes.left() < 1:
            tally.add("any", case, [f"not run: the {options.minutes:g} minutes are over"], 0)
        elif not native_only:
            check_case(case, options.modes.split(","), modes, tally)
        elif case.native:
            check_native(case, modes, tally)

    def work():
        try:
            while waiting and not errors:
                with tally.lock:
                    number, case = waiting.pop(0) if waiting else (0, None)
                if case:
                    one(number, case)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    while not errors and any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
    if errors:
        raise errors[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("--flag", action="append", default=[], help="a global flag, repeatable")
    parser.add_argument("--modes", default="do,run,checkpoint")
    parser.add_argument("--set", choices=cases.SETS, default="cases", help="which folder of cases")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--jobs", type=int, help="cases at a time (1; set big: 2)")
    parser.add_argument("--minutes", type=float, help=f"ends after that (set big: {BIG_MINUTES})")
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
    if options.set == "big":
        options.minutes = options.minutes or BIG_MINUTES
        chosen.sort(key=lambda case: -case.timeout)
    options.jobs = options.jobs or (2 if options.set == "big" else 1)
    native_only = options.native or (options.modes != "runc" and not os.path.exists(options.sandbox))
    if native_only and not options.native:
        print("There is no sandbox binary; the cases run only natively.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of what ends the programs and deletes the containers
    tally = Tally(read_known())
    with tempfile.TemporaryDirectory(prefix="amber-programs.") as work:
        modes = Modes(options, work)
        if options.set == "big" or {"run", "checkpoint", "runc"} & set(options.modes.split(",")):
            _ = modes.rootfs  # made once, before there are threads
        try:
            check_all(chosen, options, native_only, modes, tally)
        finally:
            modes.stop()
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
