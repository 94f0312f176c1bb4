"""What the benchmark works on: a data folder on a bind mount, and the plan of application rows."""

import os
import shutil
import subprocess

PYTHON_TREE = "usr/lib/python3.11"

HEAVY_CC = """#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
template <int N> struct Sum { static long of(long x) { return x + Sum<N - 1>::of(x + 1); } };
template <> struct Sum<0> { static long of(long x) { return x; } };
int main(int argc, char**) {
  std::map<std::string, std::vector<int>> m; std::unordered_map<int, std::string> u;
  for (int i = 0; i < argc; i++) { m[std::to_string(i)].push_back(i); u[i] = "x"; }
  std::vector<std::function<long(long)>> f = {Sum<100>::of, Sum<150>::of, Sum<200>::of};
  std::sort(f.begin(), f.end(), [](auto& a, auto& b) { return a(1) < b(1); });
  std::cout << m.size() << u.size() << f[0](1);
}
"""

# name, preparation, command; /mnt is the data folder, /tmp a tmpfs. Each row stands alone.
PLAN = [
    ("python_pass", "", "python3 -c pass"),
    ("import_numpy", "", "python3 -c 'import numpy'"),
    ("compileall", "rm -rf /tmp/lib; mkdir /tmp/lib; cp /usr/lib/python3.11/*.py /tmp/lib",
     "python3 -m compileall -q -f /tmp/lib"),
    ("cxx_compile", "", "g++ -O2 -std=c++20 -c /mnt/heavy.cc -o /tmp/heavy.o"),
    ("make_j2", "rm -rf /tmp/src; cp -r /mnt/src /tmp/src", "make -s -j2 -C /tmp/src"),
    ("sqlite_insert", "rm -f /tmp/a.db", "sqlite3 /tmp/a.db < /mnt/insert.sql"),
    ("sqlite_select", "", "sqlite3 /mnt/base.db < /mnt/select.sql > /dev/null"),
    ("sqlite_tx_bind", "rm -f /mnt/t.db*", "sqlite3 /mnt/t.db < /mnt/tx.sql > /dev/null"),
    ("sqlite_tx_tmp", "rm -f /tmp/t.db*", "sqlite3 /tmp/t.db < /mnt/tx.sql > /dev/null"),
    ("git_clone", "rm -rf /tmp/clone", "git clone -q --no-local file:///mnt/repo /tmp/clone"),
    ("git_log", "", "git -C /mnt/repo log --stat > /dev/null"),
    ("git_status", "git -C /mnt/work status > /dev/null", "git -C /mnt/work status > /dev/null"),
    ("shell_500", "", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"),
    ("find_root", "", "find /usr -size +100k > /dev/null"),
    ("grep_r", "", "grep -r not-to-be-found-anywhere /mnt/tree; true"),
    ("tar_c", "", "tar cf - -C /mnt/tree . | cat > /dev/null"),
    ("tar_x_tmp", "rm -rf /tmp/x; mkdir /tmp/x", "tar xf /mnt/tree.tar -C /tmp/x"),
    ("tar_x_bind", "rm -rf /mnt/x; mkdir /mnt/x", "tar xf /mnt/tree.tar -C /mnt/x"),
    ("rm_r", "rm -rf /mnt/y; mkdir /mnt/y; tar xf /mnt/tree.tar -C /mnt/y", "rm -r /mnt/y"),
]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def make_sources(folder):
    os.makedirs(folder)
    for i in range(24):
        body = "\n".join(f"int f{i}_{k}(int x) {{ return x * {k} + {i}; }}" for k in range(60))
        write(f"{folder}/f{i}.c", f"#include <stdio.h>\n#include <stdlib.h>\n{body}\n")
    write(f"{folder}/main.c", "int main(void) { return 0; }\n")
    write(f"{folder}/Makefile", "objects := $(patsubst %.c,%.o,$(wildcard *.c))\n"
          "prog: $(objects)\n\tgcc $^ -o $@\n%.o: %.c\n\tgcc -O1 -c $< -o $@\n")


def make_repository(folder):
    """200 commits over 400 files, by fast-import."""
    stream = []
    for commit in range(200):
        message = f"commit {commit}"
        stream.append(f"commit refs/heads/main\ncommitter a <a@b> {1700000000 + commit} +0000\n"
                      f"data {len(message)}\n{message}")
        for k in range(8):
            number = (commit * 7 + k * 53) % 400
            text = "".join(f"line {line} of {number} at {commit}\n" for line in range(80))
            stream.append(f"M 100644 inline d{number % 20}/f{number}\ndata {len(text)}\n{text}")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", folder], check=True)
    subprocess.run(["git", "-C", folder, "fast-import", "--quiet"], check=True, text=True,
                   input="\n".join(stream) + "\n")


def make_sql(folder):
    inserts = "".join(f"insert into t values({i}, 'row {i * 7919 % 100003}', {i * 1.5});\n"
                      for i in range(100000))
    create = "create table t(id integer primary key, a text, b real);\n"
    write(f"{folder}/insert.sql", f"{create}begin;\n{inserts}commit;\n")
    write(f"{folder}/select.sql",
          "select count(*), sum(b) from t where a like '%77%';\n" * 5 +
          "select a, max(b) from t group by substr(a, 5, 2) order by 2;\n" * 2)
    write(f"{folder}/tx.sql", "pragma synchronous=off;\n" + create +
          "".join(f"insert into t values({i}, 'x', 1);\n" for i in range(1000)))
    with open(f"{folder}/insert.sql") as sql:
        subprocess.run(["sqlite3", f"{folder}/base.db"], stdin=sql, check=True)


def make_data(folder, rootfs):
    """Makes the data folder; a minute at most."""
    os.makedirs(f"{folder}/thousand")
    with open(f"{folder}/file", "wb") as file:
        file.write(os.urandom(4 << 20))
    for i in range(1000):
        write(f"{folder}/thousand/entry-{i}", "")
    write(f"{folder}/heavy.cc", HEAVY_CC)
    make_sources(f"{folder}/src")
    make_repository(f"{folder}/repo")
    subprocess.run(["git", "clone", "-q", f"{folder}/repo", f"{folder}/work"], check=True)
    make_sql(folder)
    shutil.copytree(os.path.join(rootfs, PYTHON_TREE), f"{folder}/tree", symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__", "config-*"))
    subprocess.run(["tar", "cf", f"{folder}/tree.tar", "-C", f"{folder}/tree", "."], check=True)


def write_plan(path, names):
    write(path, "".join("\t".join(line) + "\n" for line in PLAN if line[0] in names))
