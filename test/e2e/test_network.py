"""--network=host: the guest's TCP and UDP sockets are the host's; across a checkpoint, too."""

import hashlib
import os
import socket
import subprocess
import threading
import unittest

from support import TOP, SandboxTest, eventually

CLIENT = """
import hashlib, socket, sys
port = int(sys.argv[1])
data = bytes(i * 7 % 251 for i in range(1 << 20)) * 8
s = socket.create_connection(("127.0.0.1", port))
s.settimeout(20)
s.sendall(data)
s.shutdown(socket.SHUT_WR)
answer = s.makefile("rb").read().decode()
print(answer == hashlib.sha256(data).hexdigest())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(20)
u.sendto(b"ping", ("127.0.0.1", port))
print(u.recvfrom(100) == (b"ping", ("127.0.0.1", port)))
refused = socket.socket()
print(refused.connect_ex(("127.0.0.1", 1)))
slow = socket.socket()
slow.setblocking(False)
print(slow.connect_ex(("127.0.0.1", port)) in (0, 115))
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
except PermissionError:
    print("no raw sockets")
"""

# Answers each connection with its number; tells what became of the first one.
SERVER = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(5)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("127.0.0.1", int(sys.argv[1])))
print("up", flush=True)
kept = None
for number in range(2):
    c, _ = s.accept()
    c.sendall(str(number).encode())
    if kept:
        try:
            print(kept.recv(10))
        except ConnectionResetError:
            print("reset", kept.recv(10), flush=True)
    kept = kept or c
data, source = u.recvfrom(100)
u.sendto(data, source)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class HostNetwork(SandboxTest):
    binary = os.environ.get("AMBER_SANDBOX", os.path.join(TOP, "bazel-bin/sandbox"))

    def serve(self):
        """A peer on the host: TCP answers with the digest of all that came, slowly; UDP echoes."""
        tcp = socket.create_server(("127.0.0.1", 0))
        port = tcp.getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", port))
        self.addCleanup(tcp.close)
        self.addCleanup(udp.close)

        def answer():
            connection, _ = tcp.accept()
            # The sender's buffer is full for most of the time.
            digest = hashlib.sha256()
            with connection:
                while data := connection.recv(10007):
                    digest.update(data)
                connection.sendall(digest.hexdigest().encode())

        def echo():
            data, source = udp.recvfrom(100)
            udp.sendto(data, source)
        for work in (answer, echo):
            threading.Thread(target=work, daemon=True).start()
        return port

    def test_client(self):
        said = self.must("do", "--network=host", "python3", "-c", CLIENT, str(self.serve()))
        self.assertEqual(said, "True\nTrue\n111\nTrue\nno raw sockets\n")

    def test_without_the_flag(self):
        said = self.must("do", "python3", "-c", "import socket, sys; print(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))))",
                         str(self.serve()))
        self.assertEqual(said, "111\n")

    def test_interfaces_are_shown(self):
        names = "import socket; print(sorted(n for _, n in socket.if_nameindex()))"
        self.assertEqual(self.must("do", "--network=host", "python3", "-c", names),
                         subprocess.run(["python3", "-c", names], capture_output=True, text=True, check=True).stdout)

    def test_server_across_a_checkpoint(self):
        port = free_port()
        bundle = self.bundle("/usr/bin/python3", "-c", SERVER, str(port), root={"path": "/", "readonly": True})
        output = os.path.join(self.folder, "output")

        def said():
            with open(output) as file:
                return file.read()

        def run(*command):
            with open(output, "w") as file:
                return subprocess.Popen(self.command("--network=host", *command), stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        process = run("run", "--bundle", bundle, "c")
        self.assertTrue(eventually(lambda: said() == "up\n", 20), said())
        first = socket.create_connection(("127.0.0.1", port), 20)
        self.assertEqual(first.recv(10), b"0")
        image = os.path.join(self.folder, "image")
        self.must("checkpoint", "--image-path", image, "c")
        process.wait(20)
        self.run_cli("delete", "--force", "c")
        self.assertEqual(first.recv(10), b"", "the connection ended with its sandbox")
        refused = self.run_cli("restore", "--image-path", image, "--bundle", bundle, "c")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("--network=host", refused.stderr)
        self.run_cli("delete", "--force", "c")
        process = run("restore", "--image-path", image, "--bundle", bundle, "c")
        second = []

        def connect():
            try:
                second.append(socket.create_connection(("127.0.0.1", port), 20))
            except ConnectionRefusedError:
                return False
            return True
        self.assertTrue(eventually(connect, 20), said())
        self.assertEqual(second[0].recv(10), b"1")
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.settimeout(20)
        udp.sendto(b"again", ("127.0.0.1", port))
        self.assertEqual(udp.recv(10), b"again")
        self.assertEqual(process.wait(20), 0, said())
        self.assertEqual(said(), "reset b''\n")
        for s in (first, second[0], udp):
            s.close()


if __name__ == "__main__":
    unittest.main()
