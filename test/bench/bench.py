#!/usr/bin/env python3
"""Times native, runc, runsc (where installed) and the sandbox side by side.

  test/bench/bench.py [--rounds 5] [--groups micro,onecpu,busy,apps,lifecycle,scale,checkpoint]
                      [--targets native,sandbox] [--out out/bench]

Rounds are interleaved: each runs every target once, in turning order, so that load and heat fall
on all alike. Printed and kept are medians with the least and the greatest; a result file, a
table and a picture are written below --out. Exit status 1 if a gate was missed or a row failed.
"""

import argparse
import collections
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import bench_setup
import hot_spots
import lifecycle
import picture
import rows
import scale
import targets

ROOT = os.path.dirname(os.path.dirname(targets.HERE))
RUN_LIMIT = 400


class Samples:
    """row -> target -> list of figures; and what failed, with the reason."""

    def __init__(self):
        self.figures = collections.defaultdict(lambda: collections.defaultdict(list))
        self.errors = collections.defaultdict(dict)

    def add(self, key, target, value):
        self.figures[key][target].append(value)

    def error(self, key, target, reason):
        self.errors[key][target] = str(reason)

    def median(self, key, target):
        values = self.figures.get(key, {}).get(target)
        return statistics.median(values) if values else None


def run_program(target, arguments, prefix=(), program="micro"):
    """Runs a program of /srv in a target; returns its rows, and whatever stopped it."""
    command, clean = target.command([f"/srv/{program}", *arguments])
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([*prefix, *command], stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=said, start_new_session=True)
        problem = None
        try:
            status = process.wait(timeout=RUN_LIMIT)
            problem = f"exit status {status}" if status else None
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            problem = f"no end after {RUN_LIMIT} s"
        clean()
        output.seek(0)
        lines = output.read().splitlines()
        said.seek(0)
        words = said.read().strip().splitlines()
    results = {}
    for line in lines:
        try:
            result = json.loads(line)
            results[result["row"]] = result
        except (ValueError, KeyError, TypeError):
            pass
    if problem and words:
        problem += ": " + words[-1][:100]
    return results, problem


def record(samples, target, wanted, results, problem, suffix=""):
    """Takes a program's rows over; `wanted` are Row objects."""
    for row in wanted:
        result = results.get(row.key.removesuffix(suffix))
        if result and "ns" in result:
            divisor = 1e3 if row.unit == "µs" else 1e6
            samples.add(row.key, target.name, result["ns"] / divisor)
        else:
            reason = result.get("error") if result else problem
            samples.error(row.key, target.name, reason or "no figure")


def row_arguments(wanted, suffix=""):
    arguments = ["--data", "/mnt"]
    for row in wanted:
        arguments += ["--row", row.key.removesuffix(suffix)]
    return arguments


def run_group(group, target, samples):
    wanted = rows.GROUPS[group]
    if group == "micro":
        record(samples, target, wanted, *run_program(target, row_arguments(wanted)))
    elif group == "onecpu":
        pinned = run_program(target, row_arguments(wanted, "@1cpu"), ["taskset", "-c", "0"])
        record(samples, target, wanted, *pinned, suffix="@1cpu")
    elif group == "busy":
        run_beside(target, samples, wanted, os.cpu_count(), "@busy")
    elif group == "beside":
        for threads in rows.BESIDE_THREADS:
            suffix = f"@busy{threads}"
            run_beside(target, samples, [row for row in wanted if row.key.endswith(suffix)], threads, suffix)
    elif group == "servers":
        record(samples, target, wanted, *run_program(target, [row.key for row in wanted], program="servers.sh"))
    elif group == "apps":
        record(samples, target, wanted, *run_program(target, ["--plan", "/mnt/plan"]))
    elif group == "scale":
        run_scale(target, samples)
    else:
        measure = lifecycle.lifecycle if group == "lifecycle" else lifecycle.checkpoint
        measure(target, lambda key, value: samples.add(key, target.name, value),
                lambda key, reason: samples.error(key, target.name, reason))


def run_beside(target, samples, wanted, threads, suffix):
    """Rows of the micro program beside so many busy threads."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(threads)]
    try:
        results = run_program(target, row_arguments(wanted, suffix))
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    record(samples, target, wanted, *results, suffix=suffix)


def run_scale(target, samples):
    record(samples, target, rows.SCALE, *run_program(target, row_arguments(rows.SCALE)))
    beside = [row for row in rows.SCALE_IDLE if row.key.endswith("@100")]

    def run_rows():
        record(samples, target, beside, *run_program(target, row_arguments(beside, "@100")), suffix="@100")

    scale.beside_idle(target, lambda key, value: samples.add(key, target.name, value),
                      lambda key, reason: samples.error(key, target.name, reason), run_rows)


def run_rounds(options, chosen, groups, samples):
    for number in range(options.rounds):
        turn = number % len(chosen)
        for group in groups:
            for target in chosen[turn:] + chosen[:turn]:
                start = time.monotonic()
                run_group(group, target, samples)
                print(f"   round {number + 1}/{options.rounds} {group:<10} {target.name:<8} "
                      f"{time.monotonic() - start:6.1f} s", flush=True)


def cell(samples, key, target):
    value = samples.median(key, target)
    if value is None:
        return "failed" if target in samples.errors.get(key, {}) else "–"
    values = samples.figures[key][target]
    return f"{short(value)} ({short(min(values))}–{short(max(values))})"


def short(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def verdict(row, samples):
    if "sandbox" in samples.errors.get(row.key, {}):
        return "FAILED"
    met = row.met(samples.median(row.key, "sandbox"), samples.median(row.key, "native"))
    return {True: "hit", False: "MISSED", None: ""}[met]


def table(shown, names, samples):
    head = ["row", "unit", *names, "× native", "gate", ""]
    lines = [head]
    for row in shown:
        native, ours = samples.median(row.key, "native"), samples.median(row.key, "sandbox")
        ratio = f"{ours / native:.2f}" if native and ours is not None else ""
        lines.append([row.title, row.unit, *(cell(samples, row.key, name) for name in names),
                      ratio, row.gate_text(), verdict(row, samples)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(word.ljust(width) for word, width in zip(line, widths)) +
                     " |" for line in lines)


def geometric_mean(samples, target):
    ratios = []
    for row in rows.APPLICATIONS:
        native, value = samples.median(row.key, "native"), samples.median(row.key, target)
        if native and value:
            ratios.append(value / native)
    return statistics.geometric_mean(ratios) if ratios else None


def save(folder, shown, names, samples, facts, lines):
    os.makedirs(folder, exist_ok=True)
    figures = {
        row.key: {
            "title": row.title, "unit": row.unit, "gate": row.gate_text(),
            "verdict": verdict(row, samples),
            "targets": {name: {"median": samples.median(row.key, name),
                               "samples": samples.figures[row.key][name]}
                        for name in names if samples.figures.get(row.key, {}).get(name)},
            "errors": samples.errors.get(row.key, {}),
        }
        for row in shown
    }
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump({"machine": facts, "rows": figures}, file, indent=1, ensure_ascii=False)
    with open(os.path.join(folder, "table.md"), "w") as file:
        file.write(lines + "\n")
    medians = {row.key: {name: samples.median(row.key, name) for name in names} for row in shown}
    title = f"Time against native, {facts['date']}, {facts['cpus']} CPUs"
    with open(os.path.join(folder, "picture.svg"), "w") as file:
        file.write(picture.draw(shown, medians, title))


def profile_missed(folder, chosen, samples):
    """One profile of each micro row that missed its gate, while the surroundings still stand."""
    ours = next((target for target in chosen if target.name == "sandbox"), None)
    missed = [row for row in rows.MICRO if verdict(row, samples) == "MISSED"]
    if not ours or not missed:
        return
    if not hot_spots.perf():
        print("perf is not installed: no profiles of the missed rows")
        return
    os.makedirs(folder, exist_ok=True)
    for row in missed:
        path = os.path.join(folder, f"profile-{row.key}.txt")
        command, clean = ours.command(["/srv/micro", *row_arguments([row])])
        hot = hot_spots.profile(command, clean, path)
        print(f"   {row.title}: {hot[0].strip() if hot else 'no profile'}", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", default=os.path.join(ROOT, "bazel-bin", "sandbox"))
    parser.add_argument("--before", help="another sandbox, to compare with: the target named before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", default=",".join(rows.GROUPS))
    parser.add_argument("--targets", help="names, of those found")
    parser.add_argument("--no-profile", action="store_true",
                        help="no perf profiles of micro rows that miss their gate")
    parser.add_argument("--out", default=os.path.join(ROOT, "out", "bench"))
    options = parser.parse_args()
    unknown = set(options.groups.split(",")) - set(rows.GROUPS)
    if unknown:
        parser.error(f"no group named {', '.join(sorted(unknown))}")
    return options


def prepare(work, big):
    """Builds the programs and the data; returns (root file system, programs, data). `big`: the root has servers."""
    print("== Preparing: the root file system, the programs, the data (a minute)", flush=True)
    made = subprocess.run([os.path.join(ROOT, "tools", "rootfs.sh"), *(["big"] if big else [])], text=True, check=True,
                          stdout=subprocess.PIPE)
    rootfs = made.stdout.strip()
    subprocess.run(["bazel", "build", "--config=ci", "//test/bench/micro:programs"], cwd=ROOT,
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    programs, data = os.path.join(work, "programs"), os.path.join(work, "data")
    os.makedirs(programs)
    for name in ("micro", "exit0", "ticker"):
        shutil.copy(os.path.join(ROOT, "bazel-bin", "test", "bench", "micro", name), programs)
    shutil.copy(os.path.join(targets.HERE, "servers.sh"), programs)
    bench_setup.make_data(data, rootfs)
    bench_setup.write_plan(os.path.join(data, "plan"), {row.key for row in rows.APPLICATIONS})
    return rootfs, programs, data


def result_folder(options, facts):
    return os.path.join(options.out, facts["date"].replace(":", ""))


def conclude(options, groups, names, samples, facts):
    """Prints and saves; returns the exit status."""
    shown = [row for group in groups for row in rows.GROUPS[group]
             if row.key in samples.figures or row.key in samples.errors]
    facts["load_after"] = os.getloadavg()[0]
    lines = table(shown, names, samples)
    folder = result_folder(options, facts)
    save(folder, shown, names, samples, facts, lines)
    print("\n" + lines + "\n")
    for row in shown:
        for name, reason in samples.errors.get(row.key, {}).items():
            print(f"failed: {row.title} in {name}: {reason}")
    for name in names[1:]:
        mean = geometric_mean(samples, name)
        if mean:
            print(f"{name}: geometric mean over the application rows {mean:.2f} × native")
    verdicts = [verdict(row, samples) for row in shown]
    print(f"load {facts['load_before']:.1f} before, {facts['load_after']:.1f} after; "
          f"results in {os.path.relpath(folder, ROOT)}/")
    print(f"gates: {verdicts.count('hit')} hit, {verdicts.count('MISSED')} missed, "
          f"{verdicts.count('FAILED')} failed")
    return 1 if "MISSED" in verdicts or "FAILED" in verdicts else 0


def main():
    options = parse_arguments()
    groups = options.groups.split(",")
    if os.geteuid():
        sys.exit("The benchmark makes mounts for its native runs: run it as root.")
    facts = {"date": time.strftime("%Y-%m-%dT%H:%M:%S"), "cpus": os.cpu_count(),
             "kernel": platform.release(), "load_before": os.getloadavg()[0]}
    samples = Samples()
    # Not in /tmp: that may be a tmpfs, and the data belongs on a disk.
    cache = os.environ.get("AMBER_CACHE", os.path.expanduser("~/.cache/amber"))
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench.", dir=cache) as work:
        rootfs, programs, data = prepare(work, "servers" in groups)
        chosen = targets.find(options.sandbox, options.before, work, rootfs, programs, data)
        if options.targets:
            chosen = [t for t in chosen if t.name in options.targets.split(",")]
        names = [target.name for target in chosen]
        if not names:
            sys.exit("none of these targets is here")
        if "sandbox" not in names:
            print("The sandbox is not among the targets; no gate is judged.")
        print(f"== {options.rounds} rounds of {', '.join(names)}", flush=True)
        run_rounds(options, chosen, groups, samples)
        if not options.no_profile:
            profile_missed(result_folder(options, facts), chosen, samples)
    return conclude(options, groups, names, samples, facts)


if __name__ == "__main__":
    sys.exit(main())
