# timeout: 120
# Every program of coreutils, in alphabetical order.
say() { printf '%s: ' "$1"; }
say '['; [ 1 -lt 2 ] && echo yes
say arch; arch
say b2sum; echo x | b2sum | cut -c1-16
say base32; echo hello | base32
say base64; echo hello | base64 | tee e64; say base64-d; base64 -d e64
say basename; basename /a/b.c .c
say basenc; echo hello | basenc --base16
printf '1\n2\n3\n' > three; say cat; cat -n three | tail -1
touch perm; say chcon; chcon user_u:object_r:x_t:s0 perm 2>/dev/null; echo tried
say chgrp; chgrp 1 perm 2>/dev/null && stat -c %g perm
say chmod; chmod u=rwx,g=rx,o= perm; stat -c %A perm
say chown; chown 12:34 perm 2>/dev/null && stat -c '%u %g' perm
say chroot; chroot / true; echo $?
say cksum; cksum three
say comm; printf '2\n4\n' | comm -12 three -
say cp; cp -p three four; cp -r --preserve=mode . ../case-copy.$$ && ls ../case-copy.$$ | wc -l; rm -rf ../case-copy.$$
say csplit; csplit -s three 2 && cat xx01 | tr '\n' ' ' && echo
say cut; echo a:b:c | cut -d: -f2-
say date; date -u -d '2024-02-29 12:00 +1 day' +%F
say dd; dd if=/dev/zero bs=4k count=3 2>/dev/null | wc -c; printf 'abcdef' | dd bs=1 skip=2 count=2 conv=ucase 2>/dev/null; echo
say df; df -P . | wc -l
say dir; mkdir dd; touch dd/z dd/a; dir dd
say dircolors; dircolors -b | head -c 9; echo
say dirname; dirname /a/b/c
say du; du -s --apparent-size -b three | cut -f1
say echo; echo -n no newline; echo
say env; env -i A=1 env
say expand; printf '\tx\n' | expand -t 4
say expr; expr 7 % 4
say factor; factor 1234567890
say false; false; echo $?
say fmt; yes word | head -30 | fmt -w 40 | wc -l
say fold; echo abcdefgh | fold -w 3 | tail -1
say groups; groups root | cut -d' ' -f1
say head; head -n 2 three | tail -1; head -c -2 three | wc -c
say hostid; hostid | wc -c
say id; id -un; id -u
say install; install -m 751 three inst && stat -c %a inst
say join; printf '1 a\n2 b\n' > j1; printf '2 c\n' | join j1 -
say link; link three linked; stat -c %h three
say ln; ln -s three sym; readlink sym; ln -f three hard2; stat -c %h three
say logname; logname 2>/dev/null | wc -c
say ls; ls -ln three | awk '{print $1, $2, $5}'; ls -a dd | tr '\n' ' '; ls --color=always -d dd | od -c | head -1; ls missing 2>/dev/null; echo $?
say md5sum; md5sum three; md5sum three > sums; md5sum -c sums
say mkdir; mkdir -p -m 700 p/q/r && stat -c %a p/q/r; mkdir p 2>/dev/null; echo $?
say mkfifo; mkfifo ff && stat -c %F ff
say mknod; mknod np p && stat -c %F np
say mktemp; t=$(mktemp -d -p .) && stat -c %a "$t"
say mv; mv four five && ls five; mv -n three five; mv -t dd five; ls dd | wc -l
say nice; nice -n 7 nice
say nl; nl -ba three | tail -1
say nohup; nohup echo hup 2>/dev/null | cat
say nproc; nproc --all | grep -c '^[1-9]'
say numfmt; numfmt --to=iec 1536000
say od; od -An -tx2 three
say paste; paste -sd+ three
say pathchk; pathchk -p 'a b*' 2>/dev/null; echo $?
say pinky; pinky -f 2>/dev/null | wc -l
say pr; pr -t -2 -l 2 three | head -1
say printenv; A=b printenv A
say printf; printf '%s-%03d-%x-%e\n' s 7 255 1.5
say ptx; echo 'one two' | ptx | wc -l
say pwd; cd dd && pwd -P | grep -c '/dd$'; cd ..
say readlink; readlink -f sym | grep -c three
say realpath; realpath --relative-to=. dd/../three
say rm; touch r1 r2; rm r1 r2; rm r1 2>/dev/null; echo $?; rm -f r1; echo $?
say rmdir; mkdir rr; rmdir rr; rmdir dd 2>/dev/null; echo $?
say runcon; runcon 2>/dev/null; echo $?
say seq; seq -s, 1 3 10; seq -w 8 10 | head -1
say sha; for s in 1 224 256 384 512; do sha${s}sum three | cut -c1-8; done
say shred; cp three sh; shred -u -n 1 sh; [ -e sh ] || echo gone
say shuf; shuf -i 1-100 | sort -n | md5sum
say sleep; sleep 0.05 && echo slept
say sort; printf '10 b\n9 a\n' | sort -n; seq 100000 | shuf --random-source=/usr/bin/perl | sort -n --parallel=2 -S 1M | md5sum; sort -u -k2 -r j1
say split; seq 100 | split -l 30 - part; ls part* | wc -l; split -n 3 three third && cat third* | cmp - three && echo whole
say stat; stat -c '%n %s %F' three; stat -f -c %l . ; stat -L -c %s sym
say stdbuf; stdbuf -oL echo line
say stty; stty < /dev/null 2>/dev/null; echo $?
say sum; sum three
say sync; sync three && echo synced
say tac; tac three | tr '\n' ' '; echo
say tail; tail -n +2 three | head -1; tail -c 2 three; : > grow; (echo first; sleep 0.3; echo second) > grow & timeout 2 tail -f grow 2>/dev/null | head -2; wait
say tee; echo t | tee t1 t2 >/dev/null; cat t1 t2 | tr -d '\n'; echo
say test; test -d dd -a -f three && echo both
say timeout; timeout 0.1 sleep 5; echo $?
say touch; touch -d '2001-01-01 UTC' old; stat -c %Y old; touch -r old new; [ old -nt three ] || echo older
say tr; echo hello | tr a-y b-z; echo aabb | tr -s a; echo a1 | tr -d 0-9
say true; true; echo $?
say truncate; truncate -s 1M big; stat -c '%s' big; truncate -s -1K big; stat -c %s big
say tsort; printf 'a b\nb c\n' | tsort | tr '\n' ' '; echo
say tty; tty < /dev/null; echo $?
say uname; uname -s -m
say unexpand; printf '        x\n' | unexpand | od -c | head -1
say uniq; printf 'a\na\nb\n' | uniq -c | tr -s ' '
say unlink; unlink linked; stat -c %h three
say users; users | wc -l
say vdir; vdir -n dd | tail -1 | awk '{print $1}'
say wc; wc three; wc -L three
say who; who | wc -l
say whoami; whoami
say yes; yes no | head -2 | tail -1
