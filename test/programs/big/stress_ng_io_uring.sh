# timeout: 60
# The class of stress-ng that has every operation of io_uring that it knows, once each.
timeout 30 stress-ng --io-uring 1 --timeout 1 --verify --oom-avoid --temp-path . >log 2>&1 </dev/null && echo "io-uring ok" || { echo "io-uring failed"; grep fail log | sed 's/.*completion/completion/' | sort -u | head -3; }
