# timeout: 90
# checkpoint: yes
# 200 processes at once: all alive together, then all reaped.
i=0; while [ $i -lt 200 ]; do sleep 10 & i=$((i + 1)); done
echo "alive $(ls /proc | grep -E '^[0-9]+$' | while read -r p; do cat /proc/$p/comm 2>/dev/null; done | grep -c '^sleep$' | awk '{print ($1 >= 200) ? "200 or more" : $1}')"
wait; echo "reaped"
i=0; while [ $i -lt 200 ]; do (echo $i) & i=$((i + 1)); done | sort -n | md5sum; wait
seq 200 | xargs -P 20 -n 1 sh -c 'exit 0'; echo "xargs $?"
