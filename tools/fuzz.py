#!/usr/bin/env python3
"""Runs every fuzz target (each cc_binary named *_fuzz) for a bounded time.

Usage: tools/fuzz.py [--seconds N] [--seed N] [--jobs N] [--keep] [TARGET...]

A run begins with the inputs that the tree has, FOLDER/testdata/NAME/ and FOLDER/testdata/NAME.tar.gz. New ones are
kept in out/fuzz/NAME/, which the next run begins with as well; a crash leaves its input there, too. What the fuzzer
wrote is in out/fuzz/NAME.log. To try one input again: `bazel-fuzz-bin/FOLDER/NAME INPUT`.

Without --seed each run tries other inputs; with it the same ones again, as far as the time goes.

With --keep nothing is fuzzed: of all those inputs the fewest and shortest that reach as much code go into
FOLDER/testdata/NAME.tar.gz, up to a limit of size.
"""

import argparse
import concurrent.futures
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEPT_BYTES = 128 << 10  # of one target's archive; the dozen of them shall not be the tree's weight


def bazel(*arguments, **kwargs):
    return subprocess.run(["bazel", *arguments], cwd=ROOT, text=True, **kwargs)


def targets():
    query = bazel("query", 'filter("_fuzz$", kind(cc_binary, //...)) except attr("tags", "by-hand", //...)', stdout=subprocess.PIPE,
                  stderr=subprocess.DEVNULL)
    return query.stdout.split()


def binary_of(label):
    package, name = label[2:].split(":")
    return os.path.join(ROOT, "bazel-fuzz-bin", package, name)


def corpus_of(label):
    """The folder for what is found."""
    corpus = os.path.join(ROOT, "out", "fuzz", label.split(":")[1])
    os.makedirs(corpus, exist_ok=True)
    return corpus


def seeds_of(label, work):
    """The folders with the inputs that the tree has; archives are unpacked in `work`."""
    package, name = label[2:].split(":")
    seeds = os.path.join(ROOT, package, "testdata", name)
    folders = [seeds] if os.path.isdir(seeds) else []
    if os.path.exists(seeds + ".tar.gz"):
        folder = os.path.join(work, name)
        os.makedirs(folder)
        with tarfile.open(seeds + ".tar.gz") as archive:
            for member in archive:
                with open(os.path.join(folder, os.path.basename(member.name)), "wb") as out:
                    shutil.copyfileobj(archive.extractfile(member), out)
        folders.append(folder)
    return folders


def run_target(label, seconds, seed):
    """Returns why the target failed, or None after its time without a finding. Seed 0 is another one each time."""
    corpus = corpus_of(label)
    try:
        with open(log_path(label), "w") as log, tempfile.TemporaryDirectory(prefix="fuzz-") as work:
            command = [binary_of(label), f"-max_total_time={seconds}", f"-seed={seed}", "-rss_limit_mb=2048", "-timeout=10",
                       "-print_final_stats=1", f"-artifact_prefix={corpus}/", corpus, *seeds_of(label, work)]
            status = subprocess.run(command, cwd=corpus, stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=subprocess.STDOUT, timeout=seconds + 60).returncode
    except subprocess.TimeoutExpired:
        return "it did not end"
    except OSError as error:
        return str(error)
    return f"status {status}" if status else None


def log_path(label):
    return os.path.join(ROOT, "out", "fuzz", label.split(":")[1] + ".log")


def write_archive(path, contents):
    """The same bytes for the same contents: no times, no owners, names of what is in them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for data in sorted(contents, key=lambda data: (len(data), data)):
            member = tarfile.TarInfo(hashlib.sha1(data).hexdigest()[:16])
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = gzip.compress(packed.getvalue(), mtime=0)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as out:
        out.write(data)
    return len(data)


def keep(label):
    """Returns whether all was well."""
    package, name = label[2:].split(":")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        merged = os.path.join(work, "merged")
        os.mkdir(merged)
        command = [binary_of(label), "-merge=1", "-rss_limit_mb=2048", "-timeout=10", merged, corpus_of(label), *seeds_of(label, work)]
        with open(log_path(label), "w") as log:
            status = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
        contents = []
        for entry in os.scandir(merged):
            with open(entry, "rb") as file:
                contents.append(file.read())
    # Archives have a block of 512 bytes for a name, which pack well; the longest go first.
    contents.sort(key=len)
    path = os.path.join(ROOT, package, "testdata", name + ".tar.gz")
    size = write_archive(path, contents)
    while size > KEPT_BYTES:
        contents = contents[: max(1, int(len(contents) * 0.95 * KEPT_BYTES / size))]
        size = write_archive(path, contents)
    print(f"{'ok  ' if status == 0 else 'FAIL'} {label}: {len(contents)} inputs in {size} bytes", flush=True)
    return status == 0


def finding(lines):
    """Of a log: what was found, with the first frames of its stack; else how it ended."""
    for number, line in enumerate(lines):
        if "ERROR:" in line or "runtime error:" in line or "FATAL" in line:
            return lines[max(0, number - 2) : number + 40]
    return lines[-40:]


def run_and_tell(label, seconds, seed):
    """Returns whether all was well."""
    why = run_target(label, seconds, seed)
    lines = []
    if os.path.exists(log_path(label)):
        with open(log_path(label), errors="replace") as log:
            lines = log.read().splitlines()
    if why:
        lines = finding(lines) + [f"FAIL {label} ({why}; its input is in out/fuzz/)"]
    else:
        runs = [line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")]
        lines = [f"ok   {label}: {runs[-1] if runs else 'no'} inputs in {seconds} s"]
    print("\n".join(lines), flush=True)
    return not why


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="0 (the default) is another one each time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", action="store_true", help="put the best inputs into the tree")
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
        results = list(pool.map(keep if arguments.keep else lambda label: run_and_tell(label, arguments.seconds, arguments.seed), labels))
    failed = results.count(False)
    print(f"{results.count(True)} passed, {failed} failed")
    return 1 if failed or build.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
