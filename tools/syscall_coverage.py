#!/usr/bin/env python3
"""Says which system calls of the table (docs/syscalls.md) no guest test makes.

  tools/syscall_coverage.py         the calls without a test and without a reason; exit status 1 if there are any
  tools/syscall_coverage.py --all   every call of the table that is full or partial, with the families that make it

A test makes a call where its source says SYS_NAME, or calls the C library's function that is known to make it. Calls
that cannot be tested this way stand in test/guest/untested.txt with a reason each.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (\d+) \| (\w+) \| (full|partial) \|")
NEW = 424  # From here on the C library has few functions, and tests name the numbers.

# The C library's functions that make another call than their name says (glibc 2.36, x86-64).
MADE_BY = {
    "clock_nanosleep": {"clock_nanosleep", "nanosleep"},
    "clone": {"fork", "clone", "Fork"},
    "epoll_create": set(),
    "epoll_pwait": {"epoll_pwait"},
    "eventfd2": {"eventfd"},
    "exit_group": {"_exit", "exit"},
    "fadvise64": {"posix_fadvise"},
    "getdents64": {"readdir", "getdents64"},
    "getitimer": {"getitimer"},
    "inotify_init1": {"inotify_init1", "inotify_init"},
    "mq_timedreceive": {"mq_receive", "mq_timedreceive"},
    "mq_timedsend": {"mq_send", "mq_timedsend"},
    "newfstatat": {"stat", "lstat", "fstatat", "fstat"},
    "openat": {"open", "openat"},
    "pipe2": {"pipe2"},
    "ppoll": {"ppoll"},
    "pread64": {"pread"},
    "prlimit64": {"prlimit", "setrlimit", "getrlimit"},
    "pselect6": {"pselect", "select"},
    "pwrite64": {"pwrite"},
    "rt_sigaction": {"sigaction"},
    "rt_sigpending": {"sigpending"},
    "rt_sigprocmask": {"sigprocmask"},
    "rt_sigqueueinfo": {"sigqueue"},
    "rt_sigreturn": {"Handle", "CountSignals"},
    "rt_sigsuspend": {"sigsuspend"},
    "rt_sigtimedwait": {"sigtimedwait", "sigwaitinfo"},
    "set_robust_list": {"pthread_create"},
    "signalfd4": {"signalfd"},
    "syslog": {"klogctl"},
    "umount2": {"umount", "umount2"},
    "utimensat": {"utimensat", "futimens"},
    "wait4": {"wait4", "waitpid", "wait"},
}
# Functions of the C library whose own name makes another call: only SYS_NAME counts for these.
BY_NUMBER_ONLY = {
    "creat", "epoll_create", "eventfd", "fork", "fstat", "futimesat", "getdents", "getrlimit", "inotify_init", "lstat", "nanosleep", "open", "pipe",
    "select", "setrlimit", "signalfd", "stat", "time", "utime", "utimes",
}


def table():
    text = (ROOT / "docs" / "syscalls.md").read_text()
    return {match.group(2): int(match.group(1)) for match in map(ROW.match, text.splitlines()) if match}


def sources():
    """The text of every family without its comments, and of the headers for one kind of test that it includes."""
    texts = {}
    for path in sorted((ROOT / "test" / "guest").glob("*.cc")):
        text = path.read_text()
        for header in re.findall(r'#include "test/harness/(\w+)\.h"', text):
            if header not in ("guest_test", "guest_util"):
                text += (ROOT / "test" / "harness" / f"{header}.h").read_text()
        texts[path.stem] = re.sub(r"//[^\n]*", "", text)
    return texts


def pattern(call, number):
    forms = [rf"\bSYS_{call}\b"]
    if number >= NEW:
        forms += [rf"\b(?:syscall|Call)\({number}\b", rf"\bk\w+ = {number}\b"]
    functions = MADE_BY.get(call, set() if call in BY_NUMBER_ONLY else {call})
    forms += [rf"(?<![\w.>])(?:::)?{function}\(" for function in sorted(functions)]
    return re.compile("|".join(forms))


def reasons():
    path = ROOT / "test" / "guest" / "untested.txt"
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(None, 1) for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every call with its families")
    options = parser.parse_args()
    texts, excused, calls = sources(), reasons(), table()
    bare = []
    problems = [f"{name}: listed in untested.txt, but not in the table" for name in excused if name not in calls]
    for call, number in calls.items():
        made = pattern(call, number)
        families = [family for family, text in texts.items() if made.search(text)]
        if options.all:
            print(f"{call}: {', '.join(families) or '-'}")
        if families and call in excused:
            problems.append(f"{call}: listed in untested.txt, but {', '.join(families)} makes it")
        if not families and call not in excused:
            bare.append(call)
    for call in bare:
        print(f"no test: {call}")
    for problem in problems:
        print(problem)
    print(f"{len(calls) - len(bare) - len(excused)} of {len(calls)} calls have a test, {len(excused)} a reason, {len(bare)} neither")
    return 1 if bare or problems else 0


if __name__ == "__main__":
    sys.exit(main())
