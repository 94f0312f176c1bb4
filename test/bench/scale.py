"""Rows about many sandboxes on one machine: a hundred idle ones, and what one more costs beside them."""

import os
import shutil
import subprocess
import time

import lifecycle

IDLE = 100


def start_idle(target, started):
    """Starts the idle containers; appends (name, folder) to `started` for each, also when a later one fails."""
    for _ in range(IDLE):
        name, folder = target.bundle(["/bin/sleep", "1000"])
        started.append((name, folder))
        lifecycle.run_quietly([*target.runtime, "create", "--bundle", folder, name])
        lifecycle.run_quietly([*target.runtime, "start", name])


def beside_idle(target, sample, error, run_rows):
    """One sample of each row. `run_rows` measures the rows of the micro program; natively the hundred are processes that sleep."""
    if target.runtime is None:
        sleepers = [subprocess.Popen(["sleep", "1000"]) for _ in range(IDLE)]
        try:
            run_rows()
        finally:
            for sleeper in sleepers:
                sleeper.kill()
                sleeper.wait()
        return
    before = set(lifecycle.parents())
    started = []
    try:
        begin = time.monotonic()
        start_idle(target, started)
        sample("start_100", (time.monotonic() - begin) * 1e3 / IDLE)
        time.sleep(1)
        if target.name == "runc":  # it leaves nothing of its own behind; the program is all
            members = {pid for pid in set(lifecycle.parents()) - before
                       if lifecycle.executable(pid).endswith("/sleep")}
        else:
            members = lifecycle.new_processes(before, os.path.realpath(target.program))
        pss, private = lifecycle.memory_of(members)
        sample("pss_100", pss / IDLE)
        sample("private_100", private / IDLE)
        sample("cpu_100", cpu_share(members))
        run_rows()
    except lifecycle.Failed as problem:
        for key in ("start_100", "pss_100", "private_100", "cpu_100"):
            error(key, problem)
    finally:
        for name, folder in started:
            target.delete(name)
            shutil.rmtree(folder, ignore_errors=True)


def cpu_ticks(pids):
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total


def cpu_share(pids, seconds=3):
    """Per cent of one CPU that the processes take while nothing is asked of them."""
    before = cpu_ticks(pids)
    time.sleep(seconds)
    return (cpu_ticks(pids) - before) * 100 / os.sysconf("SC_CLK_TCK") / seconds
