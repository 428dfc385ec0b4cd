"""SDXL's VAE and ViT-H/14's text tower, here and in PyTorch, by turns on one machine: what precomputation does to a picture, and to as
many captions as it takes at once. Seconds of every round, and how far results are from PyTorch's in f32. The weights are random; PyTorch writes them (1.7 GB),
all sides read them. With `--text t5`, captions are encoded by an encoder of the size of T5 v1.1 large instead.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch diffusers transformers safetensors
    venv/bin/python benches/encode.py --rounds 7

`--small` takes networks of a few layers, to try the script itself.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from compare import ROOT, Side, stolen

OURS = ROOT / "target/debug/microdit-encode"
OUR_WAYS = ["f32", "bf16"]
WAYS = ["f32", "f32-last", "bf16", "bf16-last"]
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
}
TEXT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "projection_dim": 1024, "eos_token_id": 2}
# T5 v1.1 large.
T5 = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
SMALL_VAE = {"block_out_channels": (64, 64), "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
SMALL_T5 = {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2}
# Encoders are opened with a tokenizer, which nothing here asks for words.
TOKENIZER = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["</s>", 0.0]]}}


def write(arguments):
    """Random weights as their libraries draw and save them, and inputs."""
    import safetensors.torch
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    folder, small, side = arguments.folder, arguments.small, arguments.side
    torch.manual_seed(0)
    AutoencoderKL(**{**VAE, **(SMALL_VAE if small else {})}).save_pretrained(folder / "vae")
    if arguments.text == "t5":
        text = T5Config(feed_forward_proj="gated-gelu", **(SMALL_T5 if small else T5))
        T5EncoderModel(text).save_pretrained(folder / "text")
        (folder / "text" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        ids = torch.randint(1, text.vocab_size, (arguments.captions, arguments.tokens))
    else:
        text = CLIPTextConfig(hidden_act="quick_gelu", **{**TEXT, **(SMALL_TEXT if small else {})})
        CLIPTextModel(text).save_pretrained(folder / "text")
        ids = torch.randint(1, 49405, (arguments.captions, arguments.tokens))
        ids[:, 0], ids[:, -1] = 49406, 49407
    inputs = {"images": torch.rand(1, 3, side, side) * 2 - 1, "ids": ids.float()}
    safetensors.torch.save_file(inputs, folder / "inputs.safetensors")


def theirs(arguments):
    """PyTorch's side: a turn for every line on the standard input."""
    import safetensors.torch
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, T5EncoderModel

    dtype = torch.bfloat16 if "bf16" in arguments.way else torch.float32
    layout = torch.channels_last if "last" in arguments.way else torch.contiguous_format
    vae = AutoencoderKL.from_pretrained(arguments.folder / "vae").eval().to(dtype).to(memory_format=layout)
    tower = {"clip": CLIPTextModel, "t5": T5EncoderModel}[arguments.text]
    text = tower.from_pretrained(arguments.folder / "text").eval().to(dtype)
    inputs = safetensors.torch.load_file(arguments.inputs)
    images = inputs["images"].to(dtype).to(memory_format=layout)
    ids = inputs["ids"].long()
    for turn in range(sys.maxsize):
        if turn > 0 and not sys.stdin.readline():
            break
        started, worked = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            latents = vae.encode(images).latent_dist.mean
        encoded, encoding = time.perf_counter() - started, time.process_time() - worked
        with torch.inference_mode():
            states = text(ids).last_hidden_state
        line = {
            "vae": encoded,
            "vae_cpu": encoding,
            "text": time.perf_counter() - started - encoded,
            "text_cpu": time.process_time() - worked - encoding,
        }
        if turn == 0:
            named = {"latents": latents, "states": states}
            safetensors.torch.save_file({name: x.float().contiguous() for name, x in named.items()}, arguments.output)
        else:
            print(json.dumps(line), flush=True)


def distances(path, reference):
    """How far latents and states are from the reference: root of the mean square, as a share of the reference's."""
    import safetensors.torch

    one, other = (safetensors.torch.load_file(path) for path in (path, reference))
    square = lambda x: x.double().pow(2).mean().sqrt()
    return ["%.1e" % float(square(one[name] - other[name]) / square(other[name])) for name in ("latents", "states")]


def compare(arguments):
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="microdit-encode-") as name:
        folder = pathlib.Path(name)
        # In a process of its own, whose memory is given back.
        script = [sys.executable, __file__]
        script += ["--text", arguments.text, *(["--small"] if arguments.small else [])]
        sizes = [f"--{name}={getattr(arguments, name)}" for name in ("side", "captions", "tokens")]
        subprocess.run([*script, "--write", folder, *sizes], check=True)
        commands = {
            f"microdit, {way}": [arguments.program, folder / "vae", folder / "text", *(["--bf16"] if way == "bf16" else [])]
            for way in OUR_WAYS
        }
        commands |= {f"PyTorch, {way}": [*script, folder, "--theirs", "--way", way] for way in arguments.ways}
        outputs = {name: folder / f"{i}.safetensors" for i, name in enumerate(commands)}
        inputs = folder / "inputs.safetensors"
        sides = {
            name: Side([*command, "--inputs", inputs, "--output", outputs[name]]) for name, command in commands.items()
        }
        rounds, names = [], list(sides)
        for i in range(arguments.rounds):
            before = stolen()
            # Each is first as often as the others.
            first = i % len(names)
            lines = {name: sides[name].step() for name in names[first:] + names[:first]}
            host, passed = (after - before for after, before in zip(stolen(), before))
            rounds.append(lines)
            shown = {name: [round(line["vae"], 3), round(line["text"], 3)] for name, line in lines.items()}
            print(json.dumps({"round": i, "steal": round(host / max(passed, 1), 3), **shown}), flush=True)
        for side in sides.values():
            side.close()
        print()
        print("| side | VAE, s: least, median | captions, s | VAE, processor s | captions | latents off by | states |")
        print("|---|---|---|---|---|---|---|")
        for name in names:
            of = lambda key: [line[name][key] for line in rounds]
            pair = lambda key: f"{min(of(key)):.3f}, {statistics.median(of(key)):.3f}"
            off = distances(outputs[name], outputs["PyTorch, f32"]) if "PyTorch, f32" in outputs else ["", ""]
            print("|", " | ".join([name, *map(pair, ("vae", "text", "vae_cpu", "text_cpu")), *off]), "|")
        print()
        for ours in names[: len(OUR_WAYS)]:
            for key in ("vae", "text", "vae_cpu", "text_cpu"):
                # Processor time comes in hundredths of a second.
                counted = [line for line in rounds if line[ours][key] > 0]
                ratios = [min(line[name][key] for name in names[len(OUR_WAYS) :]) / line[ours][key] for line in counted]
                if ratios:
                    print(f"{ours}, {key}: PyTorch's fastest of each round takes {statistics.median(ratios):.2f} times as long")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=256, help="of the picture, in pixels")
    parser.add_argument("--captions", type=int, default=16, help="encoded at once")
    parser.add_argument("--text", choices=("clip", "t5"), default="clip", help="what encodes captions")
    parser.add_argument("--tokens", type=int, default=77, help="of a caption; CLIP has no more")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="of PyTorch; -last is channels_last")
    parser.add_argument("--program", default=OURS, help="where microdit-encode is")
    parser.add_argument("--small", action="store_true")
    for flag in ("--write", "--theirs", "--turns"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in ("--inputs", "--output", "--way"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments)
    elif arguments.theirs:
        theirs(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
