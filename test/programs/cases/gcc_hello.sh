# timeout: 120
# gcc: preprocess, compile, assemble, link, run; static, shared library, -pthread, several files.
cat > a.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
int twice(int);
static void *run(void *x) { return (void *)((long)x * 2); }
int main(int argc, char **argv) {
  pthread_t t[8]; long sum = 0;
  for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, run, (void *)i);
  for (int i = 0; i < 8; i++) { void *r; pthread_join(t[i], &r); sum += (long)r; }
  printf("%d %d %ld\n", argc, twice(atoi(argv[1])), sum);
  return 3;
}
END
echo 'int twice(int x) { return 2 * x; }' > b.c
gcc -O2 -Wall -pthread a.c b.c -o dynamic && ./dynamic 21; echo "status $?"
gcc -O2 -static -pthread a.c b.c -o static && ./static 4; echo "status $?"
gcc -shared -fPIC b.c -o libb.so && gcc -pthread a.c -L. -lb -Wl,-rpath,. -o shared && ./shared 5; echo "status $?"
gcc -c -g a.c && nm a.o | grep -c ' T main'; ar rcs libb.a b.o 2>/dev/null || { gcc -c b.c; ar rcs libb.a b.o; }
gcc -pthread a.o libb.a -o fromlib && ./fromlib 6; echo 'int main(){return x;}' > bad.c; gcc bad.c 2>/dev/null; echo "bad $?"
gcc -O1 -fsanitize=undefined -x c - -o ub <<'END' && ./ub 2>&1 | grep -c 'signed integer overflow'
#include <limits.h>
#include <stdlib.h>
int main(int c, char **v) { (void)v; return (INT_MAX - 1 + c + c) == 7; }
END
size dynamic | wc -l
