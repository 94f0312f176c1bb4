"""Profiles of rows that missed their gate: where the machine spends its time meanwhile."""

import os
import shutil
import subprocess

LINES = 45


def perf():
    return shutil.which("perf")


def profile(command, clean, path):
    """Runs `command` under a machine-wide perf and writes the hottest symbols to `path`."""
    raw = path + ".data"
    try:
        subprocess.run([perf(), "record", "-q", "-a", "-e", "cpu-clock", "-F", "997", "-o", raw, "--",
                        *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=120)
        report = subprocess.run(
            [perf(), "report", "--stdio", "-q", "--no-children", "-i", raw, "--sort",
             "comm,dso,symbol"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            timeout=120).stdout
        hot = [" ".join(line.split()) for line in report.splitlines() if line.strip()][:LINES]
        with open(path, "w") as out:
            out.write("\n".join(hot) + "\n")
        return hot
    except (OSError, subprocess.SubprocessError):
        return []
    finally:
        clean()
        if os.path.exists(raw):
            os.unlink(raw)
