# timeout: 200
# checkpoint: yes
# Debian's own init scripts start services as images' entry points do (`service NAME start`), users are made and become others.
if [ -z "$INSIDE" ]; then
    INSIDE=yes exec python3 /srv/mapped unshare --net sh "$0"  # a network where it may have low ports
fi
for folder in etc usr var; do
    mkdir -p "o/$folder/up" "o/$folder/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$PWD/o/$folder/up,workdir=$PWD/o/$folder/work" overlay "/$folder" || exit 1
done
mount -t tmpfs -o mode=755 tmpfs /home
ip link set lo up
chmod 755 .
pg_createcluster 15 main >log 2>&1 || cat log
services='nginx redis-server cron ssh memcached haproxy dbus postgresql'
for s in $services; do
    timeout 60 service $s start >log 2>&1; echo "$s start $?"
done
for s in $services; do timeout 20 service $s status >log 2>&1; echo "$s status $?"; done
curl -s http://127.0.0.1/ | grep title; redis-cli ping
su postgres -c 'psql -Atc "select 1 + 1"'
nc -d -w 5 127.0.0.1 22 | head -c 7; echo
useradd -m -s /bin/bash joe && su - joe -c 'id -un; pwd; umask; echo hi >f; stat -c "%U %G %a" f; touch /root/x 2>&1 | sed "s/.*: //"'
su nobody -s /bin/sh -c 'id -un'; runuser -u joe -- id -Gn; getent passwd joe | cut -d: -f1,6,7; echo joe:secret | chpasswd; passwd -S joe | cut -d' ' -f1,2
for s in $services; do timeout 60 service $s stop >log 2>&1; echo "$s stop $?"; done
userdel -r joe 2>/dev/null; ls /home | wc -l
