#!/usr/bin/env python3
"""Runs the guest tests natively, in the sandbox, or in the sandbox with checkpoints in the middle.

  test/run_guest.py --mode native
  test/run_guest.py --mode sandbox --sandbox bazel-bin/sandbox [--isolate]
  test/run_guest.py --mode checkpoint --sandbox bazel-bin/sandbox --families wait,pipes

Linux is the oracle: the sandbox modes run every family natively first, and a test counts as passed only if the sandbox
gives the native verdict. Build the programs before: `bazel build //test/guest:binaries`.
Ends with the line `N passed, N failed, N skipped`; exit status 1 if anything failed.
"""

import argparse
import concurrent.futures
import fnmatch
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test" / "harness"))
import guest_checkpoint  # noqa: E402
import guest_results  # noqa: E402

FAMILY_SECONDS = 900


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["native", "sandbox", "checkpoint"], default="native")
    parser.add_argument("--sandbox", default=str(ROOT / "bazel-bin" / "sandbox"), help="the sandbox binary")
    parser.add_argument("--sandbox-flag", action="append", default=[], help="a global flag for the sandbox, repeatable")
    parser.add_argument("--binaries", default=str(ROOT / "bazel-bin" / "test" / "guest"))
    parser.add_argument("--families", help="comma-separated names of programs (default: all)")
    parser.add_argument("--filter", default="*", help="glob over Family.Name")
    parser.add_argument("--jobs", type=int, default=1, help="families at once")
    parser.add_argument("--isolate", action="store_true", help="one sandbox per test")
    parser.add_argument("--marks", action="store_true", help="let tests halt at their checkpoint marks, and answer at once")
    parser.add_argument("--timeout", type=int, default=60, help="seconds per test")
    parser.add_argument("--known", default=str(ROOT / "test" / "guest" / "known.txt"))
    parser.add_argument("--verbose", action="store_true", help="print every test")
    return parser.parse_args()


def families(options):
    """The programs to run, as absolute paths."""
    sources = sorted(path.stem for path in (ROOT / "test" / "guest").glob("*.cc"))
    wanted = options.families.split(",") if options.families else sources
    unknown = sorted(set(wanted) - set(sources))
    if unknown:
        sys.exit(f"no such family: {', '.join(unknown)} (there are {', '.join(sources)})")
    binaries = [(pathlib.Path(options.binaries) / name).resolve() for name in wanted]
    missing = [binary.name for binary in binaries if not binary.exists()]
    if missing:
        sys.exit(f"not built: {', '.join(missing)}; run: bazel build //test/guest:binaries")
    return binaries


def answer_marks(process, output):
    """Copies a program's output, and answers each checkpoint mark so that the test goes on."""
    for line in process.stdout:
        output.write(line)
        if line.startswith(guest_checkpoint.MARK):
            process.stdin.write(b"g")
            process.stdin.flush()


def run_command(command, seconds, marks=False):
    """Output and a note on how the command ended if it ended badly."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE if marks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if marks else output, stderr=errors, start_new_session=True)
        note = ""
        if marks:
            answerer = threading.Thread(target=answer_marks, args=(process, output), daemon=True)
            answerer.start()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            note = f"no end after {seconds} s"
            os.killpg(process.pid, 9)
            process.wait()
        if marks:
            answerer.join(10)
            process.stdin.close()
            process.stdout.close()
        output.seek(0)
        errors.seek(0)
        text = output.read().decode(errors="replace")
        complaints = errors.read().decode(errors="replace").strip()
        if not note and process.returncode not in (0, 1):
            note = f"exit status {process.returncode}"
        if note and complaints:
            note += ": " + complaints.splitlines()[-1]
        return text, note


def listed_tests(binary, options):
    text, note = run_command([str(binary), "--list", f"--filter={options.filter}"], 60)
    if note:
        sys.exit(f"{binary.name} --list: {note}")
    return text.split()


def program_flags(options):
    return [f"--timeout={options.timeout}", *(["--checkpoint=1,0"] if options.marks else [])]


def run_native(binary, options, names):
    command = [str(binary), f"--filter={options.filter}", *program_flags(options)]
    return guest_results.parse(names, *run_command(command, FAMILY_SECONDS, options.marks))


def sandbox_command(options):
    return [options.sandbox, *options.sandbox_flag]


def run_sandbox(binary, options, names):
    base = [*sandbox_command(options), "do", "--", str(binary), *program_flags(options)]
    if not options.isolate:
        command = [*base, f"--filter={options.filter}"]
        return guest_results.parse(names, *run_command(command, FAMILY_SECONDS, options.marks))
    results = {}
    for name in names:
        command = [*base, f"--filter={name}"]
        results.update(guest_results.parse([name], *run_command(command, options.timeout + 30, options.marks)))
    return results


def run_checkpoint(binary, options, names):
    results = {}
    for name in names:
        session = guest_checkpoint.Session(sandbox_command(options), binary, name, options.timeout)
        results.update(guest_results.parse([name], *session.run()))
    return results


def run_family(binary, options):
    names = listed_tests(binary, options)
    native = run_native(binary, options, names) if names else {}
    if options.mode == "native" or not names:
        return native
    runner = run_sandbox if options.mode == "sandbox" else run_checkpoint
    return guest_results.compare(native, runner(binary, options, names))


def report(results, known, options):
    """Prints what went wrong; whether the run is good, and its counts."""
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for name, result in results.items():
        reason = next((reason for pattern, reason in known if fnmatch.fnmatchcase(name, pattern)), None)
        verdict, detail = result.verdict, result.detail
        if reason is not None and verdict == "FAIL":
            verdict, detail = "skip", f"known: {reason}"
        elif reason is not None and verdict == "ok" and not reason.startswith("flaky:"):
            verdict, detail = "FAIL", f"passes but is listed as failing in {options.known} ({reason}): remove the line"
        counts[verdict] += 1
        if verdict == "FAIL" or options.verbose:
            for line in detail.splitlines() or [""]:
                print(f"{verdict} {name}{': ' if line else ''}{line}")
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return counts["FAIL"] == 0 and sum(counts.values()) > 0


def main():
    options = parse_arguments()
    if options.mode != "native":
        options.sandbox = str(pathlib.Path(options.sandbox).resolve())
        if not os.access(options.sandbox, os.X_OK):
            sys.exit(f"{options.sandbox} is not there; build it or name it with --sandbox")
    known = guest_results.read_known(options.known, options.mode)
    results = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, options.jobs)) as pool:
        for part in pool.map(lambda binary: run_family(binary, options), families(options)):
            results.update(part)
    sys.stdout.flush()
    return 0 if report(results, known, options) else 1


if __name__ == "__main__":
    sys.exit(main())
