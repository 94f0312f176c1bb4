# multiprocessing: pools, queues, pipes, shared memory, semaphores, managers, both start methods.
import multiprocessing as mp
import multiprocessing.shared_memory as shm


def square(x):
    return x * x


def fill(name, start):
    block = shm.SharedMemory(name); block.buf[start:start + 10] = bytes([start] * 10); block.close()


def count(value, lock):
    for _ in range(1000):
        with lock:
            value.value += 1


def echo(connection):
    while (item := connection.recv()) is not None:
        connection.send(item * 2)


if __name__ == "__main__":
    for method in ("fork", "spawn"):
        context = mp.get_context(method)
        with context.Pool(4) as pool:
            print(method, sum(pool.map(square, range(1000))))
    value, lock = mp.Value("i", 0), mp.Lock()
    workers = [mp.Process(target=count, args=(value, lock)) for _ in range(4)]
    [w.start() for w in workers]; [w.join() for w in workers]; print("counted", value.value)
    block = shm.SharedMemory(create=True, size=100)
    workers = [mp.Process(target=fill, args=(block.name, s)) for s in range(0, 50, 10)]
    [w.start() for w in workers]; [w.join() for w in workers]; print("shared", sum(block.buf[:50])); block.close(); block.unlink()
    ours, theirs = mp.Pipe(); worker = mp.Process(target=echo, args=(theirs,)); worker.start()
    for i in range(200):
        ours.send(i)
        assert ours.recv() == i * 2
    ours.send(None); worker.join(); print("pipe", worker.exitcode)
    with mp.Manager() as manager:
        d = manager.dict(); d["k"] = [1, 2]; print("manager", dict(d))
    worker = mp.Process(target=echo, args=(theirs,)); worker.start(); worker.kill(); worker.join(); print("killed", worker.exitcode)
