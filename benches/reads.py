"""Counts how often a training step reads tensors back from the device, which makes the host wait for all that it has queued there.

    cargo build --workspace
    python3 benches/reads.py

The trainer is the same on every backend, so the processor's reads show those of a GPU, but for those inside the processor's own operations: experts
read which tokens they chose. `gdb` counts them in runs of 20 and of 40 steps that log once at the end, and of 40 that log each: what the first
two differ by are reads of 20 steps, the last two those of 39 lines of the log.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
BINARY = ROOT / "target/debug/microdit"
CASES = {
    "AdamW": [],
    "AdamW, without experts": ["model.moe=None"],
    "LAMB": ["model.moe=None", "optimizer.method=Lamb()"],
    "Muon": ["model.moe=None", "optimizer.method=Muon(momentum: 0.9)"],
    "averages of the weights": ["model.moe=None", "stages.masked.ema=[(decay: Smoothing(0.9))]"],
    "activation checkpointing, two micro-batches": ["model.moe=None", "activation_checkpointing=On", "micro_batch=4"],
}


def symbol():
    """Where the processor's backend hands out the numbers of a tensor of any kind."""
    listed = subprocess.run(["nm", BINARY], check=True, capture_output=True, text=True).stdout.splitlines()
    names = [line.split()[-1] for line in listed]
    (name,) = [name for name in names if "burn_flex6tensor10FlexTensor9into_data" in name]
    return name


def reads(steps, log_every, more):
    """How often a run reads a tensor."""
    settings = [f"stages.masked.steps={steps}", "stages.unmasked.steps=1", f"log_every={log_every}", "batch=8", "sampling.prompts=[]", *more]
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder) / "gdb"
        script.write_text(f"set pagination off\nbreak '{symbol()}'\nignore 1 1000000000\nrun\ninfo breakpoints\n")
        command = [BINARY, "train", "recipes/quickstart.ron", "--run", f"{folder}/run", "--device", "cpu", "--no-report"]
        command += [word for text in settings for word in ("--set", text)]
        done = subprocess.run(["gdb", "-q", "-batch", "-x", script, "--args", *command], cwd=ROOT, capture_output=True, text=True)
    count = re.search(r"already hit (\d+) times", done.stdout)
    # Weights are read when they are saved.
    if "exited normally" not in done.stdout or not count:
        raise SystemExit(done.stdout + done.stderr)
    return int(count[1])


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| | reads in a step | at a line of the log |")
    print("|---|---:|---:|")
    for name, more in CASES.items():
        few, many, logged = reads(20, 20, more), reads(40, 40, more), reads(40, 1, more)
        print(f"| {name} | {(many - few) / 20:g} | {(logged - many) / 39:g} |", flush=True)


if __name__ == "__main__":
    main()
