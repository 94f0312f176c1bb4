# checkpoint: 3 after under load
# timeout: 300
# PostgreSQL and MariaDB with transactions of several clients, SQLite with several writers: over checkpoints no client sees an error, and the sums are right.
PATH=$PATH:/usr/lib/postgresql/15/bin; export PATH
chmod 755 .; d=$PWD; install -d -o postgres p; install -d -o mysql m
as() { setpriv --reuid postgres --regid postgres --clear-groups env PATH="$PATH" HOME="$d/p" "$@"; }
as initdb -D "$d/p/db" >init.log 2>&1 || { tail init.log; exit 1; }
as pg_ctl -w -D "$d/p/db" -o "-k $d/p -c listen_addresses=127.0.0.1" -l "$d/p/log" start | tail -1
as pgbench -h "$d/p" -i -q -s 1 postgres >/dev/null 2>&1 || exit 1
mariadb-install-db --no-defaults --user=mysql --datadir="$d/m/data" --skip-test-db >log1 2>&1 || tail log1
mariadbd --no-defaults --user=mysql --datadir="$d/m/data" --socket="$d/m/s" --skip-networking --pid-file="$d/m/pid" >m/log 2>&1 &
sql() { mariadb -S "$d/m/s" -N -e "$1"; }
until mariadb -S "$d/m/s" -e 'select 1' >/dev/null 2>&1; do sleep 0.1; done
mariadb -S "$d/m/s" -N <<'Q'
create database t; use t; create table a(i int primary key, n bigint) engine=innodb; insert into a select seq, 0 from seq_1_to_100;
create table h(c int, n int) engine=innodb;
delimiter //
create procedure move(a int, b int, v int) begin start transaction; update a set n = n - v where i = least(a, b); update a set n = n + v where i = greatest(a, b);
    insert into h values (a, v); commit; end//
Q
cat >sqlite.py <<'P'
import multiprocessing, sqlite3, sys, time
def open_it():
    c = sqlite3.connect("s.db", timeout=60, isolation_level=None)
    return c
def writer(n, end, done):
    c, k = open_it(), 0
    while time.monotonic() < end:
        c.execute("begin immediate")
        c.execute("update a set n = n + 1")
        c.execute("insert into h values (?, ?)", (n, k))
        c.execute("commit")
        k += 1
    done.put(k)
c = open_it()
c.execute("pragma journal_mode=" + sys.argv[1])
c.executescript("create table a(n); insert into a values (0); create table h(w, k)")
done = multiprocessing.Queue()
all = [multiprocessing.Process(target=writer, args=(n, time.monotonic() + 10, done)) for n in range(3)]
for p in all: p.start()
total = sum(done.get() for p in all)
for p in all: p.join()
print([p.exitcode for p in all], total == c.execute("select n from a").fetchone()[0] == c.execute("select count(*) from h").fetchone()[0] > 0,
      c.execute("pragma integrity_check").fetchone()[0])
P
mkdir wal journal
# One of them keeps the history as it is (-n): emptied by the second while the first writes, the sums would differ.
echo under load
as pgbench -h 127.0.0.1 -c 4 -j 2 -T 10 postgres >pgbench.log 2>&1 & clients=$!
as pgbench -n -h "$d/p" -S -c 2 -T 10 postgres >select.log 2>&1 & clients="$clients $!"
(cd wal && python3 ../sqlite.py wal >log 2>&1) & clients="$clients $!"
(cd journal && python3 ../sqlite.py delete >log 2>&1) & clients="$clients $!"
for n in 1 2 3; do
    python3 - $n <<'P' | mariadb -S "$d/m/s" t >m$n.log 2>&1 & clients="$clients $!"
import random, sys, time
r, end = random.Random(int(sys.argv[1])), time.monotonic() + 10
while time.monotonic() < end:
    a, b = r.sample(range(1, 101), 2)
    print(f"call move({a}, {b}, {r.randint(1, 9)});", flush=True)
    time.sleep(0.001)
P
done
wait $clients
grep -hE 'ERROR|error|failed|abort' pgbench.log select.log
as psql -h "$d/p" -Atqc 'select (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history),
      (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches), (select count(*) > 0 from pgbench_history)' postgres
sql 'select sum(n) from t.a; select count(*) > 0, count(distinct c) > 50 from t.h; check table t.a'
cat m?.log; echo "wal $(cat wal/log)"; echo "journal $(cat journal/log)"
as pg_ctl -w -D "$d/p/db" stop -m fast | tail -1
mariadb-admin -S "$d/m/s" shutdown
grep -cE 'PANIC|FATAL' p/log
true
