"""Time from the command to the first picture: start, load, draw and write, here and in PyTorch by turns.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch safetensors numpy pillow
    target/debug/microdit train quickstart --run runs/quickstart
    venv/bin/python benches/first_picture.py --run runs/quickstart

Both are whole processes that end once the file is written, with the same network, sampler, steps and guidance. PyTorch's is given
random states in place of those of the prompt, so it is spared the text encoder.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def draw(run, steps, guidance, out):
    """PyTorch's part: what a script that draws one picture has to do."""
    sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "benches/torch")]
    import network
    import torch
    from PIL import Image
    from sampler import heun

    weights = next(path for path in (run / "ema.safetensors", run / "weights.safetensors") if path.exists())
    described = network.described(weights)
    dit, config = network.load(weights), described["network"]["Dit"]
    noise = torch.randn(1, config["in_channels"], config["input_size"], config["input_size"])
    captions = torch.randn(1, 15, config["caption_channels"])
    with torch.inference_mode():
        image = heun(dit, dit.config, noise, captions, steps, guidance, 0.5)
    image = ((image[0] + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0)
    Image.fromarray(image.numpy()).save(out)


def race(arguments, folder):
    """Seconds of both, by turns."""
    shared = ["--run", arguments.run, "--steps", arguments.steps, "--guidance", arguments.guidance]
    ways = {
        "microdit": [arguments.program, "sample", *shared, "--prompt", "a red circle", "--count", "1", "--out", folder / "ours.png"],
        "PyTorch": [sys.executable, __file__, *shared, "--torch", folder / "theirs.png"],
    }
    seconds = {name: [] for name in ways}
    # The first round fills the system's cache of files.
    for turn in range(arguments.rounds + 1):
        for name, command in ways.items():
            started = time.perf_counter()
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
        print(f"# round {turn}: " + ", ".join(f"{name} {of[-1]:.2f} s" for name, of in seconds.items()), flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="of the quickstart")
    parser.add_argument("--program", default=ROOT / "target/debug/microdit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--torch", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch:
        return draw(arguments.run, arguments.steps, arguments.guidance, arguments.torch)
    with tempfile.TemporaryDirectory() as folder:
        seconds = race(arguments, pathlib.Path(folder))
    ours, theirs = (statistics.median(of[1:]) for of in seconds.values())
    print(f"microdit {ours:.2f} s, PyTorch {theirs:.2f} s: {theirs / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
