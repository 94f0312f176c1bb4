# What bash has beyond sh.
a=(one two three); a+=(four); echo "${#a[@]} ${a[-1]} ${a[@]:1:2}"
declare -A m=([x]=1 [y]=2); m[z]=3; for k in "${!m[@]}"; do echo "$k=${m[$k]}"; done | sort
[[ foobar =~ ^(foo)(bar)$ ]] && echo "${BASH_REMATCH[2]}"
diff <(seq 3) <(seq 4) | tail -1
coproc { while read -r x; do echo "got $x"; done; }
echo ping >&"${COPROC[1]}"; read -r reply <&"${COPROC[0]}"; echo "$reply"
eval "exec ${COPROC[1]}>&-"; wait
mapfile -t lines < <(printf 'l1\nl2\n'); echo "${lines[1]}"
false | true | false; echo "${PIPESTATUS[*]}"
echo {a..e}{1..2}; echo $((2**40)) $((0x1f & 7)) $((7 % 3))
cat <<< "here string"
shopt -s extglob nullglob
touch f1.c f2.c f3.h; echo !(*.h); echo none*.xyz
x=path/to/file.tar.gz; echo "${x##*/} ${x%%.*} ${x/to/from} ${x^^}"
printf '%05.2f|%-6s|%q\n' 3.14159 ab 'a b'
read -t 0.2 -r nothing < <(sleep 5); echo "read timed out: $(( $? > 128 ))"
trap 'echo "line trap"' DEBUG; :; trap - DEBUG
f() { local v=inner; echo "$v ${FUNCNAME[0]}"; return 4; }; v=outer; f; echo "$? $v"
exec {fd}>named.txt; echo "to fd" >&$fd; exec {fd}>&-; cat named.txt
(ulimit -n 64; ulimit -n)
umask 027; touch masked; stat -c %a masked
for i in {1..50}; do (exit $((i % 2))) & done; n=0; while wait -n; s=$?; [ $s -ne 127 ]; do n=$((n + s)); done; echo "odd $n"
time_out=$( { time sleep 0.1; } 2>&1 ); [[ $time_out == *real* ]] && echo timed
kill -l TERM; { bash -c 'ulimit -c 0; kill -ABRT $$'; } 2>/dev/null; echo "abort $?"
echo "$BASH_SUBSHELL $(echo $BASH_SUBSHELL)"
[ -t 0 ] || echo "no terminal"
echo $'tab\there' "$(printf '\u00e9')" | od -c | head -2
