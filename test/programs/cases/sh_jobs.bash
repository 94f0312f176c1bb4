# checkpoint: yes
# Job control without a terminal: stop, continue, wait for one, wait for all, process groups.
set -m
state() { sed 's/.*) \(.\).*/\1/' "/proc/$1/stat"; }
until_state() { for _ in $(seq 200); do [ "$(state "$1")" = "$2" ] && return; sleep 0.02; done; echo "never $2"; }
sleep 60 & p=$!
until_state $p S; echo "sleeping"
kill -STOP %1; until_state $p T; echo "stopped"
jobs -s | sed 's/  */ /g'
kill -CONT %1; until_state $p S; echo "continued"
kill %1; wait %1 2>/dev/null; echo "status $?"
(exit 7) & wait $!; echo "status $?"
(sleep 0.1; exit 1) & (sleep 0.6; exit 2) & (sleep 1.1; exit 3) &
for _ in 1 2 3; do wait -n; echo "next $?"; done
sleep 60 | sleep 60 & p=$!
group=$(ps -o pgid= -p $p | tr -d " "); [ "$(ps -o pgid= -p "$(pgrep -g "$group" -o)" | tr -d " ")" = "$group" ] && echo "one group"
echo "members $(pgrep -g "$group" -c)"
{ kill -- -"$group"; wait; jobs; } >/dev/null 2>&1; echo "all ended"
[ -z "$(jobs -p)" ] && echo "no jobs"
setsid sh -c 'ps -o sid= -p $$ | tr -d " "; echo $$' | uniq | wc -l
timeout 0.3 sleep 60; echo "timeout $?"
{ timeout -s KILL 0.3 sleep 60; } 2>/dev/null; echo "killed $?"
