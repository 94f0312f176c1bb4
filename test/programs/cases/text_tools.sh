# grep, sed, awk, diff, patch-less editing, cmp, hexdump, getopt, flock, column, look and friends.
seq 100 > n; grep -cE '^[1-3]+$' n; grep -n -A1 '^50$' n; sed -n '5,7p;$p' n; sed -i 's/^9$/nine/' n; sed -n 9p n; awk '{s += $1} END {print s, NR}' n
awk 'BEGIN { while (("echo a b c" | getline line) > 0) print line; "date -u -d @0 +%Y" | getline y; print y; printf "%5.2f\n", 2/3; print length("abc"), substr("hello", 2, 3), index("abc", "c"); n = split("a:b", p, ":"); print n, p[2] }'
seq 98 > m; diff n m | tail -3; cmp n m | cut -d: -f1; echo 'hello' | hexdump -C; getopt -o ab: -- -a -b x y; flock lock echo locked; printf 'a 1\nbb 22\n' | column -t
(flock -x 9; sleep 0.3) 9>lock & sleep 0.1; flock -n lock true; echo "busy $?"; wait; flock -n lock true; echo "free $?"
echo 'abc' | rev; printf 'k v\n' | xargs -n1 -P2 echo | sort; script -qec 'tty | sed s/[0-9]*$/N/' /dev/null | tr -d '\r'; setsid -w sh -c 'exit 6'; echo "setsid $?"
file -b /bin/sh n | cut -d' ' -f1,2; ps -o comm= -p $$; pgrep -x no-such-name; echo $?; nice -n 5 sh -c 'nice'; echo 'scale=20; 4*a(1)' | bc -l; free -b | grep -c Mem; uptime -p >/dev/null && echo up
