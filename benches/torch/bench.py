"""Times training steps, or sampling, of the network in plain PyTorch and prints a JSON line for each.

    python3 -m venv venv && venv/bin/pip install torch safetensors numpy
    venv/bin/python benches/torch/bench.py --check
    venv/bin/python benches/torch/bench.py --mask 0.75 --batch 16 --steps 3
    venv/bin/python benches/torch/bench.py --sample 30 --batch 4 --steps 1
"""

import argparse
import json
import pathlib
import resource
import sys
import time

import torch
from safetensors import safe_open

from model import Dit, edm_loss, unpatchify
from sampler import heun

SIGMA_DATA = 0.9
GOLDENS = pathlib.Path(__file__).parents[2] / "tests" / "goldens"


def linspace(first, last, count):
    return [first + (last - first) * i / (count - 1) for i in range(count)]


TINY_2 = {
    "input_size": 32, "patch_size": 2, "in_channels": 4, "dim": 512, "depth": 16, "head_dim": 32, "multiple_of": 256,
    "caption_channels": 1024, "norm_eps": 1e-6, "qkv_multipliers": linspace(0.5, 1.0, 16),
    "ffn_multipliers": linspace(0.5, 4.0, 16), "patch_mixer_dim": 512, "patch_mixer_depth": 4,
    "patch_mixer_qkv_ratio": 1.0, "patch_mixer_mlp_ratio": 4.0, "use_bias": False, "num_experts": 8,
    "expert_capacity": 2.0, "experts_every_n": 2,
}  # fmt: skip
XL_2 = {
    **TINY_2, "dim": 1024, "depth": 28, "head_dim": 64, "qkv_multipliers": linspace(0.5, 1.0, 28),
    "ffn_multipliers": linspace(0.5, 4.0, 28), "patch_mixer_dim": 768, "patch_mixer_depth": 6,
}  # fmt: skip
SMALL = {
    **TINY_2, "dim": 256, "depth": 8, "qkv_multipliers": linspace(0.5, 1.0, 8), "ffn_multipliers": linspace(0.5, 4.0, 8),
    "patch_mixer_dim": 256, "patch_mixer_depth": 2,
}  # fmt: skip
NETWORKS = {"tiny": TINY_2, "small": SMALL, "xl": XL_2}


def check():
    """The outputs of the golden network: a comparison of speeds means nothing between different networks."""
    with safe_open(GOLDENS / "dit_forward.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        dit = Dit(config["dit"])
        prefix = "weights."
        dit.load_state_dict({k[len(prefix):]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)})
        names = set(file.keys())
        x, t = file.get_tensor("in.x"), file.get_tensor("in.t")
        y, expected = file.get_tensor("in.y").squeeze(1), file.get_tensor("out.sample")
    for one_hot in (False, True):
        for module in dit.modules():
            if hasattr(module, "one_hot"):
                module.one_hot = one_hot
        with torch.no_grad():
            tokens = dit(x, t.expand(x.shape[0]), y)
        error = (unpatchify(tokens, dit.config) - expected).abs().max().item()
        print(json.dumps({"check": "dit_forward", "one_hot": one_hot, "max_abs_error": error}))
        assert error < 2e-5 * expected.abs().max().item(), names


def now():
    """The time at which everything asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def turns(arguments):
    """The steps, as they are due: the first, which allocates and compiles and is not reported, has index 0."""
    yield 0
    yield from (i for i, _ in enumerate(sys.stdin, 1)) if arguments.turns else range(1, arguments.steps + 1)


def report(arguments, dit, step, timed):
    if step == 0:
        return
    on_gpu = arguments.device == "cuda"
    kib = torch.cuda.max_memory_allocated() / 1024 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = {
        "implementation": "torch", "version": torch.__version__, "network": arguments.network,
        "parameters": sum(p.numel() for p in dit.parameters()), "batch": arguments.batch, "bf16": arguments.bf16,
        "compile": arguments.compile, "one_hot": arguments.one_hot, "threads": arguments.threads,
        "images_per_second": arguments.batch / timed["seconds"], "peak_mib": kib / 1024, **timed,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


@torch.inference_mode()
def draw(arguments, dit, config):
    """Draws with guidance 5."""
    batch = arguments.batch
    captions, steps = torch.randn(batch, 77, 1024), arguments.sample
    noise = torch.randn(batch, 4, arguments.side, arguments.side)
    for turn in turns(arguments):
        started, worked = now(), time.process_time()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.bf16):
            heun(dit, config, noise, captions, steps, 5.0, SIGMA_DATA)
        timed = {"sampler_steps": steps, "seconds": now() - started, "cpu_seconds": time.process_time() - worked}
        report(arguments, dit, turn, timed)


def bench(arguments):
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    size = {"input_size": arguments.side, "one_hot": arguments.one_hot}
    config = {**NETWORKS[arguments.network], **size}
    torch.set_default_device(arguments.device)
    dit = Dit(config)
    if arguments.sample:
        return draw(arguments, torch.compile(dit) if arguments.compile else dit, config)
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-4, weight_decay=0.1, fused=arguments.fused)
    step = torch.compile(dit) if arguments.compile else dit
    step.config = config
    batch, side = arguments.batch, arguments.side
    tokens = (side // 2) ** 2
    for i in turns(arguments):
        clean, noise = torch.randn(batch, 4, side, side), torch.randn(batch, 4, side, side)
        captions, sigma = torch.randn(batch, 77, 1024), torch.exp(1.2 * torch.randn(batch) - 0.6)
        kept = int(tokens * (1 - arguments.mask))
        keep = torch.rand(batch, tokens).argsort(1)[:, :kept] if kept < tokens else None
        times, worked = [now()], time.process_time()
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.bf16):
            loss = edm_loss(step, clean, noise, sigma, captions, keep)
        times.append(now())
        loss.backward()
        times.append(now())
        torch.nn.utils.clip_grad_norm_(dit.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()
        times.append(now())
        worked = time.process_time() - worked
        parts = {name: b - a for name, a, b in zip(("forward", "backward", "optimizer"), times, times[1:])}
        timed = {"mask": arguments.mask, "fused": arguments.fused, "seconds": times[-1] - times[0], **parts}
        report(arguments, dit, i, {**timed, "cpu_seconds": worked})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the golden outputs instead of timing")
    parser.add_argument("--mask", type=float, default=0.75)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--turns", action="store_true", help="instead of --steps, a step for every line on standard input")
    parser.add_argument("--sample", type=int, help="each step draws a batch in this many of Heun's steps, instead of training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--network", choices=NETWORKS, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=32, help="of the latents: 64 for images of 512 px")
    for flag in ("fused", "bf16", "compile", "one-hot", "profile"):
        parser.add_argument(f"--{flag}", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        check()
    elif arguments.profile:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if arguments.device == "cuda":
            kinds = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            bench(arguments)
        order = "self_cuda_time_total" if arguments.device == "cuda" else "self_cpu_time_total"
        print(profile.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=80))
    else:
        bench(arguments)


if __name__ == "__main__":
    main()
