# timeout: 120
# make -j2 with the job server, dependencies, incremental builds and a failing rule.
for i in $(seq 12); do echo "int f$i(void) { return $i; }" > "f$i.c"; done
{ echo '#include <stdio.h>'; for i in $(seq 12); do echo "int f$i(void);"; done
  echo 'int main(void) { int s = 0;'; for i in $(seq 12); do echo "s += f$i();"; done; printf '%s\n' 'printf("%d\n", s); return 0; }'; } > main.c
cat > Makefile <<'END'
objects := $(patsubst %.c,%.o,$(wildcard *.c))
prog: $(objects)
	@gcc $^ -o $@
%.o: %.c
	@gcc -O1 -c $< -o $@
sub:
	@$(MAKE) -s -C dir
bad:
	@exit 3
END
mkdir dir; printf 'all: a b\na b:\n\t@sleep 0.1; echo made > $@\n' > dir/Makefile
make -s -j2 && ./prog; make -j2 | sed "s/.*is up to date.*/up to date/"; touch f3.c; make -n -j2 | wc -l; make -s -j2; ./prog
make -s -j2 sub; cat dir/a dir/b; make -s bad 2>/dev/null; echo "status $?"
