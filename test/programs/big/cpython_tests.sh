# timeout: 900
# CPython's own tests of what lies on the kernel, by modules; cpython_net.sh and cpython_processes.sh have the rest.
# test_fcntl_64_bit asks for F_NOTIFY, which is not there.
mkdir t; cd t; unset PYTHONUNBUFFERED
for m in os posix signal subprocess threading mmap select epoll poll fcntl pty resource time fork1 wait3 wait4 tempfile pathlib io fileio \
    selectors openpty posixpath stat mailbox faulthandler eintr zipfile ctypes queue shutil largefile glob grp pwd shelve dbm tarfile gzip \
    threadedtempfile thread threadsignals sched timeout platform cmd_line cmd_line_script c_locale_coercion exceptions file file_eintr \
    fileinput ioctl import pipes popen profile sys tracemalloc zipapp zlib compileall py_compile; do
    timeout 300 python3 -m test -i test_fcntl_64_bit test_$m >log 2>&1 && echo "$m ok" || { echo "$m failed"; grep -E '^(FAIL|ERROR):' log | sort -u; }
done
