"""Reads the cases: scripts under cases/ or big/, with settings in comments at their top.

    # timeout: SECONDS   how long the sandbox may take (60)
    # modes: do run      where it runs (both); native comes first unless `native: no`
    # native: no         never run it outside a sandbox; then `expect` says what it must print
    # expect: TEXT       the whole output, for a case without a native run
    # pids: N            the container's limit of processes (modes run and checkpoint)
    # checkpoint: yes    long enough to be frozen and brought back in the middle
    # checkpoint: N after TEXT   N times, a second apart, from when it has printed TEXT
"""

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
SETS = ("cases", "big")
SETTING = re.compile(r"^(?:#|//) (timeout|modes|native|expect|pids|checkpoint): (.*)$")
INTERPRETERS = {".sh": "sh", ".bash": "bash", ".py": "python3", ".pl": "perl", ".js": "node"}


class Case:
    def __init__(self, folder, file):
        self.file = file
        self.name, suffix = os.path.splitext(file)
        self.interpreter = INTERPRETERS[suffix]
        settings = {}
        with open(os.path.join(folder, file)) as script:
            for line in script:
                if not line.startswith(("#", "//")):
                    break
                match = SETTING.match(line)
                if match:
                    settings[match[1]] = match[2].strip()
        self.timeout = int(settings.pop("timeout", 60))
        self.modes = settings.pop("modes", "do run").split()
        self.native = settings.pop("native", "yes") == "yes"
        self.expect = settings.pop("expect", None)
        self.pids = int(settings.pop("pids", 0)) or None
        checkpoint = settings.pop("checkpoint", "no")
        self.freezes, self.mark = 1, None
        if checkpoint != "no":
            self.modes.append("checkpoint")
        if checkpoint not in ("yes", "no"):
            times, self.mark = checkpoint.split(" after ", 1)
            self.freezes = int(times)

    def command(self, folder):
        """What runs it, in a fresh directory that is removed again; `folder` is where cases are."""
        script = (
            'd=$(mktemp -d /tmp/case.XXXXXX) && cd "$d" || exit 99; HOME=$d; export HOME; '
            f'{self.interpreter} {folder}/{self.file}; s=$?; cd /; rm -rf "$d"; exit $s'
        )
        return ["/bin/sh", "-c", script]


def load(folder):
    files = sorted(os.listdir(folder))
    return [Case(folder, file) for file in files if os.path.splitext(file)[1] in INTERPRETERS]
