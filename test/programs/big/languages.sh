# timeout: 120
# checkpoint: yes
# Other languages: Lua, R, SBCL, Mono, Tcl, musl's C, CMake and Ninja, other processors by qemu-user.
lua5.4 -e 'local s = 0 for i = 1, 1e6 do s = s + i end print(s, _VERSION) io.popen("echo piped"):read("a") print(os.execute("exit 3"))'
R --no-save -q -e 'set.seed(1); x <- rnorm(1e5); print(summary(lm(x ~ seq_along(x)))$sigma); library(parallel); print(unlist(mclapply(1:4, function(i) i^2, mc.cores = 2)))' 2>&1 | grep '^\['
R --no-save -q -e 'pdf("a.pdf"); plot(1:10); dev.off(); cat(file.exists("a.pdf"), "\n")' 2>&1 | grep TRUE
sbcl --noinform --non-interactive --eval '(progn (print (loop for i below 1000000 sum i)) (print (let ((q (make-array 3))) (sb-thread:join-thread (sb-thread:make-thread (lambda () (sb-ext:gc :full t) (length q)))))) (terpri))'
cat >a.cs <<'C'
using System; using System.Linq; using System.Threading.Tasks; using System.Net.Sockets; using System.Diagnostics;
class A { static void Main() {
  Console.WriteLine(Enumerable.Range(0, 100).AsParallel().Select(i => (long)i * i).Sum());
  Task.WaitAll(Enumerable.Range(0, 20).Select(i => Task.Run(() => GC.Collect())).ToArray());
  var l = new TcpListener(System.Net.IPAddress.Loopback, 0); l.Start();
  var t = Task.Run(() => { using (var c = l.AcceptTcpClient()) { c.GetStream().WriteByte(42); } });
  using (var c = new TcpClient("127.0.0.1", ((System.Net.IPEndPoint)l.LocalEndpoint).Port)) Console.WriteLine(c.GetStream().ReadByte());
  var p = Process.Start(new ProcessStartInfo("sh", "-c \"exit 3\"") { UseShellExecute = false }); p.WaitForExit(); Console.WriteLine(p.ExitCode);
  try { string s = null; Console.WriteLine(s.Length); } catch (NullReferenceException) { Console.WriteLine("null"); }
} }
C
mcs a.cs && mono a.exe
echo 'puts [exec echo child]; after 50 {set x 1}; vwait x; set s [socket -server {apply {{c a p} {puts $c hi; close $c}}} 0]; set c [socket localhost [lindex [fconfigure $s -sockname] 2]]; fconfigure $c -blocking 0; fileevent $c readable {gets $c l; puts $l; exit}; vwait y' | tclsh
cat >a.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
#include <netdb.h>
static void *f(void *p) { return p; }
int main(void) {
  pthread_t t; void *r; int s;
  pthread_create(&t, 0, f, (void *)7); pthread_join(t, &r);
  if (!fork()) _exit(3);
  wait(&s);
  struct addrinfo *a; 
  printf("%ld %d %d\n", (long)r, WEXITSTATUS(s), getaddrinfo("127.0.0.1", "80", 0, &a));
  FILE *p = popen("echo popen", "r"); char b[20]; fputs(fgets(b, 20, p), stdout); return pclose(p);
}
C
musl-gcc -static -o musl a.c && ./musl; musl-gcc -o musld a.c && ./musld
gcc -static -pthread -o static a.c 2>/dev/null; qemu-x86_64 ./static; qemu-x86_64 -strace ./musl 2>&1 | grep -cE '^[0-9]+ (fork|clone|vfork)'
qemu-x86_64 /usr/bin/python3 -c 'import threading, subprocess; t = threading.Thread(target=lambda: print("thread")); t.start(); t.join(); print(subprocess.run(["sh", "-c", "exit 4"]).returncode)'
mkdir b; printf 'cmake_minimum_required(VERSION 3.20)\nproject(a C)\nfind_package(Threads)\nadd_executable(a ../a.c)\ntarget_link_libraries(a Threads::Threads)\nenable_testing()\nadd_test(NAME t COMMAND a)\n' >b/CMakeLists.txt
sed -i 's,\.\./a.c,a.c,' b/CMakeLists.txt; cp a.c b/; cmake -G Ninja -S b -B b/o >/dev/null && ninja -C b/o | tail -1 && (cd b/o && ctest 2>&1 | grep 'tests passed')
echo '{"a": [1, 2, {"b": 3}]}' | jq -c '.a[2].b + 1, (.a | length)'
