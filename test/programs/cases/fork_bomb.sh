# modes: run
# native: no
# pids: 64
# timeout: 60
# expect: limit reached, and alive
# A fork bomb against the container's limit of 64 processes: forks fail, the container goes on, nothing hangs.
bomb() { bomb | bomb & }
(bomb) 2>/dev/null
sleep 3
exec python3 -c '
import errno, os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
refused = False
deadline = time.monotonic() + 20
children = []
while not refused and time.monotonic() < deadline:
    try:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
    except OSError as error:
        refused = error.errno == errno.EAGAIN
print("limit reached, and alive" if refused else "no limit", flush=True)
os.kill(-1, signal.SIGKILL)
'
