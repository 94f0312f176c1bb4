# timeout: 60
# checkpoint: yes
# A server with a picture in memory, asked by several clients, one after the other: it does not reset when the last has left, or the next may be refused.
Xvfb :7 -screen 0 640x480x24 -nolisten tcp -noreset >log 2>&1 & p=$!
until DISPLAY=:7 xdpyinfo >info 2>/dev/null; do sleep 0.1; done
grep -E 'dimensions|depth of root' info; DISPLAY=:7 xwininfo -root | grep -E 'Width|Height'
DISPLAY=:7 timeout 20 import -window root a.png; identify a.png | cut -d' ' -f2-3
kill $p; wait $p; echo $?
