"""Trains the same steps by one process, by replicas in one process and by MPI's ranks, with the optimizer's state whole and in shares, and
prints a table: losses and weights beside those of one process, and what a rank sends in a step and how long that takes.

    cargo build --workspace --features mpi
    python3 benches/ranks.py

Times of more ranks than the machine has cores say nothing, and are left out.
"""

import argparse
import array
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
SETS = ["model.moe=None", "stages.masked.steps={steps}", "stages.unmasked.steps=1", "log_every=1", "sampling.prompts=[]"]
SHARED = ["distributed.shard_optimizer=true"]
NARROW = ["distributed.gradients=Bf16"]
# Gradients leave while others are computed.
RECOMPUTED = ["activation_checkpointing=On"]
# Name, ranks, replicas in each, what is set.
CASES = [
    ("one process", 1, 1, []),
    ("2 replicas", 1, 2, []),
    ("4 replicas", 1, 4, []),
    ("1 rank", 1, 1, ["mpirun"]),
    ("2 ranks", 2, 1, []),
    ("2 ranks, shares", 2, 1, SHARED),
    ("2 ranks, bf16", 2, 1, NARROW),
    ("2 ranks, shares, bf16", 2, 1, SHARED + NARROW),
    ("2 replicas, recomputed", 1, 2, RECOMPUTED),
    ("2 ranks, recomputed", 2, 1, RECOMPUTED),
    ("2 ranks, recomputed, shares", 2, 1, RECOMPUTED + SHARED),
    ("4 ranks", 4, 1, []),
    ("4 ranks, shares", 4, 1, SHARED),
]
SAID = re.compile(r"sent ([\d.]+) MB to others in ([\d.]+) ms, and waited ([\d.]+) ms for them(?:; ([\d.]+) MB of gradients left)?")


def train(binary, recipe, run, ranks, replicas, more, steps):
    """Its output."""
    by_mpi = ranks > 1 or "mpirun" in more
    sets = [text.format(steps=steps) for text in SETS] + [text for text in more if "=" in text]
    command = ["mpirun", "-n", str(ranks)] if by_mpi else []
    command += [binary, "train", recipe, "--run", run, "--device", "cpu", "--no-report"]
    command += ["--devices", ",".join(map(str, range(replicas)))]
    command += [word for text in sets for word in ("--set", text)]
    # In a container one is root, and has fewer processors than ranks.
    mpi = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ | mpi, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [line["loss"] for line in metrics(run)]


def step_ms(run):
    """The median step, without what a process does before the first and behind the last."""
    lines = metrics(run)
    before = [0] + [line["images"] for line in lines]
    return statistics.median(1e3 * (line["images"] - seen) / line["images_per_second"] for line, seen in zip(lines, before))


def weights(run):
    """All numbers of a file in f32, by the tensors' names."""
    data = (run / "weights.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found = array.array("f")
    for name in sorted(header):
        start, end = header[name]["data_offsets"]
        found.frombytes(data[8 + size + start : 8 + size + end])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/debug/microdit")
    parser.add_argument("--recipe", default="recipes/quickstart.ron")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print("| | largest difference of a loss | of a weight, mean | same bits as | MB sent in a step | MB of gradients left early | exchange, ms | of a step |")
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        seen = {}
        for i, (name, ranks, replicas, more) in enumerate(CASES):
            run = pathlib.Path(folder) / str(i)
            said = train(arguments.binary.absolute(), arguments.recipe, run, ranks, replicas, more, arguments.steps)
            own = losses(run), weights(run)
            first = next(iter(seen.values()), own)
            loss = max(abs(a / b - 1) for a, b in zip(own[0], first[0], strict=True))
            mean = sum(abs(a - b) for a, b in zip(own[1], first[1], strict=True)) / len(own[1])
            same = [other for other, found in seen.items() if found == own]
            cells = ["", "", "", ""]
            # The last is of all stages.
            if found := SAID.findall(said):
                sent, took, _, early = found[-1]
                cells[:2] = sent, early
                took = float(took)
                if ranks <= cores:
                    cells[2:] = f"{took:.2f}", f"{100 * took / step_ms(run):.1f} %"
            print(f"| {name} | {loss:.1e} | {mean:.1e} | {', '.join(same)} | {' | '.join(cells)} |", flush=True)
            seen[name] = own


if __name__ == "__main__":
    main()
