# timeout: 120
# checkpoint: yes
# What images start with: tini, dumb-init, gosu, s6, runit, supervisord: exit codes, signals handed on, orphans reaped, services restarted.
d=$PWD; chmod 755 .
# A service that is up need not have written its line yet: what is ended too early would leave none.
lines() { until [ "$(cat "$1" 2>/dev/null | wc -l)" = "$2" ]; do sleep 0.05; done; }
tini -s -- sh -c 'exit 3'; echo "tini $?"
tini -s -g -- sh -c 'trap "echo term; exit 4" TERM; sleep 1000 & kill -TERM $PPID; wait' 2>/dev/null; echo "tini $?"
# An orphan is taken by tini and reaped.
tini -sw -- sh -c '(sleep 0.2; echo orphan) & (sh -c "sleep 0.1" &) ; sleep 0.5' 2>&1 | sed 's/ *[0-9][0-9]*//g' | sort -u; 
dumb-init sh -c 'exit 5'; echo "dumb-init $?"
dumb-init --rewrite 15:2 sh -c 'trap "echo int; exit 6" INT; kill -TERM $PPID; while :; do sleep 0.05; done'; echo "dumb-init $?"
gosu nobody:nogroup sh -c 'id; echo $HOME'
setpriv --reuid 33 --regid 33 --init-groups --inh-caps=-all sh -c 'id; grep -E "^Cap(Eff|Inh)" /proc/self/status; touch /root/x 2>&1 | sed "s/.*: //"'
mkdir -p s6/a r6/a
printf '#!/bin/sh\necho run >>%s/s6.log\nexec sleep 1000\n' "$d" >s6/a/run; chmod +x s6/a/run
s6-svscan s6 & p=$!
until s6-svwait -u -t 1000 s6/a 2>/dev/null; do sleep 0.1; done
lines s6.log 1; s6-svstat -o up,wantedup s6/a
kill -9 "$(s6-svstat -o pid s6/a)"; lines s6.log 2
s6-svc -d s6/a; s6-svwait -D -t 5000 s6/a; s6-svstat -o up,wantedup,signal s6/a
s6-svscanctl -t s6; wait $p; echo "s6 $?"
printf '#!/bin/sh\necho run >>%s/r6.log\nexec sleep 1000\n' "$d" >r6/a/run; chmod +x r6/a/run
runsvdir r6 & p=$!
until sv status ./r6/a 2>/dev/null | grep -q ^run; do sleep 0.1; done
lines r6.log 1; sv -w 10 restart ./r6/a | sed 's/(.*//'; lines r6.log 2; sv -w 10 stop ./r6/a | sed 's/:[^:]*$//'; kill -HUP $p; wait $p; echo "runit $?"; wc -l <r6.log
cat >sup.conf <<C
[unix_http_server]
file=$d/sup.sock
[supervisord]
logfile=$d/sup.log
pidfile=$d/sup.pid
user=root
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://$d/sup.sock
[program:one]
command=sleep 1000
startsecs=0
[program:two]
command=sh -c 'echo started; exec sleep 1000'
user=nobody
stdout_logfile=$d/two.log
startsecs=0
C
supervisord -c sup.conf
c() { supervisorctl -c sup.conf "$@" | sed -E 's/pid [0-9]+, uptime .*//'; }
until c status | grep -q RUNNING; do sleep 0.1; done
lines two.log 1; c status; c restart two; lines two.log 2; c stop one; kill -9 "$(supervisorctl -c sup.conf pid two)"; lines two.log 3; c status; c shutdown
