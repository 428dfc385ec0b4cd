"""Runs the same training step, or sampling, here and in PyTorch by turns on one machine, and prints a table.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch safetensors numpy
    venv/bin/python benches/compare.py

Each round runs each implementation once, in its own process and after the other; a process leaves its first step, which
allocates, out of the count. The ratio is that of the images per second of one round; above 1, microdit is faster. The
last ratio is that of the processor time per step, which a machine shared with others leaves nearly alone.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
OURS = [ROOT / "target/debug/microdit-step"]
TORCH = [sys.executable, ROOT / "benches/torch/bench.py"]
# Name, what both are told, what PyTorch alone is told.
CASES = {
    "masked": (["--mask", "0.75"], []),
    "unmasked": (["--mask", "0"], []),
    "masked-fused": (["--mask", "0.75"], ["--fused"]),
    "unmasked-fused": (["--mask", "0"], ["--fused"]),
    "small-masked": (["--network", "small", "--mask", "0.75"], []),
    "small-unmasked": (["--network", "small", "--mask", "0"], []),
    "sample": (["--sample", "--batch", "4"], []),
}


def run(command):
    output = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def split(lines):
    if "forward" not in lines[0]:
        return ""
    return " + ".join(f"{statistics.median(line[part] for line in lines):.2f}" for part in ("forward", "backward", "optimiser"))


def work(ours, torch):
    if "cpu_seconds" not in ours[0]:
        return ""
    ratios = sorted(b["cpu_seconds"] / a["cpu_seconds"] for a, b in zip(ours, torch))
    return f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed training steps of a process")
    parser.add_argument("--sampler-steps", type=int, default=30)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    print("| case | images/s, microdit | PyTorch | ratio: median (rounds) | forward + backward + optimiser, s | PyTorch | peak MiB | PyTorch | ratio of processor time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in arguments.cases:
        both, torch_only = CASES[name]
        steps = arguments.sampler_steps if name == "sample" else arguments.steps
        both = [*both, "--steps", steps]
        ours, torch = [], []
        for _ in range(arguments.rounds):
            ours.append(run([*OURS, *both]))
            torch.append(run([*TORCH, *both, *torch_only]))
        ratios = [a["images_per_second"] / b["images_per_second"] for a, b in zip(ours, torch)]
        speed = lambda lines: statistics.median(line["images_per_second"] for line in lines)
        peak = lambda lines: max(line["peak_mib"] for line in lines)
        print(
            f"| {name} | {speed(ours):.3g} | {speed(torch):.3g} | {statistics.median(ratios):.2f}"
            f" ({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}) | {split(ours)} | {split(torch)}"
            f" | {peak(ours):.0f} | {peak(torch):.0f} | {work(ours, torch)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
