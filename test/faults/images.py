"""Images that are missing, damaged, foreign, or cannot be written."""

import os
import random
import shutil
import subprocess
import time

from world import fails_clearly, require

COUNT = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"]
HEAVY = ["/usr/bin/python3", "-uc", "import os, time\nheap = os.urandom(64 << 20)\n"
         "i = 0\nwhile True:\n    i += 1\n    print('tick', i)\n    time.sleep(0.05)"]


def made_image(world):
    """A good image of a counting shell; returns its folder and the file with the content."""
    run = world.start(COUNT)
    world.wait_for_output("tick 3")
    image = os.path.join(world.work, "image")
    result = world.call("checkpoint", "--image-path", image, world.id)
    require(result.returncode == 0, f"checkpoint: {result.stderr[:200]}")
    run.wait(timeout=15)
    files = [os.path.join(image, name) for name in os.listdir(image)]
    return image, max(files, key=os.path.getsize)


def restore(world, image, limit=10):
    """Tries a restore for a short time; a program that runs on is killed. (status, stderr)"""
    folder = os.path.join(world.work, "bundle")
    command = [*world.runtime, "restore", "--image-path", image, "--bundle", folder, world.id]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        world.call("delete", "--force", world.id)
        process.kill()
        output, errors = process.communicate()
        return subprocess.CompletedProcess(command, 0, output, errors)
    world.call("delete", "--force", world.id)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def good_image(world):
    image, _ = made_image(world)
    result = restore(world, image, 3)
    require("tick" in result.stdout, f"no tick after the restore: {result.stderr[:200]}")


def missing_image(world):
    world.bundle(COUNT)
    fails_clearly(restore(world, os.path.join(world.work, "no-image")), "no-image")


def foreign_image(world):
    image, file = made_image(world)
    for content in (b"", b"x", b"\x7fELF" * 1000, os.urandom(1 << 20), b"\0" * 65536):
        with open(file, "wb") as out:
            out.write(content)
        fails_clearly(restore(world, image))


def truncated_image(world):
    image, file = made_image(world)
    whole = open(file, "rb").read()
    for size in (1, 100, 4095, 4096, 4097, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        if 0 < size < len(whole):
            with open(file, "wb") as out:
                out.write(whole[:size])
            fails_clearly(restore(world, image))


def flipped_bits(world):
    """In the parts that are verified at every restore a flip is found; nowhere does one crash us."""
    image, file = made_image(world)
    whole = open(file, "rb").read()
    rng = random.Random(5)
    places = [rng.randrange(0, 64) for _ in range(12)] + [rng.randrange(len(whole))
                                                         for _ in range(20)]
    for number, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        with open(file, "wb") as out:
            out.write(damaged)
        result = restore(world, image, 3)
        require("Check failed" not in result.stderr, f"bit at {place}: {result.stderr[:200]}")
        if number < 12:
            require(result.returncode != 0, f"a flipped bit at {place} was not noticed")


def full_disk(world):
    """The checkpoint fails, says so, leaves no half image, and the sandbox runs on."""
    small = os.path.join(world.work, "small")
    os.makedirs(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], check=True)
    run = world.start(HEAVY)
    world.wait_for_output("tick 3")
    image = os.path.join(small, "image")
    result = world.call("checkpoint", "--image-path", image, world.id, limit=60)
    fails_clearly(result, "space", "full", "image")
    before = world.output().count("tick")
    time.sleep(1)
    require(world.output().count("tick") > before, "the program stands still after the failure")
    require(run.poll() is None, "the sandbox ended")
    left = [name for _, _, names in os.walk(small) for name in names if name != "dump.log"]
    require(not left, f"left on the full disk: {left}")
    good = os.path.join(world.work, "image")
    result = world.call("checkpoint", "--image-path", good, world.id, limit=60)
    require(result.returncode == 0, f"the next checkpoint: {result.stderr[:200]}")
    run.wait(timeout=15)


def unwritable_place(world):
    run = world.start(COUNT)
    world.wait_for_output("tick 3")
    result = world.call("checkpoint", "--image-path", "/proc/nowhere/image", world.id)
    fails_clearly(result, "/proc/nowhere")
    before = world.output().count("tick")
    time.sleep(0.5)
    require(world.output().count("tick") > before, "the program stands still after the failure")
    world.call("delete", "--force", world.id)
    run.wait(timeout=15)


def killed_checkpoint(world):
    """The command dies in the middle: an old image stays whole, and no half image takes its name."""
    image, file = made_image(world)
    old = open(file, "rb").read()
    for delay in (0.002, 0.01, 0.03, 0.1):
        shutil.rmtree(os.path.join(world.work, "heavy"), ignore_errors=True)
        open(os.path.join(world.work, "output"), "w").close()
        run = world.start(HEAVY, name="heavy")
        world.wait_for_output("tick 3")
        writer = subprocess.Popen([*world.runtime, "checkpoint", "--image-path", image, world.id],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        time.sleep(delay)
        writer.kill()
        writer.wait()
        world.call("delete", "--force", world.id)
        run.wait(timeout=15)
        now = open(file, "rb").read()
        require(now == old or len(now) > 64 << 20, f"half an image of {len(now)} bytes")
        old = now


CASES = [good_image, missing_image, foreign_image, truncated_image, flipped_bits, full_disk,
         unwritable_place, killed_checkpoint]
