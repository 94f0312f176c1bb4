#!/bin/sh
# Servers under load, inside a target: redis, nginx, PostgreSQL. One line of JSON per row, as the micro program prints them;
# a figure is the time per request, from the load tool's own count of requests per second.
#   servers.sh ROW...        a row's name tells its server: redis_set_p1, nginx_1k_c2, pgbench_select, …
d=/tmp/servers
mkdir -p $d || exit 1
chmod 755 $d

row() { # NAME REQUESTS-PER-SECOND
    awk -v row="$1" -v rate="$2" 'BEGIN {
        if (rate > 0) printf "{\"row\": \"%s\", \"ns\": %.1f}\n", row, 1e9 / rate
        else printf "{\"row\": \"%s\", \"error\": \"the load tool gave no rate\"}\n", row
    }'
}

await() { # tries a command for ten seconds
    i=0
    until "$@" >/dev/null 2>&1; do
        i=$((i + 1))
        [ $i -lt 200 ] || { echo "servers.sh: $1: the server does not answer" >&2; exit 1; }
        sleep 0.05
    done
}

redis() { # NAME TEST PIPELINED REQUESTS
    if [ ! -e $d/redis ]; then
        redis-server --port 6379 --bind 127.0.0.1 --save '' --appendonly no --daemonize yes --dir $d --logfile $d/redis >/dev/null
        await redis-cli ping
    fi
    # The first run warms up: patched call sites, memory of the server.
    redis-benchmark -t "$2" -P "$3" -n $(($4 / 4)) --csv >/dev/null
    row "$1" "$(redis-benchmark -t "$2" -P "$3" -n "$4" --csv | awk -F'"' 'NR == 2 {print $4}')"
}

nginx_load() { # NAME FILE CONNECTIONS
    if [ ! -e $d/conf ]; then
        mkdir $d/www
        head -c 1024 /dev/zero | tr '\0' a >$d/www/1k
        head -c 262144 /dev/zero | tr '\0' a >$d/www/256k
        cat >$d/conf <<C
worker_processes 2; pid $d/pid; error_log $d/errors; user root;
events { worker_connections 256; }
http {
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path $d/t1; proxy_temp_path $d/t2; fastcgi_temp_path $d/t3; uwsgi_temp_path $d/t4; scgi_temp_path $d/t5;
    server { listen 127.0.0.1:8080; root $d/www; }
}
C
        nginx -e $d/errors -c $d/conf
        await curl -sf -o /dev/null http://127.0.0.1:8080/1k
    fi
    url=http://127.0.0.1:8080/$2
    wrk -t1 -c"$3" -d1 "$url" >/dev/null
    row "$1" "$(wrk -t1 -c"$3" -d3 "$url" | awk '/Requests\/sec/ {print $2}')"
}

as_postgres() {
    setpriv --reuid postgres --regid postgres --clear-groups env PATH="/usr/lib/postgresql/15/bin:$PATH" HOME=$d/pg "$@"
}

pgbench_load() { # NAME BUILTIN
    if [ ! -e $d/pg ]; then
        install -d -o postgres $d/pg
        as_postgres initdb -D $d/pg/db >$d/pg.log 2>&1
        as_postgres pg_ctl -w -D $d/pg/db -o "-k $d/pg -c listen_addresses=" -l $d/pg/log start >>$d/pg.log 2>&1
        as_postgres pgbench -h $d/pg -i -q -s 1 postgres >>$d/pg.log 2>&1
        as_postgres pgbench -h $d/pg -n -b "$2" -c 2 -j 1 -T 1 postgres >>$d/pg.log 2>&1
    fi
    row "$1" "$(as_postgres pgbench -h $d/pg -n -b "$2" -c 2 -j 1 -T 3 postgres 2>>$d/pg.log | awk '/^tps/ {print $3}')"
}

for name in "$@"; do
    case $name in
    redis_set_p1) redis "$name" set 1 40000 ;;
    redis_get_p1) redis "$name" get 1 40000 ;;
    redis_set_p16) redis "$name" set 16 320000 ;;
    redis_get_p16) redis "$name" get 16 320000 ;;
    nginx_1k_c2) nginx_load "$name" 1k 2 ;;
    nginx_1k_c32) nginx_load "$name" 1k 32 ;;
    nginx_256k) nginx_load "$name" 256k 2 ;;
    pgbench_select) pgbench_load "$name" select-only ;;
    pgbench_tpcb) pgbench_load "$name" tpcb-like ;;
    *) row "$name" 0 ;;
    esac
done
redis-cli shutdown nosave >/dev/null 2>&1
[ ! -e $d/pid ] || kill "$(cat $d/pid)"
[ ! -e $d/pg ] || as_postgres pg_ctl -w -D $d/pg/db -m fast stop >>$d/pg.log 2>&1
rm -rf $d
