# checkpoint: yes
# timeout: 120
# vim edits a file at a terminal; tmux runs a shell in a window and is left and asked.
import os
import pty
import select
import subprocess
import time


def at_terminal(argv, keys, done):
    """Types `keys` one after the other, each once the program has been silent for a while, until done() is true."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execvp(argv[0], argv)
    keys, end, text = list(keys), time.monotonic() + 60, b""
    while time.monotonic() < end:
        if select.select([fd], [], [], 0.5)[0]:
            try:
                got = os.read(fd, 65536)
            except OSError:
                got = b""
            if not got:
                break
            text += got
        elif keys:
            os.write(fd, keys.pop(0))
    _, status = os.waitpid(pid, 0 if not keys else os.WNOHANG)
    print(argv[0], status, done(text))


with open("f", "w") as file:
    file.write("one\ntwo\nthree\n")
at_terminal(["vim", "-u", "NONE", "f"], [b"ggOzero\x1b", b":%s/two/TWO/\r", b":r !echo shell\r\r", b":wq\r"],
            lambda text: open("f").read())
tmux = ["tmux", "-S", os.path.abspath("socket"), "-f", "/dev/null"]
at_terminal(tmux + ["new", "-s", "x", "sh"], [b"echo a$((1+1))b\r", b"\x02d"], lambda text: b"a2b" in text)
print(subprocess.run(tmux + ["list-windows", "-t", "x", "-F", "#{window_panes}"], stdout=subprocess.PIPE, text=True).stdout)
print(subprocess.run(tmux + ["kill-server"]).returncode)
