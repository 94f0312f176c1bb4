# busybox: one static binary, many applets.
bb=$(command -v busybox); [ -x "$bb" ] || bb=/bin/busybox
$bb sh -c 'echo shell $((1 + 2)); for i in 1 2 3; do echo $i; done | busybox tac'
$bb seq 5 | $bb awk '{s += $1} END {print s}'; $bb echo abc | $bb sed s/b/x/; $bb printf '%d\n' 0x10; $bb expr 6 '*' 7
$bb mkdir -p d/e; $bb touch d/e/f; $bb find d | $bb sort; $bb cp -r d c; $bb ls -R c; $bb rm -r c
$bb dd if=/dev/zero of=z bs=1k count=100 2>/dev/null; $bb wc -c z; $bb md5sum z; $bb gzip z; $bb gunzip z.gz; $bb sum z
$bb tar cf t.tar d; $bb tar tf t.tar; $bb basename /a/b; $bb uname -s; $bb id -u; $bb cal 2 2024 | $bb head -2; $bb od -c -N 3 t.tar
$bb sh -c '(exit 4); echo $?; kill -TERM $$'; echo "status $?"; $bb timeout 1 $bb sleep 30; echo "timeout $?"; $bb ps -o pid,comm >/dev/null && echo ps
$bb vi --help >/dev/null 2>&1; echo $?; $bb grep -c root /etc/passwd; $bb xargs -n1 echo < d/e/f; $bb nproc >/dev/null && $bb pwd >/dev/null && echo done
