# Pipelines, redirections, subshells, here documents, traps and exit statuses of dash.
seq 1 1000 | grep 7 | sort -rn | head -3
printf 'b\na\nc\n' | sort | tr '\n' ' '; echo
yes | head -100000 | wc -l
cat <<END | sed 's/x/y/g'
xxx $((6 * 7)) $(echo nested $(echo deeper))
END
{ echo out; echo err >&2; } 2>err.txt >out.txt; cat out.txt err.txt
(exit 3); echo "status $?"
false || echo "or"
true && echo "and"
! false; echo "not $?"
(trap 'echo trapped' EXIT; exit 5); echo "after $?"
trap 'echo usr1' USR1; kill -USR1 $$; trap - USR1
sh -c 'kill -TERM $$'; echo "by signal $?"
for i in 1 2 3; do echo "$i"; done | while read -r line; do echo "line $line"; done
(sleep 0.2; echo slow) & (echo fast); wait; echo "waited $?"
mkfifo pipe; (echo through the fifo > pipe) & cat pipe; wait
exec 5>five.txt; echo five >&5; exec 5>&-; cat five.txt
cat nothing.txt 2>/dev/null; echo "missing $?"
set -- a b c; shift; echo "$# $*"
i=0; while [ $i -lt 500 ]; do i=$((i + 1)); done; echo "counted $i"
echo 'a:b:c' | (IFS=: read -r x y z; echo "$z$y$x")
head -c 3000000 /dev/zero | tee copy | wc -c; wc -c < copy
yes 2>/dev/null | head -1
sh -c 'exit 42' | cat; echo "last of pipe $?"
/nonexistent/program 2>/dev/null; echo "not found $?"
touch plain; ./plain 2>/dev/null; echo "not executable $?"
printf '#!/bin/sh\necho script "$@"\n' > s; chmod +x s; ./s 1 2
