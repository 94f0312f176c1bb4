# checkpoint: yes
# timeout: 180
# MariaDB: a new data directory, InnoDB tables, clients at once, kill -9 and recovery.
d=$PWD; chmod 755 "$d"; chown mysql "$d"
mariadb-install-db --no-defaults --user=mysql --datadir="$d/data" --skip-test-db >log1 2>&1 || tail log1
start() {
    mariadbd --no-defaults --user=mysql --datadir="$d/data" --socket="$d/s" --skip-networking --pid-file="$d/pid" >>log 2>&1 &
    until mariadb -S "$d/s" -e 'select 1' >/dev/null 2>&1; do sleep 0.1; done
}
sql() { mariadb -S "$d/s" -N -e "$1"; }
start
sql 'create database t; use t; create table a(i int primary key auto_increment, s varchar(100)) engine=innodb;
     insert into a(s) select seq from seq_1_to_20000; select count(*), sum(s) from a'
mariadb-slap -S "$d/s" --concurrency=4 --iterations=1 --auto-generate-sql --number-of-queries=100 | grep -c Average
kill -9 "$(cat pid)"; wait
start
sql 'select count(*), sum(s) from t.a; check table t.a'
mariadb-admin -S "$d/s" shutdown; wait
grep -c 'Starting crash recovery' log; grep -c '\[ERROR\]' log; true
