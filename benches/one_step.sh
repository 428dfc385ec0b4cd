#!/usr/bin/env bash
# One step in place of thirty, on two cores: the quickstart's network is trained and distilled with three seeds, in four ways. Prompt accuracy
# by the exact detector of shapes and the distance of features by a classifier of them, for teachers at 1, 2, 4 and 30 steps and for
# students at 1 step. What is there already is not done again.
#
#     benches/one_step.sh [OUT] [PROGRAM]
#
# OUT defaults to runs/one-step, PROGRAM to target/debug/microdit; SEEDS="0 1 2", SAMPLES=500; STUDENTS="--set batch=16", say,
# changes the recipe of all students.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/one-step}
microdit=${2:-target/debug/microdit}
seeds=(${SEEDS:-0 1 2})
samples=${SAMPLES:-500}
students=(${STUDENTS:-})
judged=(--reference shapes --classifier shapes --metrics prompt-accuracy,fd-classifier --samples "$samples" --seed 1000)
mkdir -p "$out"

# Trains a run unless it is finished.
train() { # RUN RECIPE ARGUMENTS...
    local run=$1 recipe=$2
    shift 2
    [ -f "$run/finished.json" ] || "$microdit" train "$recipe" --run "$run" --resume --no-report "$@"
}

# Measures a run unless it is measured.
measure() { # NAME RUN ARGUMENTS...
    local name=$1 run=$2
    shift 2
    [ -f "$out/eval/$name/eval.json" ] || "$microdit" eval --run "$run" "${judged[@]}" --out "$out/eval/$name" "$@"
}

for seed in "${seeds[@]}"; do
    train "$out/teacher-$seed" quickstart --set "seed=$seed"
    for count in 1 2 4 30; do
        measure "teacher, $count steps/$seed" "$out/teacher-$seed" --steps "$count" --guidance 2
    done
done
for i in "${!seeds[@]}"; do
    seed=${seeds[$i]}
    teacher=$out/teacher-$seed
    other=$out/teacher-${seeds[$(((i + 1) % ${#seeds[@]}))]}
    student() { # NAME ARGUMENTS...
        local name=$1
        shift
        train "$out/$name-$seed" swiftbrush/shapes --set "seed=$seed" --set "stages.distil.weights=$teacher" "${students[@]}" "$@"
        measure "$name/$seed" "$out/$name-$seed"
    }
    student student
    # Ingredients, one by one: no critic; a beginning that is not its teacher; adapters in place of all weights.
    student student-without-critic --set stages.distil.distill.critic=None
    student student-of-another --set "stages.distil.weights=$other" --set "stages.distil.distill.teacher=$teacher"
    student student-lora --set 'stages.distil.lora=(layers: ["*"], rank: 16)' --set optimizer.lr=1e-3
    # Between two students.
    "$microdit" merge "$out/student-$seed/ema.safetensors" "$out/student-lora-$seed/ema.safetensors" --sweep 0,0.25,...,1 \
        --out "$out/merge-$seed" -- "${judged[@]}"
    # The same noise, teacher and students.
    draw() { # NAME RUN ARGUMENTS...
        local file=$out/$1-$seed.png run=$2
        shift 2
        [ -f "$file" ] || "$microdit" sample --run "$run" --seed 7 --out "$file" "$@"
    }
    draw teacher "$teacher"
    draw teacher-one-step "$teacher" --steps 1
    for kind in student student-without-critic student-of-another student-lora; do
        draw "$kind" "$out/$kind-$seed"
    done
done

python3 - "$out" <<'P'
import json, statistics, sys
from pathlib import Path

METRICS = ["prompt-accuracy", "fd-classifier"]


def shown(values, digits):
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}" if values else "-"


print("Mean over seeds ± standard deviation between them.\n")
print("| | " + " | ".join(METRICS) + " | seeds |\n|---|" + "---:|" * (len(METRICS) + 1))
out = Path(sys.argv[1])
found = {}
for file in sorted(out.glob("eval/*/*/eval.json")):
    found.setdefault(file.parts[-3], []).append(file)
for file in sorted(out.glob("merge-*/share-*/eval.json")):
    share = file.parts[-2].removeprefix("share-")
    found.setdefault(f"merged, {share} of student, the rest student-lora", []).append(file)
for name, files in found.items():
    rows = [row for file in files for row in json.loads(file.read_text())["results"]]
    values = [[row["value"] for row in rows if row["metric"] == metric] for metric in METRICS]
    print(f"| {name} | {shown(values[0], 3)} | {shown(values[1], 2)} | {len(files)} |")
P
