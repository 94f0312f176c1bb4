# asyncio: timers, tasks, Unix sockets, subprocesses, signals, threads, epoll and poll underneath.
import asyncio, os, signal, selectors


async def handle(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper()); await writer.drain()
    writer.close()


async def client(path, n):
    reader, writer = await asyncio.open_unix_connection(path)
    for i in range(20):
        writer.write(f"client {n} line {i}\n".encode())
        assert (await reader.readline()) == f"CLIENT {n} LINE {i}\n".encode()
    writer.close(); await writer.wait_closed()
    return n


async def main():
    server = await asyncio.start_unix_server(handle, "sock")
    print("clients", sum(await asyncio.gather(*(client("sock", n) for n in range(30)))))
    server.close()
    order = []

    async def late(delay):
        await asyncio.sleep(delay); order.append(delay)
    await asyncio.gather(late(0.3), late(0.1), late(0.2)); print("timers", order)
    p = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=-1, stdout=-1)
    print((await p.communicate(b"child"))[0].decode(), p.returncode)
    got = asyncio.Event(); asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
    os.kill(os.getpid(), signal.SIGUSR1); await got.wait(); print("signal")
    print("thread", await asyncio.to_thread(sum, range(100)))
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.1)
    except asyncio.TimeoutError:
        print("timeout")
    r, w = os.pipe(); loop = asyncio.get_running_loop(); ready = loop.create_future()
    loop.add_reader(r, lambda: ready.set_result(os.read(r, 10))); loop.call_later(0.05, os.write, w, b"piped"); print(await ready)


asyncio.run(main())
for kind in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
    loop = asyncio.SelectorEventLoop(kind()); print(kind.__name__, loop.run_until_complete(asyncio.sleep(0.01, "ok"))); loop.close()
