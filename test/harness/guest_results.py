"""Verdicts of guest tests: reading a program's output, comparing with the native run, the list of known failures."""

import dataclasses


@dataclasses.dataclass
class Result:
    verdict: str  # ok, FAIL or skip
    detail: str = ""


def parse(names, text, note):
    """The verdict of each named test from a program's output.

    A test has failed if any of its processes printed a FAIL line. One without a line was not reached: that is a failure
    too, told with `note`, which says how the program ended.
    """
    wanted = set(names)
    results = {}
    for line in text.splitlines():
        verdict, _, rest = line.partition(" ")
        name, _, detail = rest.partition(": ")
        name = name.strip()
        if verdict not in ("ok", "FAIL", "skip") or name not in wanted:
            continue
        before = results.get(name)
        if before is not None and before.verdict == "FAIL":
            if verdict == "FAIL":
                before.detail += "\n" + detail
            continue
        results[name] = Result(verdict, detail)
    for name in names:
        if name not in results:
            results[name] = Result("FAIL", f"no verdict; the program ended: {note or 'normally'}")
    return {name: results[name] for name in names}


def compare(native, guest):
    """The guest's verdicts, judged by the native ones."""
    judged = {}
    for name, result in guest.items():
        oracle = native[name]
        if oracle.verdict == "FAIL":
            judged[name] = Result("FAIL", f"fails natively: {oracle.detail}")
        elif oracle.verdict == "ok" and result.verdict == "skip":
            judged[name] = Result("FAIL", f"passes natively, skipped in the sandbox: {result.detail}")
        else:
            judged[name] = result
    return judged


def read_known(path, mode):
    """(pattern, reason) pairs of a mode. Lines: `mode Family.Name reason…`; mode may be `*`, the name a glob.

    A checkpoint run is one in the sandbox, too: lines of `sandbox` count there.
    """
    known = []
    modes = {"*", mode} | ({"sandbox"} if mode == "checkpoint" else set())
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.split("#", 1)[0].strip()
                if not line:
                    continue
                fields = line.split(None, 2)
                if len(fields) != 3:
                    raise SystemExit(f"{path}:{number}: expected `mode Family.Name reason`")
                if fields[0] in modes:
                    known.append((fields[1], fields[2]))
    except FileNotFoundError:
        pass
    return known
