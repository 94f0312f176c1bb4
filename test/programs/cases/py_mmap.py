# mmap: files shared and private, anonymous across fork, resize, flush, protection faults, madvise.
import ctypes, mmap, os, signal

with open("f", "wb+") as f:
    f.write(b"\0" * 65536); f.flush()
    m = mmap.mmap(f.fileno(), 65536); m[100:105] = b"hello"; m.flush()
    print(os.pread(f.fileno(), 5, 100)); os.pwrite(f.fileno(), b"WORLD", 200); print(m[200:205])
    private = mmap.mmap(f.fileno(), 65536, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE); private[100:105] = b"other"
    print(m[100:105], private[100:105]); m.resize(131072); m[131071] = 7; print(os.fstat(f.fileno()).st_size, m[131071]); print(m.find(b"WORLD"))
shared = mmap.mmap(-1, 4096)
if os.fork() == 0:
    shared[0:5] = b"child"; os._exit(0)
os.wait(); print(shared[0:5])
big = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE); [big.__setitem__(i, 1) for i in range(0, 64 << 20, 4096)]; print(sum(big[i] for i in range(0, 64 << 20, 4096)))
big.madvise(mmap.MADV_DONTNEED); print(big[0], big[4096 * 77])
child = os.fork()
if child == 0:
    import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read_only = mmap.mmap(-1, 4096, prot=mmap.PROT_READ); libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
    p = libc.mmap(None, 4096, 1, 0x22, -1, 0); ctypes.memset(p, 1, 1)
print("fault", signal.Signals(os.WTERMSIG(os.waitpid(child, 0)[1])).name)
child = os.fork()
if child == 0:
    import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fd = os.open("g", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 8192); m = mmap.mmap(fd, 8192); os.ftruncate(fd, 0); m[5000]
print("past the end", signal.Signals(os.WTERMSIG(os.waitpid(child, 0)[1])).name)
fd = os.memfd_create("x"); os.ftruncate(fd, 8192); a, b = mmap.mmap(fd, 8192), mmap.mmap(fd, 8192); a[10] = 42; print(b[10])
try:
    mmap.mmap(os.open("f", os.O_RDONLY), 4096)
except PermissionError as e:
    print("errno", e.errno)
