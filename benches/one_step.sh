#!/usr/bin/env bash
# One step in place of thirty, on two cores: the quickstart's network is trained and distilled with three seeds; prompt accuracy by the
# exact detector of shapes, for teacher at 1, 2, 4 and 30 steps and for student at 1 step. What is there already is not done again.
#
#     benches/one_step.sh [OUT] [PROGRAM]
#
# OUT defaults to runs/one-step, PROGRAM to target/debug/microdit; SEEDS="0 1 2", SAMPLES=500, STEPS of the student as the recipe has them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/one-step}
microdit=${2:-target/debug/microdit}
seeds=${SEEDS:-0 1 2}
samples=${SAMPLES:-500}
steps=${STEPS:+--set stages.distil.steps=$STEPS}
mkdir -p "$out"

# Trains a run unless it is finished.
train() { # RUN RECIPE ARGUMENTS...
    local run=$1 recipe=$2
    shift 2
    [ -f "$run/finished.json" ] || "$microdit" train "$recipe" --run "$run" --resume --no-report "$@"
}

measure() { # NAME RUN ARGUMENTS...
    local name=$1 run=$2
    shift 2
    "$microdit" eval --run "$run" --reference shapes --metrics prompt-accuracy --samples "$samples" --seed 1000 --out "$out/eval/$name" "$@"
}

for seed in $seeds; do
    teacher=$out/teacher-$seed
    train "$teacher" quickstart --set "seed=$seed"
    for count in 1 2 4 30; do
        measure "teacher-$count/$seed" "$teacher" --steps "$count" --guidance 2
    done
    common=(--set "seed=$seed" --set "stages.distil.weights=$teacher" $steps)
    train "$out/student-$seed" swiftbrush/shapes "${common[@]}"
    # Ingredients, one by one: adapters of the student in place of all of its weights; teacher and critic without guidance.
    train "$out/student-lora-$seed" swiftbrush/shapes "${common[@]}" --set 'stages.distil.lora=(layers: ["*"], rank: 16)' --set optimizer.lr=1e-3
    train "$out/student-unguided-$seed" swiftbrush/shapes "${common[@]}" --set stages.distil.distill.guidance=1
    for kind in student student-lora student-unguided; do
        measure "$kind/$seed" "$out/$kind-$seed"
    done
    # The same noise, teacher and student.
    "$microdit" sample --run "$teacher" --seed 7 --out "$out/teacher-$seed.png"
    "$microdit" sample --run "$teacher" --seed 7 --steps 1 --out "$out/teacher-$seed-one-step.png"
    "$microdit" sample --run "$out/student-$seed" --seed 7 --out "$out/student-$seed.png"
    # Between the two students.
    "$microdit" merge "$out/student-$seed/ema.safetensors" "$out/student-lora-$seed/ema.safetensors" --sweep 0,0.25,...,1 \
        --out "$out/merge-$seed" -- --reference shapes --metrics prompt-accuracy --samples "$samples" --seed 1000
done

python3 - "$out/eval" <<'P'
import json, statistics, sys
from pathlib import Path

print("| | prompt accuracy, mean over seeds | standard deviation | seeds |\n|---|---:|---:|---:|")
for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    values = []
    for file in sorted(folder.glob("*/eval.json")):
        rows = json.loads(file.read_text())["results"]
        values += [row["value"] for row in rows if row["metric"] == "prompt-accuracy"]
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    print(f"| {folder.name} | {statistics.mean(values):.3f} | {spread:.3f} | {len(values)} |")
P
