# timeout: 120
# numpy: import, a matrix product with threads of its own, linear algebra, FFT, sorting, files.
import numpy as np

rng = np.random.default_rng(7); a, b = rng.integers(0, 100, (400, 400)), rng.integers(0, 100, (400, 400))
c = a.astype(float) @ b.astype(float); print(int(c.sum()), int(c[17, 23]) == int((a[17] * b[:, 23]).sum()))
x = rng.random((200, 200)); print(np.allclose(np.linalg.inv(x) @ x, np.eye(200))); print(np.round(np.abs(np.fft.fft(np.ones(64)))[0]))
s = np.sort(rng.integers(0, 1 << 30, 500_000)); print(bool((np.diff(s) >= 0).all())); np.save("a.npy", a); print((np.load("a.npy", mmap_mode="r") == a).all())
