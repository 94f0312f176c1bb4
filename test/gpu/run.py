#!/usr/bin/env python3
"""Whole sandboxes with GPUs, on a driver that does not exist (nvproxy/fake).

  test/gpu/run.py [--sandbox bazel-bin/sandbox] [--programs bazel-bin/test/gpu] [TEST...]

Ends with the line `N passed, N failed`; exit status 1 if anything failed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "test", "programs"))
import bundle  # noqa: E402
from several import SeveralTests  # noqa: E402

LIMIT = 60
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "/lib/x86_64-linux-gnu"
GPU = ["--gpu", f"--gpu-driver=fake:{os.path.join(HERE, 'one_h100.txt')}"]


class Tests:
    """Each method `test_*` is one test; it raises AssertionError."""

    def __init__(self, sandbox, programs, work):
        self.sandbox, self.programs, self.work = sandbox, programs, work
        self.rawrm = os.path.join(programs, "rawrm")
        self.state = os.path.join(work, "state")

    @staticmethod
    def own(arguments):
        """With the containers' names of this run alone: control groups go by them, and another run's must not be deleted."""
        return [f"{a}-{os.getpid()}" if a in ("hold", "busy", "asks") else a for a in arguments]

    def cli(self, *arguments, **options):
        return subprocess.run([self.sandbox, "--root", self.state, *self.own(arguments)], capture_output=True, text=True, timeout=LIMIT, check=False, **options)

    def do(self, *arguments, flags=()):
        return self.cli("do", *GPU, *flags, "--tty=false", *arguments, stdin=subprocess.DEVNULL)

    def test_every_step_of_a_start(self):
        result = self.do(self.rawrm)
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    def test_quota(self):
        result = self.do(self.rawrm, "eat", flags=["--gpu-memory=2GiB"])
        assert result.returncode == 0 and "allocated 2048 MiB" in result.stdout, result.stdout + result.stderr

    def test_a_killed_process_leaves_nothing_to_its_children(self):
        result = self.do(self.rawrm, "orphan", flags=["--gpu-memory=2GiB"])
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    def test_a_gpu_that_is_lost(self):
        lost = "gpu minor=0 uuid=GPU-6f2d1c00-1111-2222-3333-444455556666 pci=0000:41:00.0 lost-at=0x20800111\n"
        result = self.cli("do", *self.config("version 580.159.04\n" + lost), "--tty=false", self.rawrm, "lost", stdin=subprocess.DEVNULL)
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    ONE = "version 580.159.04\ngpu minor=0 uuid=GPU-6f2d1c00-1111-2222-3333-444455556666 pci=0000:41:00.0 memory=80G\n"

    def passes(self, result):
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    def test_mappings_and_registered_memory(self):
        self.passes(self.do(self.rawrm, "memory"))

    def test_events(self):
        driver = self.config(self.ONE + "event 0x20800111\n")
        self.passes(self.cli("do", *driver, "--tty=false", self.rawrm, "events", stdin=subprocess.DEVNULL))

    def test_calls_that_the_driver_holds(self):
        driver = self.config(self.ONE + "slow 0x20800111 4000\n")
        self.passes(self.cli("do", *driver, "--gpu-memory=2GiB", "--tty=false", self.rawrm, "blocked", "4000", stdin=subprocess.DEVNULL))

    def stuck(self, milliseconds):
        driver = self.config(self.ONE + f"slow 0x20800111 {milliseconds}\n")
        self.folder, self.image = self.bundle("hold", "stuck"), os.path.join(self.work, "image")
        process = self.start("run", "--bundle", self.folder, "hold", gpu=driver)
        self.read_until(process, "ready")
        self.wait_running("hold")
        return process, driver

    def test_a_sandbox_whose_driver_holds_a_call(self):
        """It tells how it is, and ends when it is told to."""
        process, _ = self.stuck(40000)
        begin = time.monotonic()
        assert json.loads(self.cli("events", "--stats", "hold").stdout)["data"]["gpu"]["calls"] > 5
        assert "gpu clients 1" in self.cli("debug", "--stats", "hold").stdout
        assert "rawrm" in self.cli("ps", "hold").stdout
        assert self.cli("kill", "hold", "KILL").returncode == 0
        process.stdin.close()
        process.stdout.read()
        process.wait(LIMIT)
        assert time.monotonic() - begin < 20, time.monotonic() - begin

    def test_a_checkpoint_while_the_driver_holds_a_call(self):
        """It waits for ten seconds, then says for whom; the program runs on, and the next one waits for the rest."""
        process, driver = self.stuck(13000)
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode != 0 and "(rawrm) in ioctl did not stop in time; the sandbox runs on" in frozen.stderr, frozen.stderr
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        after = self.restore(gpu=driver)
        self.finish(after)

    def test_whole_card_without_quota(self):
        result = self.do(self.rawrm, "eat")
        assert result.returncode == 0 and "allocated 81920 MiB" in result.stdout, result.stdout + result.stderr

    def test_page_of_what_passes_is_current(self):
        page = os.path.join(self.work, "allowed.md")
        subprocess.run([sys.executable, os.path.join(ROOT, "tools", "nvproxy_tables.py"), "--doc", os.path.join(ROOT, "nvproxy", "tables.txt"), page], check=True)
        with open(page) as made, open(os.path.join(ROOT, "docs", "gpu", "allowed.md")) as kept:
            assert made.read() == kept.read(), "docs/gpu/allowed.md is not what the tables say: tools/nvproxy_tables.py --doc nvproxy/tables.txt docs/gpu/allowed.md"

    def test_no_devices_without_the_flag(self):
        result = self.cli("do", "--tty=false", "/bin/ls", "/dev", "/proc/driver", stdin=subprocess.DEVNULL)
        assert "nvidia" not in result.stdout, result.stdout

    def test_bad_flags(self):
        unknown = os.path.join(self.work, "unknown")
        with open(unknown, "w") as file:
            file.write("version 1.2.3\n")
        garbage = os.path.join(self.work, "garbage")
        with open(garbage, "w") as file:
            file.write("gpu colour=green\n")
        for flags, words in (
            (["--gpu"], "no NVIDIA driver on this machine"),
            (["--gpu", f"--gpu-driver=fake:{unknown}"], "1.2.3"),
            (["--gpu", f"--gpu-driver=fake:{garbage}"], "line 1 makes no sense"),
            (["--gpu", "--gpu-driver=fake:/nonexistent"], "cannot read"),
            (["--gpu", "--gpu-driver=other"], "must be fake:FILE"),
            ([*GPU, "--gpu-memory=lots"], "must be a size"),
            ([*GPU, "--gpu-capabilities=magic"], "there is no"),
        ):
            result = self.cli("do", *flags, "--tty=false", "/bin/true", stdin=subprocess.DEVNULL)
            assert result.returncode != 0 and words in result.stderr, (flags, result.stderr)

    def cuda(self, *arguments, flags=()):
        """Runs cudademo on the libcuda of fakecuda.cc, with the host's C library."""
        command = ["/usr/bin/env", f"LD_LIBRARY_PATH={self.programs}", os.path.join(self.programs, "cudademo"), *arguments]
        return self.do(*command, flags=flags)

    def test_cuda_program(self):
        result = self.cuda()
        assert result.returncode == 0 and "PASS" in result.stdout and "FAIL" not in result.stdout, result.stdout + result.stderr

    def test_cuda_sees_the_quota(self):
        result = self.cuda(flags=["--gpu-memory=3GiB"])
        assert result.returncode == 0 and "total 3072 MiB" in result.stdout, result.stdout + result.stderr

    def test_limit_of_host_memory(self):
        result = self.cuda(flags=["--gpu-host-memory=512KiB"])
        assert result.returncode != 0 and "FAIL register host memory: 2" in result.stdout, result.stdout + result.stderr
        result = self.cuda(flags=["--gpu-host-memory=64MiB"])
        assert result.returncode == 0, result.stdout + result.stderr

    def recording(self, *command):
        """What the program says to the driver, as a tracer in the same sandbox sees it."""
        script = 'recorder=$1; shift; "$recorder" /tmp/recording "$@" >&2; status=$?; cat /tmp/recording; exit $status'
        result = self.do("/bin/sh", "-c", script, "sh", os.path.join(self.programs, "record"), *command)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr
        path = os.path.join(self.work, "recording")
        with open(path, "w") as file:
            file.write(result.stdout)
        return path, result.stdout

    def replay(self, *arguments):
        return subprocess.run([os.path.join(self.programs, "replay"), *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)

    def test_recordings_play_the_same(self):
        made = os.path.join(self.work, "golden")
        for name, command in (("rawrm", [self.rawrm]),
                              ("cudademo", ["/usr/bin/env", f"LD_LIBRARY_PATH={self.programs}", os.path.join(self.programs, "cudademo")])):
            path, _ = self.recording(*command)
            played = self.replay(path, made)
            assert played.returncode == 0 and ", 0 differ" in played.stdout, played.stdout + played.stderr
            with open(made) as got, open(os.path.join(HERE, "goldens", name + ".txt")) as kept:
                assert got.read() == kept.read(), f"{name} says something else than test/gpu/goldens has"

    def test_a_recording_of_another_driver_differs(self):
        path, text = self.recording(self.rawrm)
        lines = text.splitlines(keepends=True)
        # The first control's answer was another one: its status is the last word of the block that came back.
        at = next(i for i, line in enumerate(lines) if " 0xc020462a " in line)
        words = lines[at].split(" ")
        words[8] = words[8][:56] + "57000000"
        lines[at] = " ".join(words)
        with open(path, "w") as file:
            file.writelines(lines)
        played = self.replay(path)
        assert played.returncode == 1 and "status 0x57" in played.stdout and ", 1 differ" in played.stdout, played.stdout
        with open(path, "w") as file:
            file.write("ioctl 1 2\n")
        assert self.replay(path).returncode == 2

    def bundle(self, name, *arguments):
        root = os.path.join(self.work, name + "-root")
        os.makedirs(root)
        for folder in ("proc", "dev", "tmp", "sys"):
            os.mkdir(os.path.join(root, folder))
        shutil.copy(self.rawrm, root)
        return bundle.write(os.path.join(self.work, name), root, ["/rawrm", *arguments])

    def cuda_bundle(self, *arguments, fail="", helper="", device=0):
        """A root of its own for cudademo: the host's C library and the fake libcuda."""
        root = os.path.join(self.work, "cuda-root")
        for folder in ("proc", "dev", "tmp", "sys", "lib64", "cuda"):
            os.makedirs(os.path.join(root, folder))
        shutil.copy(LOADER, os.path.join(root, "lib64"))
        for library in ("libc.so.6", "libdl.so.2", "libpthread.so.0", "libm.so.6", "libgcc_s.so.1"):
            found = os.path.join(LIBRARIES, library)
            if os.path.exists(found):
                shutil.copy(found, os.path.join(root, "cuda"))
        shutil.copy(os.path.join(self.programs, "libcuda.so.1"), os.path.join(root, "cuda"))
        shutil.copy(os.path.join(self.programs, "cudademo"), root)
        environment = {"LD_LIBRARY_PATH": "/cuda", "FAKECUDA_FAIL": fail, "FAKECUDA_HELPER": helper, "FAKECUDA_DEVICE": str(device)}
        return bundle.write(os.path.join(self.work, "cuda"), root, ["/cudademo", *arguments], environment=environment)

    def hold(self, *arguments, flags=(), gpu=None, **options):
        """A running cudademo that has said "ready"."""
        self.prepare(*arguments, **options)
        return self.start_held(*flags, gpu=gpu)

    def prepare(self, *arguments, **options):
        self.folder, self.image = self.cuda_bundle(*arguments, **options), os.path.join(self.work, "image")

    def start_held(self, *flags, gpu=None):
        process = self.start(*flags, "run", "--bundle", self.folder, "hold", gpu=gpu)
        self.read_until(process, "ready")
        self.wait_running("hold")
        return process

    def checkpoint(self, *flags):
        return self.cli("checkpoint", "--image-path", self.image, *flags, "hold")

    def restore(self, *flags, gpu=None):
        return self.start(*flags, "restore", "--image-path", self.image, "--bundle", self.folder, "hold", gpu=gpu)

    def finish(self, process, *words):
        """The program checks all that it has, and ends well. What it has said."""
        try:
            process.stdin.write("go on\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # what it says tells why
        text = self.read_until(process, "held")
        for word in words:
            assert word in text, (word, text)
        assert "FAIL" not in text, text
        assert process.wait(LIMIT) == 0, text
        return text

    def gone(self, process):
        process.stdin.close()
        process.stdout.read()
        process.wait(LIMIT)

    def config(self, text):
        path = os.path.join(self.work, "driver")
        with open(path, "w") as file:
            file.write(text)
        return ["--gpu", f"--gpu-driver=fake:{path}"]

    def start(self, *arguments, gpu=None):
        command = [self.sandbox, "--root", self.state, *(gpu or GPU), *self.own(arguments)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_running(self, name):
        """The command line notes that the container runs a moment after its program began."""
        for _ in range(200):
            if '"status":"running"' in self.cli("state", name).stdout.replace(" ", ""):
                return
            time.sleep(0.05)
        raise AssertionError("it does not run")

    def read_until(self, process, word):
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith(word):
                return text
        raise AssertionError(f"no {word!r} in: {text}")

    def test_checkpoint_of_what_nvml_leaves(self):
        folder, image = self.bundle("hold", "hold"), os.path.join(self.work, "hold.image")
        before = self.start("run", "--bundle", folder, "hold")
        self.read_until(before, "ready")
        self.wait_running("hold")
        frozen = self.cli("checkpoint", "--image-path", image, "hold")
        assert frozen.returncode == 0, frozen.stderr
        before.stdin.close()
        before.wait(LIMIT)
        after = self.start("restore", "--image-path", image, "--bundle", folder, "hold")
        after.stdin.write("go on\n")
        after.stdin.flush()
        text = self.read_until(after, "held")
        assert "FAIL" not in text, text
        assert after.wait(LIMIT) == 0

    def test_usage_in_events(self):
        process = self.start("--gpu-memory=8GiB", "run", "--bundle", self.bundle("busy", "busy"), "busy")
        self.read_until(process, "ready")
        self.wait_running("busy")
        events = json.loads(self.cli("events", "--stats", "busy").stdout)["data"]["gpu"]
        memory = events["devices"][0]["memory"]
        # What a context is taken to cost is charged with the first of a process, which rawrm has none of.
        assert memory == {"usage": 1 << 20, "max": 1 << 20, "limit": 8 << 30}, events
        assert events["devices"][0]["uuid"].startswith("GPU-6f2d1c00") and events["calls"] > 5, events
        metrics = self.cli("metrics").stdout
        assert re.search(rf'^sandbox_gpu_memory_bytes\{{id="busy-{os.getpid()}",minor="0",uuid="GPU-6f2d1c00[^"]*"\}} 1048576$', metrics, re.M), metrics
        assert re.search(r'^sandbox_gpu_memory_limit_bytes\{.*\} 8589934592$', metrics, re.M), metrics
        stats = self.cli("debug", "--stats", "busy").stdout
        assert "gpu 0 bytes 1048576 peak 1048576 limit 8589934592" in stats, stats
        process.communicate("go on\n", LIMIT)
        assert process.returncode == 0

    def test_checkpoint_refuses_gpu_memory(self):
        folder = self.bundle("busy", "busy")
        process = self.start("run", "--bundle", folder, "busy")
        self.read_until(process, "ready")
        self.wait_running("busy")
        frozen = self.cli("checkpoint", "--image-path", os.path.join(self.work, "busy.image"), "busy")
        assert frozen.returncode != 0 and "NV01_MEMORY_LOCAL_USER" in frozen.stderr, frozen.stderr
        process.stdin.write("go on\n")
        process.stdin.flush()
        self.read_until(process, "held")  # it runs on
        assert process.wait(LIMIT) == 0


class RequestTests(Tests):
    """Containers that ask for GPUs as engines have them ask; the driver is the owner's choice, not theirs."""

    DRIVER = GPU[1:]

    def asking(self, *arguments, devices=(), environment=(), hook=False, annotations=None, cli=None, read_only=False):
        folder = self.bundle("asks", *arguments)
        path = os.path.join(folder, "config.json")
        with open(path) as file:
            config = json.load(file)
        config["linux"]["devices"] = [{"path": path, "type": "c", "major": major, "minor": minor} for path, major, minor in devices]
        config["process"]["env"] += environment
        config["annotations"] = annotations or {}
        config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs"})
        config["root"]["readonly"] = read_only
        if hook:
            # That it exists would be a mistake: it is not run.
            config["hooks"] = {"prestart": [{"path": "/nonexistent/nvidia-container-runtime-hook"}]}
        with open(path, "w") as file:
            json.dump(config, file)
        variables = dict(os.environ)
        if cli is not None:
            tools = os.path.join(self.work, "tools")
            os.makedirs(tools)
            with open(os.path.join(tools, "nvidia-container-cli"), "w") as file:
                file.write("#!/bin/sh\n" + cli)
            os.chmod(os.path.join(tools, "nvidia-container-cli"), 0o755)
            variables["PATH"] = tools + ":" + variables["PATH"]
        return self.cli(*self.DRIVER, "run", "--bundle", folder, "asks", env=variables, stdin=subprocess.DEVNULL)

    NODES = (("/dev/nvidia0", 195, 0), ("/dev/nvidiactl", 195, 255), ("/dev/nvidia-uvm", 511, 0))

    def test_nodes_of_cdi(self):
        result = self.asking(devices=self.NODES)
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    def test_a_node_of_a_card_that_is_not_there(self):
        result = self.asking(devices=[("/dev/nvidia5", 195, 5), self.NODES[1]])
        assert result.returncode != 0 and 'there is no GPU "minor:5"' in result.stderr, result.stderr

    def test_hook_of_docker(self):
        listing = f"echo /dev/nvidia0; echo {self.rawrm}\n"
        result = self.asking(environment=["NVIDIA_VISIBLE_DEVICES=0"], hook=True, cli=listing)
        assert result.returncode == 0 and "PASS" in result.stdout, result.stdout + result.stderr

    def test_libraries_are_found_without_ldconfig(self):
        """The driver's library lies where the container's loader does not look, and no cache knows it."""
        odd = os.path.join(self.work, "odd", "libcuda.so.580.159.04")
        os.makedirs(os.path.dirname(odd))
        folder = self.cuda_bundle()
        shutil.move(os.path.join(self.work, "cuda-root", "cuda", "libcuda.so.1"), odd)
        path = os.path.join(folder, "config.json")
        with open(path) as file:
            config = json.load(file)
        config["process"]["env"] += ["NVIDIA_VISIBLE_DEVICES=all"]
        config["root"]["readonly"] = False
        config["hooks"] = {"prestart": [{"path": "/nonexistent/nvidia-container-runtime-hook"}]}
        with open(path, "w") as file:
            json.dump(config, file)
        tools = os.path.join(self.work, "tools")
        os.makedirs(tools)
        with open(os.path.join(tools, "nvidia-container-cli"), "w") as file:
            file.write(f"#!/bin/sh\necho {odd}\n")
        os.chmod(os.path.join(tools, "nvidia-container-cli"), 0o755)
        result = self.cli(*self.DRIVER, "run", "--bundle", folder, "asks", env={**os.environ, "PATH": tools + ":" + os.environ["PATH"]}, stdin=subprocess.DEVNULL)
        assert result.returncode == 0 and "PASS" in result.stdout and "FAIL" not in result.stdout, result.stdout + result.stderr

    def test_hook_on_a_root_that_cannot_take_its_mounts(self):
        result = self.asking(environment=["NVIDIA_VISIBLE_DEVICES=0"], hook=True, cli=f"echo {self.rawrm}\n", read_only=True)
        assert result.returncode != 0 and "cannot make the mount point" in result.stderr, result.stderr

    def test_hook_without_the_toolkit(self):
        result = self.asking(environment=["NVIDIA_VISIBLE_DEVICES=all"], hook=True)
        assert result.returncode != 0 and "nvidia-container-cli cannot be run" in result.stderr, result.stderr

    def test_variables_alone_are_no_request(self):
        result = self.asking(environment=["NVIDIA_VISIBLE_DEVICES=all"])
        assert "FAIL open" in result.stdout, result.stdout + result.stderr

    def test_more_than_the_owner_allows(self):
        result = self.asking(devices=self.NODES, environment=["NVIDIA_DRIVER_CAPABILITIES=graphics"])
        assert result.returncode != 0 and "asks for graphics" in result.stderr, result.stderr

    def test_quota_by_annotation(self):
        result = self.asking("eat", devices=self.NODES, annotations={"org.amber.gpu.memory": "1GiB"})
        assert result.returncode == 0 and "allocated 1024 MiB" in result.stdout, result.stdout + result.stderr

    def test_two_cards(self):
        gpus = "".join(f"gpu minor={n} uuid=GPU-{n}{n}111111-1111-2222-3333-444455556666 pci=0000:{41 + n}:00.0 memory=80G\n" for n in (0, 1))
        which = ["/bin/sh", "-c", "ls /dev /proc/driver/nvidia/gpus | tr '\\n' ' '"]
        driver = self.config("version 580.159.04\n" + gpus)
        for choice, there, gone in (("0", "nvidia0", "nvidia1 "), ("1", "nvidia1", "nvidia0 "), ("0,1", "nvidia1", "xyz")):
            result = self.cli("do", *driver, f"--gpu-devices={choice}", "--tty=false", *which, stdin=subprocess.DEVNULL)
            assert there in result.stdout and gone not in result.stdout, (choice, result.stdout, result.stderr)


class CheckpointTests(RequestTests):
    """Of processes that use CUDA."""

    def test_save_and_restore(self):
        process = self.hold("hold", "64")
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.finish(self.restore())

    def test_three_cycles(self):
        process = self.hold("hold")
        for _ in range(3):
            frozen = self.checkpoint()
            assert frozen.returncode == 0, frozen.stderr
            self.gone(process)
            process = self.restore()
            self.wait_running("hold")
        self.finish(process)

    def test_one_image_twice(self):
        process = self.hold("hold")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        for _ in range(2):
            self.finish(self.restore())
            self.cli("delete", "--force", "hold")

    def test_leave_running(self):
        process = self.hold("hold")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        memory = json.loads(self.cli("events", "--stats", "hold").stdout)["data"]["gpu"]["devices"][0]["memory"]
        assert memory["usage"] == 18 << 20, memory
        processes = self.cli("ps", "hold").stdout
        assert "gpu-checkpoint" not in processes, processes
        self.finish(process)

    def test_timings(self):
        process = self.hold("hold")
        frozen = self.cli("--timings", "checkpoint", "--leave-running", "--image-path", self.image, "hold")
        assert frozen.returncode == 0, frozen.stderr
        for phase in ("GPU lock", "GPU drain", "GPU return"):
            assert phase in frozen.stderr, frozen.stderr
        self.finish(process)

    def test_paused_before(self):
        process = self.hold("hold")
        assert self.cli("pause", "hold").returncode == 0
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        assert self.cli("resume", "hold").returncode == 0
        self.finish(process)

    def test_threads_that_touch_device_memory_wait(self):
        process = self.hold("touch")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.finish(self.restore())

    def test_check_touches_nothing(self):
        process = self.hold("hold")
        checked = self.cli("checkpoint", "--check", "hold")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        self.finish(process)

    def fails(self, fail, *words, flags=()):
        process = self.hold("hold", fail=fail)
        frozen = self.checkpoint(*flags)
        assert frozen.returncode != 0, fail
        for word in words:
            assert word in frozen.stderr, (fail, frozen.stderr)
        assert set(os.listdir(self.image)) <= {"dump.log"}, fail
        return process

    def test_a_lock_that_times_out(self):
        self.finish(self.fails("lock=600", "GPU lock of process 1 (cudademo): not ready in time", "the GPU programs run on"))

    def test_a_checkpoint_that_fails(self):
        self.finish(self.fails("checkpoint=2", "GPU checkpoint of process 1 (cudademo): out of memory", "the GPU programs run on"))

    def test_a_library_that_hangs(self):
        self.finish(self.fails("lock=hang", "does not answer", "whether process 1 (cudademo) goes on is not known"))

    def helper_fails(self, helper, *words):
        """A checkpoint without its helper fails, and whatever the helper has done by then, the program runs on."""
        process = self.hold("hold", helper=helper)
        frozen = self.checkpoint()
        assert frozen.returncode != 0, helper
        for word in words:
            assert word in frozen.stderr, (helper, frozen.stderr)
        assert set(os.listdir(self.image)) <= {"dump.log"}, helper
        processes = self.cli("ps", "hold").stdout
        assert "gpu-checkpoint" not in processes, processes
        if "!" not in helper:
            # The next one works.
            shutil.rmtree(self.image)
            frozen = self.checkpoint("--leave-running")
            assert frozen.returncode == 0, (helper, frozen.stderr)
        self.finish(process)

    def test_a_helper_that_does_not_start(self):
        self.helper_fails("init=exit", "does not start", "has ended")

    def test_a_helper_that_is_killed_at_the_state(self):
        self.helper_fails("state=exit", "has ended")

    def test_a_helper_that_is_killed_at_the_lock(self):
        self.helper_fails("lock=exit", "GPU lock of process 1 (cudademo)", "has ended", "the GPU programs run on")

    def test_a_helper_that_is_killed_after_the_lock(self):
        self.helper_fails("lock=late", "GPU lock of process 1 (cudademo)", "has ended", "the GPU programs run on")

    def test_a_helper_that_is_killed_at_the_checkpoint(self):
        self.helper_fails("checkpoint=exit", "GPU checkpoint of process 1 (cudademo)", "has ended", "the GPU programs run on")

    def test_a_helper_that_is_killed_after_the_checkpoint(self):
        self.helper_fails("checkpoint=late", "GPU checkpoint of process 1 (cudademo)", "has ended", "the GPU programs run on")

    def test_a_helper_that_is_killed_at_every_lock(self):
        self.helper_fails("lock=exit!", "GPU lock of process 1 (cudademo)", "the GPU programs run on")

    def test_a_helper_that_hangs(self):
        self.helper_fails("lock=hang", "does not answer", "the GPU programs run on")

    def on_the_way_back(self, helper):
        """A helper that is lost on the way back is replaced, after a checkpoint and after a restore."""
        process = self.hold("hold", helper=helper)
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, (helper, frozen.stderr)
        self.finish(process)

    def test_a_helper_that_is_killed_at_the_restore(self):
        self.on_the_way_back("restore=exit")

    def test_a_helper_that_is_killed_after_the_restore(self):
        self.on_the_way_back("restore=late")

    def test_a_helper_that_is_killed_at_the_unlock(self):
        self.on_the_way_back("unlock=exit")

    def test_a_helper_that_is_killed_after_the_unlock(self):
        self.on_the_way_back("unlock=late")

    def test_a_helper_that_hangs_on_the_way_back(self):
        self.on_the_way_back("unlock=hang")

    def test_a_helper_that_is_killed_when_an_image_is_restored(self):
        for n, helper in enumerate(("restore=late", "unlock=exit")):
            if n > 0:
                shutil.rmtree(os.path.join(self.work, "cuda-root"))
            process = self.hold("hold", helper=helper)
            frozen = self.checkpoint()
            assert frozen.returncode == 0, frozen.stderr
            self.gone(process)
            self.finish(self.restore())
            self.cli("delete", "--force", "hold")
            shutil.rmtree(self.image)

    def test_a_helper_that_is_always_killed_at_the_restore(self):
        process = self.hold("hold", helper="restore=exit!")
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.refused(self.restore(), "GPU restore of process 1 (cudademo)", "has ended")

    HASTE = ("--gpu-copy-time=2",)

    def test_a_helper_that_hangs_in_the_copy(self):
        process = self.hold("hold", helper="checkpoint=hang", flags=self.HASTE)
        frozen = self.checkpoint()
        for words in ("GPU checkpoint of process 1 (cudademo)", "does not answer", "the GPU programs run on"):
            assert frozen.returncode != 0 and words in frozen.stderr, frozen.stderr
        assert set(os.listdir(self.image)) <= {"dump.log"}
        self.finish(process)

    def test_a_helper_that_hangs_in_the_copy_back(self):
        process = self.hold("hold", helper="restore=hang", flags=self.HASTE)
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        self.finish(process)

    def test_a_helper_that_hangs_when_an_image_is_restored(self):
        process = self.hold("hold", helper="restore=hang")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        self.finish(self.restore(*self.HASTE))

    def test_a_library_that_hangs_in_the_copy(self):
        """The program is lost, which is said; the sandbox is not."""
        process = self.hold("hold", fail="checkpoint=hang", flags=self.HASTE)
        frozen = self.checkpoint()
        for words in ("GPU checkpoint of process 1 (cudademo)", "does not answer", "whether process 1 (cudademo) goes on is not known"):
            assert frozen.returncode != 0 and words in frozen.stderr, frozen.stderr
        processes = self.cli("ps", "hold").stdout
        assert "cudademo" in processes and "gpu-checkpoint" not in processes, processes
        assert self.cli("kill", "hold", "KILL").returncode == 0
        self.gone(process)

    def test_a_library_that_hangs_in_the_copy_back(self):
        process = self.hold("hold", fail="restore=hang")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        self.refused(self.restore(*self.HASTE), "whether process 1 (cudademo) goes on is not known", "does not answer")

    def test_memory_is_there_before_the_copy_back(self):
        """What the driver would pin page by page is brought in at once: also if the library never gets to it."""
        process = self.hold("hold", "80", fail="restore=hang")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        restored = self.restore(*self.HASTE)
        most = 0
        while restored.poll() is None:
            most = max(most, self.stub_memory(restored.pid))
            time.sleep(0.02)
        self.refused(restored, "does not answer")
        assert most > 80 << 20, most

    def stub_memory(self, ancestor):
        """The resident memory of the largest process that a sandbox of this command line runs programs in."""
        parents, most = {}, 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as file:
                    name, rest = file.read().rsplit(")", 1)
                fields = rest.split()
                parents[int(pid)] = (name.split("(", 1)[1], int(fields[1]), int(fields[21]) * 4096)
            except (FileNotFoundError, ProcessLookupError):
                pass
        for name, parent, resident in parents.values():
            above = parent
            while above in parents and above != ancestor:
                above = parents[above][1]
            if name == "stub" and above == ancestor:
                most = max(most, resident)
        return most

    def image_size(self):
        return sum(os.stat(os.path.join(self.image, name)).st_blocks * 512 for name in os.listdir(self.image))

    def test_device_memory_in_images(self):
        """64 MiB of device memory are 64 MiB of an image, once; zeros are none of it."""
        sizes = {}
        for what, mib in (("hold", "16"), ("hold", "80"), ("zeros", "80")):
            process = self.hold(what, mib)
            assert self.checkpoint().returncode == 0
            self.gone(process)
            sizes[what, mib] = self.image_size()
            self.finish(self.restore())
            self.cli("delete", "--force", "hold")
            for folder in ("cuda-root", "cuda", "image"):
                shutil.rmtree(os.path.join(self.work, folder))
        more = sizes["hold", "80"] - sizes["hold", "16"]
        assert abs(more - (64 << 20)) < 1 << 20, sizes
        assert sizes["zeros", "80"] < sizes["hold", "16"] - (15 << 20), sizes

    def test_memory_that_is_unmapped_while_it_is_registered(self):
        result = self.cuda("races")
        assert result.returncode == 0 and "PASS" in result.stdout and "FAIL" not in result.stdout, result.stdout + result.stderr

    def test_containers_of_a_pod(self):
        """Each has the GPUs that it asked for, and who asked for none has none; also by nodes that it makes itself."""
        gpus = "".join(f"gpu minor={n} uuid=GPU-{n}{n}111111-1111-2222-3333-444455556666 pci=0000:{41 + n}:00.0 memory=80G\n" for n in (0, 1))
        driver = self.config("version 580.159.04\n" + gpus)
        shell = "for n in 0 1; do mknod /dev/gpu$n c 195 $n; if true </dev/nvidia$n; then echo has $n; fi; if true </dev/gpu$n; then echo made $n; fi; done 2>/dev/null; echo end"
        kinds = {"io.kubernetes.cri.sandbox-id": f"hold-{os.getpid()}"}
        pause = self.pod_bundle("pause", ["/bin/sleep", "60"], {**kinds, "io.kubernetes.cri.container-type": "sandbox"})
        process = self.start("run", "--bundle", pause, "hold", gpu=driver)
        self.wait_running("hold")
        for devices, has in (((0,), "has 0\nmade 0\n"), ((1,), "has 1\nmade 1\n"), ((0, 1), "has 0\nmade 0\nhas 1\nmade 1\n"), ((), ""), ((5,), None)):
            nodes = [(f"/dev/nvidia{n}", 195, n) for n in devices]
            folder = self.pod_bundle("asks", ["/bin/sh", "-c", shell], {**kinds, "io.kubernetes.cri.container-type": "container"}, nodes)
            flags = driver if devices else driver[1:]  # without --gpu only those that ask get any
            name = "-".join(["asks", *map(str, devices), str(os.getpid())])
            result = self.cli(*flags, "run", "--bundle", folder, name, stdin=subprocess.DEVNULL)
            self.cli("delete", "--force", name)
            if has is None:
                assert result.returncode != 0 and 'the sandbox has no GPU "minor:5"' in result.stderr, result.stderr
            else:
                assert result.returncode == 0 and result.stdout == has + "end\n", (devices, result.stdout, result.stderr)
        self.cli("kill", "hold", "KILL")
        self.gone(process)

    def pod_bundle(self, name, command, annotations, devices=()):
        """A bundle of the machine's own root."""
        folder = os.path.join(self.work, name)
        shutil.rmtree(folder, ignore_errors=True)
        bundle.write(folder, "/", command)
        path = os.path.join(folder, "config.json")
        with open(path) as file:
            config = json.load(file)
        config["annotations"] = annotations
        config["mounts"].append({"destination": "/sys", "type": "sysfs", "source": "sysfs"})
        config["linux"]["devices"] = [{"path": path, "type": "c", "major": major, "minor": minor} for path, major, minor in devices]
        with open(path, "w") as file:
            json.dump(config, file)
        return folder

    def test_a_target_that_dies(self):
        process = self.fails("checkpoint=exit", "ended before it answered")  # it was the container's only one
        self.gone(process)

    def test_a_restore_that_fails_names_what_is_lost(self):
        process = self.hold("hold", fail="restore=2")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode != 0 and "GPU restore of process 1 (cudademo): out of memory" in frozen.stderr, frozen.stderr
        self.cli("kill", "hold", "KILL")
        self.gone(process)

    def refused(self, process, *words):
        text = process.communicate("", LIMIT)[0]
        assert process.returncode != 0, text
        for word in words:
            assert word in text, text

    def test_restore_elsewhere(self):
        process = self.hold("hold")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        other = "gpu minor=3 uuid=GPU-11111111-1111-2222-3333-444455556666 pci=0000:81:00.0 memory=80G\n"
        version = "version 580.159.04\n"
        self.refused(self.restore(gpu=self.config("version 580.159.03\n" + other)), "580.159.04", "580.159.03")
        self.refused(self.restore(gpu=["--overlay=none"]), "restore it with --gpu")
        self.refused(self.restore(gpu=self.config(version + other.replace("80G", "16M"))), "18 MiB of memory of GPU 3", "16 MiB are free")
        self.refused(self.restore("--gpu-memory=4MiB"), "--gpu-memory is 4 MiB")
        self.refused(self.restore(gpu=self.config(version + other.replace("80G", "80G held=79G").replace("79G", "81915M"))), "18 MiB of memory of GPU 3",
                     "5 MiB are free", "try again when others have given theirs back")
        self.refused(self.restore(gpu=["--gpu"]), "no NVIDIA driver on this machine")
        self.refused(self.restore(gpu=self.config(version + other.replace("80G", "80G lost-at=0x20801303"))), "GPU")
        same_minor = other.replace("minor=3", "minor=0")
        self.finish(self.restore(gpu=self.config(version + same_minor)))


class AllTests(CheckpointTests, SeveralTests):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("--programs", help="folder with rawrm, cudademo and libcuda.so.1 (default: built)")
    parser.add_argument("tests", nargs="*", metavar="TEST")
    options = parser.parse_args()
    programs = options.programs or os.path.join(ROOT, "bazel-bin", "test", "gpu")
    if not options.programs:
        subprocess.run(["bazel", "build", "//test/gpu:programs"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    passed = failed = 0
    names = sorted(name for name in dir(AllTests) if name.startswith("test_"))
    for name in options.tests or names:
        with tempfile.TemporaryDirectory(prefix="sandbox-gpu-") as work:
            tests = AllTests(os.path.abspath(options.sandbox), os.path.realpath(programs), work)
            try:
                getattr(tests, name)()
                passed += 1
                print(f"PASS {name}")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAIL {name}: {error}")
            finally:
                for container in ("hold", "busy", "asks"):
                    tests.cli("delete", "--force", container)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
