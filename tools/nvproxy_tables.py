#!/usr/bin/env python3
"""Writes the C++ tables of nvproxy/ from nvproxy/tables.txt (whose head explains its lines).

Usage: nvproxy_tables.py TABLES ABI_HEADER TABLES_CC ABI_CHECK_CC
       nvproxy_tables.py --doc TABLES PAGE        writes docs/gpu/allowed.md

TABLES_CC has one array of entries for each section and driver branch. ABI_CHECK_CC compares every structure of ABI_HEADER that says which
layout it is (`struct Name {  // LAYOUT FROM-UNTIL`) with that layout, branch by branch.
"""

import re
import sys

SECTIONS = ("frontend", "uvm", "control", "class")
CAPS = "CUGVPRI"
ROLES = {"client": "kClient", "object": "kObject", "new": "kNew", "gpu": "kGpu", "uuid": "kUuid", "pointer": "kPointer", "fd": "kFd",
         "depends": "kDepends"}


class Bad(Exception):
    pass


def number(text):
    return None if text == "?" else int(text, 0)


def at(text, branch):
    """The value that `text` has on `branch`; "" if none yet."""
    if ":" not in text:
        return text
    found = ""
    for part in text.split(","):
        start, value = part.split(":")
        if int(start) <= branch:
            found = value
    return found


class Entry:
    """One line of a section."""

    def __init__(self, words):
        self.section, self.number, self.name = words[0], int(words[1], 0), words[2]
        self.one, self.fields, self.flags = {}, [], set()
        for word in words[3:]:
            key, separator, value = word.partition("=")
            if not separator:
                self.flags.add(key)
            elif key in ROLES:
                self.fields.append((key, value))
            else:
                self.one[key] = value
        if "root" in self.flags:
            raise Bad(f"{self.name}: a command for the host's administrator must not be in the list")

    def exists(self, branch):
        if branch < int(self.one.get("from", 0)) or branch > int(self.one.get("until", 10**6)):
            return False
        return str(branch) not in self.one.get("not", "").split(",")

    def fields_at(self, branch):
        out = []
        for role, text in self.fields:
            place = at(text, branch)
            if not place:
                continue  # a later branch added the field
            offset, _, count = place.partition("*")
            out.append((ROLES[role], int(offset), int(count or 1)))
        return tuple(out)


class Tables:
    def __init__(self, path):
        self.branches, self.versions, self.refused, self.legacy = [], [], [], []
        self.entries = {section: [] for section in SECTIONS}
        self.layouts = {}
        with open(path, encoding="utf-8") as lines:
            for n, line in enumerate(lines, 1):
                words = line.split("#")[0].split()
                if words:
                    try:
                        self.line(words)
                    except (Bad, ValueError, IndexError) as error:
                        raise SystemExit(f"{path}:{n}: {error}") from error

    def line(self, words):
        kind = words[0]
        if kind == "branches":
            self.branches = [int(word) for word in words[1:]]
        elif kind == "version":
            self.versions += [(version, int(words[1])) for version in words[2:]]
        elif kind in SECTIONS:
            entry = Entry(words)
            if any(other.number == entry.number for other in self.entries[kind]):
                raise Bad(f"{words[1]} is there twice")
            self.entries[kind].append(entry)
        elif kind == "refused":
            self.refused.append((int(words[1], 0), words[2]))
        elif kind == "legacy":
            self.legacy.append((int(words[1], 0), int(words[2], 0), int(words[3])))
        elif kind == "layout":
            start, until = (int(word) for word in words[2].split("-"))
            fields = {}
            for word in words[4:]:
                name, place = word.split("=")
                fields[name] = tuple(int(value) for value in place.split(":"))
            self.layouts.setdefault(words[1], []).append((start, until, int(words[3]), fields))
        else:
            raise Bad(f"unknown line: {kind}")


def camel(text):
    return "k" + "".join(part.capitalize() for part in text.split("_"))


def flags_of(text, names):
    return sum(1 << names.index(word) for word in text.split(",")) if text else 0


class Writer:
    """TABLES_CC."""

    def __init__(self, tables):
        self.tables, self.fields, self.out = tables, [(("kNew", 0, 0))], []
        self.known = {}

    def place(self, fields):
        """Where `fields` begin in the array of all fields."""
        if not fields:
            return 0
        if fields not in self.known:
            self.known[fields] = len(self.fields)
            self.fields += fields
        return self.known[fields]

    def entry(self, entry, branch):
        fields = entry.fields_at(branch)
        size, status = number(at(entry.one.get("size", "?"), branch)), at(entry.one.get("status", ""), branch)
        caps = sum(1 << CAPS.index(letter) for letter in entry.one["caps"])
        for _, offset, count in fields:
            if size is not None and size and offset + 4 * count > size:
                raise SystemExit(f"{entry.name}: a field lies outside of the {size} bytes on {branch}")
        node = {"ctl": 1, "gpu": 2, "both": 3}[entry.one.get("node", "both")]
        parents = flags_of(entry.one.get("parents", ""), ("root", "client", "device", "subdevice", "channel", "group", "any"))
        return (f"    {{{entry.number:#x}, {'kUnknownSize' if size is None else size}, {status or 'kNoStatus'}, {self.place(fields)}, "
                f"{len(fields)}, Kind::{camel(entry.one.get('kind', 'simple'))}, {caps}, {node}, {parents}, "
                f"Category::{camel(entry.one.get('is', 'other'))}, ParamRule::{camel(entry.one.get('params', 'required'))}, \"{entry.name}\"}},")

    def write(self, path):
        body = []
        for branch in self.tables.branches:
            for section in SECTIONS:
                entries = sorted((e for e in self.tables.entries[section] if e.exists(branch)), key=lambda e: e.number)
                body.append(f"constexpr Entry k{section.capitalize()}{branch}[] = {{")
                body += [self.entry(entry, branch) for entry in entries]
                body.append("};")
        out = ["// Written by tools/nvproxy_tables.py.", '#include "nvproxy/tables.h"', "namespace amber::nvproxy {", "namespace {",
               "constexpr Field kFieldList[] = {"]
        out += [f"    {{Role::{role}, {offset}, {count}}}," for role, offset, count in self.fields]
        out += ["};", *body, "constexpr Branch kBranchList[] = {"]
        for b in self.tables.branches:
            out.append(f"    {{{b}, kFrontend{b}, kUvm{b}, kControl{b}, kClass{b}}},")
        out += ["};", "constexpr Version kVersionList[] = {"]
        out += [f'    {{"{version}", {branch}}},' for version, branch in self.tables.versions]
        out += ["};", "constexpr Named kRefusedList[] = {"]
        out += [f'    {{{n:#x}, "{name}"}},' for n, name in self.tables.refused]
        # An array of no elements does not exist in C++: the first is a number that no command has.
        out += ["};", "constexpr Legacy kLegacyList[] = {", "    {0, 0, 0},"]
        out += [f"    {{{n:#x}, {size}, {since}}}," for n, size, since in self.tables.legacy]
        out += ["};", "}  // namespace", "std::span<const Branch> AllBranches() { return kBranchList; }",
                "std::span<const Version> AllVersions() { return kVersionList; }", "std::span<const Named> RefusedFrontend() { return kRefusedList; }",
                "std::span<const Legacy> LegacyCommands() { return kLegacyList; }",
                "std::span<const Field> FieldsOf(const Entry& entry) { return {kFieldList + entry.first_field, entry.field_count}; }",
                "}  // namespace amber::nvproxy"]
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(out) + "\n")


STRUCT = re.compile(r"^struct (\w+) \{  // (\w+) (\d+)-(\d+)( prefix)?\n(.*?)^\};", re.M | re.S)
MEMBER = re.compile(r"^\s+[\w:]+ (\w+)(?:\[\w+\])?;", re.M)


def checks(name, member, layouts, prefix):
    """The assertions for one structure, over all layouts in its range."""
    out = []
    for _, _, size, fields in layouts:
        if not prefix:
            out.append(f"static_assert(sizeof({name}) == {size});")
        for m in member:
            if m.startswith("pad"):
                continue
            dotted = m.replace("_", ".")
            place = fields.get(m) or fields.get(dotted) or fields.get("data." + dotted)
            if place is None:
                raise SystemExit(f"{name}.{m}: the layout has no such field")
            out.append(f"static_assert(offsetof({name}, {m}) == {place[0]} && sizeof({name}::{m}) == {place[1]});")
    return out


def write_checks(tables, header, path):
    out = ["// Written by tools/nvproxy_tables.py.", "#include <cstddef>", '#include "nvproxy/abi.h"', "namespace amber::nvproxy {"]
    with open(header, encoding="utf-8") as file:
        text = file.read()
    for name, layout, start, until, prefix, body in STRUCT.findall(text):
        found = [item for item in tables.layouts.get(layout, []) if item[0] <= int(until) and item[1] >= int(start)]
        if not found or found[0][0] > int(start) or found[-1][1] < int(until):
            raise SystemExit(f"{name}: {layout} is not known for all of {start} to {until}")
        out += checks(name, MEMBER.findall(body), found, bool(prefix))
    out.append("}  // namespace amber::nvproxy")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(dict.fromkeys(out)) + "\n")


def write_page(tables, path):
    """The table for people: what passes, with which capability, on which branches."""
    out = ["# What passes to the NVIDIA driver", "",
           "Written by `tools/nvproxy_tables.py --doc` from `nvproxy/tables.txt`. Capabilities: C compute, U utility, G graphics, V video,",
           "P profiling, R RDMA, I IMEX; an entry passes if the sandbox has one of them. Sizes are those of branch 580 (or the first that has the entry).", ""]
    titles = {"frontend": "Ioctls of /dev/nvidiactl and /dev/nvidiaN", "uvm": "Ioctls of /dev/nvidia-uvm", "control": "RM controls", "class": "RM classes"}
    for section in SECTIONS:
        out += [f"## {titles[section]}", "", "| number | name | caps | size | branches |", "|---|---|---|---|---|"]
        for e in sorted(tables.entries[section], key=lambda e: e.number):
            there = [b for b in tables.branches if e.exists(b)]
            branch = 580 if 580 in there else there[0]
            span = f"{there[0]}-{there[-1]}"
            out.append(f"| {e.number:#x} | {e.name} | {e.one['caps']} | {at(e.one.get('size', '?'), branch)} | {span} |")
        out.append("")
    out += ["## Commands for the firmware", "", "| number | size | from branch |", "|---|---|---|"]
    out += [f"| {number:#x} | {size} | {since} |" for number, size, since in tables.legacy] + [""]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out))


def main():
    if sys.argv[1] == "--doc":
        return write_page(Tables(sys.argv[2]), sys.argv[3])
    tables = Tables(sys.argv[1])
    Writer(tables).write(sys.argv[3])
    write_checks(tables, sys.argv[2], sys.argv[4])
    return None


if __name__ == "__main__":
    main()
