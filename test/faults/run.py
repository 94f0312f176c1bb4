#!/usr/bin/env python3
"""Bad input and bad moments: broken bundles, damaged images, full disks, killed processes.

  test/faults/run.py --sandbox bazel-bin/sandbox [CASE...]
  test/faults/run.py --sandbox /usr/sbin/runc plain broken_json     (is the harness sound?)

After each case nothing may be left: no process of the runtime, no mount, no cgroup, no temporary
file. Ends with `N passed, N failed, N skipped`.
"""

import argparse
import os
import subprocess
import sys
import time

import bundles
import images
import kills
import world

KNOWN = os.path.join(world.HERE, "known.txt")


def read_known():
    known = {}
    if os.path.exists(KNOWN):
        with open(KNOWN) as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    name, reason = line.split(None, 1)
                    known[name] = reason.strip()
    return known


def run_case(case, program, rootfs):
    """None, or what was wrong."""
    try:
        with world.World(program, rootfs, case.__name__) as place:
            case(place)
    except world.Failure as failure:
        return str(failure)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(world.ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    everything = bundles.CASES + kills.CASES + images.CASES
    chosen = [c for c in everything if not options.cases or c.__name__ in options.cases]
    if not chosen:
        parser.error(f"cases are {', '.join(case.__name__ for case in everything)}")
    rootfs = subprocess.run([os.path.join(world.ROOT, "tools", "rootfs.sh")], text=True,
                            stdout=subprocess.PIPE, check=True).stdout.strip()
    known = read_known()
    passed = failed = skipped = 0
    for case in chosen:
        start = time.monotonic()
        problem = run_case(case, options.sandbox, rootfs)
        reason = known.get(case.__name__)
        if problem and reason:
            skipped += 1
            print(f"known {case.__name__:<24}{reason}", flush=True)
        elif problem:
            failed += 1
            print(f"FAIL  {case.__name__:<24}{problem}"[:600], flush=True)
        elif reason:
            failed += 1
            print(f"FAIL  {case.__name__:<24}passes now; take it from known.txt", flush=True)
        else:
            passed += 1
            print(f"ok    {case.__name__:<24}{time.monotonic() - start:6.1f} s", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
