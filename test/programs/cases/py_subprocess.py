# Processes from Python: run, pipes, time-outs, signals, environment, descriptors, groups, posix_spawn.
import os, signal, subprocess, sys, time

print(subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout.strip())
print(subprocess.run("exit 9", shell=True).returncode)
try:
    subprocess.run(["sleep", "30"], timeout=0.3)
except subprocess.TimeoutExpired:
    print("timed out")
p = subprocess.Popen(["sleep", "30"]); p.send_signal(signal.SIGTERM); print(p.wait())
p1 = subprocess.Popen(["seq", "100000"], stdout=subprocess.PIPE)
p2 = subprocess.Popen(["grep", "-c", "9"], stdin=p1.stdout, stdout=subprocess.PIPE); p1.stdout.close()
print(p2.communicate()[0].decode().strip(), p1.wait())
print(len(subprocess.run(["cat"], input=b"x" * 1_000_000, capture_output=True).stdout))
print(subprocess.check_output(["sh", "-c", "echo $AMBER"], env={"AMBER": "yes"}).decode().strip())
r, w = os.pipe()
subprocess.run(["sh", "-c", f"echo through >&{w}"], pass_fds=[w]); os.close(w); print(os.read(r, 100).decode().strip())
try:
    subprocess.run(["/does/not/exist"])
except FileNotFoundError as e:
    print("errno", e.errno)
p = subprocess.Popen(["sh", "-c", "sleep 30 & sleep 30"], start_new_session=True)
time.sleep(0.2); os.killpg(p.pid, signal.SIGKILL); print("group", p.wait())
pid = os.posix_spawnp("true", ["true"], os.environ); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0:
    os._exit(17)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0:
    signal.pause()
os.kill(pid, signal.SIGSTOP); print("stopped", os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]))
os.kill(pid, signal.SIGCONT); print("continued", os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1]))
os.kill(pid, signal.SIGKILL); print("killed", os.WTERMSIG(os.waitpid(pid, 0)[1]))
fd = os.pidfd_open(p2.pid) if False else None
print(subprocess.run([sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], input=b"12345").returncode)
before = len(os.listdir("/proc/self/fd")); [subprocess.run(["true"]) for _ in range(30)]
print("leaked", len(os.listdir("/proc/self/fd")) - before)
