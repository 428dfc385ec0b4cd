"""Runs the same training step, or sampling, here and in PyTorch by turns on one machine, and prints a table.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch safetensors numpy
    venv/bin/python benches/compare.py

Two processes wait for each other: one step here, one step there, and so on, so that a machine which slows down does so
for both. The ratio is that of the images per second of two neighbouring steps; above 1, microdit is faster. Behind the rows
of a case stands the ratio against the fastest of PyTorch's ways. On a virtual machine the host may take the processors away:
rounds in which it took more than `--steal` of the time are left out, and counted. The last ratio is that of the processor
time, which is not charged for what the host took.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
OURS = [ROOT / "target/debug/microdit-step"]
TORCH = [sys.executable, ROOT / "benches/torch/bench.py"]
# What both are told.
CASES = {
    "masked": ["--mask", "0.75"],
    "unmasked": ["--mask", "0"],
    "small-masked": ["--network", "small", "--mask", "0.75"],
    "small-unmasked": ["--network", "small", "--mask", "0"],
    "sample": ["--batch", "4", "--sample"],
}
# Ways to run either.
OURS_WAYS = {"f32": [], "bf16": ["--bf16"]}
TORCH_WAYS = {
    "f32": [],
    "f32-fused": ["--fused"],
    "f32-compiled": ["--fused", "--compile"],
    "bf16": ["--bf16"],
    "bf16-fused": ["--bf16", "--fused"],
    "bf16-compiled": ["--bf16", "--fused", "--compile"],
}


def stolen():
    """Time the host has taken from this machine, and all its time, in hundredths of a second."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    except FileNotFoundError:
        return 0, 0
    return int(fields[7]), sum(map(int, fields))


class Side:
    """A process that takes a step when it is asked to."""

    def __init__(self, command, preload=None):
        command = [str(word) for word in [*command, "--turns"]]
        environment = {**os.environ, "LD_PRELOAD": preload} if preload else None
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, env=environment, text=True)
        self.step()  # Behind the first, which allocates.

    def step(self):
        # The other side's threads may still be spinning.
        time.sleep(0.3)
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def rounds(arguments, name, ours, torch):
    """Pairs of neighbouring steps, with the share of the time the host took."""
    sides = Side(ours), Side(torch, arguments.preload)
    pairs = []
    for i in range(arguments.rounds):
        before = stolen()
        # Each is first as often as the other.
        first, second = sides if i % 2 == 0 else sides[::-1]
        lines = {first: first.step(), second: second.step()}
        taken, passed = (after - before for after, before in zip(stolen(), before))
        pair = lines[sides[0]], lines[sides[1]], taken / max(passed, 1)
        pairs.append(pair)
        if arguments.log:
            line = {"case": name, **dict(zip(("microdit", "torch", "steal"), pair))}
            print(json.dumps(line), file=arguments.log, flush=True)
    for side in sides:
        side.close()
    return pairs


def spread(values):
    """Median, and the range of the middle half."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def split(lines):
    parts = ("forward", "backward", "optimizer") if "forward" in lines[0] else ("seconds",)
    return " + ".join(f"{statistics.median(line[part] for line in lines):.2f}" for part in parts)


def median(lines):
    return statistics.median(line["images_per_second"] for line in lines)


def compare(arguments, case, ours_way, torch_way):
    """Prints the row of two ways, and returns its quiet rounds."""
    both = CASES[case] + ([arguments.sampler_steps] if "--sample" in CASES[case] else [])
    name = f"{case}: {ours_way} against {torch_way}"
    ours, torch = [*OURS, *both, *OURS_WAYS[ours_way]], [*TORCH, *both, *TORCH_WAYS[torch_way]]
    pairs = rounds(arguments, name, ours, torch)
    quiet = [pair for pair in pairs if pair[2] <= arguments.steal]
    if not quiet:
        print(f"| {name} | 0 of {len(pairs)}: the host took {min(pair[2] for pair in pairs):.0%} or more |")
        return []
    ours, torch = [pair[0] for pair in quiet], [pair[1] for pair in quiet]
    ratio = lambda key: spread([b[key] / a[key] for a, b in zip(ours, torch)])
    peak = lambda lines: max(line["peak_mib"] for line in lines)
    print(
        f"| {name} | {len(quiet)} of {len(pairs)} | {median(ours):.3g} | {median(torch):.3g} | {ratio('seconds')}"
        f" | {split(ours)} | {split(torch)} | {peak(ours):.0f} | {peak(torch):.0f} | {ratio('cpu_seconds')} |",
        flush=True,
    )
    return quiet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sampler-steps", type=int, default=30)
    parser.add_argument("--steal", type=float, default=0.05)
    parser.add_argument("--log", type=argparse.FileType("a"), help="keeps the line of every step")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ours", nargs="+", choices=OURS_WAYS, default=list(OURS_WAYS), help="ways of microdit")
    parser.add_argument("--theirs", nargs="+", choices=TORCH_WAYS, default=list(TORCH_WAYS), help="ways of PyTorch")
    parser.add_argument("--preload", help="a library, such as an allocator, that PyTorch is started with")
    arguments = parser.parse_args()
    print("| case | rounds | images/s, microdit | PyTorch | ratio: median (middle half) | forward + backward + optimizer, s | PyTorch | peak MiB | PyTorch | ratio of processor time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in arguments.cases:
        for ours_way in arguments.ours:
            # Drawing has no optimizer to be fused.
            ways = [way for way in arguments.theirs if case != "sample" or not way.endswith("-fused")]
            by_way = {way: compare(arguments, case, ours_way, way) for way in ways}
            speeds = {way: median([pair[1] for pair in quiet]) for way, quiet in by_way.items() if quiet}
            if speeds:
                fastest = max(speeds, key=speeds.get)
                ratios = [torch["seconds"] / ours["seconds"] for ours, torch, _ in by_way[fastest]]
                print(f"| **{case}: {ours_way} against the fastest, {fastest}** | | | | **{spread(ratios)}** |", flush=True)


if __name__ == "__main__":
    main()
