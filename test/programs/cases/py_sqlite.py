# timeout: 90
# sqlite through Python: transactions, rollback, indexes, WAL with two connections, backup, threads.
import sqlite3, threading

db = sqlite3.connect("a.db"); db.execute("create table t(id integer primary key, v text)")
with db:
    db.executemany("insert into t(v) values (?)", ((f"value {i}",) for i in range(20000)))
print(db.execute("select count(*), max(v) from t").fetchone())
try:
    with db:
        db.execute("delete from t"); raise ValueError
except ValueError:
    print("rolled back", db.execute("select count(*) from t").fetchone()[0])
db.execute("create index i on t(v)"); print(db.execute("select id from t where v = 'value 777'").fetchone())
print(db.execute("pragma journal_mode=wal").fetchone())
other = sqlite3.connect("a.db"); other.execute("begin"); print(other.execute("select count(*) from t").fetchone())
with db:
    db.execute("insert into t(v) values ('new')")
print("snapshot", other.execute("select count(*) from t").fetchone()); other.rollback(); print("after", other.execute("select count(*) from t").fetchone())
for i in range(50):
    with db:
        db.execute("insert into t(v) values (?)", (f"tx {i}",))


def work(n):
    c = sqlite3.connect("a.db", timeout=60)
    for i in range(20):
        with c:
            c.execute("insert into t(v) values (?)", (f"thread {n} {i}",))
    c.close()


threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print("rows", db.execute("select count(*) from t").fetchone()); copy = sqlite3.connect("b.db"); db.backup(copy)
print("copy", copy.execute("select count(*) from t").fetchone(), copy.execute("pragma integrity_check").fetchone())
