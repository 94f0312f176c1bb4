#!/usr/bin/env python3
"""Runs every test suite and closes with `N passed, N failed`.

Usage: tools/suites.py [--list] [SUITE...]

All suites run, even after a failure; each has a time limit, and the whole run a budget
($AMBER_TEST_BUDGET, minutes). Logs are kept in out/test/. A suite whose files are not in the
tree is not listed.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import bazel_results

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(ROOT, "out", "test")
SANDBOX = os.path.join(ROOT, "bazel-bin", "sandbox")
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$", re.M)
UNITTEST = re.compile(r"^Ran (\d+) tests? in .*\n\n(OK|FAILED)(?: \((.*)\))?\s*$", re.M)


class Outcome:
    """What one suite came to."""

    def __init__(self, passed=0, failed=0, skipped=0, failures=(), note=""):
        self.passed, self.failed, self.skipped = passed, failed, skipped
        self.failures, self.note = list(failures), note
        self.seconds = 0.0


class Suite:
    """A command, how to read its result, and when it has a place in this tree."""

    def __init__(self, name, what, command, read, minutes, needs=(), binary=False, least=0, on_request=False):
        self.name, self.what, self.command, self.read = name, what, command, read
        self.minutes, self.needs, self.binary = minutes, needs, binary
        self.on_request = on_request  # runs only when it is named
        # With less of the budget left, in minutes, it is skipped; when the budget ends while it runs, it is
        # stopped, which is not a failure. 0: it must run.
        self.least = least

    def present(self):
        return all(os.path.exists(os.path.join(ROOT, path)) for path in self.needs)


def log_path(name):
    return os.path.join(OUT, name + ".log")


def read_log(name):
    with open(log_path(name), errors="replace") as log:
        return log.read()


def read_bazel(suite, status):
    results = bazel_results.read_events(os.path.join(OUT, suite.name + ".events"))
    outcome = Outcome(results.passed, results.failed, results.skipped, results.failures)
    if status == 4 and not outcome.failed:
        outcome.note = "no test target"
    elif status and not outcome.failed:
        outcome.failed, outcome.failures = 1, [f"bazel ended with status {status}"]
    return outcome


def read_counts(suite, status):
    """The runner's own last summary line, and the lines that begin with FAIL."""
    text = read_log(suite.name)
    found = COUNTS.findall(text)
    if not found:
        return Outcome(failed=1, failures=[f"no summary line; it ended with status {status}"])
    passed, failed, skipped = (int(number or 0) for number in found[-1])
    failures = [line.strip() for line in text.splitlines() if re.match(r"\s*FAIL\b", line)]
    if status and not failed:
        failed, failures = 1, [f"it ended with status {status}"]
    return Outcome(passed, failed, skipped, failures)


def read_unittest(suite, status):
    text = read_log(suite.name)
    found = UNITTEST.findall(text)
    if not found:
        return Outcome(failed=1, failures=[f"no summary; it ended with status {status}"])
    ran, _, detail = found[-1]
    counts = {key: int(value) for key, value in re.findall(r"([a-z ]+)=(\d+)", detail)}
    counts = {key.strip(): value for key, value in counts.items()}
    failed = counts.get("failures", 0) + counts.get("errors", 0)
    failed += counts.get("unexpected successes", 0)
    skipped = counts.get("skipped", 0)
    failures = re.findall(r"^(?:FAIL|ERROR): (.*)$", text, re.M)
    if status and not failed:
        failed, failures = 1, [f"it ended with status {status}"]
    passed = max(0, int(ran) - skipped - failed)
    return Outcome(passed, failed, skipped, failures)


def bazel_test(name, *flags):
    events = os.path.join(OUT, name + ".events")
    return [
        "bazel", "test", "--config=ci", "--show_progress", "--show_progress_rate_limit=15",
        "--keep_going", "--build_tests_only",
        "--test_timeout=60,300,600,900", f"--build_event_json_file={events}", *flags, "//...",
    ]


def python(*arguments):
    return [sys.executable, "-u", *arguments]


def guest(mode):
    return Suite(
        f"guest-{mode}", f"guest programs, {mode}",
        python("test/run_guest.py", "--mode", mode, "--sandbox", SANDBOX, "--jobs", "2"),
        read_counts, 10, ["test/run_guest.py"], binary=mode != "native",
    )


def hostile(name, what, *flags):
    seconds = os.environ.get("AMBER_HOSTILE_SECONDS", "10")
    return Suite(
        name, f"{what}, {seconds} s", python("test/hostile/run.py", "--sandbox", SANDBOX, "--seconds", seconds, *flags),
        read_counts, 3 + int(seconds) // 30, ["test/hostile/run.py"], binary=True,
    )


def all_suites():
    fuzz_seconds = os.environ.get("AMBER_FUZZ_SECONDS", "10")
    return [
        Suite("unit", "unit tests", bazel_test("unit"), read_bazel, 25),
        guest("native"),
        guest("sandbox"),
        guest("checkpoint"),
        Suite(
            "e2e", "the command line, end to end",
            python("-m", "unittest", "discover", "-v", "-s", "test/e2e", "-t", "test/e2e"),
            read_unittest, 10, ["test/e2e"], binary=True,
        ),
        Suite(
            "programs", "Debian's programs, native and in the sandbox",
            python("test/programs/run.py", "--sandbox", SANDBOX),
            read_counts, 15, ["test/programs/run.py"],
        ),
        Suite(
            "big", "servers, databases, interpreters, other projects' test suites",
            python("test/programs/run.py", "--set", "big", "--sandbox", SANDBOX), read_counts, 60, ["test/programs/big"],
            binary=True, on_request=True,
        ),
        Suite(
            "faults", "bad input, full disks, killed processes",
            python("test/faults/run.py", "--sandbox", SANDBOX), read_counts, 10,
            ["test/faults/run.py"], binary=True,
        ),
        Suite(
            "gpu", "GPU programs on a driver that does not exist",
            python("test/gpu/run.py", "--sandbox", SANDBOX, "--programs", "bazel-bin/test/gpu"), read_counts, 5, ["test/gpu/run.py"], binary=True,
        ),
        hostile("hostile", "a hostile guest"),
        hostile("hostile-checkpoint", "a hostile guest, frozen and restored", "--checkpoints"),
        # These compile everything anew, so they come last, and what the budget has no time for is skipped: from nothing each takes some 20 minutes of two
        # CPUs, so that their own limits are far above. The fuzz configuration is AddressSanitizer and UBSan plus coverage, so that the unit tests and the
        # fuzz targets share one build.
        Suite(
            "asan", "unit tests under AddressSanitizer and UBSan",
            bazel_test("asan", "--config=fuzz", "--test_tag_filters=-nosan,-noasan"),
            read_bazel, 45, least=3,
        ),
        Suite(
            "fuzz", f"fuzz targets, {fuzz_seconds} s each",
            python("tools/fuzz.py", "--seconds", fuzz_seconds, "--seed", "1"), read_counts, 30, least=3,
        ),
        Suite(
            "tsan", "unit tests under ThreadSanitizer",
            bazel_test("tsan", "--config=tsan", "--test_tag_filters=-nosan,-notsan"),
            read_bazel, 45, least=3,
        ),
    ]


def last_line(path):
    try:
        with open(path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Progress:
    """One moving line on a terminal; a line a minute elsewhere."""

    def __init__(self, name):
        self.name, self.start, self.next = name, time.monotonic(), 60
        self.terminal = sys.stdout.isatty()

    def tick(self, path):
        elapsed = time.monotonic() - self.start
        line = f"   {self.name} {int(elapsed) // 60}:{int(elapsed) % 60:02d}  {last_line(path)}"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + line[:width], end="", flush=True)
        elif elapsed >= self.next:
            self.next += 60
            print(line[:150], flush=True)

    def done(self):
        if self.terminal:
            print("\r\033[K", end="", flush=True)


def end_group(process):
    """Ends the suite's process group, politely first."""
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.poll()


def run_command(name, command, limit):
    """Returns (exit status, whether the time ran out)."""
    path = log_path(name)
    environment = dict(os.environ, AMBER_SANDBOX=SANDBOX, LC_ALL="C.UTF-8")
    with open(path, "w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )
        progress = Progress(name)
        try:
            while True:
                try:
                    return process.wait(timeout=1), False
                except subprocess.TimeoutExpired:
                    progress.tick(path)
                if time.monotonic() - progress.start > limit:
                    end_group(process)
                    return -1, True
        except KeyboardInterrupt:
            end_group(process)
            raise
        finally:
            progress.done()


def over_budget(outcome):
    """What a suite came to that was stopped for want of time: what failed before counts, the rest is one skipped case."""
    cut = ("stopped", "no summary", "bazel ended", "its report cannot be read")  # are due to the stop itself
    failures = [name for name in outcome.failures if not name.startswith(cut) and not name.endswith("(INCOMPLETE)")]
    return Outcome(outcome.passed, len(failures), outcome.skipped + 1, failures, "stopped: over budget")


def run_suite(suite, limit):
    start = time.monotonic()
    status, late = run_command(suite.name, suite.command, limit)
    try:
        outcome = suite.read(suite, status)
    except Exception as error:  # a report that cannot be read is a failure, not the end
        outcome = Outcome(failed=1, failures=[f"its report cannot be read: {error}"])
    if late and suite.least and limit < suite.minutes * 60:
        outcome = over_budget(outcome)
    elif late:
        outcome.note = f"stopped after {limit / 60:.0f} min"
        outcome.failed += 1
        outcome.failures.append(outcome.note)
    outcome.seconds = time.monotonic() - start
    return outcome


def report(suite, outcome):
    mark = "FAILED" if outcome.failed else "ok"
    print(
        f"   {mark}: {outcome.passed} passed, {outcome.failed} failed, "
        f"{outcome.skipped} skipped in {outcome.seconds:.0f} s"
        + (f" ({outcome.note})" if outcome.note else ""),
        flush=True,
    )
    if not outcome.failed:
        return
    for name in outcome.failures[:40]:
        print(f"     - {name}")
    if len(outcome.failures) > 40:
        print(f"     … {len(outcome.failures) - 40} more")
    tail = read_log(suite.name).splitlines()[-25:] if os.path.exists(log_path(suite.name)) else []
    print(f"     end of {os.path.relpath(log_path(suite.name), ROOT)}:")
    for line in tail:
        print("     | " + line[:200])
    sys.stdout.flush()


def have_target(label):
    return not subprocess.run(
        ["bazel", "query", label], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ).returncode


def build_programs(limit):
    """Builds the binary and the guest programs, of which this tree may define neither."""
    targets = [label for label in ("//:sandbox", "//test/guest:binaries", "//test/gpu:programs", "//test/hostile:random_calls") if have_target(label)]
    if not targets:
        return None
    suite = Suite("build", " ".join(targets),
                  ["bazel", "build", "--config=ci", "--keep_going", *targets], None, 0)

    def read(_, status):
        failures = [f"{' or '.join(targets)} does not build"] if status else []
        return Outcome(passed=int(not status), failed=int(bool(status)), failures=failures)

    suite.read = read
    return suite, run_suite(suite, limit), "//:sandbox" in targets


def summary(results, seconds):
    print(f"\n{'suite':<18}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for suite, outcome in results:
        print(f"{suite.name:<18}{outcome.passed:>8}{outcome.failed:>8}{outcome.skipped:>9}"
              f"{outcome.seconds:>9.0f}  {outcome.note}")
    passed = sum(outcome.passed for _, outcome in results)
    failed = sum(outcome.failed for _, outcome in results)
    skipped = sum(outcome.skipped for _, outcome in results)
    table = {suite.name: vars(outcome) for suite, outcome in results}
    with open(os.path.join(OUT, "summary.json"), "w") as out:
        json.dump({"seconds": seconds, "suites": table}, out, indent=1)
    print(f"in {seconds / 60:.1f} minutes; logs in {os.path.relpath(OUT, ROOT)}/\n")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return failed or not passed


def run_all(suites, budget):
    start = time.monotonic()
    results = []

    def left():
        return budget - (time.monotonic() - start)

    built = False
    if any(suite.name == "programs" or suite.name.startswith("guest-") or suite.binary
           for suite in suites):
        print("== build (several minutes on a clean checkout)", flush=True)
        made = build_programs(min(25 * 60, left()))
        if made:
            report(*made[:2])
            results.append(made[:2])
            built = made[2] and os.path.exists(SANDBOX)
        if not made or not made[2]:
            print("   this tree does not define //:sandbox yet; what needs it is left out")
    for number, suite in enumerate(suites, 1):
        if suite.binary and not built:
            continue
        print(f"== {number}/{len(suites)} {suite.name}: {suite.what} "
              f"(at most {suite.minutes} min)", flush=True)
        limit = min(suite.minutes * 60, left())
        if suite.least and left() < suite.least * 60:
            outcome = Outcome(skipped=1, note="skipped: over budget")
        elif limit < 10:
            outcome = Outcome(failed=1, failures=["no time left in the budget"],
                              note="no time left")
        else:
            outcome = run_suite(suite, limit)
        report(suite, outcome)
        results.append((suite, outcome))
    return summary(results, time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the suites of this tree")
    parser.add_argument("suites", nargs="*")
    arguments = parser.parse_args()
    suites = [suite for suite in all_suites() if suite.present()]
    if arguments.list:
        for suite in suites:
            print(f"{suite.name:<18}{suite.what}{' (only when named)' if suite.on_request else ''}")
        return 0
    known = {suite.name for suite in suites}
    unknown = [name for name in arguments.suites if name not in known]
    if unknown:
        print(f"No suite named {', '.join(unknown)}; there are {', '.join(sorted(known))}.",
              file=sys.stderr)
        return 2
    if arguments.suites:
        suites = [suite for suite in suites if suite.name in arguments.suites]
    else:
        suites = [suite for suite in suites if not suite.on_request]
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    budget = float(os.environ.get("AMBER_TEST_BUDGET", "44" if os.environ.get("AMBER_CI") else "120")) * 60
    # What ./dev spent on packages and the root file system counts, too.
    budget -= time.time() - float(os.environ.get("AMBER_TEST_START", time.time()))
    return 1 if run_all(suites, budget) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
