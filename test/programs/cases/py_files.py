# Files and directories from Python: stat, links, times, permissions, locks, temporary files, walks, errors.
import errno, fcntl, os, shutil, stat, tempfile

os.makedirs("a/b/c"); open("a/b/f", "w").write("text"); os.link("a/b/f", "hard"); os.symlink("a/b/f", "soft")
print(os.stat("hard").st_nlink, os.readlink("soft"), os.path.samefile("soft", "hard"), os.lstat("soft").st_size)
os.utime("hard", (1000, 2000)); s = os.stat("hard"); print(s.st_atime, s.st_mtime); os.chmod("hard", 0o4751); print(oct(stat.S_IMODE(os.stat("hard").st_mode)))
os.rename("hard", "renamed"); print(sorted(os.listdir("."))); os.replace("renamed", "a/b/f"); shutil.copytree("a", "copy"); print(sum(len(f) for _, _, f in os.walk("copy")))


def failing(call, *args):
    try:
        call(*args)
    except OSError as e:
        print(call.__name__, errno.errorcode[e.errno])


failing(os.rmdir, "a"); failing(os.mkdir, "a"); failing(os.open, "nope", 0); failing(os.readlink, "a"); failing(os.rename, "a", "a/b/d")
failing(os.listdir, "soft"); failing(os.unlink, "a"); failing(os.open, "a", os.O_WRONLY); failing(os.stat, "x" * 300); failing(os.link, "a", "l")
os.symlink("loop", "loop"); failing(os.open, "loop", 0)
with open("f", "w+b") as f:
    f.write(b"0123456789"); f.seek(1 << 20); f.write(b"end"); f.flush(); s = os.fstat(f.fileno()); print(s.st_size, s.st_blocks * 512 < 1 << 20)
    f.truncate(5); f.seek(0, 2); print(f.tell()); print(os.lseek(f.fileno(), 2, 0), os.read(f.fileno(), 10))
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 0)
    if os.fork() == 0:
        with open("f", "r+b") as g:
            try:
                fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 0)
            except OSError as e:
                os._exit(e.errno)
        os._exit(0)
    print("lock", errno.errorcode[os.waitstatus_to_exitcode(os.wait()[1])])
with tempfile.TemporaryFile() as t:
    t.write(b"deleted"); t.seek(0); print(t.read())
with tempfile.NamedTemporaryFile() as t:
    print(os.path.exists(t.name))
fd = os.open("f", os.O_RDWR); os.unlink("f"); os.write(fd, b"gone"); print(os.fstat(fd).st_nlink, os.pread(fd, 4, 0))
d = os.open("a", os.O_DIRECTORY); print(os.listdir(d), os.stat("b", dir_fd=d).st_nlink); os.fchdir(d); print(os.path.basename(os.getcwd())); os.chdir("..")
r, w = os.pipe(); os.set_blocking(r, False); failing(os.read, r, 1); print(os.write(w, b"x" * 100), fcntl.fcntl(w, 1032)); os.writev(w, [b"a", b"bc"]); print(len(os.read(r, 1000)))
os.mkfifo("fifo"); failing(os.open, "fifo", os.O_WRONLY | os.O_NONBLOCK)
names = [f"n{i}" for i in range(2000)]; os.mkdir("many"); [open("many/" + n, "w").close() for n in names]; print(len(os.listdir("many")), sorted(os.listdir("many")) == sorted(names)); shutil.rmtree("many")
os.setxattr("a", "user.k", b"v") if False else None
print(os.statvfs(".").f_namemax, os.access("/", os.R_OK), os.access("nope", os.F_OK)); src = os.open("copied", os.O_RDWR) if shutil.copy("/usr/bin/perl", "copied") else 0; dst = os.open("p", os.O_CREAT | os.O_WRONLY); print(os.sendfile(dst, src, 0, 100000)); print(os.copy_file_range(src, dst, 1000))
