# Signals: handlers, masks, pending, sigwait, timers, real-time order, EINTR retry, death by signal, alarms, children.
import os, signal, time

log = []
signal.signal(signal.SIGUSR1, lambda n, f: log.append("usr1")); os.kill(os.getpid(), signal.SIGUSR1); print(log)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1); print(log, signal.SIGUSR1 in signal.sigpending())
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]); print(log)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGRTMIN, signal.SIGRTMIN + 1])
for n in (signal.SIGRTMIN + 1, signal.SIGRTMIN, signal.SIGRTMIN, signal.SIGUSR2, signal.SIGUSR2):
    os.kill(os.getpid(), n)
order = []
while (info := signal.sigtimedwait([signal.SIGUSR2, signal.SIGRTMIN, signal.SIGRTMIN + 1], 0)) is not None:
    order.append(info.si_signo); sender = info.si_pid == os.getpid()
print(order, sender)
start = time.monotonic(); print(signal.sigtimedwait([signal.SIGUSR2], 0.2), time.monotonic() - start >= 0.19)
ticks = []; signal.signal(signal.SIGALRM, lambda n, f: ticks.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
while len(ticks) < 5:
    signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0); print("ticks", len(ticks))
r, w = os.pipe()
if os.fork() == 0:
    time.sleep(0.1); os.kill(os.getppid(), signal.SIGUSR1); time.sleep(0.1); os.write(w, b"data"); os._exit(0)
print(os.read(r, 10), len(log)); os.wait()
for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGPIPE):
    child = os.fork()
    if child == 0:
        import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None; os.kill(os.getpid(), number); time.sleep(5); os._exit(1)
    print(number.name, os.WTERMSIG(os.waitpid(child, 0)[1]))
got = []; signal.signal(signal.SIGCHLD, lambda n, f: got.append(1))
if os.fork() == 0:
    os._exit(4)
info = os.waitid(os.P_ALL, 0, os.WEXITED); print(info.si_status, info.si_code == os.CLD_EXITED, len(got) >= 1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    print("autoreaped")
fd = os.eventfd(3); print(os.eventfd_read(fd)); signal.set_wakeup_fd(w2 := (p := os.pipe2(os.O_NONBLOCK))[1]); os.kill(os.getpid(), signal.SIGUSR1); time.sleep(0); print(os.read(p[0], 10)[-1])
t = time.process_time(); signal.signal(signal.SIGVTALRM, lambda n, f: got.append("v")); signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
while "v" not in got and time.process_time() - t < 5:
    pass
print("virtual timer", "v" in got)
