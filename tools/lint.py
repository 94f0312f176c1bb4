#!/usr/bin/env python3
"""Format, static checks and house rules.

  tools/lint.py            all files; clang-tidy on those that changed since the main branch
  tools/lint.py --all      clang-tidy on every file
  tools/lint.py --no-tidy  without clang-tidy, in seconds

Problems make the exit status 1; warnings (long files and functions) do not.
"""

import argparse
import ast
import collections
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAX_LINES, MAX_FUNCTION = 500, 60
CPP = (".cc", ".h", ".c")
FORBIDDEN = [
    (re.compile(r"(?<![\w.}~-])/work/"), "a path of one machine"),
    (re.compile(r"(?<![\w.}~-])/root/\.cache"), "a path of one machine"),
    (re.compile(r"(?<![\w.}~-])/home/[a-z]+/"), "a path of one machine"),
    (re.compile(r"\b(?:deb\.debian\.org|security\.debian\.org|pypi\.org|registry\.npmjs\.org|"
                r"proxy\.golang\.org|files\.pythonhosted\.org)\b"), "a registry's host name"),
    (re.compile(r"^(?:<<<<<<< |>>>>>>> )"), "a merge conflict"),
]
FUNCTION_START = re.compile(r"^[A-Za-z].*\{$")
NOT_FUNCTIONS = re.compile(r"^(?:namespace|class|struct|enum|union|extern|constexpr .*=|const .*=|"
                           r"static const|typedef)\b")


def git_files(*patterns):
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode()
    return sorted({name for name in listing.split("\0")
                   if name and os.path.isfile(os.path.join(ROOT, name))})


def read(name):
    with open(os.path.join(ROOT, name), errors="replace") as file:
        return file.read()


class Findings:
    def __init__(self):
        self.problems = self.warnings = 0

    def problem(self, text):
        self.problems += 1
        print(f"problem: {text}", flush=True)

    def warning(self, text):
        self.warnings += 1
        print(f"warning: {text}", flush=True)


def check_format(files, findings):
    unformatted = collections.defaultdict(list)
    for start in range(0, len(files), 50):
        part = files[start:start + 50]
        run = subprocess.run(["clang-format-19", "--dry-run", "-Werror", *part], cwd=ROOT,
                             stderr=subprocess.PIPE, text=True)
        if run.returncode:
            bad = set(re.findall(r"^(\S+?):\d+:\d+: error: code should be clang-formatted",
                                 run.stderr, re.M))
            for name in sorted(bad):
                unformatted[os.path.dirname(name)].append(os.path.basename(name))
            if not bad:
                findings.problem(run.stderr.strip()[:200])
    for folder, names in sorted(unformatted.items()):
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        findings.problem(f"{folder}/: not formatted (./dev fmt): {' '.join(names[:6])}{more}")


def interpreter(name):
    with open(os.path.join(ROOT, name), "rb") as file:
        return file.readline(100)


def check_scripts(files, findings):
    for name in files:
        first = interpreter(name)
        if name.endswith((".sh", ".bash")) or re.match(rb"#!.*\b(ba|da)?sh\b", first):
            shell = "bash" if b"bash" in first or name.endswith(".bash") else "sh"
            flags = ["-O", "extglob"] if shell == "bash" else []
            run = subprocess.run([shell, *flags, "-n", name], cwd=ROOT, stderr=subprocess.PIPE, text=True)
            if run.returncode:
                findings.problem(f"{name}: {run.stderr.strip()[:200]}")
        elif name.endswith(".py"):
            try:
                ast.parse(read(name), name)
            except SyntaxError as error:
                findings.problem(f"{name}:{error.lineno}: {error.msg}")


def check_words(files, findings):
    for name in files:
        if name == "tools/lint.py" or name.endswith((".png", ".svg")) or "/testdata/" in name:
            continue
        for number, line in enumerate(read(name).splitlines(), 1):
            for pattern, what in FORBIDDEN:
                if pattern.search(line):
                    findings.problem(f"{name}:{number}: {what}")


def check_lengths(files, findings):
    for name in files:
        lines = read(name).splitlines()
        if len(lines) > MAX_LINES:
            findings.warning(f"{name}: {len(lines)} lines")
        if not name.endswith(CPP):
            continue
        start = None
        for number, line in enumerate(lines, 1):
            if FUNCTION_START.match(line) and not NOT_FUNCTIONS.match(line):
                start = number
            elif line.startswith("}"):
                if start and number - start > MAX_FUNCTION:
                    findings.warning(f"{name}:{start}: a function of {number - start} lines")
                start = None


def check_readmes(files, findings):
    """Each folder with code has a README, or the folder above it."""
    folders = {os.path.dirname(name) for name in files if name.endswith((*CPP, ".py", ".proto"))}
    for folder in sorted(folders):
        if folder.startswith("third_party/"):
            continue
        places = (folder, os.path.dirname(folder) or folder)
        if not any(os.path.exists(os.path.join(ROOT, place, "README.md")) for place in places):
            findings.problem(f"{folder}/: no README.md")


def changed_files():
    for base in ("origin/main", "main"):
        found = subprocess.run(["git", "merge-base", "HEAD", base], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if not found.returncode:
            break
    start = found.stdout.strip() or "HEAD"
    listing = subprocess.run(["git", "diff", "--name-only", start], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE).stdout.split()
    added = subprocess.run(["git", "ls-files", "--others", "--exclude-standard"], cwd=ROOT, text=True, stdout=subprocess.PIPE).stdout.split()
    return set(listing) | set(added)


def tidy_one(name, database):
    run = subprocess.run(["clang-tidy-19", "-quiet", "-p", database, os.path.join(ROOT, name)],
                         cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return name, re.findall(r"^.*?: (?:warning|error): .*$", run.stdout, re.M)


def check_tidy(files, findings):
    if not files:
        print("clang-tidy: no C++ file has changed")
        return
    print(f"clang-tidy: compiling {len(files)} files first, for generated headers", flush=True)
    subprocess.run(["bazel", "build", "--config=ci", "--keep_going", "--compile_one_dependency",
                    *files], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = subprocess.run([sys.executable, "tools/compdb.py"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if made.returncode:
        findings.problem("tools/compdb.py failed: " + made.stderr.strip()[-200:])
        return
    with open(os.path.join(ROOT, "compile_commands.json")) as database:
        known = {os.path.relpath(entry["file"], ROOT) for entry in json.load(database)}
    chosen = [name for name in files if name in known]
    print(f"clang-tidy: {len(chosen)} files", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, lines in pool.map(lambda name: tidy_one(name, ROOT), chosen):
            for line in sorted(set(lines)):
                findings.problem(os.path.relpath(line, ROOT) if line.startswith("/") else line)


def check_coverage(findings):
    """No entry of the table of system calls without a test or a reason."""
    tool = os.path.join(ROOT, "tools", "syscall_coverage.py")
    run = subprocess.run([sys.executable, tool], stdout=subprocess.PIPE, text=True)
    if run.returncode != 0:
        for line in run.stdout.splitlines()[:-1]:
            findings.problem(f"system calls: {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--no-tidy", action="store_true")
    options = parser.parse_args()
    files = git_files()
    cpp = [name for name in files if name.endswith(CPP) and not name.startswith("third_party/")]
    findings = Findings()
    print(f"format, scripts, words, lengths, READMEs: {len(files)} files", flush=True)
    if shutil.which("clang-format-19"):
        check_format(cpp, findings)
    else:
        findings.problem("clang-format-19 is not installed (tools/setup.sh build)")
    check_scripts(files, findings)
    check_words(files, findings)
    check_lengths([n for n in files if n.endswith((*CPP, ".py", ".sh", ".proto", ".bzl"))],
                  findings)
    check_readmes(files, findings)
    check_coverage(findings)
    if not options.no_tidy:
        changed = changed_files()
        check_tidy([n for n in cpp if n.endswith(".cc") and (options.all or n in changed)],
                   findings)
    print(f"{findings.problems} problems, {findings.warnings} warnings")
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
