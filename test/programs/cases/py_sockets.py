# Unix sockets: stream, datagram, seqpacket, abstract names, credentials, descriptor passing, time-outs, poll.
import array, os, select, socket, struct, threading

s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(5)
threading.Thread(target=lambda: (c := s.accept()[0], c.sendall(c.recv(100)[::-1]), c.close())).start()
c = socket.socket(socket.AF_UNIX); c.connect("s"); c.sendall(b"reverse"); print(c.recv(100), c.recv(100)); print(c.getpeername())
a, b = socket.socketpair(); print(struct.unpack("3i", a.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == os.getpid())
r, w = os.pipe(); a.sendmsg([b"fd"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w]))])
data, ancillary, *_ = b.recvmsg(10, socket.CMSG_SPACE(4)); fd = array.array("i", ancillary[0][2])[0]; os.write(fd, b"passed"); print(data, os.read(r, 10))
d1, d2 = socket.socketpair(type=socket.SOCK_DGRAM); d1.send(b"one"); d1.send(b"two"); print(d2.recv(2), d2.recv(10))
q1, q2 = socket.socketpair(type=socket.SOCK_SEQPACKET); q1.send(b"abc"); q1.send(b"d"); print(q2.recv(10), q2.recv(10)); q1.close(); print(q2.recv(10))
name = f"\0amber-{os.getpid()}"; n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.bind(name); m = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); m.sendto(b"abstract", name); print(n.recv(20))
a.settimeout(0.1)
try:
    a.recv(1)
except TimeoutError:
    print("timed out")
p = select.poll(); p.register(b, select.POLLIN | select.POLLOUT); print(p.poll(0)[0][1] == select.POLLOUT); a.send(b"x"); print(p.poll(0)[0][1] & select.POLLIN); a.close(); print(bool(p.poll(0)[0][1] & select.POLLHUP))
b.recv(1); print(b.recv(1))
try:
    b.send(b"x")
except BrokenPipeError:
    print("EPIPE")
for path in ("missing", "/etc/passwd"):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as e:
        print(e.errno)
e1, e2 = socket.socketpair(); e = select.epoll(); e.register(e2, select.EPOLLIN | select.EPOLLET); e1.send(b"1"); print(len(e.poll(1))); print(len(e.poll(0))); e1.send(b"2"); print(len(e.poll(1)))
big1, big2 = socket.socketpair(); threading.Thread(target=lambda: (big1.sendall(b"z" * 5_000_000), big1.close())).start(); n = 0
while chunk := big2.recv(65536):
    n += len(chunk)
print(n); x, y = socket.socketpair(); x.shutdown(socket.SHUT_WR); print(y.recv(1)); y.send(b"still"); print(x.recv(10)); y.send(b"peek"); print(x.recv(4, socket.MSG_PEEK), x.recv(4))
