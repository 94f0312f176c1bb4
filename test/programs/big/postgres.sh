# checkpoint: yes
# timeout: 180
# PostgreSQL: initdb, pgbench, parallel queries, kill -9 and recovery.
PATH=$PATH:/usr/lib/postgresql/15/bin; export PATH
chmod 755 .; install -d -o postgres data; d=$PWD/data; export d
as() { setpriv --reuid postgres --regid postgres --clear-groups env PATH="$PATH" HOME="$d" "$@"; }
sql() { as psql -h "$d" -Atqc "$1" postgres; }
as initdb -D "$d/db" >init.log 2>&1 || { tail init.log; exit 1; }
start() { as pg_ctl -w -D "$d/db" -o "-k $d -c listen_addresses=" -l "$d/log" start | tail -1; }
start
as pgbench -h "$d" -i -q -s 1 postgres >/dev/null 2>&1 && echo filled
as pgbench -h "$d" -c 8 -j 2 -t 50 postgres 2>&1 | grep -E 'transactions actually|failed'
sql 'select count(*) from pgbench_history'
sql 'set max_parallel_workers_per_gather=2; set min_parallel_table_scan_size=0; set parallel_setup_cost=0; set parallel_tuple_cost=0;
     select count(*) from pgbench_accounts where aid % 2 = 0'
sums='select (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),
      (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)'
sql "$sums"
kill -9 "$(head -1 "$d/db/postmaster.pid")"
while pgrep -x postgres >/dev/null; do sleep 0.05; done
start
sql "$sums"; sql 'select count(*) from pgbench_history'
as pg_ctl -w -D "$d/db" stop -m fast | tail -1
grep -c 'automatic recovery in progress' "$d/log"; grep -c PANIC "$d/log"; true
