#!/usr/bin/env python3
"""What run.sh measures with torch, natively and in the sandbox: prints one JSON object of numbers.

  workloads.py matmul | train | copies | memory | hold SECONDS
  workloads.py compare NATIVE.json SANDBOX.json GATE...     GATE is NAME:RATIO, at least that share of the native rate

Never run on a card so far.
"""

import json
import sys
import time


def median(values):
    return sorted(values)[len(values) // 2]


def timed(torch, function, rounds, inner=1):
    """Median seconds of one call."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(inner):
            function()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / inner)
    return median(times)


def matmul(torch):
    size = 8192
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    return {"matmul_tflops": 2 * size**3 / timed(torch, lambda: a @ b, 30) / 1e12}


def train(torch):
    torch.manual_seed(1)
    width = 768
    layer = torch.nn.TransformerEncoderLayer(width, 12, 4 * width, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 12).cuda().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = torch.randn(8, 1024, width, device="cuda", dtype=torch.bfloat16)
    losses, begin = [], 0.0
    for step in range(60):
        if step == 10:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        optimizer.zero_grad()
        loss = (model(data) - data).float().pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    torch.cuda.synchronize()
    return {"train_steps_per_s": 50 / (time.perf_counter() - begin), "train_loss": losses[-1]}


def copies(torch):
    size = 256 << 20
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    pageable = torch.empty(size, dtype=torch.uint8)
    device, other = torch.empty(size, dtype=torch.uint8, device="cuda"), torch.empty(size, dtype=torch.uint8, device="cuda")
    small = torch.zeros(1, device="cuda")
    out = {
        "pinned_to_device": size / timed(torch, lambda: device.copy_(pinned, non_blocking=True), 20) / 1e9,
        "device_to_pinned": size / timed(torch, lambda: pinned.copy_(device, non_blocking=True), 20) / 1e9,
        "pageable_to_device": size / timed(torch, lambda: device.copy_(pageable), 10) / 1e9,
        "device_to_device": size / timed(torch, lambda: other.copy_(device), 50) / 1e9,
        "launches_per_s": 1 / timed(torch, lambda: small.add_(1), 20, 1000),
    }
    begin = time.perf_counter()
    torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)
    out["pin_gb_per_s"] = (64 << 20) / (time.perf_counter() - begin) / 1e9
    return out


def memory(torch):
    free, total = torch.cuda.mem_get_info()
    blocks = []
    try:
        while True:
            blocks.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        pass
    return {"total_mib": total >> 20, "free_mib": free >> 20, "allocated_mib": 256 * len(blocks)}


def hold(torch, seconds):
    """Says ready, computes, and checks its device memory when the time is over."""
    pattern = torch.arange(1 << 28, device="cuda", dtype=torch.int32)
    counter = torch.zeros(1, device="cuda", dtype=torch.int64)
    print("ready", flush=True)
    end, added = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        counter += 1
        added += 1
        time.sleep(0.001)
    same = bool((pattern == torch.arange(1 << 28, device="cuda", dtype=torch.int32)).all())
    return {"held": same and int(counter) == added}


def compare(native, sandbox, gates):
    with open(native) as file:
        one = json.load(file)
    with open(sandbox) as file:
        other = json.load(file)
    bad = 0
    for gate in gates:
        name, least = gate.split(":")
        ratio = other[name] / one[name]
        print(f"{name}: {ratio:.3f} of native ({other[name]:.4g} / {one[name]:.4g}), gate {least}")
        bad += ratio < float(least)
    return bad


def main():
    what = sys.argv[1]
    if what == "compare":
        sys.exit(compare(sys.argv[2], sys.argv[3], sys.argv[4:]) != 0)
    import torch  # pylint: disable=import-outside-toplevel

    functions = {"matmul": matmul, "train": train, "copies": copies, "memory": memory}
    result = hold(torch, float(sys.argv[2])) if what == "hold" else functions[what](torch)
    print(json.dumps(result), flush=True)
    sys.exit(0 if result.get("held", True) else 1)


if __name__ == "__main__":
    main()
