# checkpoint: yes
# timeout: 240
# SQLite's own speed test, with the results of its queries verified: rollback journal, write-ahead log, mapped files, several threads, another encoding.
gcc -O1 -o speed /usr/src/sqlite3-3.40.1/test/speedtest1.c -lsqlite3 || exit 1
for options in '' '--journal wal --mmap 100000000' '--multithread --utf16le --pagesize 1024' '--journal truncate --autovacuum --exclusive'; do
    echo "== $options"
    rm -f db*
    ./speed --size 8 --verify $options db 2>&1 | sed -E 's/ +[0-9]+\.[0-9]+s$//'
done
sqlite3 db 'pragma integrity_check; select count(*) from sqlite_schema'
./speed --size 5 --verify --testset cte | sed -E 's/ +[0-9]+\.[0-9]+s$//'
