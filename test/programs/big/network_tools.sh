# timeout: 120
# checkpoint: yes
# squid before a web server, dnsmasq with its clients, socat in several shapes, iperf3, openssl's server, tcpdump.
d=$PWD; chmod 777 .
mkdir w; echo hello >w/index.html; python3 -m http.server -b 127.0.0.1 -d w 8000 >/dev/null 2>&1 &
printf 'http_port 127.0.0.1:3128\nacl l src 127.0.0.1\nhttp_access allow l\npid_filename none\ncache_effective_user nobody\naccess_log none\ncache_log %s/squid.log\ncoredump_dir %s\n' "$d" "$d" >squid.conf
squid -N -f squid.conf >/dev/null 2>&1 &
dnsmasq -k -p 5353 -a 127.0.0.1 -z -h -R -A /host.test/10.1.2.3 --mx-host=host.test,mail.test,5 -u nobody -x "$d/dns.pid" >dns.log 2>&1 &
for p in 8000 3128 5353; do until nc -z 127.0.0.1 $p; do sleep 0.1; done; done
for i in 1 2 3; do curl -s -x http://127.0.0.1:3128 http://127.0.0.1:8000/; done
python3 - <<'P'
import socket, struct
q = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + b"\4host\4test\0" + struct.pack(">2H", 1, 1)
for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
    s = socket.socket(socket.AF_INET, kind); s.connect(("127.0.0.1", 5353))
    s.send(q if kind == socket.SOCK_DGRAM else struct.pack(">H", len(q)) + q)
    print(socket.inet_ntoa(s.recv(512)[-4:]))
P
socat TCP-LISTEN:9000,reuseaddr,fork EXEC:'tr a-z A-Z' & until nc -z 127.0.0.1 9000; do sleep 0.1; done
echo shout | socat - TCP:127.0.0.1:9000; echo pty | socat - EXEC:'cat',pty,raw,echo=0
socat UNIX-LISTEN:"$d/u",fork TCP:127.0.0.1:9000 & until socat -u /dev/null UNIX-CONNECT:"$d/u" 2>/dev/null; do sleep 0.1; done; echo unix | socat - UNIX-CONNECT:"$d/u"
socat UDP-LISTEN:9001,fork EXEC:cat & until grep -q ':2329 ' /proc/net/udp; do sleep 0.1; done; echo udp | socat -T3 - UDP:127.0.0.1:9001
socat ABSTRACT-LISTEN:a,fork EXEC:cat & until grep -q '00010000 .* @a$' /proc/net/unix; do sleep 0.1; done; echo abstract | socat - ABSTRACT-CONNECT:a
listens() { until grep -qE ":$1 0+:0000 0A" /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done; }
iperf3 -s -1 -p 5202 >/dev/null & listens 1452; iperf3 -c 127.0.0.1 -p 5202 -t 1 -P 2 -J | jq '.error, (.end.sum_received.bytes > 1000000)'
iperf3 -s -1 -p 5203 >/dev/null & listens 1453; iperf3 -c 127.0.0.1 -p 5203 -u -b 10M -t 1 -J | jq '.error, .end.sum.lost_packets'
openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 2 -subj /CN=localhost 2>/dev/null
openssl s_server -accept 4433 -key k -cert c -www -quiet 2>/dev/null & until nc -z 127.0.0.1 4433; do sleep 0.1; done
curl -s --cacert c https://localhost:4433/ | grep -c 'Protocol  *: TLSv1.3'
dbus-run-session -- dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId 2>&1 | grep -c 'string "'
watch() { tcpdump -Z root -i lo -nn -t -l "$@" 2>/dev/null >"dump$w" & until [ $(grep -c ' 0003  *1  *1 ' /proc/net/packet) -gt $w ]; do sleep 0.1; done; w=$((w + 1)); }
w=0; watch -c 2 'udp port 9002 or icmp'; watch -q -c 2 'tcp port 8000 and tcp[tcpflags] & tcp-syn != 0'; watch -w "$PWD/cap" -c 2 'udp port 9004'
say() { python3 -c "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', $1)); s.sendto(b'$3', ('127.0.0.1', $2))"; }
say 9003 9002 hello; curl -s http://127.0.0.1:8000/; say 9005 9004 one; say 9005 9004 three
until [ "$(grep -c ' 0003 ' /proc/net/packet)" = 0 ]; do sleep 0.1; done; sed 's/127.0.0.1.[1-7][0-9]*/CLIENT/' dump0 dump1; tcpdump -Z root -nn -t -q -r cap 2>/dev/null
