# checkpoint: 3 after under load
# timeout: 240
# Web servers of interpreters and runtimes, all at once, each with clients that check what they get: over checkpoints no client sees an error.
export HOME=$PWD GOPATH=$PWD/path GOCACHE=$PWD/cache GOPROXY=off GO111MODULE=off
cat >app.py <<'E'
def app(environment, start):
    start("200 OK", [("Content-Length", "6")])
    return [b"hello\n"]
E
cat >threads.py <<'E'
import http.server
class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8001), Hello).serve_forever()
E
cat >a.js <<'E'
const cluster = require('cluster');
if (cluster.isPrimary) { cluster.fork(); cluster.fork(); }
else require('http').createServer((q, a) => a.end('hello\n')).listen(8003, '127.0.0.1');
E
cat >a.rb <<'E'
require "socket"
s = TCPServer.new("127.0.0.1", 8004)
loop do
  Thread.new(s.accept) do |c|
    while (line = c.gets)
      c.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n") if line == "\r\n"
    end
  rescue SystemCallError
  end
end
E
echo '<?php header("Content-Length: 6"); echo "hello\n";' >a.php
cat >a.pl <<'E'
use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8006, Listen => 64, ReuseAddr => 1) or die;
fork for 1 .. 2;
while (my $c = $s->accept) {
    while (defined(my $line = <$c>)) { last if $line eq "\r\n" }
    print $c "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
    close $c;
}
E
cat >A.java <<'E'
import com.sun.net.httpserver.*; import java.net.*; import java.util.concurrent.*;
public class A { public static void main(String[] a) throws Exception {
  var s = HttpServer.create(new InetSocketAddress("127.0.0.1", 8007), 64);
  s.setExecutor(Executors.newFixedThreadPool(4));
  s.createContext("/", x -> { x.getRequestBody().readAllBytes(); x.sendResponseHeaders(200, 6); x.getResponseBody().write("hello\n".getBytes()); x.close(); });
  s.start();
} }
E
cat >a.go <<'E'
package main
import ("io"; "net/http")
func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello\n") })
	http.ListenAndServe("127.0.0.1:8008", nil)
}
E
javac A.java && go build -o a.out a.go || exit 1
python3 threads.py 2>/dev/null & all=$!
gunicorn -w 2 -b 127.0.0.1:8002 app:app >/dev/null 2>&1 & all="$all $!"
node a.js & all="$all $!"
ruby a.rb & all="$all $!"
PHP_CLI_SERVER_WORKERS=2 php -S 127.0.0.1:8005 a.php >/dev/null 2>&1 & all="$all $!"
perl a.pl & all="$all $!"
java -Xmx64m A & all="$all $!"
./a.out & all="$all $!"
for port in 8001 8002 8003 8004 8005 8006 8007 8008; do
    until curl -sf -o /dev/null http://127.0.0.1:$port/; do sleep 0.1; done
done
echo under load
clients=
for name in threads:8001 gunicorn:8002 node:8003 ruby:8004 php:8005 perl:8006 java:8007 go:8008; do
    wrk -t1 -c3 -d10 --timeout 60 -s /srv/wrk.lua "http://127.0.0.1:${name#*:}/" >"${name%:*}.load" & clients="$clients $!"
done
wait $clients
for name in threads gunicorn node ruby php perl java go; do echo "$name $(tail -1 $name.load)"; done
kill -9 $all; wait 2>/dev/null
