# timeout: 900
# stress-ng: a second of each class whose results it can verify, one worker each.
# Told at the end: some of them open what is behind /proc/PID/fd, and move its offset where that is a file of the host.
for s in \
    dir dirdeep dirmany dnotify dup dynlib enosys env epoll eventfd exec exit-group fault fcntl fiemap fifo file-ioctl filename flock \
    fp-error fstat futex get getdent getrandom handle hdd hrtimers inode-flags inotify io ioprio itimer kcmp kill landlock \
    lease link list loadavg lockbus locka lockf lockofd longjmp madvise mcontend membarrier memfd memrate mergesort mincore \
    misaligned mknod mlock mmap mmapaddr mmapfixed mmapfork mprotect mq mremap msg msync msyncmany mutex nanosleep netdev nice null \
    numa open pagemove personality peterson pidfd ping-sock pipe pipeherd pkey poll prctl prefetch procfs ptrace randlist \
    rawsock rawudp readahead regs remap rename resched; do
    timeout 100 stress-ng --$s 1 --timeout 1 --verify --oom-avoid --temp-path . >log 2>&1 </dev/null && echo "$s ok" || { echo "$s failed"; grep fail log | head -3; }
done >results
cat results
