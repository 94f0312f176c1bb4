# checkpoint: yes
# timeout: 120
# Ruby: threads, forks, sockets, queues, ractors, timeouts, terminals. PHP: files, children, sockets, signals, its own web server.
cat >a.rb <<'R'
require "socket"; require "timeout"; require "pty"
r, w = IO.pipe
pid = fork { w.puts "child"; exit! 2 }
Process.wait pid
puts r.gets, $?.exitstatus
p 10.times.map { |i| Thread.new { sleep 0.05; i * i } }.map(&:value)
s = TCPServer.new("127.0.0.1", 0)
Thread.new { c = s.accept; c.puts c.gets.upcase; c.close }
k = TCPSocket.new("127.0.0.1", s.addr[1]); k.puts "abc"; puts k.gets
q = Queue.new
Thread.new { 3.times { |i| q << i } }
p 3.times.map { q.pop }
got = Queue.new
trap("USR1") { Thread.new { got << "usr1" } }
Process.kill("USR1", $$)
puts got.pop
begin; Timeout.timeout(0.05) { sleep 5 }; rescue Timeout::Error; puts "timeout"; end
PTY.spawn("test -t 0 && echo terminal") { |a, b, c| puts a.gets }
p (1..5).map { |i| Ractor.new(i) { |n| n * 2 } }.map(&:take)
R
ruby -W0 a.rb 2>&1
cat >a.php <<'P'
<?php
$d = tempnam(".", "x"); file_put_contents($d, "abc"); echo file_get_contents($d), "\n";
$p = proc_open(["cat"], [["pipe", "r"], ["pipe", "w"]], $q); fwrite($q[0], "piped\n"); fclose($q[0]); echo stream_get_contents($q[1]);
$f = fopen($d, "r+"); var_dump(flock($f, LOCK_EX | LOCK_NB));
$s = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0); fwrite($s[0], "pair\n"); echo fgets($s[1]);
$pid = pcntl_fork(); if (!$pid) exit(4); pcntl_waitpid($pid, $st); echo pcntl_wexitstatus($st), "\n";
pcntl_async_signals(true); pcntl_signal(SIGALRM, function () { echo "alarm\n"; }); pcntl_alarm(1); sleep(30);
P
php a.php
mkdir w; echo '<?php echo "page ".$_GET["a"]."\n";' >w/i.php
php -S 127.0.0.1:8000 -t w >/dev/null 2>&1 & p=$!
until curl -sf -o /dev/null '127.0.0.1:8000/i.php?a=0'; do sleep 0.05; done
curl -s '127.0.0.1:8000/i.php?a=5'; kill $p
