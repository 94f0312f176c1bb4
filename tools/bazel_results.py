"""Counts test cases from Bazel's build event file.

A target that does not build, crashes or runs out of time counts as one failed
case beside those that its XML report names.
"""

import json
import os
import urllib.parse
import xml.etree.ElementTree as ElementTree


class Results:
    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.failures = []

    def fail(self, name):
        self.failed += 1
        self.failures.append(name)


def _local_path(uri):
    parsed = urllib.parse.urlparse(uri)
    return urllib.parse.unquote(parsed.path) if parsed.scheme == "file" else None


def _count_cases(path, label, results):
    """Adds the cases of one report; returns how many of them failed, or None without a report."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    failed = 0
    for case in root.iter("testcase"):
        name = f"{label} {case.get('classname', '')}.{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            results.fail(name)
            failed += 1
        elif (
            case.find("skipped") is not None
            or case.get("status") == "notrun"
            or case.get("result") in ("skipped", "suppressed")
        ):
            results.skipped += 1
        else:
            results.passed += 1
    return failed


def _add_test(event, results):
    label = event["id"]["testResult"]["label"]
    result = event["testResult"]
    status = result.get("status")
    report = None
    for output in result.get("testActionOutput", []):
        if output.get("name") == "test.xml":
            report = _local_path(output.get("uri", ""))
    failed = None
    if report and os.path.exists(report):
        failed = _count_cases(report, label, results)
    if status == "PASSED":
        if failed is None:
            results.passed += 1
    elif not failed:
        results.fail(f"{label} ({status})")


def read_events(path):
    """Results of one `bazel test --build_event_json_file=PATH` run; empty if there is no file."""
    results = Results()
    try:
        with open(path) as file:
            lines = file.readlines()
    except OSError:
        return results
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last line of a killed run
        identity = event.get("id", {})
        if "testResult" in identity and "testResult" in event:
            _add_test(event, results)
        elif "targetCompleted" in identity:
            completed = event.get("completed", {})
            if not completed.get("success") and "aborted" not in event:
                results.fail(f"{identity['targetCompleted']['label']} (does not build)")
    return results
