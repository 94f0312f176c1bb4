# checkpoint: yes
# Job control at a terminal: bash on a pseudo terminal, ^Z, fg, bg, ^C, window size, EOF.
import os, pty, re, select, signal, struct, sys, fcntl, termios, time

pid, master = pty.fork()
if pid == 0:
    # Ignored, as in the background of a script, they would stay so in all that bash starts.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ["PS1"] = "READY> "
    os.execvp("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
seen = b""


def expect(pattern, seconds=20):
    global seen
    end = time.monotonic() + seconds
    while not re.search(pattern, seen):
        if not select.select([master], [], [], max(0, end - time.monotonic()))[0]:
            print("no", pattern, "in", seen[-300:])
            sys.exit(1)
        try:
            data = os.read(master, 4096)
        except OSError:
            data = b""
        if not data:
            break
        seen += data
    match = re.search(pattern, seen)
    if match:
        seen = seen[match.end():]
    return match


def send(text):
    os.write(master, text)


def in_front(seconds=20):
    """Waits until another process group than the shell's has the terminal, and a moment for its program to begin."""
    end = time.monotonic() + seconds
    while os.tcgetpgrp(master) == pid and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)


expect(rb"READY> ")
send(b"tty | sed 's/[0-9]*$/N/'\n"); print(expect(rb"\n(/dev/pts/N)")[1].decode()); expect(rb"READY> ")
send(b"sleep 300\n"); expect(rb"sleep 300\r\n"); in_front()
send(b"\x1a"); expect(rb"Stopped"); expect(rb"READY> "); print("stopped by ^Z")
send(b"jobs\n"); expect(rb"\[1\]\+ +Stopped +sleep 300"); expect(rb"READY> "); print("listed")
send(b"bg\n"); expect(rb"\[1\]\+ sleep 300 &"); expect(rb"READY> "); print("in the background")
send(b"fg\n"); expect(rb"sleep 300\r\n"); in_front()
send(b"\x03"); expect(rb"READY> "); print("ended by ^C")
send(b"echo status $?\n"); expect(rb"\nstatus 130"); expect(rb"READY> "); print("status 130")
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
send(b"stty size\n"); print(expect(rb"\n(\d+ \d+)\r")[1].decode()); expect(rb"READY> ")
send(b"trap 'echo got-winch' WINCH\n"); expect(rb"READY> ")
send(b"cat; echo\n"); in_front(); fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
send(b"typed\n"); expect(rb"typed\r\ntyped"); send(b"\x04"); expect(rb"READY> "); print("cat saw end of file")
send(b"stty -echo; echo quiet; stty echo\n"); expect(rb"\nquiet\r"); expect(rb"READY> "); print("echo off and on")
send(b"sleep 300 & sleep 301 & jobs -p | wc -l\n"); print(expect(rb"\n(\d)\r")[1].decode()); expect(rb"READY> ")
send(b"kill %1 %2; wait; exit 9\n")
while True:
    try:
        if not os.read(master, 4096):
            break
    except OSError:
        break
print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
