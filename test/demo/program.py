"""What the demo freezes: a program with much to lose.

It prints one line of JSON per tick. State that must survive: the counter, a thread that counts
too, a child that answers through a pipe, an open file, a deleted temporary file, a timer, and
256 MB of heap with a known pattern.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

HEAP = 256 << 20
PAGE = 4096
TICK = 0.02


def make_heap():
    """Every page begins with a number of its own and is otherwise full of noise."""
    heap = bytearray(os.urandom(1 << 20) * (HEAP >> 20))
    for page in range(0, HEAP, PAGE):
        heap[page:page + 8] = (page * 2654435761 & (1 << 63) - 1).to_bytes(8, "little")
    return heap


def bad_pages(heap):
    return sum(
        heap[page:page + 8] != (page * 2654435761 & (1 << 63) - 1).to_bytes(8, "little")
        for page in range(0, HEAP, PAGE)
    )


class Counter(threading.Thread):
    """Counts in step with the main thread, by a condition variable."""

    def __init__(self):
        super().__init__(daemon=True)
        self.condition = threading.Condition()
        self.wanted = self.count = 0

    def run(self):
        while True:
            with self.condition:
                self.condition.wait_for(lambda: self.count < self.wanted)
                self.count += 1
                self.condition.notify_all()

    def step(self):
        with self.condition:
            self.wanted += 1
            self.condition.notify_all()
            self.condition.wait_for(lambda: self.count == self.wanted)
            return self.count


def main():
    heap = make_heap()
    counter = Counter()
    counter.start()
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", "import sys\nfor line in sys.stdin: print(int(line) * 2)"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    log = open("/tmp/demo.log", "w+")
    deleted = tempfile.TemporaryFile()
    alarms = []
    signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    start = time.monotonic()
    tick = 0
    while True:
        tick += 1
        thread = counter.step()
        child.stdin.write(b"%d\n" % tick)
        child.stdin.flush()
        doubled = int(child.stdout.readline())
        log.write(f"{tick}\n")
        log.flush()
        deleted.write(b"x")
        deleted.flush()
        state = {
            "tick": tick, "thread": thread, "child": doubled, "pid": os.getpid(),
            "file": sum(1 for _ in open(f"/proc/self/fd/{log.fileno()}")),
            "deleted": os.fstat(deleted.fileno()).st_size,
            "links": os.fstat(deleted.fileno()).st_nlink,
            "alarms": len(alarms), "seconds": round(time.monotonic() - start, 3),
        }
        if tick % 50 == 0:
            state["bad_pages"] = bad_pages(heap)
        print(json.dumps(state), flush=True)
        time.sleep(TICK)


main()
