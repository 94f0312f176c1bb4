# checkpoint: yes
# timeout: 120
# strace and gdb on a program with a thread and a child: attaching, breakpoints, stepping, catchpoints, injected errors.
cat >a.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int count;
void *thread(void *p) { count++; return p; }
int work(int n) {
  int s = 0;
  for (int i = 0; i < n; i++) s += i;
  return s;
}
int main(void) {
  pthread_t t;
  int status;
  pthread_create(&t, 0, thread, 0);
  pthread_join(t, 0);
  if (fork() == 0) _exit(3);
  wait(&status);
  printf("%d %d %d\n", count, work(10), WEXITSTATUS(status));
  fflush(stdout);
  if (getenv("CRASH")) *(volatile char *)0 = 1;
  return 0;
}
C
gcc -g -O0 -pthread -o a a.c || exit 1
strace -f -o trace ./a 2>/dev/null
grep -oE 'exited with [0-9]+|--- SIG[A-Z]+|wait4\(-1|clone3\(|exit_group\([0-9]\)' trace | sort | uniq -c
strace -o trace -e inject=openat:error=ENOENT:when=1 ./a 2>&1 | grep -c 'cannot open shared object'
sleep 1000 & p=$!
timeout -s INT 1 strace -o attached -p $p 2>/dev/null
grep -c 'detached' attached; kill $p; wait $p 2>/dev/null
cat >commands <<'G'
set pagination off
set confirm off
break work
run
bt 1
info threads
watch s
continue
continue
print s
delete
finish
next
catch syscall exit_group
continue
kill
G
gdb -q -batch -x commands ./a 2>&1 | grep -E '^(Breakpoint|Old|New|\$|Value|Catchpoint|#0)|hit' | sed 's/0x[0-9a-f]*/ADDRESS/g; s/ (call to.*//'
CRASH=1 gdb -q -batch -ex run -ex 'bt 1' -ex 'print $_siginfo._sifields._sigfault.si_addr' ./a 2>&1 | grep -E 'SIG|^#0|\$1' | sed 's/0x[0-9a-f]* in/ADDRESS in/'
gdb -q -batch -ex 'set follow-fork-mode child' -ex 'catch fork' -ex run -ex c ./a 2>&1 | grep -E 'Inferior.*exited' | sed 's/process [0-9]*/process/'
(ulimit -c unlimited; CRASH=1 ./a) >crashed 2>&1
gdb -q -batch -ex bt -ex 'print count' -ex 'print $_siginfo.si_signo' -ex 'info auxv' ./a core* 2>&1 |
  grep -E '^#|^\$|terminated|AT_EXECFN' | sed 's/0x[0-9a-f]*/ADDRESS/g'
