#!/usr/bin/env python3
"""Runs every fuzz target (each cc_binary named *_fuzz) for a bounded time.

Usage: tools/fuzz.py [--seconds N] [--jobs N] [TARGET...]

New inputs are kept in out/fuzz/NAME/, which the next run begins with; a crash leaves its input there, too. What the
fuzzer wrote is in out/fuzz/NAME.log. To try one input again: `bazel-fuzz-bin/FOLDER/NAME INPUT`.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bazel(*arguments, **kwargs):
    return subprocess.run(["bazel", *arguments], cwd=ROOT, text=True, **kwargs)


def targets():
    query = bazel("query", 'filter("_fuzz$", kind(cc_binary, //...)) except attr("tags", "by-hand", //...)', stdout=subprocess.PIPE,
                  stderr=subprocess.DEVNULL)
    return query.stdout.split()


def run_target(label, seconds):
    """Returns why the target failed, or None after its time without a finding."""
    package, name = label[2:].split(":")
    corpus = os.path.join(ROOT, "out", "fuzz", name)
    os.makedirs(corpus, exist_ok=True)
    binary = os.path.join(ROOT, "bazel-fuzz-bin", package, name)
    seeds = os.path.join(ROOT, package, "testdata", name)
    command = [binary, f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10",
               "-print_final_stats=1", f"-artifact_prefix={corpus}/", corpus]
    if os.path.isdir(seeds):
        command.append(seeds)
    try:
        with open(log_path(label), "w") as log:
            status = subprocess.run(command, cwd=corpus, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=subprocess.STDOUT, timeout=seconds + 60).returncode
    except subprocess.TimeoutExpired:
        return "it did not end"
    except OSError as error:
        return str(error)
    return f"status {status}" if status else None


def log_path(label):
    return os.path.join(ROOT, "out", "fuzz", label.split(":")[1] + ".log")


def run_and_tell(label, seconds):
    """Returns whether all was well."""
    why = run_target(label, seconds)
    lines = []
    if os.path.exists(log_path(label)):
        with open(log_path(label), errors="replace") as log:
            lines = log.read().splitlines()
    if why:
        lines = lines[-40:] + [f"FAIL {label} ({why}; its input is in out/fuzz/)"]
    else:
        runs = [line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")]
        lines = [f"ok   {label}: {runs[-1] if runs else 'no'} inputs in {seconds} s"]
    print("\n".join(lines), flush=True)
    return not why


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    labels = arguments.targets or targets()
    if not labels:
        print("This tree has no fuzz target.\n0 passed, 0 failed")
        return 0
    build = bazel("build", "--config=ci", "--config=fuzz", "--keep_going", *labels)
    if build.returncode:
        print("FAIL some fuzz target does not build", flush=True)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda label: run_and_tell(label, arguments.seconds), labels))
    failed = results.count(False)
    print(f"{results.count(True)} passed, {failed} failed")
    return 1 if failed or build.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
