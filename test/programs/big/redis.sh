# checkpoint: yes
# timeout: 120
# A redis server with an append-only file: clients, scripts, saving by a forked child, restart.
start() {
    redis-server --port 6379 --dir "$PWD" --appendonly yes --daemonize yes --logfile "$PWD/log" >/dev/null
    until redis-cli ping 2>/dev/null | grep -q PONG; do sleep 0.05; done
}
start
redis-benchmark -q -n 2000 -c 20 -t set,get,lpush,incr >/dev/null && echo benchmark done
redis-cli set k v
i=0; while [ $i -lt 100 ]; do redis-cli incr counter >/dev/null; i=$((i + 1)); done
redis-cli get counter
redis-cli eval 'local s = 0 for i = 1, 100000 do s = s + i end return s' 0
redis-cli bgsave
until redis-cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.05; done
redis-cli info persistence | grep -o 'rdb_last_bgsave_status:[a-z]*'
redis-cli bgrewriteaof >/dev/null
until redis-cli info persistence | grep -q 'aof_rewrite_in_progress:0'; do sleep 0.05; done
redis-cli shutdown save
while pgrep -x redis-server >/dev/null; do sleep 0.05; done
start
redis-cli mget k counter
redis-cli llen mylist
redis-cli shutdown
