# timeout: 120
# checkpoint: yes
# sqlite3: 100,000 inserts in one transaction, then queries, an index and a check.
{ echo 'create table t(id integer primary key, a text, b real);'; echo 'begin;'
  seq 100000 | sed "s/.*/insert into t(a, b) values('row &', & * 1.5);/"; echo 'commit;'
  echo 'select count(*), sum(b) from t; create index i on t(a); select id from t where a = "row 77777";'
  echo 'update t set b = b + 1 where id % 10 = 0; delete from t where id % 7 = 0; select count(*), max(b) from t; vacuum; pragma integrity_check;'
} | sqlite3 a.db
for i in $(seq 30); do echo "insert into t(a) values('single $i');"; done | sqlite3 a.db; sqlite3 a.db 'select count(*) from t'
