# timeout: 90
# tar, gzip, xz, bzip-less round trips with links, modes, times, sparse files.
mkdir -p t/a/b; seq 50000 > t/numbers; ln t/numbers t/hard; ln -s numbers t/soft; chmod 640 t/numbers; touch -d @1000000 t/a; mkfifo t/fifo
truncate -s 10M t/sparse; cp /usr/bin/perl t/; for i in $(seq 300); do echo "$i" > "t/a/b/$i"; done; touch -d @1000000 t/a/b t/a
tar -C t -cf 1.tar .; tar tf 1.tar | wc -l; mkdir x; tar -C x -xpf 1.tar; diff -r --no-dereference t/a x/a && cmp t/perl x/perl && echo same
stat -c '%a %h %Y' x/numbers x/a | sed 's/ [0-9]\{10\}$//'; readlink x/soft; [ -p x/fifo ] && echo fifo; [ x/hard -ef x/numbers ] && echo hard
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -czf 2.tgz -C t numbers perl; tar xOzf 2.tgz numbers | md5sum
tar -S -cf s.tar -C t sparse; [ "$(stat -c %s s.tar)" -lt 100000 ] && echo "sparse kept"
gzip -9c t/numbers | gzip -d | cmp - t/numbers && echo gzip; xz -1c t/perl | xz -d | cmp - t/perl && echo xz; xz -T2 -0k t/numbers; xz -l --robot t/numbers.xz | awk '/^totals/{print $5}'
head -c 100 2.tgz > cut.tgz; gzip -t cut.tgz 2>/dev/null; echo "cut $?"; zcat 2.tgz | tar t; cat t/numbers | (cd x && tar c numbers) | tar x -O | tail -1
