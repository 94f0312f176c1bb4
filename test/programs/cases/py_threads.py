# checkpoint: yes
# Threads, locks, conditions, queues, thread-local data, thread pools, timers.
import concurrent.futures, queue, threading, time

total, lock = 0, threading.Lock()


def add():
    global total
    for _ in range(20000):
        with lock:
            total += 1


threads = [threading.Thread(target=add) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print("sum", total)
q, results = queue.Queue(10), []


def consume():
    while (item := q.get()) is not None:
        results.append(item * item)


consumer = threading.Thread(target=consume); consumer.start()
for i in range(1000):
    q.put(i)
q.put(None); consumer.join(); print("queue", sum(results))
condition, turn, order = threading.Condition(), 0, []


def take_turns(me):
    global turn
    for _ in range(50):
        with condition:
            condition.wait_for(lambda: turn % 3 == me)
            order.append(me); turn += 1; condition.notify_all()


threads = [threading.Thread(target=take_turns, args=(i,)) for i in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print("turns", order == [0, 1, 2] * 50)
barrier = threading.Barrier(5)
threads = [threading.Thread(target=barrier.wait) for _ in range(5)]
[t.start() for t in threads]; [t.join() for t in threads]; print("barrier", barrier.broken)
event = threading.Event(); threading.Timer(0.2, event.set).start(); start = time.monotonic()
print("timer", event.wait(10), time.monotonic() - start >= 0.19)
print("wait times out", threading.Event().wait(0.1))
with concurrent.futures.ThreadPoolExecutor(10) as pool:
    print("pool", sum(pool.map(lambda x: (time.sleep(0.001), x)[1], range(200))))
local = threading.local(); local.x = 1; seen = []
t = threading.Thread(target=lambda: seen.append(hasattr(local, "x"))); t.start(); t.join(); print("local", seen)
semaphore, high, now = threading.Semaphore(3), 0, 0


def limited():
    global high, now
    with semaphore:
        with lock:
            now += 1; high = max(high, now)
        time.sleep(0.01)
        with lock:
            now -= 1


threads = [threading.Thread(target=limited) for _ in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]; print("at most", high)
