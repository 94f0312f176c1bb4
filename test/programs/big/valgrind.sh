# timeout: 200
# checkpoint: yes
# valgrind: leaks and bad reads, threads under helgrind, signals, a child; massif's peak.
cat >a.c <<'C'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
int x; pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void on(int s) { x += s; }
static void *f(void *p) { for (int i = 0; i < 100; i++) { if (p) pthread_mutex_lock(&m); x++; if (p) pthread_mutex_unlock(&m); } return 0; }
int main(int c, char **v) {
  pthread_t t[2];
  for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, f, c > 1 ? v[1] : 0);
  for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
  signal(SIGUSR1, on); raise(SIGUSR1);
  volatile char *p = malloc(10); if (c == 1) p[10] = 1; p = 0;
  void *q = mmap(0, 1 << 20, 3, 34, -1, 0); munmap(q, 1 << 20);
  if (!fork()) _exit(3);
  int s; wait(&s); printf("%d %d\n", x > 200, WEXITSTATUS(s));
}
C
gcc -g -pthread -o a a.c
run() { valgrind "$@" 2>&1 | sed -E 's/==[0-9]+==/==/; s/0x[0-9A-F]+/ADDR/g; s/ \(suppressed.*//'; }
run --leak-check=full ./a locked | grep -E 'lost|ERROR|Invalid|^1'
run ./a | grep -E 'Invalid|ERROR|^1'
run --tool=helgrind ./a | grep -cE 'Possible data race'
run --tool=helgrind ./a locked | grep -E 'ERROR'
run --tool=drd ./a locked | grep -E 'ERROR'
run --tool=massif --massif-out-file=out ./a locked | grep ^1; grep -c mem_heap_B out >/dev/null && ms_print out >/dev/null && echo massif
run --trace-children=yes sh -c '/bin/echo child; exit 2' | grep -E '^child|ERROR'
run --vgdb=no python3 -c 'print(sum(range(1000)))' | grep -E '^4'
