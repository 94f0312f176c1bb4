# timeout: 90
# checkpoint: yes
# 500 threads at once, all blocked on one condition, then all woken; each then does a little work.
import os, threading

gate, arrived, done, lock = threading.Event(), threading.Semaphore(0), [], threading.Lock()


def wait_for_gate(n):
    arrived.release(); gate.wait()
    r, w = os.pipe(); os.write(w, b"%d" % n); value = int(os.read(r, 10)); os.close(r); os.close(w)
    with lock:
        done.append(value)


threading.stack_size(256 * 1024); threads = [threading.Thread(target=wait_for_gate, args=(n,)) for n in range(500)]
[t.start() for t in threads]; [arrived.acquire() for _ in threads]
status = dict(line.split(":", 1) for line in open("/proc/self/status")); print("threads", int(status["Threads"]), len(os.listdir("/proc/self/task")))
threading.Event().wait(3); gate.set(); [t.join() for t in threads]; print("sum", sum(done), len(done))
