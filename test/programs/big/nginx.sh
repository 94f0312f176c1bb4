# checkpoint: yes
# timeout: 120
# nginx with two workers: files, ranges, a proxy, autoindex, reload, graceful end; curl and wrk ask.
d=$PWD; chmod 755 "$d"; mkdir w; echo hello >w/index.html; head -c 3000000 /dev/zero | tr '\0' a >w/big
mkdir w/list; touch w/list/one w/list/two
cat >conf <<C
worker_processes 2; pid $d/pid; error_log $d/errors; user root;
events { worker_connections 256; }
http {
    access_log $d/access; sendfile on; tcp_nopush on;
    client_body_temp_path $d/t1; proxy_temp_path $d/t2; fastcgi_temp_path $d/t3; uwsgi_temp_path $d/t4; scgi_temp_path $d/t5;
    server { listen 127.0.0.1:8080; listen [::1]:8080; root $d/w; location /p/ { proxy_pass http://127.0.0.1:8081/; } }
    server { listen 127.0.0.1:8081; root $d/w; autoindex on; }
}
C
nginx -e "$d/errors" -c "$d/conf" || exit 1
until curl -sf -o /dev/null http://127.0.0.1:8080/; do sleep 0.05; done
curl -s http://127.0.0.1:8080/; curl -sg 'http://[::1]:8080/'
curl -s http://127.0.0.1:8080/big | md5sum; curl -s http://127.0.0.1:8080/p/big | md5sum
curl -s http://127.0.0.1:8081/list/ | grep -oE '>(one|two)<'
curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/none
curl -s -r 10-19 http://127.0.0.1:8080/big; echo
i=0; while [ $i -lt 60 ]; do curl -s http://127.0.0.1:8080/p/; i=$((i + 1)); done | sort | uniq -c
wrk -t2 -c20 -d1 http://127.0.0.1:8080/ | grep -cE 'Non-2xx|Socket errors'
nginx -s reload -e "$d/errors" -c "$d/conf"; curl -s http://127.0.0.1:8080/
nginx -s quit -e "$d/errors" -c "$d/conf"
while pgrep -x nginx >/dev/null; do sleep 0.05; done
grep -cE "crit|alert|emerg" errors; true
