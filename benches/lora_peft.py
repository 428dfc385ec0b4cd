"""Adapters trained here, read by diffusers and peft, and the reverse: outputs compared.

A U-Net of the recipe shapes-unet is trained for a few steps, and adapters of it for a few more. Then

- diffusers loads the adapters into its own UNet2DConditionModel (through peft), and predicts what the network merged here predicts;
- peft makes adapters of its own, which diffusers saves; `microdit sample --lora` draws with them what it draws with weights that peft
  merged itself.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch diffusers peft safetensors pillow numpy
    venv/bin/python benches/lora_peft.py

Options: the program (default target/debug/microdit) and a folder to work in (default: a temporary one).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a large red circle on a white background"
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1"]


def run(program, *words):
    words = [str(word) for word in words]
    done = subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"microdit {' '.join(words)}\n{done.stdout}{done.stderr}")


def train(program, folder, *sets):
    small = ["stages.all.steps=30", "stages.all.schedule=(curve: Constant())", "batch=8", "sampling.count=1", "sampling.steps=2", "log_every=5"]
    words = [word for setting in [*small, *sets] for word in ("--set", setting)]
    run(program, "train", "shapes-unet", "--run", folder, "--no-report", *words)


def network(weights):
    """The network of the recipe as diffusers has it, with weights of ours, whose names are diffusers'."""
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    unet.load_state_dict(weights)
    return unet.eval()


def predict(unet):
    """What it predicts of fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    with torch.no_grad():
        return unet(draw(2, 3, 32, 32), torch.tensor([10, 700]), draw(2, 15, 64)).sample


def compare(name, found, expected, plain, limit):
    """The largest difference, beside what the adapters change."""
    error = (found - expected).abs().max().item()
    change = (plain - expected).abs().max().item()
    print(f"{name}: off by {error:.2e} at most; the adapters change {change:.2e}")
    if not error <= limit or not change > 20 * limit:
        sys.exit("FAILED")


def ours_in_diffusers(program, folder, base):
    adapted = folder / "adapted"
    layers = json.dumps(LAYERS)
    train(
        program,
        adapted,
        f"stages.all.weights={json.dumps(str(base))}",
        f"stages.all.lora=(layers: {layers}, rank: 4, alpha: 6.0, init: Gaussian)",
        "optimizer.lr=0.05",
    )
    plain = predict(network(load_file(base)))
    merged = predict(network(load_file(adapted / "weights.safetensors")))
    unet = network(load_file(base))
    # Checks the names, and reads ranks and alphas from the metadata, which it does only of a file that is named as a safetensors file, as
    # pipelines do it.
    unet.load_lora_adapter(str(adapted), weight_name="lora.safetensors", prefix="unet")
    compare("trained here, loaded by diffusers", predict(unet), merged, plain, 1e-4)


def theirs_in_ours(program, folder, base):
    unet = network(load_file(base))
    unet.add_adapter(LoraConfig(r=4, lora_alpha=40, target_modules=LAYERS, init_lora_weights=False))
    theirs = folder / "theirs"
    unet.save_lora_adapter(theirs, safe_serialization=True)
    # The same network with the adapters merged by peft, described as ours is.
    unet.fuse_lora()
    unet.unload_lora()
    with safe_open(base, "pt") as file:
        metadata = file.metadata()
    fused = folder / "fused.safetensors"
    save_file({name: data.contiguous() for name, data in unet.state_dict().items()}, fused, metadata)
    draw = ["--prompt", PROMPT, "--steps", 4, "--guidance", 2, "--count", 4]
    pictures = {}
    for name, words in {
        "adapted": [base, "--lora", theirs / "pytorch_lora_weights.safetensors"],
        "fused": [fused],
        "plain": [base],
    }.items():
        out = folder / f"{name}.png"
        run(program, "sample", "--weights", *words, *draw, "--out", out)
        pictures[name] = torch.from_numpy(np.asarray(Image.open(out).convert("RGB")).astype(np.float32))
    # A step of a pixel's 255.
    compare("made by peft, drawn with here", *(pictures[name] for name in ("adapted", "fused", "plain")), 1.0)


def main():
    program = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/microdit").resolve()
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    trained = folder / "base"
    train(program, trained)
    base = trained / "weights.safetensors"
    ours_in_diffusers(program, folder, base)
    theirs_in_ours(program, folder, base)
    print("both ways agree")


main()
