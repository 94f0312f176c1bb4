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
# What programs say to the driver, by record.cc; the replay tells where the driver that does not exist answers otherwise, and leaves the recording normalised.
recorded() {  # FILE LEAST: that many calls and more
    calls=$(grep -c '^ioctl' "$1")
    echo "$calls calls"
    [ "$calls" -ge "$2" ]
}
record_native() {  # FILE LEAST COMMAND...
    file=$1 least=$2
    shift 2
    "$programs/record" "$file" "$@" >/dev/null && recorded "$file" "$least"
}
record_inside() {  # the same in a sandbox, which keeps its files to itself
    file=$1 least=$2
    shift 2
    inside /bin/sh -c 'recorder=$1; shift; "$recorder" /tmp/recording "$@" >&2; status=$?; cat /tmp/recording; exit $status' sh "$programs/record" "$@" \
        >"$file" && recorded "$file" "$least"
}
S0b() {
    if ! has_gpu; then skip S0b.record "no NVIDIA driver here"; return; fi
    for name in smi query matmul memory train; do
        case $name in
        smi) set -- nvidia-smi ;;
        query) set -- nvidia-smi -q ;;
        *) set -- python3 "$here/workloads.py" $name ;;
        esac
        check S0b.$name 60 record_native "$out/native-$name.rec" 100 "$@"
        check S0b.replay-$name 60 "$programs/replay" "$out/native-$name.rec" "$out/native-$name.txt"
    done
}
S1() {
    check S1.rawrm 60 inside "$rawrm"
    if [ $dry -eq 1 ]; then skip S1.smi "needs nvidia-smi and a card"; return; fi
    check S1.smi 60 inside nvidia-smi
    check S1.smi-query 60 inside nvidia-smi -q
}
S1b() {
    check S1b.rawrm 60 record_inside "$out/sandbox-rawrm.rec" 15 "$rawrm"
    check S1b.replay-rawrm 60 "$programs/replay" "$out/sandbox-rawrm.rec" "$out/sandbox-rawrm.txt"
    if [ $dry -eq 1 ]; then
        check S1b.cuda 60 record_inside "$out/sandbox-cuda.rec" 15 /usr/bin/env LD_LIBRARY_PATH="$programs" "$programs/cudademo"
        check S1b.replay-cuda 60 "$programs/replay" "$out/sandbox-cuda.rec" "$out/sandbox-cuda.txt"
        return
    fi
    for name in smi matmul memory; do
        if [ $name = smi ]; then set -- nvidia-smi; else set -- python3 "$here/workloads.py" $name; fi
        check S1b.$name 120 record_inside "$out/sandbox-$name.rec" 100 "$@"
        check S1b.replay-$name 60 "$programs/replay" "$out/sandbox-$name.rec" "$out/sandbox-$name.txt"
    done
}

# A workload of workloads.py natively and in the sandbox, with gates.
ratio() {  # STEP WORKLOAD LIMIT GATE...
    step=$1 work=$2 limit=$3
    shift 3
    if [ $dry -eq 1 ]; then skip "$step.$work" "needs CUDA"; return; fi
    check "$step.$work-native" "$limit" python3 "$here/workloads.py" "$work"
    check "$step.$work-sandbox" "$limit" inside python3 "$here/workloads.py" "$work"
    for side in native sandbox; do tail -n 1 "$out/$step.$work-$side.log" >"$out/$work-$side.json"; done
    check "$step.$work" 10 python3 "$here/workloads.py" compare "$out/$work-native.json" "$out/$work-sandbox.json" "$@"
}
S2() {
    ratio S2 matmul 120 matmul_tflops:0.97
    ratio S2 train 120 train_steps_per_s:0.95
}
S3() { ratio S3 copies 90 pinned_to_device:0.97 device_to_pinned:0.97 device_to_device:0.99 pageable_to_device:0.85 launches_per_s:0.95; }

# A container of the machine's own root, so that torch comes along.
container_of() {  # FOLDER COMMAND...
    folder=$1
    shift
    mkdir -p "$folder"
    python3 - "$folder" "$@" <<'PYTHON'
import json, os, sys
sys.path.insert(0, os.environ["BUNDLES"])
import bundle
bundle.write(sys.argv[1], "/", sys.argv[2:], environment={k: os.environ[k] for k in ("LD_LIBRARY_PATH",) if k in os.environ})
PYTHON
}
cuda_cycle() {
    BUNDLES=$top/test/programs container_of "$state/bundle" python3 "$here/workloads.py" hold 60 || return 1
    "$sandbox" --root "$state" $gpu run --bundle "$state/bundle" cycle >"$state/first" 2>&1 </dev/null &
    n=0
    until grep -q ready "$state/first" || [ $n -ge 60 ]; do sleep 1; n=$((n + 1)); done
    "$sandbox" --root "$state" checkpoint --image-path "$out/cycle.image" cycle || return 1
    ls -l "$out/cycle.image"
    "$sandbox" --root "$state" $gpu restore --image-path "$out/cycle.image" --bundle "$state/bundle" cycle </dev/null
    status=$?
    rm -f "$out/cycle.image"
    return $status
}
S4() {
    if [ $dry -eq 1 ]; then check S4.fake 200 python3 "$here/run.py" --sandbox "$sandbox" --programs "$programs"; skip S4.cuda "needs CUDA"; return; fi
    check S4.cuda 200 cuda_cycle
}
quota() { inside_quota=$("$sandbox" --root "$state" do $gpu --gpu-memory=8GiB --tty=false "$rawrm" eat </dev/null) || return 1; echo "$inside_quota"; echo "$inside_quota" | grep -q "allocated 8192 MiB"; }
torch_quota() { "$sandbox" --root "$state" do $gpu --gpu-memory=8GiB --tty=false python3 "$here/workloads.py" memory </dev/null | tee "$out/quota.json" && grep -q '"total_mib": 8192' "$out/quota.json"; }
S5() {
    check S5.quota 60 quota
    if [ $dry -eq 1 ]; then skip S5.torch "needs CUDA"; else check S5.torch 60 torch_quota; fi
}
# A second tenant beside one that holds clients: what it guesses is refused (rawrm's checks).
neighbours() {
    inside "$rawrm" hold </dev/null >"$state/hold" 2>&1 &
    inside "$rawrm"
    status=$?
    wait
    return $status
}
S6() { check S6.isolation 60 neighbours; }
soak() { n=0; while [ $n -lt "$1" ]; do inside "$rawrm" >/dev/null || return 1; n=$((n + 1)); done; }
S8() { if [ $dry -eq 1 ]; then check S8.soak 120 soak 20; else check S8.soak 300 soak 200; fi; }

for step in $steps; do $step; done
passed=$(grep -c '"PASS"' "$results")
failed=$(grep -c '"FAIL"' "$results")
skipped=$(grep -c '"SKIP"' "$results")
echo "$passed passed, $failed failed, $skipped skipped" | tee "$out/summary.txt"
[ "$failed" -eq 0 ]
