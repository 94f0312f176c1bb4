"""Checkpoints of several processes, and restores among other GPUs. Part of run.py, whose tests' methods are used."""

import json
import os
import re
import shutil
import subprocess
import time


LIMIT = 60
VERSION = "version 580.159.04\n"


def card(letter, minor, bus, more=""):
    """A GPU of a fake driver; the letter, a hexadecimal digit, is what tells it from others."""
    return f"gpu minor={minor} uuid=GPU-{letter * 8}-1111-2222-3333-444455556666 pci=0000:{bus}:00.0 memory=80G {more}\n"


class SeveralTests:
    def milliseconds(self, text):
        """What --timings says, by phase."""
        return {name: float(value) for name, value in re.findall(r"(GPU lock|GPU drain|GPU return|paused|total) ([0-9.]+) ms", text)}

    def test_several_processes(self):
        process = self.hold("several", "3")
        for _ in range(2):
            frozen = self.checkpoint("--leave-running")
            assert frozen.returncode == 0, frozen.stderr
            shutil.rmtree(self.image)
        assert self.cli("ps", "hold").stdout.count("cudademo") == 4
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.finish(self.restore(), "helpers 6")

    def several_but_one(self, fail, *words, flags=()):
        """One of four fails at a step: all are brought back and run on, and the next checkpoint finds them as they were."""
        process = self.hold("several", "3", "2", fail)
        frozen = self.checkpoint(*flags)
        assert frozen.returncode != 0, fail
        for word in words:
            assert word in frozen.stderr, (fail, frozen.stderr)
        assert "process 1 " not in frozen.stderr, frozen.stderr  # that is the parent
        assert set(os.listdir(self.image)) <= {"dump.log"}, fail
        assert self.cli("ps", "hold").stdout.count("cudademo") == 4
        self.finish(process)

    def test_one_of_several_is_not_locked(self):
        self.several_but_one("lock=600", "GPU lock of process", "not ready in time", "the GPU programs run on")

    def test_one_of_several_is_not_drained(self):
        self.several_but_one("checkpoint=2", "GPU checkpoint of process", "out of memory", "the GPU programs run on")

    def test_one_of_several_keeps_its_memory(self):
        self.several_but_one("checkpoint=keep", "still holds GPU objects after its checkpoint", "the GPU programs run on")

    def test_one_of_several_is_lost_when_it_is_drained(self):
        self.several_but_one("checkpoint=lost", "operating system error", "and the process is lost", "on the way back: process", "is lost")

    def test_one_of_several_is_not_restored(self):
        self.several_but_one("restore=2", "GPU restore of process", "out of memory", flags=("--leave-running",))

    def test_one_of_several_dies(self):
        """It ends by itself while it is drained: the others are saved."""
        process = self.hold("several", "3", "2", "checkpoint=exit")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        process.stdin.write("go on\n")
        process.stdin.flush()
        text = self.read_until(process, "held")
        assert text.count("FAIL") == 1 and "FAIL a child has held: 2304" in text, text  # exit status 9
        process.wait(LIMIT)

    def test_several_in_an_image_and_one_is_not_restored(self):
        process = self.hold("several", "3", "2", "restore=2")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        process = self.restore()
        text = process.stdout.read()  # its input stays open: those that are back go on
        assert process.wait(LIMIT) != 0 and "GPU restore of process" in text and "(cudademo): out of memory" in text, text

    def test_a_helper_that_is_lost_among_several(self):
        for helper in ("lock=late", "checkpoint=late"):
            process = self.hold("several", "2", helper=helper)
            frozen = self.checkpoint()
            assert frozen.returncode != 0 and "the GPU programs run on" in frozen.stderr, frozen.stderr
            self.finish(process)
            self.clean()

    def test_a_child_that_ends_while_the_others_are_restored(self):
        """The parent is back first, is told to end at once, and kills the one that cannot be restored: its files are closed, and nobody waits for them."""
        process = self.hold("several", "3", "2", "restore=2")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        for _ in range(3):
            begin = time.monotonic()
            process = self.restore()
            text = process.communicate("", LIMIT)[0]
            assert process.returncode == 0 or "GPU restore of process" in text, text
            assert time.monotonic() - begin < 30
            self.cli("delete", "--force", "hold")

    def clean(self):
        self.cli("delete", "--force", "hold")
        for folder in ("cuda-root", "cuda", "image"):
            shutil.rmtree(os.path.join(self.work, folder), ignore_errors=True)

    def test_programs_that_start_others_all_the_time(self):
        """A checkpoint takes those that are there, or says which one came too late; either way all run on."""
        process = self.hold("starts")
        good = 0
        for _ in range(4):
            frozen = self.checkpoint("--leave-running")
            good += frozen.returncode == 0
            assert frozen.returncode == 0 or "process" in frozen.stderr, frozen.stderr
            shutil.rmtree(self.image)
        text = self.finish(process)
        assert good > 0 and int(re.search("started ([0-9]+)", text).group(1)) > 4, (good, text)

    def test_a_program_that_has_only_started_cuda(self):
        process = self.hold("idle")
        assert self.checkpoint("--leave-running").returncode == 0
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.finish(self.restore())

    def test_children_that_hold_inherited_files(self):
        """As workers of data loaders do, which are forked when CUDA has been started."""
        process = self.hold("fork")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        frozen = self.checkpoint()
        assert frozen.returncode == 0, frozen.stderr
        self.gone(process)
        self.finish(self.restore(), "ok a child without a program")

    def test_the_first_thread_has_ended(self):
        process = self.hold("gone")
        frozen = self.checkpoint("--leave-running")
        assert frozen.returncode == 0, frozen.stderr
        assert self.checkpoint().returncode == 0
        self.gone(process)
        self.finish(self.restore())

    def test_a_kernel_that_ends_in_time_and_one_that_does_not(self):
        process = self.hold("spin", "3000")
        frozen = self.cli("--timings", "checkpoint", "--leave-running", "--image-path", self.image, "hold")
        assert frozen.returncode == 0 and 1000 < self.milliseconds(frozen.stderr)["GPU lock"] < 9000, frozen.stderr
        self.finish(process)
        self.clean()
        begin = time.monotonic()
        process = self.hold("spin", "40000")
        frozen = self.checkpoint()
        assert frozen.returncode != 0 and "not ready in time" in frozen.stderr and "the GPU programs run on" in frozen.stderr, frozen.stderr
        assert 9 < time.monotonic() - begin < 30
        self.finish(process)

    def test_timings_add_up(self):
        process = self.hold("several", "2")
        for flags in (("--leave-running",), ()):
            frozen = self.cli("--timings", "checkpoint", *flags, "--image-path", self.image, "hold")
            assert frozen.returncode == 0, frozen.stderr
            times = self.milliseconds(frozen.stderr)
            parts = [times[name] for name in ("GPU lock", "GPU drain", "paused")] + ([times["GPU return"]] if flags else [])
            assert all(part > 0 for part in parts) and sum(parts) <= times["total"] + 1, frozen.stderr
            assert ("GPU return" in times) == bool(flags), frozen.stderr
            shutil.rmtree(self.image)
        self.gone(process)

    def test_one_start_of_cuda_for_each_way(self):
        """A checkpoint starts CUDA once, and so does what brings programs back."""
        process = self.hold("several", "2")
        assert self.checkpoint().returncode == 0
        self.gone(process)
        self.finish(self.restore(), "helpers 2")

    # --- other GPUs ---

    def hold_on(self, gpus, device):
        """A program on one of the driver's GPUs."""
        return self.hold("hold", device=device, gpu=self.config(VERSION + "".join(gpus)))

    def test_restore_among_other_gpus(self):
        a, b = card("a", 0, 41), card("b", 1, 42)
        process = self.hold_on((a, b), 1)
        assert self.checkpoint().returncode == 0
        self.gone(process)

        def machine(*gpus):
            return self.config(VERSION + "".join(gpus))

        for flags, gpus in (((), (a,)), (("--gpu-devices=0",), (a, b))):
            self.refused(self.restore(*flags, gpu=machine(*gpus)), "the image needs 2 GPUs, and the sandbox has 1")
        self.refused(self.restore(gpu=machine(a, card("b", 1, 42, "held=81915M"))), "MiB of memory of GPU 1", "5 MiB are free")
        pcis = " 0000:41:00.0 0000:42:00.0\n"
        more = (card("a", 0, 40), card("c", 1, 41), card("d", 4, 43), card("b", 3, 42))
        for gpus, sees in (((a, b), "bbbb minor 1; nvidia0 nvidia1" + pcis),
                           ((card("b", 0, 41), card("a", 1, 42)), "bbbb minor 0; nvidia0 nvidia1" + pcis),
                           (more, "bbbb minor 3; nvidia0 nvidia3 0000:40:00.0 0000:42:00.0\n"),
                           ((card("c", 6, 41), card("d", 5, 42), card("e", 7, 43)), "dddd minor 5; nvidia5 nvidia6" + pcis)):
            self.finish(self.restore(gpu=machine(*gpus)), "sees 2 GPUs, is on " + sees)
            self.cli("delete", "--force", "hold")
        # Its own kind of card, where there are others.
        other = "device=0x20b0"
        gpus = (card("c", 0, 41, other), card("d", 1, 42), card("e", 2, 43))
        self.finish(self.restore(gpu=machine(*gpus)), "is on eeee minor 2")

    def test_flags_bound_requests(self):
        """--gpu-devices is the limit, and a container chooses within it."""
        driver = self.config(VERSION + card("a", 0, 41) + card("b", 1, 42))[1:]
        nodes = {n: (f"/dev/nvidia{n}", 195, n) for n in (0, 1)}
        control = ("/dev/nvidiactl", 195, 255)
        uuid = "GPU-bbbbbbbb-1111-2222-3333-444455556666"
        for flag, asked, sees in (("1", (1,), "nvidia1"), (uuid, (1,), "nvidia1"), ("0,1", (0,), "nvidia0"), (uuid, (0, 1), None)):
            folder = self.pod_bundle("asks", ["/bin/sh", "-c", "echo $(ls /dev | grep 'nvidia[0-9]')"], {}, [nodes[n] for n in asked] + [control])
            result = self.cli(*driver, f"--gpu-devices={flag}", "run", "--bundle", folder, "asks", stdin=subprocess.DEVNULL)
            self.cli("delete", "--force", "asks")
            if sees is None:
                assert result.returncode != 0 and "is asked for, and --gpu-devices does not have it" in result.stderr, result.stderr
            else:
                assert result.returncode == 0 and result.stdout == sees + "\n", (flag, asked, result.stdout, result.stderr)
        result = self.cli("do", "--gpu", *driver, "--gpu-devices=,", "--tty=false", "/bin/true", stdin=subprocess.DEVNULL)
        assert result.returncode != 0 and "--gpu-devices names no GPU" in result.stderr, result.stderr

    def test_containers_see_their_own_gpus_alone(self):
        """In /proc and /sys; those that have none see nothing of the driver's."""
        driver = self.config(VERSION + card("a", 0, 41) + card("b", 1, 42))
        shell = "cd /; echo $(ls /proc/driver/nvidia/gpus /sys/bus/pci/devices 2>/dev/null | grep 00) $(cat /sys/bus/pci/devices/*/vendor 2>/dev/null); " \
                "for n in 41 42; do " \
                "cat /proc/driver/nvidia/gpus/0000:$n:00.0/information /sys/bus/pci/devices/0000:$n:00.0/class >/dev/null 2>&1 && echo $n; done; " \
                "test -e /proc/driver/nvidia/version && echo version; test -e /sys/module/nvidia/version && echo module; exit 0"
        kinds = {"io.kubernetes.cri.sandbox-id": f"hold-{os.getpid()}"}
        pause = self.pod_bundle("pause", ["/bin/sleep", "60"], {**kinds, "io.kubernetes.cri.container-type": "sandbox"})
        process = self.start("run", "--bundle", pause, "hold", gpu=driver)
        self.wait_running("hold")
        both, one, two = "0000:41:00.0 0000:42:00.0", "0000:41:00.0", "0000:42:00.0"
        for devices, sees in (((0,), f"{one} {one} 0x10de\n41\nversion\nmodule\n"), ((1,), f"{two} {two} 0x10de\n42\nversion\nmodule\n"),
                              ((0, 1), f"{both} {both} 0x10de 0x10de\n41\n42\nversion\nmodule\n"), ((), "\n")):
            nodes = [(f"/dev/nvidia{n}", 195, n) for n in devices]
            folder = self.pod_bundle("asks", ["/bin/sh", "-c", shell], {**kinds, "io.kubernetes.cri.container-type": "container"}, nodes)
            name = "-".join(["asks", *map(str, devices), str(os.getpid())])
            result = self.cli(*(driver if devices else driver[1:]), "run", "--bundle", folder, name, stdin=subprocess.DEVNULL)
            self.cli("delete", "--force", name)
            assert result.returncode == 0 and result.stdout == sees, (devices, result.stdout, result.stderr)
        self.cli("kill", "hold", "KILL")
        self.gone(process)

    def test_checkpoint_and_restore_without_flags(self):
        """The bundle asks, as engines have it: neither command is told anything of GPUs. (Which driver there is, is the machine's.)"""
        driver = self.config(VERSION + card("a", 0, 41) + card("b", 1, 42))[1:]
        nodes = [{"path": path, "type": "c", "major": major, "minor": minor} for path, major, minor in
                 (("/dev/nvidia1", 195, 1), ("/dev/nvidiactl", 195, 255), ("/dev/nvidia-uvm", 511, 0))]

        def ask(minor):
            path = os.path.join(self.work, "cuda", "config.json")
            with open(path) as file:
                config = json.load(file)
            config["linux"]["devices"] = [{**nodes[0], "path": f"/dev/nvidia{minor}", "minor": minor}, *nodes[1:]]
            with open(path, "w") as file:
                json.dump(config, file)

        self.prepare("hold")
        ask(1)
        process = self.start_held(gpu=driver)
        assert self.cli("checkpoint", "--image-path", self.image, "hold").returncode == 0
        self.gone(process)
        self.finish(self.restore(gpu=driver), "sees 1 GPUs, is on bbbb minor 1; nvidia1 0000:42:00.0\n")
        self.cli("delete", "--force", "hold")
        # A machine with fewer GPUs has all that the container had.
        ask(3)
        gpu = self.config(VERSION + card("b", 3, 43))[1:]
        self.finish(self.restore(gpu=gpu), "sees 1 GPUs, is on bbbb minor 3; nvidia3 0000:43:00.0\n")

    def test_what_nvml_leaves_among_other_gpus(self):
        """Files and clients of a program that only asks: on the GPU that takes its own's place, or an error."""
        folder, image = self.bundle("hold", "hold"), os.path.join(self.work, "hold.image")
        process = self.start("run", "--bundle", folder, "hold", gpu=self.config(VERSION + card("a", 0, 41)))
        self.read_until(process, "ready")
        self.wait_running("hold")
        assert self.cli("checkpoint", "--image-path", image, "hold").returncode == 0
        self.gone(process)
        after = self.start("restore", "--image-path", image, "--bundle", folder, "hold", gpu=self.config(VERSION + card("c", 0, 7) + card("d", 1, 8)))
        self.finish(after)


