# checkpoint: yes
# timeout: 60
# rsync: links, hard links, fifos, sparse files, deletions; its daemon.
mkdir -p a/b; for i in 1 2 3 4 5; do seq "${i}0000" >a/b/$i; done
ln a/b/1 a/hard; ln -s b/2 a/link; mkfifo a/fifo; truncate -s 10M a/sparse; touch -d 2001-02-03 a/b/*
rsync -aHS a/ c/; diff -r --no-dereference a/b c/b && ls c
test a/hard -ef a/b/1 && test c/hard -ef c/b/1 && echo hard
stat -c %b c/sparse
echo x >>a/b/3; rm a/b/4
rsync -ai --delete --checksum a/ c/ | grep -v '/$'
printf 'port = 8730\nuse chroot = no\nuid = root\npid file = %s/pid\n[m]\npath = %s/a\n' "$PWD" "$PWD" >conf
rsync --daemon --config=conf --log-file=log
until rsync rsync://127.0.0.1:8730/ 2>/dev/null; do sleep 0.05; done
rsync -a rsync://127.0.0.1:8730/m/ d/; diff -r --no-dereference a/b d/b && ls d; kill "$(cat pid)"
