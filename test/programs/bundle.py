"""An OCI bundle over the Debian root file system that tools/rootfs.sh makes.

The root is read-only to the container and /tmp is a tmpfs, so that every run starts alike and
the cached root stays as it is.
"""

import json
import os

CAPABILITIES = [
    "CAP_" + name
    for name in (
        "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP "
        "SETGID SETPCAP SETUID SYS_CHROOT"
    ).split()
]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTNAME = "amber-test"
BASE_ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/tmp", "TERM": "dumb"}


def mounts(binds, scratch=()):
    yield {"destination": "/proc", "type": "proc", "source": "proc"}
    yield {
        "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    }
    yield {
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    }
    yield {
        "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "nodev", "mode=1777", "size=1g"],
    }
    yield {
        "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "nodev", "mode=1777", "size=4g"],
    }
    for path in scratch:
        yield {
            "destination": path, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=755"],
        }
    for source, destination, *writable in binds:
        yield {
            "destination": destination, "type": "bind", "source": os.path.abspath(source),
            "options": ["rbind", "rw" if writable else "ro"],
        }


def config(rootfs, arguments, *, binds=(), scratch=(), pids=None, environment=None, read_only=True):
    """The config.json of a container that runs `arguments`."""
    variables = dict(BASE_ENVIRONMENT, **(environment or {}))
    resources = {"devices": [{"allow": False, "access": "rwm"}]}
    if pids:
        resources["pids"] = {"limit": pids}
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "hostname": HOSTNAME,
        "root": {"path": rootfs, "readonly": read_only},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": list(arguments),
            "env": [f"{name}={value}" for name, value in variables.items()],
            "capabilities": {name: CAPABILITIES for name in sets},
            "noNewPrivileges": True,
        },
        "mounts": list(mounts(binds, scratch)),
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")],
            "resources": resources,
        },
    }


def write(folder, *arguments, **options):
    """Makes `folder` a bundle; returns it."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config(*arguments, **options), file, indent=1)
    return folder
