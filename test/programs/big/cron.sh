# checkpoint: yes
# timeout: 150
# cron runs a job each minute, as root and as another user.
[ -n "$INSIDE" ] || INSIDE=yes exec python3 /srv/mapped sh "$0"
mkdir -p c s; mount -t tmpfs tmpfs /var/spool/cron && mkdir -p /var/spool/cron/crontabs; mount --bind c /etc/cron.d
printf '* * * * * root echo "ran as $(id -u)" >>%s/out\n' "$PWD" >c/job
cron -f & p=$!
i=0; while [ ! -s out ] && [ $i -lt 700 ]; do sleep 0.1; i=$((i+1)); done; cat out; kill $p
