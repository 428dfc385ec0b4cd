#!/usr/bin/env bash
# Everything there is to measure on one NVIDIA GPU, inside ten minutes: parity, training steps of MicroDiT-XL/2 in bf16
# here and in PyTorch (compiled), and what the time goes into.
#
#     benches/gpu.sh build   # on any machine, no toolkit needed: target/gpu, below 64 MiB
#     benches/gpu.sh [OUT]   # on the machine with the GPU, which needs target/gpu and, for the comparison, PyTorch
#
# Results: one JSON line per case in OUT/steps.jsonl, the parity tests' reports, profiles by kernel, and a table.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=target/gpu
peak=${PEAK_TFLOPS:-989} # bf16, dense: H100 and H200

build() {
    mkdir -p $bin
    # A folder of their own, so that the builds for the CPU stay.
    local flags=(--workspace --locked --target-dir target/cuda)
    for kind in cuda fusion; do
        local features=microdit-tests/$kind,microdit-benches/$kind
        cargo build "${flags[@]}" --features $features --bin microdit-step
        cp target/cuda/debug/microdit-step $bin/step-$kind
        local parity
        parity=$(cargo test "${flags[@]}" --features $features --test parity --no-run --message-format json |
            grep -o '"executable":"[^"]*parity[^"]*"' | cut -d'"' -f4)
        cp "$parity" $bin/parity-$kind
    done
    strip $bin/*
    gzip -9 --force $bin/*
    du -sh $bin
}

# One training case: name, seconds it may take, command. A line for each step goes to the log, or why there is none.
step() {
    local name=$1 limit=$2 lines
    shift 2
    if lines=$(timeout "$limit" "$@" 2>"$out/$name.err") && [ -n "$lines" ]; then
        sed "s/^{/{\"case\": \"$name\", /" <<<"$lines" | tee -a "$out/steps.jsonl"
    else
        echo "{\"case\": \"$name\", \"error\": \"see $name.err\"}" | tee -a "$out/steps.jsonl"
        return 1
    fi
}

# The largest of these micro-batches that fits.
largest() {
    local name=$1 limit=$2
    shift 2
    for batch in 512 256 128 64; do
        step "$name-b$batch" "$limit" "$@" --batch $batch && return
    done
    return 0
}

run() {
    out=${1:-target/gpu-results}
    mkdir -p "$out"
    rm -f "$out/steps.jsonl"
    gunzip --keep --force $bin/*.gz
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv | tee "$out/gpu.csv"
    for kind in cuda fusion; do
        MICRODIT_GOLDENS=$PWD/tests/goldens timeout 100 $bin/parity-$kind --nocapture >"$out/parity-$kind.txt" 2>&1 ||
            echo "parity-$kind failed: see $out/parity-$kind.txt"
        tail -n 3 "$out/parity-$kind.txt"
    done
    local xl=(--device cuda --network xl --bf16 --steps 5)
    local torch=(python3 benches/torch/bench.py --compile --fused)
    largest masked-256 60 $bin/step-fusion "${xl[@]}" --mask 0.75
    largest unmasked-256 60 $bin/step-fusion "${xl[@]}" --mask 0
    largest masked-512 60 $bin/step-fusion "${xl[@]}" --mask 0.75 --side 64
    step masked-256-unfused-b128 60 $bin/step-cuda "${xl[@]}" --mask 0.75 --batch 128 || true
    if python3 -c 'import torch' 2>/dev/null; then
        largest torch-masked-256 90 "${torch[@]}" "${xl[@]}" --mask 0.75
        largest torch-unmasked-256 90 "${torch[@]}" "${xl[@]}" --mask 0
        "${torch[@]}" "${xl[@]}" --mask 0.75 --batch 128 --profile >"$out/profile-torch.txt" 2>&1 || true
    fi
    # Every kernel of two steps with its time, summed by name.
    CUBECL_DEBUG_OPTION=profile CUBECL_DEBUG_LOG=$out/profile.log timeout 60 $bin/step-fusion \
        --device cuda --network xl --bf16 --steps 1 --mask 0.75 --batch 64 >/dev/null 2>"$out/profile.err" || true
    tail -n 60 "$out/profile.log" 2>/dev/null || true
    python3 - "$out/steps.jsonl" "$peak" <<'P'
import collections, json, statistics, sys

print("| case | images/s | MFU | forward + backward + optimizer, s | peak MiB |")
print("|---|---|---|---|---|")
cases, flops = collections.defaultdict(list), {}
for line in map(json.loads, open(sys.argv[1])):
    if "error" not in line:
        cases[line["case"]].append(line)
    # Model FLOPs of an image, from the cases that know them.
    if "tflop_per_second" in line:
        flops[line["case"].split("-b")[0]] = line["tflop_per_second"] / line["images_per_second"]
for case, lines in cases.items():
    median = lambda key: statistics.median(line[key] for line in lines)
    name = case.split("-b")[0].replace("torch-", "").replace("-unfused", "")
    mfu = 100 * flops.get(name, 0) * median("images_per_second") / float(sys.argv[2])
    parts = " + ".join(f"{median(part):.3f}" for part in ("forward", "backward", "optimizer"))
    print(f"| {case} | {median('images_per_second'):.1f} | {mfu:.1f} % | {parts} | {lines[-1]['peak_mib']:.0f} |")
P
}

if [ "${1:-}" = build ]; then build; else run "${1:-}"; fi
