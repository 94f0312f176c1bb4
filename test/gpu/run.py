#!/usr/bin/env python3
"""Whole sandboxes with GPUs, on a driver that does not exist (nvproxy/fake).

  test/gpu/run.py [--sandbox bazel-bin/sandbox] [--programs bazel-bin/test/gpu] [TEST...]

Ends with the line `N passed, N failed`; exit status 1 if anything failed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "test", "programs"))
import bundle  # noqa: E402

LIMIT = 60
GPU = ["--gpu", f"--gpu-driver=fake:{os.path.join(HERE, 'one_h100.txt')}"]


class Tests:
    """Each method `test_*` is one test; it raises AssertionError."""

    def __init__(self, sandbox, programs, work):
        self.sandbox, self.programs, self.work = sandbox, programs, work
        self.rawrm = os.path.join(programs, "rawrm")
        self.state = os.path.join(work, "state")

    def cli(self, *arguments, **options):
        return subprocess.run([self.sandbox, "--root", self.state, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False, **options)

    def do(self, *arguments, flags=()):
        return self.cli("do", *GPU, *flags, "--tty=false", *arguments, stdin=subprocess.DEVNULL)

    def test_every_step_of_a_start(self):
        result = self.do(self.rawrm)
        assert result.returncode == 0 and "FAIL" not in result.stdout and "PASS" in result.stdout, result.stdout + result.stderr

    def test_quota(self):
        result = self.do(self.rawrm, "eat", flags=["--gpu-memory=2GiB"])
        assert result.returncode == 0 and "allocated 2048 MiB" in result.stdout, result.stdout + result.stderr

    def test_whole_card_without_quota(self):
        result = self.do(self.rawrm, "eat")
        assert result.returncode == 0 and "allocated 81920 MiB" in result.stdout, result.stdout + result.stderr

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
            (["--gpu"], "real NVIDIA driver is not supported yet"),
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

    def bundle(self, name, *arguments):
        root = os.path.join(self.work, name + "-root")
        os.makedirs(root)
        for folder in ("proc", "dev", "tmp", "sys"):
            os.mkdir(os.path.join(root, folder))
        shutil.copy(self.rawrm, root)
        return bundle.write(os.path.join(self.work, name), root, ["/rawrm", *arguments])

    def start(self, *arguments):
        command = [self.sandbox, "--root", self.state, *GPU, *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def read_until(self, process, word):
        text = ""
        for line in process.stdout:
            text += line
            if word in line:
                return text
        raise AssertionError(f"no {word!r} in: {text}")

    def test_checkpoint_of_what_nvml_leaves(self):
        folder, image = self.bundle("hold", "hold"), os.path.join(self.work, "hold.image")
        before = self.start("run", "--bundle", folder, "hold")
        self.read_until(before, "ready")
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
        events = json.loads(self.cli("events", "--stats", "busy").stdout)["data"]["gpu"]
        memory = events["devices"][0]["memory"]
        # What a context is taken to cost is charged with the first of a process, which rawrm has none of.
        assert memory == {"usage": 1 << 20, "max": 1 << 20, "limit": 8 << 30}, events
        assert events["devices"][0]["uuid"].startswith("GPU-6f2d1c00") and events["calls"] > 5, events
        stats = self.cli("debug", "--stats", "busy").stdout
        assert "gpu 0 bytes 1048576 peak 1048576 limit 8589934592" in stats, stats
        process.communicate("go on\n", LIMIT)
        assert process.returncode == 0

    def test_checkpoint_refuses_gpu_memory(self):
        folder = self.bundle("busy", "busy")
        process = self.start("run", "--bundle", folder, "busy")
        self.read_until(process, "ready")
        frozen = self.cli("checkpoint", "--image-path", os.path.join(self.work, "busy.image"), "busy")
        assert frozen.returncode != 0 and "NV01_MEMORY_LOCAL_USER" in frozen.stderr, frozen.stderr
        process.stdin.write("go on\n")
        process.stdin.flush()
        self.read_until(process, "held")  # it runs on
        assert process.wait(LIMIT) == 0


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
    names = sorted(name for name in dir(Tests) if name.startswith("test_"))
    for name in options.tests or names:
        with tempfile.TemporaryDirectory(prefix="sandbox-gpu-") as work:
            tests = Tests(os.path.abspath(options.sandbox), os.path.realpath(programs), work)
            try:
                getattr(tests, name)()
                passed += 1
                print(f"PASS {name}")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failed += 1
                print(f"FAIL {name}: {error}")
            finally:
                for container in ("hold", "busy"):
                    tests.cli("delete", "--force", container)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
