"""Real programs through the real command line."""

import errno
import json
import os
import pathlib
import pty
import resource
import select
import signal
import subprocess
import time
import unittest

from support import TOP, SandboxTest, eventually, signal_of


class Programs(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    def test_exit_status_and_output(self):
        self.assertEqual(self.must("do", "echo", "hello world"), "hello world\n")
        self.assertEqual(self.run_cli("do", "sh", "-c", "exit 42").returncode, 42)
        self.assertEqual(self.run_cli("do", "sh", "-c", "sh -c 'kill -TERM $$'; exit $?").returncode, 128 + signal.SIGTERM)
        self.assertEqual(self.run_cli("do", "no-such-program").returncode, 127)
        self.assertEqual(self.run_cli("do", "/etc/passwd").returncode, 126)

    def test_without_descriptors_left_nothing_hangs(self):
        script = """import os, subprocess
held = []
try:
    while True:
        held.append(os.memfd_create("x"))
except OSError as error:
    print(error.strerror)
for i in range(20):
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        pass
for fd in held:
    os.close(fd)
print(subprocess.run(["true"]).returncode)
"""
        out = self.must("do", "python3", "-c", script, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048)))
        self.assertEqual(out, os.strerror(errno.ENFILE) + "\n0\n")

    def test_same_output_as_natively(self):
        for command in (["id"], ["pwd"], ["uname", "-m"], ["cat", "/etc/debian_version"], ["sh", "-c", "ls /usr | sort"],
                        ["sh", "-c", "seq 1 20000 | sha256sum"], ["env"]):
            native = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
            self.assertEqual(self.must("do", *command), native, command)

    def test_namespaces_as_natively(self):
        for script in ("unshare -Urpf --mount-proc sh -c 'id -u; echo $$; ps -eo pid,ppid,comm --no-headers'",
                       "unshare -Ur cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups",
                       "unshare -u sh -c 'hostname inside; hostname'",
                       "unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/f && ls /mnt'; ls /mnt",
                       "unshare -n ip -o link | wc -l",
                       "unshare -u sh -c 'hostname inner; exec sleep 20' & until test \"$(nsenter -t $! -u hostname)\" = inner; do sleep 0.1; done; "
                       "kill $!; echo entered"):
            native = subprocess.run(["sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
            self.assertEqual(self.must("do", "sh", "-c", script), native.stdout, script)

    def test_standard_input(self):
        data = "".join(f"line {n}\n" for n in range(20000))
        self.assertEqual(self.must("do", "cat", stdin=None, input=data), data)
        self.assertEqual(self.must("do", "wc", "-l", stdin=None, input=data).strip(), "20000")

    def test_host_files_do_not_change(self):
        path = os.path.join(self.folder, "file")
        with open(path, "w") as file:
            file.write("before")
        self.assertEqual(self.must("do", "sh", "-c", f"echo after > {path}; cat {path}"), "after\n")
        with open(path) as file:
            self.assertEqual(file.read(), "before")

    def test_signals_reach_the_program(self):
        process = subprocess.Popen(self.command("do", "--id", "s", "sh", "-c", "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done"),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=20)
        self.assertEqual((out, process.returncode), ("got it\n", 5))

    def host_bundle(self, *program, **changes):
        return self.bundle(*program, root={"path": "/", "readonly": True}, **changes)

    def test_container_life(self):
        bundle = self.host_bundle("/bin/sh", "-c", "echo started; sleep 100")
        out = os.path.join(self.folder, "out")
        pid_file = os.path.join(self.folder, "pid")
        with open(out, "w") as file:
            subprocess.run(self.command("create", "--bundle", bundle, "--pid-file", pid_file, "c"), stdin=subprocess.DEVNULL,
                           stdout=file, stderr=file, check=True, timeout=30)
        self.assertEqual(self.state("c")["status"], "created")
        with open(pid_file) as file:
            pid = int(file.read())
        self.must("start", "c")
        self.assertTrue(eventually(lambda: os.path.getsize(out) > 0))
        self.assertEqual(self.must("exec", "c", "/bin/echo", "inside"), "inside\n")
        self.assertEqual(self.run_cli("exec", "c", "/bin/sh", "-c", "exit 6").returncode, 6)
        self.assertIn("sleep", self.must("ps", "c"))
        details = self.details("c")
        self.must("kill", "c", "KILL")
        self.assertEqual(signal_of(self.wait_pid(pid)), signal.SIGKILL)
        self.must("delete", "c")
        self.reap()
        self.assert_no_trace("c", details)

    def test_killed_at_any_moment(self):
        for victim in ("cli", "sentry", "gofer", "waiter"):
            with self.subTest(victim=victim):
                process = subprocess.Popen(self.command("do", "--id", "v", "--memory", "256", "sh", "-c", "echo up; while :; do ls / >/dev/null || exit 1; done"),
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                process.stdout.readline()
                self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "v/state.json"))))
                details = self.details("v")
                os.kill(process.pid if victim == "cli" else details[victim]["pid"], signal.SIGKILL)
                process.communicate(timeout=30)
                self.reap()
                self.assert_no_trace("v", details)

    def test_terminal(self):
        pid, master = pty.fork()
        if pid == 0:
            os.execv("/bin/sh", ["sh", "-c", f"stty rows 30 cols 90; {self.binary} --root {self.root} do --id t sh; echo status $?; stty -a | grep -c -- ' icanon'"])
        seen = b""
        sent = 0
        script = [b"tty; stty size\n", b"sleep 100\n", b"echo $((40+2))\n", b"exit 3\n"]
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.3)[0]:
                try:
                    seen += os.read(master, 4096)
                except OSError:
                    break
            elif sent == 2:
                os.write(master, b"\x03")  # the guest's terminal interrupts its foreground
            if sent < len(script) and seen.count(b"# ") > sent:
                os.write(master, script[sent])
                sent += 1
        os.close(master)
        os.waitpid(pid, 0)
        text = seen.decode(errors="replace").replace("\r", "")
        self.assertIn("/dev/pts/0", text)
        self.assertIn("30 90", text)
        self.assertIn("\n42\n", text)
        self.assertIn("status 3\n1\n", text, "the terminal is not in raw mode any more")

    def test_masked_and_read_only_paths_and_devices(self):
        """What config.json hides, protects and makes: also after a checkpoint."""
        folder = os.path.join(self.folder, "mounted")
        os.makedirs(os.path.join(folder, "secret"))
        os.makedirs(os.path.join(folder, "fixed"))
        for name in ("secret/key", "fixed/text", "hidden"):
            with open(os.path.join(folder, name), "w") as file:
                file.write("data")
        script = """
            check() {
              echo hidden: $(cat /mnt/hidden) dir: $(ls /mnt/secret) proc: $(cat /proc/meminfo | wc -l)
              (echo x > /mnt/fixed/text) 2>/dev/null && echo WRITTEN
              (echo x > /mnt/hidden) 2>/dev/null && echo WRITTEN
              (: > /mnt/secret/new) 2>/dev/null && echo WRITTEN
              mkdir /proc/sys/x 2>/dev/null && echo WRITTEN
              cat /mnt/fixed/text; echo; echo y > /mnt/open && rm /mnt/open
              stat -c '%F %t:%T %a %u' /dev/extra /dev/more/null
              echo z > /dev/more/null && echo nothing; test -p /dev/extra-fifo && echo fifo
            }
            check; echo up; read line; check"""
        expected = ("hidden: dir: proc: 0\ndata\ncharacter special file 1:5 640 0\ncharacter special file 1:3 666 5\n"
                    "nothing\nfifo\n")
        bundle = self.host_bundle(
            "/bin/sh", "-c", script,
            mounts=[{"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                    {"destination": "/mnt", "type": "bind", "source": folder, "options": ["bind", "rw"]}],
            linux={"namespaces": [{"type": "pid"}, {"type": "mount"}],
                   "maskedPaths": ["/mnt/hidden", "/mnt/secret", "/proc/meminfo", "/proc/no-such-file"],
                   "readonlyPaths": ["/mnt/fixed", "/proc/sys", "/no-such-folder"],
                   "devices": [{"path": "/dev/extra", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640},
                               {"path": "/dev/more/null", "type": "u", "major": 1, "minor": 3, "uid": 5},
                               {"path": "/dev/extra-fifo", "type": "p"}]})
        output = os.path.join(self.folder, "output")

        def said():
            with open(output) as file:
                return file.read()

        held, writer = os.pipe()
        with open(output, "w") as file:
            process = subprocess.Popen(self.command("run", "--bundle", bundle, "c"), stdin=held, stdout=file, stderr=file)
        self.assertTrue(eventually(lambda: said().endswith("up\n")), said())
        self.assertEqual(said(), expected + "up\n")
        image = os.path.join(self.folder, "image")
        self.must("checkpoint", "--image-path", image, "c")
        process.wait(20)
        self.run_cli("delete", "--force", "c")
        with open(output, "w") as file:
            process = subprocess.Popen(self.command("restore", "--image-path", image, "--bundle", bundle, "c"), stdin=held,
                                       stdout=file, stderr=file)
        os.write(writer, b"go\n")
        process.wait(20)
        self.assertEqual(said(), expected)
        os.close(held)
        os.close(writer)

    def on_terminal(self, *command):
        pid, master = pty.fork()
        if pid == 0:
            arguments = self.command(*command)
            os.execv(arguments[0], arguments)
        return pid, master

    def read_until(self, master, text, seconds=20):
        seen = b""
        deadline = time.monotonic() + seconds
        while text not in seen and time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    seen += os.read(master, 4096)
                except OSError:
                    break
        self.assertIn(text, seen)

    def test_terminal_after_restore(self):
        bundle = self.host_bundle(
            "/bin/sh", "-c", "echo up; read x; echo got $x; tty", terminal=True,
            mounts=[{"destination": "/proc", "type": "proc", "source": "proc"},
                    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                    {"destination": "/dev/pts", "type": "devpts", "source": "devpts"}])
        pid, master = self.on_terminal("run", "--bundle", bundle, "c")
        self.read_until(master, b"up\r\n")
        image = os.path.join(self.folder, "image")
        self.must("checkpoint", "--image-path", image, "c")
        os.waitpid(pid, 0)
        os.close(master)
        self.run_cli("delete", "--force", "c")
        pid, master = self.on_terminal("restore", "--image-path", image, "--bundle", bundle, "c")
        os.write(master, b"typed\n")
        self.read_until(master, b"got typed\r\n/dev/pts/0\r\n")
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        os.close(master)

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "the fast path is for machines with more than one CPU")
    def test_hot_call_sites_are_patched(self):
        # A whole sandbox, confined as it is in use, has been without the fast path by a rule too many.
        ready = os.path.join(self.folder, "ready")
        for flag, patched in ((["--fast-path=false"], False), ([], True)):
            bundle = self.host_bundle("/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=1 count=20000 2>/dev/null; echo done; sleep 100")
            with open(ready, "w") as out:
                subprocess.run(self.command(*flag, "run", "--detach", "--bundle", bundle, "f"), stdin=subprocess.DEVNULL, stdout=out,
                               stderr=out, check=True, timeout=30)
            self.assertTrue(eventually(lambda: pathlib.Path(ready).read_text() == "done\n"), pathlib.Path(ready).read_text())
            stats = dict(line.split() for line in self.must("debug", "--stats", "f").splitlines())
            self.assertEqual(int(stats["patched_sites"]) > 0, patched, stats)
            self.must("delete", "--force", "f")

    def test_files_of_the_kernel(self):
        """Files of /proc that programs look at before they try something."""
        script = ("zcat /proc/config.gz | grep -c '^CONFIG_.*=y$'; zcat /proc/config.gz | grep CONFIG_USER_NS; grep -c pty_slave /proc/tty/drivers;"
                  " head -c 4 /proc/pressure/memory; echo; cut -c 1-22 /proc/buddyinfo; grep -c ^nr_switches /proc/self/sched; wc -c < /proc/net/netstat")
        lines = self.must("do", "sh", "-c", script).split("\n")
        self.assertGreater(int(lines[0]), 50)
        self.assertEqual(lines[1:6], ["CONFIG_USER_NS=y", "1", "some", "Node 0, zone   Normal ", "1"])
        self.assertGreater(int(lines[6]), 50)

    def test_sysctls(self):
        """linux.sysctl of config.json: Docker sets the first two for every container."""
        shell = ["/bin/sh", "-c", "cd /proc/sys; cat net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start kernel/msgmax vm/swappiness"]
        root = {"path": "/", "readonly": True}

        def run(settings):
            linux = {"namespaces": [{"type": "pid"}, {"type": "mount"}], "sysctl": settings}
            return self.run_cli("run", "--bundle", self.bundle(*shell, root=root, linux=linux), "sys")

        result = run({"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4096", "vm.swappiness": "60"})
        self.assertEqual((result.returncode, result.stdout), (0, "0\t2147483647\n0\n4096\n60\n"), result.stderr)
        for name, value, why in (("kernel.no_such", "1", "no such setting"), ("vm.swappiness", "10", "cannot be changed"), ("net.core.somaxconn", "many", "no such value")):
            result = run({name: value})
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(name, result.stderr)
            self.assertIn(why, result.stderr)
            self.assertEqual(self.must("list", "--quiet"), "")

    def test_memory_limit(self):
        """Programs see it, and what exceeds it is killed as on Linux: the process, not the sandbox."""
        program = """
import os
pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
total = [int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal")][0]
child = os.fork()
if child == 0:
    bytearray(200 << 20)
    os._exit(0)
print(pages >> 20, total >> 10, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
        self.assertEqual(self.must("do", "--memory", "64", "python3", "-c", program), "64 64 -9\n")

    def test_memory_limit_follows_update(self):
        bundle = self.host_bundle("/bin/sleep", "100", linux={"cgroupsPath": "/e2e-update", "resources": {"memory": {"limit": 256 << 20}},
                                                              "namespaces": [{"type": "pid"}, {"type": "network"}]})
        self.detached("run", "--detach", "--bundle", bundle, "u")
        total = lambda: int(self.must("exec", "u", "/usr/bin/awk", "/MemTotal/ { print $2 }", "/proc/meminfo"))
        self.assertEqual(total(), 256 << 10)
        self.must("update", "--memory", str(512 << 20), "u")
        self.assertEqual(total(), 512 << 10)
        self.must("update", "--pids-limit", "1000", "u")
        self.assertEqual(total(), 512 << 10)
        self.must("delete", "--force", "u")

    def test_clocks_of_a_time_namespace(self):
        offsets = {"monotonic": {"secs": 1000000, "nanosecs": 5}, "boottime": {"secs": 3000000}}
        script = "import time; print(int(time.clock_gettime(time.CLOCK_MONOTONIC)), int(time.clock_gettime(time.CLOCK_BOOTTIME)))"
        bundle = self.host_bundle("/bin/sh", "-c", f"python3 -c '{script}'; cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets",
                                  linux={"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "time"}], "timeOffsets": offsets})
        before = [time.clock_gettime(c) for c in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)]
        lines = self.must("run", "--bundle", bundle, "t").splitlines()
        told = [int(word) for word in " ".join(lines[:2]).split()]
        for now, start, ahead in zip(told, before + before[1:], (1000000, 3000000, 3000000)):
            self.assertTrue(-1 <= now - start - ahead <= 60, (now, start, ahead))
        self.assertEqual([line.split() for line in lines[2:]], [["monotonic", "1000000", "5"], ["boottime", "3000000", "0"]])
        without = self.host_bundle("/bin/true", linux={"namespaces": [{"type": "pid"}, {"type": "network"}], "timeOffsets": offsets})
        self.assertIn("timeOffsets", self.run_cli("run", "--bundle", without, "w").stderr)
        early = self.host_bundle("/bin/true", linux={"namespaces": [{"type": "network"}, {"type": "time"}], "timeOffsets": {"monotonic": {"secs": -10**9}}})
        self.assertIn("timeOffsets", self.run_cli("run", "--bundle", early, "e").stderr)

    def test_a_container_that_ended_leaves_its_name(self):
        pod = self.host_bundle("/bin/sleep", "100", annotations={"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod"})
        self.detached("run", "--detach", "--bundle", pod, "pod")
        inner = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"}
        for status in (0, 3):
            bundle = self.host_bundle("/bin/sh", "-c", f"exit {status}", annotations=inner)
            self.detached("run", "--detach", "--bundle", bundle, "inner")
            self.assertTrue(eventually(lambda: self.state("inner")["status"] == "stopped"))
            self.must("delete", "inner")
        self.assertEqual(self.state("pod")["status"], "running")
        self.must("delete", "--force", "pod")

    def test_reboot_ends_the_container(self):
        script = "import ctypes; ctypes.CDLL(None).reboot(0x1234567); print(1)"
        capabilities = {kind: ["CAP_SYS_BOOT"] for kind in ("bounding", "effective", "permitted")}
        bundle = self.host_bundle(process={"args": ["/bin/sh", "-c", f"python3 -c '{script}'; sleep 100"], "cwd": "/", "capabilities": capabilities,
                                           "env": ["PATH=" + os.environ["PATH"]]})
        self.assertEqual(self.run_cli("run", "--bundle", bundle, "r").returncode, 128 + signal.SIGHUP)

    def test_debug(self):
        process = subprocess.Popen(self.command("do", "--id", "d", "sleep", "30"), stdin=subprocess.DEVNULL)
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "d/state.json"))))
        time.sleep(0.2)
        self.assertTrue(self.must("debug", "--stats", "d"))
        self.must("debug", "--stacks", "d")
        self.assertEqual(json.loads(self.must("events", "--stats", "d"))["id"], "d")
        metrics = self.must("metrics")
        for line in metrics.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) sandbox_\w+ .+|sandbox_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.]+)$')
        self.assertIn('sandbox_processes{id="d"} 1\n', metrics)
        self.assertIn('sandbox_containers{status="running"} 1\n', metrics)
        self.assertIn('sandbox_events_total{id="d",event="syscalls"} ', metrics)
        self.must("kill", "d", "KILL")
        self.assertEqual(process.wait(20), 137)
