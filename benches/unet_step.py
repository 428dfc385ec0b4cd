"""One call of Stable Diffusion 1.5's U-Net, here and in diffusers, by turns on one machine: seconds, peak memory, and how far apart
the predictions are. The weights are random; diffusers writes them (3.4 GB in f32), both sides read them.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch diffusers safetensors
    venv/bin/python benches/unet_step.py --rounds 5

A sampling step with guidance is a call with batch 2, without one it is batch 1. `--small` takes a network of a few layers, to try
the script itself.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from compare import ROOT, Side, spread, stolen

OURS = ROOT / "target/debug/microdit-unet"
SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}


def write(folder, small):
    """Random weights as diffusers draws and saves them, and inputs."""
    import safetensors.torch
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    # All else of Stable Diffusion 1.5 is the class's default.
    network = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, **(SMALL if small else {}))
    network.save_pretrained(folder / "unet")
    for batch in (1, 2):
        inputs = {
            "x": torch.randn(batch, 4, 64, 64),
            "time": torch.full((batch,), 500.0),
            "captions": torch.randn(batch, 77, 768),
        }
        safetensors.torch.save_file(inputs, folder / f"inputs-{batch}.safetensors")


def diffusers(arguments):
    """The other side: a call for every line on the standard input."""
    import safetensors.torch
    import torch
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(arguments.folder).eval()
    inputs = safetensors.torch.load_file(arguments.inputs)
    for turn in range(sys.maxsize):
        if turn > 0 and not sys.stdin.readline():
            break
        started, worked = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            predicted = network(inputs["x"], inputs["time"], inputs["captions"]).sample
        line = {
            "implementation": "diffusers",
            "threads": torch.get_num_threads(),
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - worked,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if turn == 0:
            safetensors.torch.save_file({"predicted": predicted.contiguous()}, arguments.output)
        else:
            print(json.dumps(line), flush=True)


def distance(one, other):
    """The largest difference between two predictions, as a share of the largest value."""
    import safetensors.torch

    one, other = (safetensors.torch.load_file(path)["predicted"] for path in (one, other))
    return float((one - other).abs().max() / other.abs().max())


def compare(arguments):
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="microdit-unet-") as name:
        folder = pathlib.Path(name)
        # In a process of its own, whose memory is given back.
        script = [sys.executable, __file__]
        small = ["--small"] if arguments.small else []
        subprocess.run([*script, "--write", folder, *small], check=True)
        print("| batch | rounds | seconds, microdit | diffusers | ratio: median (middle half) | peak MiB | diffusers | ratio of processor time | predictions differ by |")
        print("|---|---|---|---|---|---|---|---|---|")
        for batch in (1, 2):
            outputs = [folder / f"{side}.safetensors" for side in ("ours", "theirs")]
            commands = [[OURS], [*script, "--diffusers"]]
            sides = [
                Side([*command, folder / "unet", "--inputs", folder / f"inputs-{batch}.safetensors", "--output", output])
                for command, output in zip(commands, outputs)
            ]
            pairs, taken = [], []
            for i in range(arguments.rounds):
                before = stolen()
                lines = {side: side.step() for side in (sides if i % 2 == 0 else sides[::-1])}
                pairs.append([lines[side] for side in sides])
                host, passed = (after - before for after, before in zip(stolen(), before))
                taken.append(host / max(passed, 1))
            for side in sides:
                side.close()
            median = lambda side: statistics.median(pair[side]["seconds"] for pair in pairs)
            peak = lambda side: max(pair[side]["peak_mib"] for pair in pairs)
            ratio = lambda key: spread([theirs[key] / ours[key] for ours, theirs in pairs])
            print(
                f"| {batch} | {len(pairs)}, host took {max(taken):.0%} at most | {median(0):.2f} | {median(1):.2f} | {ratio('seconds')}"
                f" | {peak(0):.0f} | {peak(1):.0f} | {ratio('cpu_seconds')} | {distance(*outputs):.1e} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    for flag in ("--write", "--diffusers", "--turns"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in ("--inputs", "--output"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.folder, arguments.small)
    elif arguments.diffusers:
        diffusers(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
