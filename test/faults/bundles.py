"""Bundles, programs and names that are wrong or hostile."""

import os
import random
import struct
import subprocess

from world import Failure, fails_clearly, require

HELLO = ["/bin/echo", "hello"]


def plain(world):
    """The harness itself: a good bundle runs."""
    result = world.run(world.bundle(HELLO))
    require((result.returncode, result.stdout) == (0, "hello\n"),
            f"status {result.returncode}: {result.stdout}{result.stderr[:200]}")


def no_config(world):
    folder = os.path.join(world.work, "empty")
    os.makedirs(folder)
    fails_clearly(world.run(folder), "config.json")


def no_bundle(world):
    fails_clearly(world.run(os.path.join(world.work, "nowhere")), "nowhere", "config.json")


def broken_json(world):
    for number, text in enumerate((
            "", "{", "[]", "null", '{"process": 3}', '{"process": {"args": "x"}}', "\0\0\0",
            '{"root": {"path": 7}}', "{" * 100000, "[" * 100000, '{"a": "\\ud800"}',
            '{"process": {"args": [1, 2]}}', '{"ociVersion": "1.0.2"}', "\xff\xfe{}")):
        folder = world.bundle(HELLO, lambda _, text=text: text, name=f"broken{number}")
        fails_clearly(world.run(folder))


def unknown_fields(world):
    def edit(config):
        config["whatIsThis"] = {"deep": [1, {"er": None}]}
        config["process"]["unheardOf"] = True
        config["linux"]["future"] = {"x": 1}

    result = world.run(world.bundle(HELLO, edit))
    require(result.stdout == "hello\n", f"unknown fields are not ignored: {result.stderr[:200]}")


def missing_root(world):
    def edit(config):
        config["root"]["path"] = "/no/such/root"

    fails_clearly(world.run(world.bundle(HELLO, edit)), "/no/such/root")


def root_is_a_file(world):
    def edit(config):
        config["root"]["path"] = "/etc/passwd"

    fails_clearly(world.run(world.bundle(HELLO, edit)))


def no_arguments(world):
    def edit(config):
        config["process"]["args"] = []

    fails_clearly(world.run(world.bundle(HELLO, edit)), "args")


def missing_program(world):
    fails_clearly(world.run(world.bundle(["/no/such/program"])), "/no/such/program")


def not_executable(world):
    fails_clearly(world.run(world.bundle(["/etc/passwd"])), "/etc/passwd", "permission")
    fails_clearly(world.run(world.bundle(["/etc"], name="second")), "/etc", "permission")


def missing_directory(world):
    def edit(config):
        config["process"]["cwd"] = "/not/there"

    result = world.run(world.bundle(["/bin/pwd"], edit, read_only=True))
    # runc makes the directory where it can; saying so is as good.
    require(result.returncode != 0 or result.stdout.strip() == "/not/there",
            f"it ran in {result.stdout.strip()}")


def hostile_names(world):
    folder = world.bundle(HELLO)
    for name in ("../escape", "a/b", "..", ".", "", "x" * 2000, "new\nline", "nul\x01", "--flag"):
        result = world.call("run", "--bundle", folder, name)
        require(result.returncode != 0, f"the name {name[:20]!r} was taken")
        require("hello" not in result.stdout, f"the name {name[:20]!r} ran")
    require(not os.path.exists(os.path.join(world.work, "escape")), "a name left its folder")


def name_in_use(world):
    first = world.start(["/bin/sh", "-c", "echo up; sleep 60"])
    world.wait_for_output("up")
    result = world.run(world.bundle(HELLO, name="second"))
    fails_clearly(result, "exist", "in use")
    require(first.poll() is None, "the first container ended")
    world.call("delete", "--force", world.id)
    first.wait(timeout=20)


def mount_through_a_link(world):
    """A destination below a symbolic link that leaves the root: nothing of the host may change."""
    target = os.path.join(world.work, "host")
    os.makedirs(target)
    root = os.path.join(world.work, "root")
    os.makedirs(root)
    subprocess.run(["cp", "/bin/busybox", os.path.join(root, "busybox")], check=True)
    os.symlink(target, os.path.join(root, "way-out"))
    os.symlink("../../../../../../" + target, os.path.join(root, "other"))

    def edit(config):
        config["root"] = {"path": root, "readonly": False}
        config["mounts"] = [
            {"destination": place, "type": "tmpfs", "source": "tmpfs"}
            for place in ("/way-out/in", "/other/in", "/../../../../" + target + "/dots")
        ]

    world.run(world.bundle(["/busybox", "true"], edit))
    require(os.listdir(target) == [], f"the host's folder got {os.listdir(target)}")


def mount_of_nothing(world):
    def edit(config):
        config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "/no/source",
                                 "options": ["rbind"]})

    fails_clearly(world.run(world.bundle(HELLO, edit)), "/no/source", "/mnt")


def elf_header(phoff=64, phnum=1, machine=62, kind=2, entry=0x400078, phentsize=56):
    return struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", kind, machine, 1, entry, phoff,
                       0, 0, 64, phentsize, phnum, 64, 0, 0)


def segment(kind=1, flags=5, offset=0, address=0x400000, in_file=0x1000, in_memory=0x1000,
            align=0x1000):
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, in_file, in_memory,
                       align)


def elf_garbage():
    """Name and bytes of executables that no kernel can run."""
    rng = random.Random(11)
    top = (1 << 64) - 1
    yield "empty", b""
    yield "magic only", b"\x7fELF"
    yield "half a header", elf_header()[:40]
    yield "no segments", elf_header(phnum=0)
    yield "65,535 segments", elf_header(phnum=65535) + segment()
    yield "headers beyond the end", elf_header(phoff=1 << 40) + segment()
    yield "headers at the end of time", elf_header(phoff=top - 8) + segment()
    yield "odd header size", elf_header(phentsize=1) + segment()
    yield "another machine", elf_header(machine=183) + segment()
    yield "object file", elf_header(kind=1) + segment()
    yield "more in file than in memory", elf_header() + segment(in_file=0x5000)
    yield "segment over the top", elf_header() + segment(address=top - 0xfff, in_memory=0x10000)
    yield "segment of the kernel", elf_header() + segment(address=0xffff800000000000)
    yield "endless memory", elf_header() + segment(in_memory=1 << 62)
    yield "odd alignment", elf_header() + segment(offset=123)
    yield "nul interpreter", elf_header() + segment(kind=3, in_file=0, in_memory=0)
    yield "endless interpreter", elf_header() + segment(kind=3, in_file=1 << 40)
    yield "interpreter is itself", (elf_header(phnum=2) + segment(kind=3, offset=176, in_file=9) +
                                    segment() + b"/srv/elf\0")
    yield "script of itself", b"#!/srv/elf\n"
    yield "script of nothing", b"#!\n"
    yield "script of a long name", b"#!" + b"/x" * 5000 + b"\n"
    for number in range(8):
        yield f"noise {number}", elf_header() + rng.randbytes(200)


def elf_programs(world):
    """None may run, hang or take the sandbox with it; the shell that tries them goes on."""
    failed = []
    path = os.path.join(world.work, "elf")
    script = 'timeout 10 /srv/elf >/dev/null 2>&1; s=$?; echo "status $s"'
    for name, content in elf_garbage():
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o755)
        result = world.run(world.bundle(["/bin/sh", "-c", script]))
        status = result.stdout.strip()
        # An empty file and text are scripts to a shell, which is no failure of the kernel's.
        if not status.startswith("status") or status in ("status 124", "status 137"):
            failed.append(f"{name}: {status or result.stderr[:80]}")
    if failed:
        raise Failure("; ".join(failed))


def json_log(world):
    """With --log the error is a line of JSON, as engines want it."""
    import json
    log = os.path.join(world.work, "log.json")
    runtime = [world.program, "--root", world.state, "--log", log, "--log-format", "json"]
    result = world.call("run", "--bundle", "/no/such/bundle", world.id, runtime=runtime)
    require(result.returncode != 0, "it ended with status 0")
    with open(log) as file:
        entries = [json.loads(line) for line in file]
    require(any(e.get("level") == "error" and e.get("msg") and e.get("time") for e in entries),
            f"no error among {entries}")


CASES = [plain, no_config, no_bundle, broken_json, unknown_fields, missing_root, root_is_a_file,
         no_arguments, missing_program, not_executable, missing_directory, hostile_names,
         name_in_use, mount_through_a_link, mount_of_nothing, elf_programs, json_log]
