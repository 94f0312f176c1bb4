# timeout: 900
# CPython's own tests of process pools.
mkdir t; cd t; unset PYTHONUNBUFFERED
for m in multiprocessing_fork multiprocessing_spawn multiprocessing_forkserver concurrent_futures; do
    timeout 400 python3 -m test test_$m >log 2>&1 && echo "$m ok" || { echo "$m failed"; grep -E '^(FAIL|ERROR):' log | sort -u; }
done
