"""Parts of a sandbox that die at a bad moment: a clear error or status, and nothing left."""

import os
import signal
import subprocess
import time

from world import Failure, processes, require, role

BUSY = ["/bin/sh", "-c", "echo up; (while :; do :; done) & sleep 1000 & wait"]


def started(world):
    run = world.start(BUSY)
    world.wait_for_output("up")
    return run


def ends(world, run, seconds=15):
    """The foreground `run` ends by itself, and `delete --force` cleans up."""
    try:
        run.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        raise Failure("`run` went on after a part of its sandbox had died")
    require(run.returncode != 0, "`run` ended with status 0")


def own_processes(world, run):
    return processes(world.program) - world.before[0] - {run.pid}


def kill_cli(world):
    """The command in the foreground dies: the container may go on, or end; delete works."""
    run = started(world)
    run.kill()
    run.wait()
    time.sleep(0.3)
    result = world.call("delete", "--force", world.id)
    require(result.returncode == 0, f"delete --force: {result.stderr[:200]}")


def kill_each_process(world):
    """Each process of the sandbox in turn, in a fresh sandbox each time."""
    run = started(world)
    count = len(own_processes(world, run))
    world.call("delete", "--force", world.id)
    run.wait(timeout=15)
    require(count, "no process of the sandbox was found")
    for index in range(count):
        run = started_again(world, index)
        victims = sorted(own_processes(world, run))
        if index >= len(victims):
            world.call("delete", "--force", world.id)
            run.wait(timeout=15)
            continue
        victim, name = victims[index], role(victims[index])
        os.kill(victim, signal.SIGKILL)
        time.sleep(0.5)
        result = world.call("delete", "--force", world.id)
        require(result.returncode == 0, f"after the death of {name}: delete --force: "
                                        f"{result.stderr[:200]}")
        try:
            run.wait(timeout=15)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            raise Failure(f"`run` outlived the death of {name} and delete --force")
        left = world.wait_for_nothing(5)
        require(not left, f"after the death of {name}: {'; '.join(left)}")


def started_again(world, index):
    open(os.path.join(world.work, "output"), "w").close()
    run = world.start(BUSY, name=f"again{index}")
    world.wait_for_output("up")
    return run


def kill_during_start(world):
    """`run` is killed after ever longer times; whatever it has made so far can be deleted."""
    folder = world.bundle(["/bin/true"])
    for delay in (0, 0.001, 0.002, 0.004, 0.006, 0.009, 0.013, 0.02, 0.03, 0.05):
        run = subprocess.Popen([*world.runtime, "run", "--bundle", folder, world.id],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        time.sleep(delay)
        run.kill()
        run.wait()
        world.call("delete", "--force", world.id)
        left = world.wait_for_nothing(5)
        require(not left, f"killed after {delay * 1e3:.0f} ms: {'; '.join(left)}")


def kill_init_from_outside(world):
    """The pid that engines know dies: so does the container, and its status says by which signal."""
    import json
    run = started(world)
    state = json.loads(world.call("state", world.id).stdout)
    os.kill(state["pid"], signal.SIGKILL)
    ends(world, run)


def many_at_once(world):
    """Ten sandboxes started and force-deleted at once."""
    names = [f"{world.id}-{i}" for i in range(10)]
    folder = world.bundle(["/bin/sleep", "1000"])
    runs = [subprocess.Popen([*world.runtime, "run", "--bundle", folder, name],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL) for name in names]
    time.sleep(1.5)
    for name in names:
        world.call("delete", "--force", name)
    for run in runs:
        try:
            run.wait(timeout=15)
        except subprocess.TimeoutExpired:
            run.kill()
            raise Failure("a `run` outlived its delete --force")
    left = world.wait_for_nothing(5)
    require(not left, "; ".join(left))


CASES = [kill_cli, kill_each_process, kill_during_start, kill_init_from_outside, many_at_once]
