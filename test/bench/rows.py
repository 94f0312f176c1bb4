"""The rows of the benchmark and their gates.

A gate is a bound in the row's unit (`limit`) or a multiple of native (`ratio`); of both, the greater.
"""


class Row:
    def __init__(self, key, title, unit, limit=None, ratio=None, more_is_better=False):
        self.key, self.title, self.unit = key, title, unit
        self.limit, self.ratio, self.more_is_better = limit, ratio, more_is_better

    def gate(self, native):
        """The bound that the sandbox must keep, in the row's unit, or None."""
        bounds = [] if self.limit is None else [self.limit]
        if self.ratio is not None and native is not None:
            bounds.append(self.ratio * native)
        return max(bounds, default=None)

    def gate_text(self):
        sign = "≥" if self.more_is_better else "≤"
        bounds = [] if self.limit is None else [f"{self.limit:g} {self.unit}"]
        if self.ratio is not None:
            bounds.append(f"{self.ratio:g}×")
        return f"{sign} {' or '.join(bounds)}" if bounds else ""

    def met(self, value, native):
        """Whether `value` keeps the gate; None without a gate or a value."""
        gate = self.gate(native)
        if gate is None or value is None:
            return None
        return value >= gate if self.more_is_better else value <= gate


MICRO = [
    Row("getpid", "getpid by syscall()", "µs", limit=5),
    Row("getpid_site", "getpid, inline call site", "µs", limit=5),
    Row("read_zero", "read 1 byte of /dev/zero", "µs", limit=5),
    Row("write_null", "write 1 byte to /dev/null", "µs", limit=5),
    Row("clock", "clock_gettime", "µs", limit=0.04),
    Row("sched_yield", "sched_yield", "µs"),
    Row("pipe_pingpong", "pipe ping-pong", "µs", limit=40),
    Row("futex_pingpong", "futex ping-pong", "µs", ratio=1.05),
    Row("unix_pingpong", "Unix socket ping-pong", "µs", limit=60),
    Row("tcp_pingpong", "TCP ping-pong", "µs", limit=90),
    Row("tcp_stream_64k", "TCP stream, 64 KiB", "µs", limit=45),
    Row("tcp_connect", "TCP connect + accept + close", "µs", limit=100),
    Row("poll_100", "poll of 100", "µs", limit=12),
    Row("epoll_eventfd", "eventfd + epoll_wait + read", "µs", limit=6),
    Row("stat_root", "stat on the root", "µs", limit=5),
    Row("stat_bind", "stat on a bind mount", "µs", limit=8),
    Row("stat_missing", "stat of a missing file", "µs", limit=5),
    Row("open_root", "open + close on the root", "µs", limit=8),
    Row("open_bind", "open + close on a bind mount", "µs"),
    Row("pread_4k", "pread 4 KiB on a bind mount", "µs", limit=5),
    Row("pread_1m", "pread 1 MiB on a bind mount", "µs", limit=80),
    Row("getdents_1000", "list 1,000 entries", "µs", ratio=1.5),
    Row("create_unlink", "create, write, unlink in /tmp", "µs"),
    Row("mmap_munmap_64k", "mmap + munmap 64 KiB", "µs", limit=25),
    Row("mprotect_x2", "mprotect twice", "µs", limit=20),
    Row("brk", "brk up and down", "µs", limit=20),
    Row("anon_fault", "anonymous fault", "µs", ratio=1.05),
    Row("cow_512", "copy-on-write of 512 pages", "µs", ratio=1.05),
    Row("memory_16m", "read and write 16 MiB", "µs", ratio=1.05),
    Row("fork_wait", "fork + wait, small", "µs", ratio=2),
    Row("fork_wait_64m", "fork + wait, 64 MB", "µs", ratio=1.1),
    Row("spawn_static", "vfork + exec, static", "µs", ratio=2.5),
    Row("spawn_dynamic", "vfork + exec, dynamic", "µs", ratio=3),
    Row("thread_create_join", "thread create + join", "µs", ratio=1.5),
    Row("signal_self", "signal to self", "µs", limit=15),
    Row("segv_handler", "SIGSEGV handler with mprotect", "µs", limit=40),
]

# The whole runtime on one CPU: no idle core to answer from.
ONE_CPU = [
    Row("getpid@1cpu", "getpid, all on one CPU", "µs", limit=5),
    Row("pipe_pingpong@1cpu", "pipe ping-pong, one CPU", "µs", limit=15),
    Row("futex_pingpong@1cpu", "futex ping-pong, one CPU", "µs", ratio=1.05),
    Row("unix_pingpong@1cpu", "Unix socket ping-pong, one CPU", "µs"),
    Row("tcp_pingpong@1cpu", "TCP ping-pong, one CPU", "µs", limit=30),
    Row("tcp_stream_64k@1cpu", "TCP stream, 64 KiB, one CPU", "µs"),
    Row("tcp_connect@1cpu", "TCP connect + accept + close, one CPU", "µs", limit=100),
]

# Every CPU busy with something else.
BUSY = [Row("getpid@busy", "getpid, all CPUs busy", "µs", limit=6)]

# Messages beside so many threads that compute. Where these leave no CPU, native waits for its turn as well.
BESIDE_THREADS = (1, 2, 4)
BESIDE = [row for threads in BESIDE_THREADS for row in (
    Row(f"unix_pingpong@busy{threads}", f"Unix socket ping-pong, {threads} busy", "µs", limit=60, ratio=1.5),
    Row(f"tcp_pingpong@busy{threads}", f"TCP ping-pong, {threads} busy", "µs", limit=90, ratio=1.5),
    Row(f"tcp_stream_64k@busy{threads}", f"TCP stream, 64 KiB, {threads} busy", "µs", limit=45, ratio=1.5),
    Row(f"tcp_connect@busy{threads}", f"TCP connect + accept + close, {threads} busy", "µs", limit=100, ratio=1.5),
    Row(f"epoll_eventfd@busy{threads}", f"eventfd + epoll_wait + read, {threads} busy", "µs", limit=6, ratio=1.5),
)]

# Time per request, from the load tools' rates (servers.sh).
SERVERS = [
    Row("redis_set_p1", "redis SET, -P 1", "µs", ratio=3),
    Row("redis_get_p1", "redis GET, -P 1", "µs", ratio=3),
    Row("redis_set_p16", "redis SET, -P 16", "µs", ratio=1.6),
    Row("redis_get_p16", "redis GET, -P 16", "µs", ratio=1.6),
    Row("nginx_1k_c2", "nginx 1 KiB, 2 connections", "µs", ratio=2),
    Row("nginx_1k_c32", "nginx 1 KiB, 32 connections", "µs", ratio=3),
    Row("nginx_256k", "nginx 256 KiB, 2 connections", "µs", ratio=1.6),
    Row("pgbench_select", "pgbench select, 2 clients", "µs", ratio=2.2),
    Row("pgbench_tpcb", "pgbench tpcb, 2 clients", "µs", ratio=2.2),
]

APPLICATIONS = [
    Row("python_pass", "python3 -c pass", "ms", ratio=1.8),
    Row("import_numpy", "import numpy", "ms", ratio=1.4),
    Row("compileall", "python3 -m compileall", "ms", ratio=1.2),
    Row("cxx_compile", "compile a C++ file", "ms", ratio=1.1),
    Row("make_j2", "make -j2, 24 C files", "ms", ratio=1.4),
    Row("sqlite_insert", "sqlite insert 100,000", "ms", ratio=1.3),
    Row("sqlite_select", "sqlite select", "ms", ratio=1.2),
    Row("sqlite_tx_bind", "sqlite 1,000 transactions, bind", "ms", ratio=2.5),
    Row("sqlite_tx_tmp", "sqlite 1,000 transactions, tmpfs", "ms", ratio=2.5),
    Row("git_clone", "git clone", "ms", ratio=2),
    Row("git_log", "git log", "ms", ratio=1.4),
    Row("git_status", "git status", "ms", ratio=1.8),
    Row("shell_500", "500 processes by a shell", "ms", ratio=2.2),
    Row("find_root", "find over /usr", "ms", ratio=3),
    Row("grep_r", "grep -r", "ms", ratio=2),
    Row("tar_c", "tar c", "ms", ratio=2),
    Row("tar_x_tmp", "tar x to tmpfs", "ms", ratio=2),
    Row("tar_x_bind", "tar x to a bind mount", "ms", ratio=2),
    Row("rm_r", "rm -r", "ms", ratio=2),
]

LIFECYCLE = [
    Row("do_true", "`do true`, wall time", "ms", limit=25),
    Row("run_true", "`run` of a static true", "ms"),
    Row("create_start", "create + start", "ms", limit=20),
    Row("kill_delete", "kill + delete", "ms", limit=10),
    Row("idle_pss", "idle sandbox, memory (PSS)", "MiB", limit=5),
    Row("idle_private", "idle sandbox, private memory", "MiB", limit=5),
]

CHECKPOINT = []
for _label, _size in (("1m", "1 MB"), ("256m", "256 MB"), ("1g", "1 GB")):
    CHECKPOINT += [
        Row(f"checkpoint_{_label}", f"checkpoint, {_size}", "ms"),
        Row(f"image_{_label}", f"image size, {_size}", "MiB"),
        Row(f"restore_{_label}", f"restore to first output, {_size}", "ms", limit=25),
    ]
CHECKPOINT += [
    Row("checkpoint_rate", "write rate, share of dd with fsync", "%", limit=80,
        more_is_better=True),
]

# Many threads, processes, descriptors; many sandboxes.
SCALE = [Row(f"read_threads_{n}", f"read of /dev/zero, {n} thread{'s' if n > 1 else ''}, per call", "µs")
         for n in (1, 2, 4, 8, 16)] + [
    Row("processes_1000", "1,000 processes at once, per process", "µs"),
    Row("epoll_10000", "epoll of 10,000, write, wait, read", "µs"),
]
SCALE_IDLE = [
    Row("start_100", "each of 100 idle sandboxes: create + start", "ms"),
    Row("pss_100", "each of 100 idle sandboxes: memory (PSS)", "MiB", limit=5),
    Row("private_100", "each of 100 idle sandboxes: private memory", "MiB"),
    Row("cpu_100", "100 idle sandboxes: CPU", "%", limit=2),
    Row("getpid@100", "getpid beside 100 idle sandboxes", "µs"),
    Row("pipe_pingpong@100", "pipe ping-pong beside 100 idle sandboxes", "µs"),
    Row("fork_wait@100", "fork + wait beside 100 idle sandboxes", "µs"),
]

GROUPS = {
    "micro": MICRO,
    "onecpu": ONE_CPU,
    "busy": BUSY,
    "beside": BESIDE,
    "servers": SERVERS,
    "apps": APPLICATIONS,
    "lifecycle": LIFECYCLE,
    "scale": SCALE + SCALE_IDLE,
    "checkpoint": CHECKPOINT,
}
