"""Convolutions of VAEs and U-Nets here, in burn and in PyTorch, by turns on one machine; prints a table.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install torch numpy
    venv/bin/python benches/torch/convolutions.py

Each ratio is the median over rounds of another's time by ours in f32 in the same round; above 1, microdit's f32 is faster. The last
column of each part is that of PyTorch's fastest in bf16 by ours in bf16. PyTorch runs in both of its memory layouts; weights and
inputs are of the layout or the type beforehand, ours in bf16 with weights in f32.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

OURS = pathlib.Path(__file__).parents[2] / "target/debug/microdit-convolutions"
SIDES = ("microdit", "microdit, bf16", "burn", "torch", "torch, channels last", "torch, bf16", "torch, bf16, channels last")


class Torch:
    """A case in PyTorch."""

    def __init__(self, case, side):
        c = argparse.Namespace(**case)
        kwargs = {"dtype": torch.bfloat16 if "bf16" in side else torch.float32}
        layout = torch.channels_last if "last" in side else torch.contiguous_format
        self.x, self.weight = (
            torch.randn(shape, **kwargs).to(memory_format=layout).requires_grad_()
            for shape in ((c.batch, c.input, c.side, c.side), (c.output, c.input, c.kernel, c.kernel))
        )
        self.bias = torch.randn(c.output, **kwargs).requires_grad_()
        self.options = {"stride": c.stride, "padding": c.kernel // 2}
        self.grad = torch.randn_like(F.conv2d(self.x, self.weight, self.bias, **self.options))

    def times(self):
        begin = time.perf_counter()
        y = F.conv2d(self.x, self.weight, self.bias, **self.options)
        middle = time.perf_counter()
        torch.autograd.grad(y, (self.x, self.weight, self.bias), self.grad)
        return {"forward": middle - begin, "backward": time.perf_counter() - middle}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sides", nargs="+", choices=SIDES[1:], default=SIDES[1:], help="what to compare with")
    parser.add_argument("--program", default=OURS, help="where microdit-convolutions is")
    arguments = parser.parse_args()
    ours = subprocess.Popen([arguments.program, "--turns"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(case, side):
        print(json.dumps({"case": case, "side": side}), file=ours.stdin, flush=True)
        return json.loads(ours.stdout.readline())

    cases = json.loads(ours.stdout.readline())
    sides = [SIDES[0], *arguments.sides]
    narrow = [side for side in sides if side.startswith("torch, bf16")]
    both = narrow and SIDES[1] in sides
    columns = []
    for part in ("forward", "backward"):
        columns += [f"{part}{' ms' if side == 'microdit' else ''}, {side}" for side in sides]
        columns += [f"{part}, bf16 by bf16"] if both else []
    print("| batch, channels, side, kernel, stride |", " | ".join(columns), "|")
    print("|" + "---|" * (1 + len(columns)))
    for i, case in enumerate(cases):
        torches = {side: Torch(case, side) for side in sides if side.startswith("torch")}
        rounds = []
        for round in range(arguments.rounds + 1):
            # Each is first as often as the others.
            first = round % len(sides)
            times = {}
            for side in sides[first:] + sides[:first]:
                # The other side's threads may still be spinning.
                time.sleep(0.1)
                times[side] = torches[side].times() if side in torches else ask(i, side)
            rounds.append(times)
        del rounds[0]  # It allocates.
        c = argparse.Namespace(**case)
        cells = [f"{c.batch}, {c.input} to {c.output}, {c.side}, {c.kernel}, {c.stride}"]
        for part in ("forward", "backward"):
            cells.append(f"{1e3 * statistics.median(times['microdit'][part] for times in rounds):.1f}")
            for side in sides[1:]:
                cells.append(f"{statistics.median(times[side][part] / times['microdit'][part] for times in rounds):.2f}")
            if both:
                ratios = [min(times[side][part] for side in narrow) / times[SIDES[1]][part] for times in rounds]
                cells.append(f"{statistics.median(ratios):.2f}")
        print("|", " | ".join(cells), "|", flush=True)
    ours.stdin.close()
    ours.wait()


if __name__ == "__main__":
    main()
