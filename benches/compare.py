"""Runs the same training step here and in PyTorch by turns on one machine, and prints a table.

    cargo build -p microdit-cli
    python3 -m venv venv && venv/bin/pip install torch safetensors numpy
    venv/bin/python benches/compare.py --rounds 3

Tiny/2 in f32 over latents of 32 x 32 with captions of 77 vectors, AdamW with clipping. A round runs each implementation
once, in its own process; its first step, which allocates, is left out.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO

import numpy

ROOT = pathlib.Path(__file__).parents[1]


def latents(path):
    """A shard of random latents and captions."""
    random = numpy.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for key in range(32):
            for name, shape in ("latent-256.npy", (4, 32, 32)), ("caption.npy", (77, 1024)):
                file = BytesIO()
                numpy.save(file, random.standard_normal(shape).astype(numpy.float16))
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)


def ours(folder, run, mask, batch, steps):
    recipe = folder / "tiny-2.ron"
    recipe.write_text(
        f'(extends: "{ROOT}/recipes/microdit-tiny2.ron", log_every: 1, checkpoints: (every: 1000000),'
        f" batch: {batch}, micro_batch: {batch}, stages: [(name: \"timed\", steps: {steps + 1})])"
    )
    masking = f"Deferred(ratio: {mask})" if mask else "None"
    command = [ROOT / "target/debug/microdit", "train", recipe, "--run", run, "--set", f"masking={masking}"]
    command += ["--set", f"data.shards={folder}/latents.tar"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[1:]]
    seconds = [batch / line["images_per_second"] for line in lines]
    return batch / statistics.mean(seconds), usage.ru_maxrss / 1024


def torch(mask, batch, steps, flags):
    command = [sys.executable, ROOT / "benches/torch/bench.py", *flags]
    command += ["--mask", str(mask), "--batch", str(batch), "--steps", str(steps)]
    line = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
    return line["images_per_second"], line["peak_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--masks", type=float, nargs="+", default=[0.75, 0.0])
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW")
    arguments = parser.parse_args()
    print("| mask | here, images/s | PyTorch, images/s | ratio by round | peak MiB, here | PyTorch |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        latents(folder / "latents.tar")
        for mask in arguments.masks:
            pairs = []
            for round in range(arguments.rounds):
                run = folder / f"run-{mask}-{round}"
                a = ours(folder, run, mask, arguments.batch, arguments.steps)
                b = torch(mask, arguments.batch, arguments.steps, ["--fused"] if arguments.fused else [])
                pairs.append((a, b))
            mean = lambda side, part: statistics.mean(pair[side][part] for pair in pairs)
            ratios = ", ".join(f"{a[0] / b[0]:.2f}" for a, b in pairs)
            print(
                f"| {mask} | {mean(0, 0):.2f} | {mean(1, 0):.2f} | {ratios} | {mean(0, 1):.0f} | {mean(1, 1):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
