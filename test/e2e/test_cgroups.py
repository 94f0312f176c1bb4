"""Control groups that a container's configuration mounts (the container's own; what the host's around it limit is in test_lifecycle.py)."""

import json
import os
import subprocess
import tempfile
import unittest

from support import TOP, SandboxTest


class Cgroups(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin", "sandbox"))

    def run_with(self, script, *mounts):
        """What /bin/sh says, with the host's files and these mounts of (destination, type, options)."""
        path = tempfile.mkdtemp(dir=self.folder, prefix="bundle-")
        config = {
            "ociVersion": "1.0.2",
            "root": {"path": "/", "readonly": True},
            "process": {"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/usr/bin:/bin"]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/sys", "type": "sysfs", "source": "sysfs"}] +
                      [{"destination": d, "type": t, "source": t, "options": list(o)} for d, t, o in mounts],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
        }
        with open(os.path.join(path, "config.json"), "w") as file:
            json.dump(config, file)
        return subprocess.run(self.command("run", "--bundle", path, "c"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def test_a_mount_of_either_type_shows_the_second_version(self):
        for kind in ("cgroup", "cgroup2"):
            result = self.run_with("cat /sys/fs/cgroup/cgroup.controllers; cat /proc/self/cgroup",
                                   ("/sys/fs/cgroup", kind, ["nosuid", "noexec", "nodev", "relatime", "ro"]))
            self.assertEqual(result.stdout, "cpuset cpu memory pids\n0::/\n", result.stderr)

    def test_options_name_trees_of_the_first_version(self):
        script = """cd /sys/fs/cgroup
mkdir memory/group && echo 64M > memory/group/memory.limit_in_bytes && cat memory/group/memory.limit_in_bytes
echo $$ > systemd/tasks && cat /proc/self/cgroup; cat unified/cgroup.controllers"""
        result = self.run_with(script, ("/sys/fs/cgroup", "tmpfs", ["mode=755"]), ("/sys/fs/cgroup/memory", "cgroup", ["nosuid", "memory"]),
                               ("/sys/fs/cgroup/cpu", "cgroup", ["cpu", "cpuacct"]), ("/sys/fs/cgroup/systemd", "cgroup", ["none", "name=systemd"]),
                               ("/sys/fs/cgroup/unified", "cgroup2", []))
        self.assertEqual(result.stdout, "67108864\n3:name=systemd:/\n2:cpu,cpuacct:/\n1:memory:/\n0::/\ncpuset pids\n", result.stderr)

    def test_options_that_make_no_sense(self):
        result = self.run_with("true", ("/sys/fs/cgroup", "cgroup", ["bogus"]))
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("type cgroup", result.stderr)


if __name__ == "__main__":
    unittest.main()
