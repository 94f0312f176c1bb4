# checkpoint: 3 after under load
# timeout: 240
# nginx, Apache, HAProxy and Varnish before nginx, redis and memcached, each with clients that check what they get: over checkpoints no client sees an error.
d=$PWD; chmod 755 .; mkdir -p www v && echo hello >www/index.html
cat >nginx.conf <<C
worker_processes 2; pid $d/nginx.pid; error_log $d/errors; user root;
events { worker_connections 256; }
http { access_log off; sendfile on; client_body_temp_path $d/t1; proxy_temp_path $d/t2; fastcgi_temp_path $d/t3; uwsgi_temp_path $d/t4; scgi_temp_path $d/t5;
    keepalive_requests 1000000; server { listen 127.0.0.1:8001; root $d/www; } }
C
nginx -e "$d/errors" -c "$d/nginx.conf" || exit 1
m=/usr/lib/apache2/modules
# It closes idle connections when all its workers are busy, as they may be with few of them on a loaded machine, and says so (AH00457).
cat >apache.conf <<C
ServerName here
Listen 127.0.0.1:8002
PidFile $d/apache.pid
DefaultRuntimeDir $d
Mutex file:$d
ErrorLog $d/apache.log
LogLevel mpm_event:debug
KeepAliveTimeout 60
LoadModule mpm_event_module $m/mod_mpm_event.so
LoadModule authz_core_module $m/mod_authz_core.so
LoadModule dir_module $m/mod_dir.so
User nobody
Group nogroup
ServerLimit 2
StartServers 2
ThreadsPerChild 32
MaxRequestWorkers 64
MaxKeepAliveRequests 0
DirectoryIndex index.html
DocumentRoot $d/www
C
apache2 -f "$d/apache.conf" || exit 1
cat >haproxy.conf <<C
global
    nbthread 2
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 60s
frontend f
    bind 127.0.0.1:8003
    default_backend b
backend b
    server s 127.0.0.1:8001 check
C
haproxy -f haproxy.conf >/dev/null 2>&1 &
varnishd -F -n "$d/v" -a 127.0.0.1:8004 -b 127.0.0.1:8001 -j none -s malloc,16m >varnish.log 2>&1 &
redis-server --port 8005 --dir "$d" --appendonly yes >/dev/null &
memcached -l 127.0.0.1 -p 8006 -u nobody &
for port in 8001 8002 8003 8004; do until curl -sf -o /dev/null http://127.0.0.1:$port/; do sleep 0.1; done; done
for port in 8005 8006; do until nc -z 127.0.0.1 $port; do sleep 0.1; done; done
# Counters that several connections raise: each answer is one more than what the same connection got before, or more; the sum is right at the end.
cat >counters.py <<'P'
import socket, sys, threading, time
port, end, total, wrong = int(sys.argv[1]), time.monotonic() + 10, [0] * 3, []
redis = port == 8005
def client(n):
    with socket.create_connection(("127.0.0.1", port)) as s:
        answers, last = s.makefile("rb"), 0
        while time.monotonic() < end:
            s.sendall(b"INCR c\r\n" if redis else b"incr c 1\r\n")
            now = int(answers.readline().strip(b":\r\n"))
            if now <= last: wrong.append((last, now))
            last, total[n] = now, total[n] + 1
try:
    if not redis:
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"set c 0 0 1\r\n0\r\n"); s.recv(100)
    threads = [threading.Thread(target=client, args=(n,)) for n in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"INCR c\r\n" if redis else b"incr c 1\r\n")
        print("counted", int(s.recv(100).strip(b":\r\n")) == sum(total) + 1 > 1, wrong)
except Exception as e:
    print("failed", e)
P
echo under load
clients=
for name in nginx:8001 apache:8002 haproxy:8003 varnish:8004; do
    wrk -t1 -c4 -d10 --timeout 60 -s /srv/wrk.lua "http://127.0.0.1:${name#*:}/" >"${name%:*}.load" & clients="$clients $!"
done
python3 counters.py 8005 >redis.load 2>&1 & clients="$clients $!"
python3 counters.py 8006 >memcached.load 2>&1 & clients="$clients $!"
wait $clients
for name in nginx apache haproxy varnish redis memcached; do echo "$name $(tail -1 $name.load)"; done
grep -cE 'crit|alert|emerg' errors; grep -c AH00457 apache.log
true
