# native: no
# expect: perf bpftrace kexec module reboot clean
# What asks the machine's kernel itself is refused with a message, and nothing hangs or crashes.
out=
refused() { if timeout 30 "$@" >log 2>&1 </dev/null; then echo "$1 ran"; elif [ -s log ] && ! grep -qiE 'segmentation|core dumped' log; then return 0; fi; return 1; }
refused perf record -o data true && out="$out perf"
refused bpftrace -e 'BEGIN { exit() }' && out="$out bpftrace"
refused python3 -c 'import ctypes, os; l = ctypes.CDLL(None, use_errno=True); r = l.syscall(246, 0, 0, 0, 0, 0); raise SystemExit(os.strerror(ctypes.get_errno()) if r else 0)' && out="$out kexec"
refused python3 -c 'import ctypes, os; l = ctypes.CDLL(None, use_errno=True); r = l.syscall(313, 0, b"", 0); raise SystemExit(os.strerror(ctypes.get_errno()) if r else 0)' && out="$out module"
refused python3 -c 'import ctypes, os; l = ctypes.CDLL(None, use_errno=True); r = l.syscall(169, 0xfee1dead, 672274793, 0x1234567, 0); raise SystemExit(os.strerror(ctypes.get_errno()) if r else 0)' && out="$out reboot"
echo ${out# } clean
