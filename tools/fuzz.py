#!/usr/bin/env python3
"""Runs every fuzz target (each cc_binary named *_fuzz) for a bounded time.

Usage: tools/fuzz.py [--seconds N] [TARGET...]

New inputs are kept in out/fuzz/TARGET/; a crash leaves its input there, too.
"""

import argparse
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bazel(*arguments, **kwargs):
    return subprocess.run(["bazel", *arguments], cwd=ROOT, text=True, **kwargs)


def targets():
    query = bazel("query", 'filter("_fuzz$", kind(cc_binary, //...))', stdout=subprocess.PIPE,
                  stderr=subprocess.DEVNULL)
    return query.stdout.split()


def run_target(label, seconds):
    """Returns whether the target ran its time without a finding."""
    package, name = label[2:].split(":")
    corpus = os.path.join(ROOT, "out", "fuzz", name)
    os.makedirs(corpus, exist_ok=True)
    binary = os.path.join(ROOT, "bazel-fuzz-bin", package, name)
    seeds = os.path.join(ROOT, package, "testdata", name)
    command = [binary, f"-max_total_time={seconds}", "-rss_limit_mb=2048", "-timeout=10",
               "-print_final_stats=1", f"-artifact_prefix={corpus}/", corpus]
    if os.path.isdir(seeds):
        command.append(seeds)
    print(f"== {label}: {seconds} s", flush=True)
    try:
        status = subprocess.run(command, cwd=corpus, stdin=subprocess.DEVNULL,
                                timeout=seconds + 60).returncode
    except subprocess.TimeoutExpired:
        status = "none: it did not end"
    except OSError as error:
        status = error
    if status:
        print(f"FAIL {label} (status {status}; inputs in {os.path.relpath(corpus, ROOT)})",
              flush=True)
    return not status


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    labels = arguments.targets or targets()
    if not labels:
        print("This tree has no fuzz target.\n0 passed, 0 failed")
        return 0
    build = bazel("build", "--config=ci", "--config=fuzz", "--keep_going", *labels)
    if build.returncode:
        print("FAIL some fuzz target does not build", flush=True)
    results = [run_target(label, arguments.seconds) for label in labels]
    failed = results.count(False)
    print(f"{results.count(True)} passed, {failed} failed")
    return 1 if failed or build.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
