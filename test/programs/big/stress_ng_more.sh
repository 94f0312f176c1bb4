# timeout: 900
# The other classes of stress-ng that ask something of the kernel, a second each. Left out are those that need what a container has not
# (kernel logs, PCI, swap, mounts) and loops of arithmetic.
for s in \
    access af-alg affinity aio aiol apparmor alarm bad-altstack bad-ioctl brk cap chattr chdir chmod chown chroot clock clone close context \
    copy-file cyclic daemon dccp dentry dev dev-shm fallocate fanotify flushcache fork forkheavy fpunch fsize gpu icmp-flood idle-page iomix \
    ioport key kvm loop memhotplug mmaphuge mmapmany munmap pageswap priv-instr pthread race-sched ramfs resched resources revio \
    ring-pipe rlimit rmap rseq rtc schedpolicy sctp seal seccomp secretmem seek sem sem-sysv sendfile session set shm shm-sysv sigabrt \
    sigchld sigfd sigfpe sigio signal signest sigpending sigpipe sigq sigrt sigsegv sigsuspend sigtrap sleep sock sockabuse sockdiag sockfd \
    sockpair sockmany spawn splice stack stackmmap switch symlink sync-file sysbadaddr syscall sysinfo tee timer timerfd tlb-shootdown touch \
    tun udp udp-flood umount unshare urandom userfaultfd usersyscall utime vdso verity vfork vforkmany vm vm-addr vm-rw vm-segv vm-splice \
    wait x86syscall xattr yield zero zombie; do
    timeout 100 stress-ng --$s 1 --timeout 1 --verify --oom-avoid --temp-path . >log 2>&1 </dev/null && echo "$s ok" || { echo "$s failed"; grep fail log | head -3; }
done >results
cat results
