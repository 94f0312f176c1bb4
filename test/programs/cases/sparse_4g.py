# checkpoint: yes
# A 4 GB mapping of which few pages are touched, anonymous and file; then it is read back.
import mmap, os, time

size = 4 << 30
m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_NORESERVE if hasattr(mmap, "MAP_NORESERVE") else mmap.MAP_PRIVATE)
for i in range(0, size, 64 << 20):
    m[i] = (i >> 26) & 255
time.sleep(1)
print(sum(m[i] for i in range(0, size, 64 << 20)), sum(m[i + 8192] for i in range(0, size, 64 << 20)))
fd = os.open("sparse", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, size); f = mmap.mmap(fd, size); f[size - 1] = 9; f[1 << 31] = 8
print(os.pread(fd, 1, size - 1), os.pread(fd, 1, 1 << 31), os.fstat(fd).st_blocks < 1000); resident = int(open("/proc/self/statm").read().split()[1]) * 4096; print(resident < 200 << 20)
