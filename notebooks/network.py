"""A network that microdit trained, in PyTorch: the weights' file says what it is."""

import json
import pathlib
import sys

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "benches/torch"))
from model import Dit


def described(path):
    """What the file says of itself: network, diffusion, latents, captions."""
    with safe_open(path, "pt") as file:
        own = {key: value for key, value in file.metadata().items() if key.startswith("microdit.")}
    return {key.removeprefix("microdit."): json.loads(value) for key, value in own.items() if value[:1] in "{["}


def sizes(config):
    """The sizes of a transformer in the names of the PyTorch network."""
    depth, mixer, moe = config["depth"], config["mixer"], config["moe"]

    def multipliers(width):
        line = width.get("Linear") if isinstance(width, dict) else None
        ends = (line["from"], line["to"]) if line else (width, width)
        return np.linspace(*ends, depth).tolist()

    names = "input_size patch_size in_channels dim depth head_dim multiple_of caption_channels norm_eps use_bias".split()
    return {
        **{name: config[name] for name in names},
        "qkv_multipliers": multipliers(config["qkv_width"]),
        "ffn_multipliers": multipliers(config["ffn_width"]),
        "patch_mixer_dim": mixer["dim"],
        "patch_mixer_depth": mixer["depth"],
        "patch_mixer_qkv_ratio": mixer["qkv_ratio"],
        "patch_mixer_mlp_ratio": mixer["mlp_ratio"],
        "num_experts": moe["experts"],
        "expert_capacity": moe["capacity"],
        "experts_every_n": moe["every"],
    }


def load(path):
    """The network with its weights."""
    network = Dit(sizes(described(path)["network"]["Dit"]))
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval()
