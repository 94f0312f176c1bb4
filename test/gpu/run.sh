#!/bin/sh
# Steps on a machine with an NVIDIA GPU. Each has its time limit, goes on after a failure, and writes one JSON line a check to OUT/results.jsonl:
# {"id", "step", "status": PASS|FAIL|SKIP, "seconds", "note"}.
#
#   test/gpu/run.sh [--dry-run] [--out DIR] [STEP...]      steps: S0 S0b S1 S1b S2 S3 S4 S5 S6 S8
#
# --dry-run uses the driver that does not exist (nvproxy/fake), where steps that need CUDA itself are skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
sandbox=${SANDBOX:-$top/bazel-bin/sandbox}
programs=${PROGRAMS:-$top/bazel-bin/test/gpu}
out=${OUT:-$top/out/gpu}
dry=0
steps=""
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) dry=1 ;;
    --out) shift; out=$1 ;;
    S[0-9]*) steps="$steps $1" ;;
    *) echo "usage: $0 [--dry-run] [--out DIR] [STEP...]" >&2; exit 2 ;;
    esac
    shift
done
[ -n "$steps" ] || steps="S0 S0b S1 S1b S2 S3 S4 S5 S6 S8"
mkdir -p "$out"
results=$out/results.jsonl
: >"$results"
sandbox=$(readlink -f "$sandbox")
programs=$(readlink -f "$programs")
rawrm=$programs/rawrm
gpu="--gpu"
[ $dry -eq 0 ] || gpu="--gpu --gpu-driver=fake:$here/one_h100.txt"
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

result() {  # ID STATUS SECONDS NOTE
    note=$(printf '%s' "$4" | tr -d '"\\' | tr '\n\t' '  ' | cut -c1-300)
    printf '{"id": "%s", "step": "%s", "status": "%s", "seconds": %s, "note": "%s"}\n' "$1" "${1%%.*}" "$2" "$3" "$note" >>"$results"
    echo "$2 $1 $note"
}

# timeout(1) for functions of this script, too.
limited() {
    seconds_left=$1
    shift
    "$@" &
    child=$!
    (sleep "$seconds_left"; kill -9 $child) 2>/dev/null &
    guard=$!
    wait $child
    limited_status=$?
    kill $guard 2>/dev/null
    return $limited_status
}

check() {  # ID LIMIT COMMAND...: PASS if it ends with 0 in time
    id=$1 limit=$2
    shift 2
    begin=$(date +%s)
    log=$out/$id.log
    limited "$limit" "$@" >"$log" 2>&1
    status=$?
    seconds=$(($(date +%s) - begin))
    if [ $status -eq 0 ]; then result "$id" PASS $seconds ""
    else result "$id" FAIL $seconds "status $status: $(tail -n 3 "$log")"; fi
}

skip() { result "$1" SKIP 0 "$2"; }
inside() { "$sandbox" --root "$state" do $gpu --tty=false "$@" </dev/null; }

has_gpu() { [ -e /dev/nvidiactl ]; }

S0() {
    { uname -a; cat /proc/driver/nvidia/version /proc/driver/nvidia/params; ls -l /dev/nvidia* ; free -m; cat /sys/kernel/mm/transparent_hugepage/*enabled; } >"$out/probe.txt" 2>&1
    if has_gpu; then result S0.probe PASS 0 "$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)"; else skip S0.probe "no NVIDIA driver here"; fi
}
S0b() { skip S0b.record "the native recorder is not built yet"; }
S1() {
    check S1.rawrm 60 inside "$rawrm"
    if [ $dry -eq 1 ]; then skip S1.smi "needs nvidia-smi and a card"; return; fi
    check S1.smi 60 inside nvidia-smi
    check S1.smi-query 60 inside nvidia-smi -q
}
S1b() { skip S1b.record "the recorder of the sandbox is not built yet"; }
S2() {
    if [ $dry -eq 1 ]; then skip S2.torch "needs CUDA"; return; fi
    check S2.native 120 python3 -c 'import torch; a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16); print(float((a @ a).float().sum()))'
    check S2.sandbox 120 inside python3 -c 'import torch; a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16); print(float((a @ a).float().sum()))'
}
S3() { skip S3.copies "the copy measurements are not written yet"; }
S4() {
    check S4.nvml 60 python3 "$here/run.py" --sandbox "$sandbox" --programs "$programs"
    skip S4.cuda "the checkpoint helper is not built yet"
}
quota() { inside_quota=$("$sandbox" --root "$state" do $gpu --gpu-memory=8GiB --tty=false "$rawrm" eat </dev/null) || return 1; echo "$inside_quota"; echo "$inside_quota" | grep -q "allocated 8192 MiB"; }
S5() { check S5.quota 60 quota; }
S6() { check S6.isolation 60 inside "$rawrm"; }
soak() { n=0; while [ $n -lt "$1" ]; do inside "$rawrm" >/dev/null || return 1; n=$((n + 1)); done; }
S8() { if [ $dry -eq 1 ]; then check S8.soak 120 soak 20; else check S8.soak 300 soak 200; fi; }

for step in $steps; do $step; done
passed=$(grep -c '"PASS"' "$results")
failed=$(grep -c '"FAIL"' "$results")
skipped=$(grep -c '"SKIP"' "$results")
echo "$passed passed, $failed failed, $skipped skipped" | tee "$out/summary.txt"
[ "$failed" -eq 0 ]
