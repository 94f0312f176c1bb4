"""The life of containers as engines drive it, with a kernel that only pretends."""

import array
import json
import os
import pty
import signal
import socket
import subprocess
import time
import unittest

from support import SandboxTest, alive, eventually, signal_of


class Foreground(SandboxTest):
    def test_exit_status(self):
        for code in (0, 1, 42, 255):
            self.assertEqual(self.run_cli("do", "exit", str(code)).returncode, code)

    def test_death_by_signal_is_128_plus_n(self):
        self.assertEqual(self.run_cli("do", "signal", "15").returncode, 143)

    def test_output_and_input(self):
        self.assertEqual(self.must("do", "print", "hello"), "hello")
        self.assertEqual(self.must("do", "cat", stdin=None, input="through\n"), "through\n")

    def test_program_that_cannot_run(self):
        missing = self.run_cli("do", "missing")
        self.assertEqual(missing.returncode, 127)
        self.assertIn("not found", missing.stderr)
        self.assertEqual(self.run_cli("do", "forbidden").returncode, 126)

    def test_signals_are_forwarded(self):
        process = subprocess.Popen(self.command("do", "--id", "w", "wait"), stdin=subprocess.DEVNULL)
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "w/state.json"))))
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 143)

    def test_nothing_stays(self):
        bundle = self.bundle("sleep", "300", linux={"cgroupsPath": "/e2e-fg", "namespaces": [{"type": "network"}]})
        process = subprocess.Popen(self.command("run", "--bundle", bundle, "c"), stdin=subprocess.DEVNULL)
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "c/state.json"))))
        details = self.details("c")
        self.assertTrue(details["madeCgroups"])
        self.assertEqual(process.wait(20), 0)
        self.assert_no_trace("c", details)

    def test_a_start_that_fails_leaves_nothing(self):
        result = self.run_cli("do", "--id", "bad", "--memory", "64", "uncreatable")
        self.assertEqual(result.returncode, 1)
        self.assertIn("does not like", result.stderr)
        self.assertEqual(os.listdir(self.root), [])

    def test_killed_at_any_moment(self):
        for victim in ("cli", "sentry", "gofer", "waiter"):
            with self.subTest(victim=victim):
                process = subprocess.Popen(self.command("do", "--id", "v", "--memory", "64", "cat"), stdin=subprocess.PIPE)
                self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "v/state.json"))))
                details = self.details("v")
                pid = process.pid if victim == "cli" else details[victim]["pid"]
                os.kill(pid, signal.SIGKILL)
                if victim == "gofer":
                    process.stdin.close()  # the pretending kernel does not need its files
                process.wait(20)
                self.reap()
                self.assert_no_trace("v", details)

    def test_killed_during_the_start(self):
        for delay in range(12):
            process = subprocess.Popen(self.command("do", "--id", "k", "--memory", "64", "cat"), stdin=subprocess.PIPE)
            time.sleep(delay * 0.003)
            process.kill()
            process.wait()
            self.assertTrue(eventually(lambda: not self.leftovers("k")), f"left after {delay * 3} ms: {self.leftovers('k')}")
            self.reap()

    def leftovers(self, name):
        found = [f"/sys/fs/cgroup/{c}/sandbox-{name}" for c in os.listdir("/sys/fs/cgroup")]
        found = [path for path in found if os.path.exists(path)]
        if os.path.exists(os.path.join(self.root, name, "state.json")):
            found.append("state")
        return found

    def test_terminal(self):
        pid, master = pty.fork()
        if pid == 0:
            os.execv(self.binary, self.command("do", "--id", "t", "cat"))
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "t/state.json"))))
        os.write(master, b"typed\r")
        self.assertTrue(eventually(lambda: b"typed\r" in self.read(master)))
        os.write(master, b"\x04")
        self.assertEqual(self.wait_pid(pid), 0)

    def test_the_lock_is_free_while_it_runs(self):
        process = subprocess.Popen(self.command("do", "--id", "l", "wait"), stdin=subprocess.DEVNULL)
        self.assertTrue(eventually(lambda: os.path.exists(os.path.join(self.root, "l/state.json"))))
        self.must("pause", "l")
        self.must("resume", "l")
        details = self.details("l")
        self.must("checkpoint", "--image-path", os.path.join(self.folder, "image"), "l")
        self.assertEqual(process.wait(20), 137)
        self.assert_no_trace("l", details)

    def read(self, fd):
        self.seen = getattr(self, "seen", b"") + os.read(fd, 4096)
        return self.seen


class Engine(SandboxTest):
    def test_life(self):
        pid = self.create("c1", "exit", "7")
        state = self.state("c1")
        self.assertEqual((state["status"], state["pid"], state["id"]), ("created", pid, "c1"))
        self.assertEqual(self.run_cli("create", "--bundle", self.bundle("x"), "c1").returncode, 1)
        self.assertNotEqual(self.run_cli("pause", "c1").returncode, 0)
        self.must("start", "c1")
        self.assertEqual(os.WEXITSTATUS(self.wait_pid(pid)), 7)
        state = self.state("c1")
        self.assertEqual((state["status"], state["pid"]), ("stopped", 0))
        details = self.details("c1")
        self.must("delete", "c1")
        self.reap()
        self.assert_no_trace("c1", details)
        self.assertIn("does not exist", self.run_cli("state", "c1").stderr)

    def test_kill(self):
        pid = self.create("c", "wait")
        self.must("start", "c")
        self.assertEqual(self.state("c")["status"], "running")
        self.must("kill", "c", "TERM")
        self.assertEqual(signal_of(self.wait_pid(pid)), signal.SIGTERM)
        self.assertIn("not running", self.run_cli("kill", "c", "9").stderr)
        self.must("kill", "--all", "c", "9")

    def test_signals_to_the_pid_reach_the_guest(self):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL):
            with self.subTest(signal=number):
                name = f"s{int(number)}"
                pid = self.create(name, "wait")
                self.must("start", name)
                details = self.details(name)
                os.kill(pid, number)
                self.assertEqual(signal_of(self.wait_pid(pid)), number)
                self.assertTrue(eventually(lambda: not alive(details["sentry"]["pid"])))
                self.must("delete", name)

    def test_delete(self):
        self.create("c", "wait")
        self.must("delete", "c")  # created, not started
        pid = self.create("c", "wait")
        self.must("start", "c")
        self.assertIn("not stopped", self.run_cli("delete", "c").stderr)
        details = self.details("c")
        self.must("delete", "--force", "c")
        self.wait_pid(pid)
        self.reap()
        self.assert_no_trace("c", details)
        self.must("delete", "--force", "c")
        self.assertIn("does not exist", self.run_cli("delete", "c").stderr)

    def test_exec(self):
        self.create("c", "wait")
        self.must("start", "c")
        self.assertEqual(self.run_cli("exec", "c", "exit", "9").returncode, 9)
        self.assertEqual(self.must("exec", "c", "print", "from inside"), "from inside")
        self.assertEqual(self.run_cli("exec", "c", "missing").returncode, 127)
        process = os.path.join(self.folder, "process.json")
        with open(process, "w") as file:
            json.dump({"args": ["wait"], "cwd": "/"}, file)
        pid_file = os.path.join(self.folder, "exec.pid")
        self.detached("exec", "--process", process, "--detach", "--pid-file", pid_file, "c")
        with open(pid_file) as file:
            pid = int(file.read())
        os.kill(pid, signal.SIGTERM)
        self.assertEqual(signal_of(self.wait_pid(pid)), signal.SIGTERM)

    def test_list_ps_wait_events_debug(self):
        pid = self.create("c", "wait")
        self.must("start", "c")
        listed = json.loads(self.must("list", "--format=json"))
        self.assertEqual([(c["id"], c["status"]) for c in listed], [("c", "running")])
        self.assertEqual(json.loads(self.must("ps", "--format", "json", "c")), [pid])
        self.assertIn("wait", self.must("ps", "c"))
        self.assertEqual(json.loads(self.must("events", "--stats", "c"))["type"], "stats")
        self.assertIn("you asked for stats", self.must("debug", "-stats", "c"))
        waiter = subprocess.Popen(self.command("wait", "c"), stdout=subprocess.PIPE, text=True)
        time.sleep(0.2)
        self.must("kill", "c", "9")
        out, _ = waiter.communicate(timeout=20)
        self.assertEqual(json.loads(out), {"id": "c", "exitStatus": 137})

    def test_pause_and_resume(self):
        self.create("c", "wait")
        self.must("start", "c")
        self.must("pause", "c")
        self.assertEqual(self.state("c")["status"], "paused")
        self.must("resume", "c")
        self.assertEqual(self.state("c")["status"], "running")

    def test_console_socket(self):
        path = os.path.join(self.folder, "console")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            bundle = self.bundle("cat", terminal=True)
            self.must("create", "--bundle", bundle, "--console-socket", path, "c")
            listener.settimeout(20)
            connection, _ = listener.accept()
            name, data, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        self.assertTrue(name)
        master = array.array("i", data[0][2])[0]
        self.must("start", "c")
        os.write(master, b"x")
        self.assertEqual(os.read(master, 10), b"x")
        import fcntl
        import struct
        import termios
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        seen = b""
        deadline = time.monotonic() + 10
        while b"resized 33x101" not in seen and time.monotonic() < deadline:
            seen += os.read(master, 100)
        os.write(master, b"\x04")

    def test_errors_go_to_the_log_as_json(self):
        log = os.path.join(self.folder, "log.json")
        result = subprocess.run([self.binary, "--root", self.root, "--log", log, "--log-format", "json", "--debug",
                                 "--systemd-cgroup", "state", "nobody"], capture_output=True, text=True)
        self.assertNotEqual(result.returncode, 0)
        with open(log) as file:
            last = json.loads(file.read().splitlines()[-1])
        self.assertEqual(last["level"], "error")
        self.assertIn("does not exist", last["msg"])
        self.assertIn("time", last)

    def test_checkpoint_and_restore(self):
        pid = self.create("c", "wait")
        bundle = os.path.dirname(self.output)
        self.must("start", "c")
        image = os.path.join(self.folder, "image")
        self.must("checkpoint", "--image-path", image, "--work-path", os.path.join(self.folder, "w"), "--leave-running", "c")
        self.assertEqual(self.state("c")["status"], "running")
        self.assertEqual(self.run_cli("checkpoint", "--check", "c").returncode, 1)
        self.must("checkpoint", "--image-path", image, "--file-locks", "--leave-running=false", "c")
        self.wait_pid(pid)
        self.assertFalse(os.path.exists(os.path.join(self.root, "c")))
        self.assertEqual(sorted(os.listdir(image)), [".wh.saved", "dump.log", "inventory.img", "sandbox.img"])
        self.assertEqual(self.must("restore", "--image-path", image, "--bundle", bundle, "-no-subreaper", "c"), "restored\n")
        with open(os.path.join(image, "sandbox.img"), "w") as file:
            file.write("garbage")
        broken = self.run_cli("restore", "--image-path", image, "--bundle", bundle, "c")
        self.assertEqual(broken.returncode, 1)
        self.assertIn("damaged", broken.stderr)
        self.assertIn("no image", self.run_cli("restore", "--image-path", "/nowhere", "--bundle", bundle, "c").stderr)
        self.assertEqual(os.listdir(self.root), [])

    def test_hooks_see_the_network_namespace(self):
        out = os.path.join(self.folder, "hook.out")
        hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {out}; readlink /proc/self/ns/net >> {out}"]}
        bundle = self.bundle("wait", hooks={"prestart": [hook], "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo gone >> {out}"]}]},
                             linux={"namespaces": [{"type": "network"}]})
        self.detached("create", "--bundle", bundle, "c")
        with open(out) as file:
            text = file.read()
        state, _ = json.JSONDecoder().raw_decode(text)
        self.assertEqual(state["status"], "creating")
        self.assertNotEqual(os.readlink(f"/proc/{state['pid']}/ns/net"), os.readlink("/proc/self/ns/net"))
        self.assertIn(os.readlink("/proc/self/ns/net"), text)
        self.must("delete", "--force", "c")
        with open(out) as file:
            self.assertIn("gone", file.read())
        failing = self.bundle("wait", hooks={"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 5"]}]})
        result = self.run_cli("create", "--bundle", failing, "d")
        self.assertIn("no luck", result.stderr)
        self.assertEqual(os.listdir(self.root), [])

    def test_limits(self):
        self.create("c", "wait", linux={"cgroupsPath": "/e2e-limits", "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}})
        details = self.details("c")
        directory = [d for d in details["cgroups"] if "memory" in d or d.endswith("cgroup/e2e-limits")][0]
        name = "memory.limit_in_bytes" if os.path.exists(directory + "/memory.limit_in_bytes") else "memory.max"

        def limit():
            with open(os.path.join(directory, name)) as file:
                return int(file.read())
        self.assertEqual(limit(), 64 << 20)
        with open(directory + "/cgroup.procs") as file:
            self.assertIn(str(details["sentry"]["pid"]), file.read().split())
        self.must("update", "--resources=-", "c", stdin=None, input='{"memory":{"limit":134217728}}')
        self.assertEqual(limit(), 128 << 20)


class BadInput(SandboxTest):
    def test_ids(self):
        for name in ("", ".", "..", "a/b", "../x", "a b"):
            self.assertEqual(self.run_cli("create", "--bundle", self.bundle("wait"), name).returncode, 1, name)
            self.assertIn("invalid container id", self.run_cli("state", name).stderr)

    def test_bundles(self):
        bundle = self.bundle("wait")
        os.rmdir(os.path.join(bundle, "rootfs"))
        self.assertIn("root file system", self.run_cli("create", "--bundle", bundle, "c").stderr)
        with open(os.path.join(bundle, "config.json"), "w") as file:
            file.write("{")
        self.assertIn("not valid JSON", self.run_cli("create", "--bundle", bundle, "c").stderr)
        self.assertIn("config.json", self.run_cli("create", "--bundle", self.folder, "c").stderr)
        self.assertIn("/nowhere", self.run_cli("create", "--bundle", "/nowhere", "c").stderr)
        mount = self.bundle("wait", mounts=[{"destination": "/d", "type": "bind", "source": "/nowhere/at/all"}])
        self.assertIn("/nowhere/at/all", self.run_cli("create", "--bundle", mount, "c").stderr)

    def test_usage(self):
        self.assertIn("unknown verb", self.run_cli("fly").stderr)
        self.assertIn("flag needs an argument: -lsm-mount-context", self.run_cli("restore", "--lsm-mount-context").stderr)
        for verb in ("do", "run", "create", "start", "state", "list", "kill", "delete", "exec", "ps", "pause", "resume", "wait",
                     "events", "metrics", "spec", "features", "checkpoint", "restore", "debug", "help", "version", "update"):
            self.assertEqual(self.run_cli(verb, "--help").returncode, 0, verb)
        version = self.must("--version").splitlines()
        self.assertTrue(version[0].startswith("sandbox version ") and version[1].startswith("commit: ") and version[2].startswith("spec: "))
        json.loads(self.must("features"))

    def test_spec(self):
        self.must("spec", "--bundle", self.folder)
        with open(os.path.join(self.folder, "config.json")) as file:
            self.assertEqual(json.load(file)["process"]["args"], ["sh"])
        self.assertIn("exists already", self.run_cli("spec", "--bundle", self.folder).stderr)


if __name__ == "__main__":
    unittest.main()
