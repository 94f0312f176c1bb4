"""Where a benchmark program runs: natively in a chroot, or under a runtime in an OCI bundle.

All see the same root (read-only), the programs on /srv, the data on /mnt and a tmpfs on /tmp.
"""

import itertools
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "programs"))
import bundle  # noqa: E402

ENVIRONMENT = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory",
               "GIT_CONFIG_VALUE_0": "*"}
_numbers = itertools.count(1)


class Native:
    name = "native"
    runtime = None

    def __init__(self, work, rootfs, programs, data):
        self.rootfs, self.programs, self.data = rootfs, programs, data
        self.mount = os.path.join(work, "root")
        os.makedirs(self.mount, exist_ok=True)

    def command(self, arguments):
        """The command that runs `arguments`, and what to call afterwards."""
        script = "\n".join([
            "set -e",
            "ip link set lo up",
            f"mount --rbind {self.rootfs} {self.mount}",
            f"cd {self.mount}",
            "mount -o remount,bind,ro .",
            "mount -t proc proc proc",
            "mount --rbind /dev dev",
            f"mount --bind {self.programs} srv",
            f"mount --bind {self.data} mnt",
            "mount -t tmpfs -o size=4g,mode=1777 tmpfs tmp",
            'exec chroot . "$@"',
        ])
        variables = dict(bundle.BASE_ENVIRONMENT, **ENVIRONMENT)
        command = ["env", "-i", *(f"{k}={v}" for k, v in variables.items()),
                   "unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child",
                   "sh", "-c", script, "sh", *arguments]
        return command, lambda: None


class Runtime:
    """runc, runsc or the sandbox: all take runc's verbs."""

    def __init__(self, name, program, flags, work, rootfs, programs, data):
        self.name, self.work = name, work
        self.rootfs, self.programs, self.data = rootfs, programs, data
        self.program = program
        self.runtime = [program, *flags, "--root", os.path.join(work, "state-" + name)]

    def bundle(self, arguments):
        """A new bundle; returns (container name, folder)."""
        name = f"bench-{os.getpid()}-{next(_numbers)}"
        folder = bundle.write(
            os.path.join(self.work, name), self.rootfs, arguments, environment=ENVIRONMENT,
            binds=[(self.programs, "/srv"), (self.data, "/mnt", "rw")])
        return name, folder

    def delete(self, name):
        subprocess.run([*self.runtime, "delete", "--force", name], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def command(self, arguments):
        name, folder = self.bundle(arguments)

        def clean():
            self.delete(name)
            shutil.rmtree(folder, ignore_errors=True)

        return [*self.runtime, "run", "--bundle", folder, name], clean


def find(sandbox, before, work, rootfs, programs, data):
    """The targets that this machine has, native first."""
    targets = [Native(work, rootfs, programs, data)]
    for name, flags in (("runc", []), ("runsc", ["--network=none"])):
        program = shutil.which(name)
        if program:
            targets.append(Runtime(name, program, flags, work, rootfs, programs, data))
    for name, program in (("before", before), ("sandbox", sandbox)):
        if program and os.path.exists(program):
            targets.append(Runtime(name, os.path.realpath(program), [], work, rootfs, programs, data))
    return targets
