# checkpoint: yes
# timeout: 120
# OpenSSH over loopback: commands, exit status, a terminal, copies, a tunnel, rsync through it.
d=$PWD; chmod 700 "$d"; mkdir -p /run/sshd
ssh-keygen -q -t ed25519 -N '' -f k; ssh-keygen -q -t ed25519 -N '' -f host
/usr/sbin/sshd -h "$d/host" -p 2222 -o ListenAddress=127.0.0.1 -o UsePAM=no -o StrictModes=no \
    -o AuthorizedKeysFile="$d/k.pub" -o PidFile="$d/pid" -E "$d/log" || exit 1
until nc -z 127.0.0.1 2222; do sleep 0.05; done
o="-q -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i $d/k"
run() { ssh $o -p 2222 root@127.0.0.1 "$@"; }
run 'id -u; echo $SSH_CLIENT | cut -d" " -f1; exit 5' </dev/null; echo $?
seq 300000 >r; md5sum <r; run cat <r | md5sum
run -tt 'test -t 0 && echo terminal' </dev/null
scp $o -P 2222 r root@127.0.0.1:"$d/r2" && cmp r r2 && echo scp
i=0; while [ $i -lt 10 ]; do run "echo $i" </dev/null; i=$((i + 1)); done
(echo tunnelled | nc -N -l 127.0.0.1 9001) &
run -L 9000:127.0.0.1:9001 -N </dev/null & t=$!
until nc -d 127.0.0.1 9000 2>/dev/null | grep tunnelled; do sleep 0.1; done
kill $t
rsync -a -e "ssh $o -p 2222" r root@127.0.0.1:"$d/r3" && cmp r r3 && echo rsync
kill "$(cat pid)"; grep -ciE "fatal|error:" log; true
