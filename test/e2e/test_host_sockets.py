"""Unix sockets of the host in its directories (--host-uds)."""

import array
import errno
import os
import resource
import socket
import struct
import subprocess
import threading
import unittest

from support import eventually
from test_host_files import Shared

KINDS = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "dgram": socket.SOCK_DGRAM}
TIMEOUT = 20
SO_PEERGROUPS = 59


class HostSockets(Shared):
    def name(self, name):
        return os.path.join(self.shared, name)

    def serve(self, kind, name):
        server = socket.socket(socket.AF_UNIX, KINDS[kind])
        self.addCleanup(server.close)
        server.settimeout(TIMEOUT)
        server.bind(self.name(name))
        if kind != "dgram":
            server.listen(1)
        return server

    def client(self, kind, name):
        client = socket.socket(socket.AF_UNIX, KINDS[kind])
        self.addCleanup(client.close)
        client.settimeout(TIMEOUT)
        client.connect(self.name(name))
        return client

    def guest(self, flags, text):
        self.made = self.config("/usr/bin/python3", "-u", "-c", "import os, socket, sys, array\n" + text)
        return self.start(flags, "run", "--bundle", self.made, "c")

    def ends(self, process):
        self.assertEqual(process.wait(TIMEOUT), 0, self.said())
        return self.said()

    # --- open ---

    def test_they_are_refused_by_default(self):
        for kind in KINDS:
            self.serve(kind, kind)
        said = self.ends(self.guest([], """
for name in ("stream", "seqpacket", "dgram"):
    s = socket.socket(socket.AF_UNIX, getattr(socket, "SOCK_" + name.upper()))
    print(s.connect_ex("/mnt/" + name))
"""))
        self.assertEqual(said, "111\n111\n111\n")

    def test_create_alone_does_not_connect(self):
        self.serve("stream", "s")
        self.assertEqual(self.ends(self.guest(["--host-uds=create"], "print(socket.socket(socket.AF_UNIX).connect_ex('/mnt/s'))")), "111\n")

    def test_connecting(self):
        servers = {kind: self.serve(kind, kind) for kind in ("stream", "seqpacket")}
        process = self.guest(["--host-uds=open"], """
for name in ("stream", "seqpacket"):
    s = socket.socket(socket.AF_UNIX, getattr(socket, "SOCK_" + name.upper()))
    s.connect("/mnt/" + name)
    print(s.getpeername(), s.getsockname() == "", s.connect_ex("/mnt/" + name))
    s.send(b"question")
    print(s.recv(100), s.recv(100))
wrong = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
print(wrong.connect_ex("/mnt/stream"))
""")
        for server in servers.values():
            peer, _ = server.accept()
            self.assertEqual(peer.recv(100), b"question")
            peer.send(b"answer")
            peer.close()
        self.assertEqual(self.ends(process), "/mnt/stream True 106\nb'answer' b''\n/mnt/seqpacket True 106\nb'answer' b''\n91\n")

    def test_much_goes_both_ways(self):
        server = self.serve("stream", "s")
        process = self.guest(["--host-uds=open"], """
import hashlib, threading
s = socket.socket(socket.AF_UNIX)
s.connect("/mnt/s")
block = bytes(range(256)) * 4096
def send():
    for i in range(20):
        s.sendall(block)
    s.shutdown(socket.SHUT_WR)
t = threading.Thread(target=send)
t.start()
got = hashlib.sha256()
size = 0
while data := s.recv(1 << 17):
    got.update(data)
    size += len(data)
t.join()
print(size, got.hexdigest() == hashlib.sha256(block * 20).hexdigest())
""")
        peer, _ = server.accept()
        peer.settimeout(TIMEOUT)
        while data := peer.recv(1 << 16):
            peer.sendall(data)
        peer.close()
        self.assertEqual(self.ends(process), "20971520 True\n")

    def test_waiting(self):
        server = self.serve("stream", "s")
        process = self.guest(["--host-uds=open"], """
import select
s = socket.socket(socket.AF_UNIX)
s.connect("/mnt/s")
p = select.poll()
p.register(s, select.POLLIN | select.POLLOUT)
print([e for _, e in p.poll(0)])
p.modify(s, select.POLLIN)
print(p.poll(0))
print([e for _, e in p.poll(20000)], s.recv(10))
s.setblocking(False)
try:
    s.recv(1)
except BlockingIOError:
    print("nothing")
total = 0
try:
    while True:
        total += s.send(bytes(4096))
except BlockingIOError:
    print("full", total > 4096)
p.modify(s, select.POLLOUT)
print([e for _, e in p.poll(20000)])
p.modify(s, select.POLLIN | select.POLLRDHUP)
while True:
    events = p.poll(20000)
    if events and events[0][1] & select.POLLHUP:
        break
print("hung up")
try:
    s.send(b"x")
except BrokenPipeError:
    print("broken")
""")
        peer, _ = server.accept()
        self.assertTrue(eventually(lambda: "[]\n" in self.said(), TIMEOUT), self.said())
        peer.send(b"hello")
        self.assertTrue(eventually(lambda: "full" in self.said(), TIMEOUT), self.said())
        peer.setblocking(False)
        try:
            while True:
                peer.recv(1 << 20)
        except BlockingIOError:
            pass
        self.assertTrue(eventually(lambda: self.said().count("[4]") == 2, TIMEOUT), self.said())
        peer.close()
        self.assertEqual(self.ends(process), "[4]\n[]\n[1] b'hello'\nnothing\nfull True\n[4]\nhung up\nbroken\n")

    def test_a_full_queue_is_waited_for(self):
        server = self.serve("stream", "s")  # two may wait
        process = self.guest(["--host-uds=open"], """
sockets = [socket.socket(socket.AF_UNIX) for i in range(4)]
for s in sockets[:2]:
    s.connect("/mnt/s")
sockets[2].setblocking(False)
print(sockets[2].connect_ex("/mnt/s"))
print(sockets[3].connect_ex("/mnt/s"))
""")
        self.assertTrue(eventually(lambda: self.said() == "11\n", TIMEOUT), self.said())
        self.assertIsNone(process.poll())
        server.accept()[0].close()
        self.assertEqual(self.ends(process), "11\n0\n")

    def test_waiting_for_a_queue_ends_as_told(self):
        self.serve("stream", "s")
        said = self.ends(self.guest(["--host-uds=open"], """
import struct, time
sockets = [socket.socket(socket.AF_UNIX) for i in range(3)]
for s in sockets[:2]:
    s.connect("/mnt/s")
sockets[2].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("qq", 0, 300000))
start = time.monotonic()
print(sockets[2].connect_ex("/mnt/s"))
print(time.monotonic() - start >= 0.3)
"""))
        self.assertEqual(said, "11\nTrue\n")

    def test_waiting_goes_on_inside(self):
        server = self.serve("stream", "s")
        for _ in range(2):
            self.client("stream", "s")
        process = self.guest(["--host-uds=open"], """
import threading, time
s = socket.socket(socket.AF_UNIX)
t = threading.Thread(target=lambda: print(s.connect_ex("/mnt/s")))
t.start()
time.sleep(0.3)  # it waits for the host's listener
l = socket.socket(socket.AF_UNIX)
l.bind("/mnt/inside")
l.listen(0)
first = socket.socket(socket.AF_UNIX)
first.connect("/mnt/inside")
os.rename("/mnt/inside", "/mnt/s")
time.sleep(0.3)
print("full")
l.accept()
l.accept()
t.join()
""")
        self.assertEqual(self.ends(process), "full\n0\n")
        server.close()

    def test_no_more_sending(self):
        server = self.serve("dgram", "d")
        said = self.ends(self.guest(["--host-uds=open"], """
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.shutdown(socket.SHUT_WR)
for send in (lambda: s.sendto(b"x", "/mnt/d"), lambda: s.connect("/mnt/d"), lambda: s.send(b"x")):
    try:
        print(send())
    except OSError as e:
        print(e.errno)
"""))
        self.assertEqual(said, "32\nNone\n32\n")
        server.setblocking(False)
        self.assertRaises(BlockingIOError, server.recv, 1)

    def test_datagrams(self):
        server = self.serve("dgram", "d")
        process = self.guest(["--host-uds=open"], """
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"one", "/mnt/d")
s.connect("/mnt/d")
s.send(b"two")
s.send(b"")
for i in range(200):
    s.send(b"%d" % i)
t = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for i in range(200):
    t.sendto(b"%d" % i, "/mnt/d")
print("sent")
import time
while not os.path.exists("/mnt/gone"):
    time.sleep(0.01)
for _ in range(2):
    try:
        s.send(b"x")
    except OSError as e:
        print(e.errno)
try:
    t.sendto(b"x", "/mnt/d")
except OSError as e:
    print(e.errno)
""")
        got = [server.recv(100) for _ in range(403)]
        numbers = [b"%d" % i for i in range(200)]
        self.assertEqual(got, [b"one", b"two", b""] + numbers + numbers)
        self.assertTrue(eventually(lambda: self.said() == "sent\n", TIMEOUT), self.said())
        server.close()
        with open(self.name("gone"), "w"):
            pass
        self.assertEqual(self.ends(process), "sent\n111\n107\n111\n")

    def test_descriptors_do_not_pass(self):
        server = self.serve("stream", "s")
        process = self.guest(["--host-uds=open"], """
s = socket.socket(socket.AF_UNIX)
s.connect("/mnt/s")
try:
    s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
except OSError as e:
    print(e.errno)
before = os.listdir("/proc/self/fd")
print(s.recvmsg(10, 1000)[:3] == (b"with", [], socket.MSG_CTRUNC), os.listdir("/proc/self/fd") == before)
s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
s.send(b"go")
data, control, flags, _ = s.recvmsg(10, 1000)
print(data, [array.array("i", c[2])[0] for c in control], flags)
""")
        peer, _ = server.accept()
        with open(self.output) as file:
            peer.sendmsg([b"with"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])
        self.assertEqual(peer.recv(10), b"go")
        peer.send(b"who")
        self.assertEqual(self.ends(process), "1\nTrue True\nb'who' [0] 0\n")

    def test_permissions_count(self):
        os.chmod(self.folder, 0o755)
        os.chmod(self.shared, 0o755)
        server = self.serve("stream", "s")
        os.chmod(self.name("s"), 0o755)
        process = self.guest(["--host-uds=open"], """
s = socket.socket(socket.AF_UNIX)
os.setgroups([]); os.setgid(1000); os.setuid(1000)
print(s.connect_ex("/mnt/s"))
""")
        self.assertEqual(self.ends(process), "13\n")
        server.setblocking(False)
        self.assertRaises(BlockingIOError, server.accept)

    def test_the_host_sees_the_guests_user(self):
        os.chmod(self.folder, 0o755)
        os.chmod(self.shared, 0o755)
        server = self.serve("stream", "s")
        os.chmod(self.name("s"), 0o777)
        process = self.guest(["--host-uds=open"], """
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect("/mnt/s")
    s.recv(1)
connect()
if os.fork() == 0:
    os.setgroups([2000, 2001]); os.setresgid(1001, 1002, 1001); os.setresuid(1000, 1003, 1000)
    connect()
    os._exit(0)
os.wait()
connect()
open("/mnt/file", "w").close()
""")
        seen = []
        for _ in range(3):
            peer, _ = server.accept()
            _, uid, gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            groups = array.array("I", peer.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 400))
            seen.append((uid, gid, sorted(groups)))
            peer.close()
        self.ends(process)
        self.assertEqual(seen, [(0, 0, []), (1003, 1002, [2000, 2001]), (0, 0, [])])
        self.assertEqual(os.stat(self.name("file")).st_uid, 0)

    def test_in_the_root(self):
        server = self.serve("stream", "s")
        process = self.guest(["--host-uds=open"], f"""
s = socket.socket(socket.AF_UNIX)
s.connect({self.name("s")!r})
print(s.recv(10))
t = socket.socket(socket.AF_UNIX)
os.unlink({self.name("s")!r})  # in the overlay's memory
t.bind({self.name("s")!r})
t.listen()
u = socket.socket(socket.AF_UNIX)
u.connect({self.name("s")!r})
t.accept()[0].send(b"inside")
print(u.recv(10))
""")
        peer, _ = server.accept()
        peer.send(b"outside")
        self.assertEqual(self.ends(process), "b'outside'\nb'inside'\n")

    # --- create ---

    def test_inside_stays_inside_by_default(self):
        process = self.guest(["--host-uds=open"], """
s = socket.socket(socket.AF_UNIX)
s.bind("/mnt/s")
s.listen()
print("ready")
s.accept()[0].send(b"x")
""")
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        with self.assertRaises(ConnectionRefusedError):
            self.client("stream", "s")
        self.run_cli("kill", "c", "KILL")
        process.wait(TIMEOUT)

    def test_listening(self):
        process = self.guest(["--host-uds=create"], """
import stat
os.umask(0o027)
for name in ("stream", "seqpacket"):
    s = socket.socket(socket.AF_UNIX, getattr(socket, "SOCK_" + name.upper()))
    s.bind("/mnt/" + name)
    st = os.stat("/mnt/" + name)
    print(oct(st.st_mode), st.st_uid, s.getsockname())
    try:
        socket.socket(socket.AF_UNIX).bind("/mnt/" + name)
    except OSError as e:
        print(e.errno)
    s.listen()
    print("ready")
    for i in range(3):
        c, address = s.accept()
        print(c.recv(100), address, c.getsockname())
        c.send(b"answer")
        c.close()
    os.unlink("/mnt/" + name)
""")
        for kind in ("stream", "seqpacket"):
            self.assertTrue(eventually(lambda: os.path.exists(self.name(kind)) and self.said().endswith("ready\n"), TIMEOUT), self.said())
            clients = [self.client(kind, kind) for _ in range(3)]
            for client in clients:
                client.send(b"question")
            for client in clients:
                self.assertEqual((client.recv(100), client.recv(100)), (b"answer", b""))
        said = self.ends(process)
        self.assertEqual(said, "".join(
            f"0o140750 0 /mnt/{kind}\n98\nready\n" + 3 * f"b'question'  /mnt/{kind}\n" for kind in ("stream", "seqpacket")))
        self.assertEqual(os.listdir(self.shared), [])

    def test_one_listener_for_both_sides(self):
        process = self.guest(["--host-uds=all"], """
s = socket.socket(socket.AF_UNIX)
s.bind("/mnt/s")
s.listen()
inside = socket.socket(socket.AF_UNIX)
inside.connect("/mnt/s")
c, _ = s.accept()
inside.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
print(len(c.recvmsg(10, 1000)[1]))
import selectors
sel = selectors.DefaultSelector()
sel.register(s, selectors.EVENT_READ)
print(len(sel.select(0)))
print(len(sel.select(20)))
o, _ = s.accept()
print(o.recv(10))
""")
        self.assertTrue(eventually(lambda: self.said() == "1\n0\n", TIMEOUT), self.said())
        self.client("stream", "s").send(b"outside")
        self.assertEqual(self.ends(process), "1\n0\n1\nb'outside'\n")

    def test_long_names_stay_inside(self):
        names = ["s" * 90, "l" * 107]
        process = self.guest(["--host-uds=create"], f"""
os.chdir("/mnt")
sockets = []
for name in {names}:
    s = socket.socket(socket.AF_UNIX)
    s.bind(name)
    s.listen()
    socket.socket(socket.AF_UNIX).connect(name)
    s.accept()
    sockets.append(s)
print("ready")
sockets[0].accept()
""")
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        for name in names:
            os.symlink(name, self.name(name[0]))
        with self.assertRaises(ConnectionRefusedError):
            self.client("stream", "l")
        self.client("stream", "s")
        self.ends(process)

    def test_they_leave_the_reserve_of_descriptors(self):
        self.made = self.config("/usr/bin/python3", "-c", """
import os, resource, socket, subprocess
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
os.chdir("/mnt")
held = []
try:
    while True:
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].bind(str(len(held)))
except OSError as e:
    print(e.errno, len(held) > 500, os.path.exists(str(len(held))), len(os.listdir(".")) == len(held) - 1)
for s in held:
    s.close()
print(subprocess.run(["true"]).returncode)
""")
        with open(self.output, "a") as file:
            process = subprocess.Popen(self.command("--overlay=memory", "--host-uds=create", "run", "--bundle", self.made, "c"), stdin=subprocess.DEVNULL,
                                       stdout=file, stderr=file, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048)))
        self.assertEqual(self.ends(process), f"{errno.ENFILE} True False True\n0\n")

    def test_many_clients(self):
        process = self.guest(["--host-uds=create"], """
import asyncio
done = 0
async def serve(reader, writer):
    global done
    writer.write(await reader.read(1 << 20))
    await writer.drain()
    writer.close()
    done += 1
    if done == 50:
        event.set()
async def main():
    global event
    event = asyncio.Event()
    server = await asyncio.start_unix_server(serve, "/mnt/s")
    print("ready")
    await event.wait()
asyncio.run(main())
""")
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        wrong = []

        def one(i):
            for j in range(5):
                client = self.client("stream", "s")
                client.send(b"%d %d" % (i, j))
                if client.recv(100) != b"%d %d" % (i, j):
                    wrong.append((i, j))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.ends(process)

    def test_receiving_datagrams(self):
        process = self.guest(["--host-uds=create"], """
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("/mnt/d")
print("ready")
for i in range(3):
    print(s.recvfrom(5))
s.setblocking(False)
inside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
inside.sendto(b"inside", "/mnt/d")
print(s.recv(10))
""")
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        client = self.client("dgram", "d")
        for data in (b"one", b"", b"longer"):
            client.send(data)
        self.assertEqual(self.ends(process), "ready\n(b'one', None)\n(b'', None)\n(b'longe', None)\nb'inside'\n")

    # --- several containers ---

    def pod(self, kind, *program, **changes):
        name = "io.kubernetes.cri."
        return self.bundle(*program, root={"path": "/"}, annotations={name + "container-type": kind, name + "sandbox-id": "pod"}, **changes)

    def test_a_container_cannot_have_what_its_sandbox_has_not(self):
        mounts = [{"destination": "/mnt", "type": "bind", "source": self.shared, "options": ["rbind", "rw"]}]
        inner = self.pod("container", "/usr/bin/python3", "-u", "-c", """
import socket
s = socket.socket(socket.AF_UNIX)
s.bind("/mnt/s")
s.listen()
s.shutdown(socket.SHUT_RDWR)
print("listened")
""", mounts=mounts)
        for flags, said in (([], "without --host-uds"), (["--host-uds=open"], "listened")):
            self.detached("--overlay=memory", *flags, "run", "--detach", "--bundle", self.pod("sandbox", "/bin/sleep", "100"), "pod")
            self.start(["--host-uds=create"], "run", "--bundle", inner, "inner").wait(TIMEOUT)
            self.assertIn(said, self.said())
            self.assertEqual(self.state("pod")["status"], "running")
            self.must("delete", "--force", "pod")

    # --- checkpoints ---

    def checkpoint(self, process, *flags):
        point = os.path.join(self.folder, "point")
        said = self.run_cli("checkpoint", "--image-path", point, "c")
        self.assertEqual(said.returncode, 0, said.stderr)
        process.wait(TIMEOUT)
        self.run_cli("delete", "--force", "c")
        return self.start(flags, "restore", "--image-path", point, "--bundle", self.made, "c")

    SERVER = """
s = socket.socket(socket.AF_UNIX)
s.bind("/mnt/s")
s.listen()
print("ready")
old, _ = s.accept()
print("accepted")
try:
    print(old.recv(10))
except OSError as e:
    print(e.errno, old.recv(10))
new, _ = s.accept()
print(new.recv(10))
"""

    def test_a_listener_comes_back(self):
        process = self.guest(["--host-uds=create"], self.SERVER)
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        old = self.client("stream", "s")
        self.assertTrue(eventually(lambda: self.said() == "ready\naccepted\n", TIMEOUT), self.said())
        process = self.checkpoint(process, "--host-uds=create")
        self.assertEqual(old.recv(10), b"")
        self.assertTrue(eventually(lambda: "104 b''\n" in self.said(), TIMEOUT), self.said())
        self.client("stream", "s").send(b"new")
        self.assertEqual(self.ends(process), "ready\naccepted\n104 b''\nb'new'\n")

    def test_a_listener_wants_the_option_again(self):
        process = self.guest(["--host-uds=create"], self.SERVER)
        self.assertTrue(eventually(lambda: self.said() == "ready\n", TIMEOUT), self.said())
        process = self.checkpoint(process)
        self.assertNotEqual(process.wait(TIMEOUT), 0)
        self.assertIn("restore it with --host-uds", self.said())

    def test_a_connection_is_lost(self):
        server = self.serve("stream", "s")
        self.serve("dgram", "d")
        process = self.guest(["--host-uds=open"], """
import time
s = socket.socket(socket.AF_UNIX)
s.connect("/mnt/s")
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
d.connect("/mnt/d")
print("connected")
while not os.path.exists("/mnt/go"):
    time.sleep(0.02)
for f in (lambda: s.recv(1), lambda: s.recv(1), lambda: s.send(b"x"), lambda: d.send(b"x"), lambda: d.sendto(b"x", "/mnt/d"),
          lambda: socket.socket(socket.AF_UNIX).connect("/mnt/s")):
    try:
        print(f())
    except OSError as e:
        print(e.errno)
""")
        peer, _ = server.accept()
        self.addCleanup(peer.close)
        self.assertTrue(eventually(lambda: self.said() == "connected\n", TIMEOUT), self.said())
        process = self.checkpoint(process, "--host-uds=open")
        with open(self.name("go"), "w"):
            pass
        self.assertEqual(self.ends(process), "connected\n104\nb''\n32\n111\n1\nNone\n")


if __name__ == "__main__":
    unittest.main()
