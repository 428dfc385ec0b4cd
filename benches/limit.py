"""How near a training step comes to what the processor can do, and what the rest of it goes into.

    cargo build --workspace
    python3 benches/limit.py
    python3 benches/limit.py --profile

A step's FLOPs a second, as the network counts them, are set beside those of one large matrix product of the same type, measured by turns in a
process of its own: no step can reach more than that. With `--profile`, `perf` samples a step, and its time is shared among the operations that asked for it.
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
CASES = {
    "masked": ["--mask", "0.75"],
    "unmasked": ["--mask", "0"],
    "masked, bf16": ["--mask", "0.75", "--bf16"],
    "unmasked, bf16": ["--mask", "0", "--bf16"],
}
# A frame that says what was asked for; products and packing are named by whoever computes them.
NAMED = [
    (re.compile(r"^gemm_f32::microkernel"), "f32 products: multiplying"),
    (re.compile(r"^gemm"), "f32 products: packing, sharing"),
    (re.compile(r"^microdit::ops::flex::bf16::(?:pack)"), "bf16 products: packing"),
    (re.compile(r"^microdit::ops::flex::bf16"), "bf16 products: multiplying"),
    (re.compile(r"^microdit::ops::flex::([a-z_]+)"), None),
    (re.compile(r"^microdit::(?:ops::)?([a-z_]+)"), None),
    (re.compile(r"^burn_flex::([a-z_]+)"), "burn: "),
    (re.compile(r"^burn_autodiff"), "burn: differentiation"),
]


def steps(program, options, count):
    command = [program, *options, "--steps", str(count)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["tflop_per_second"] for line in lines]


def asked(stack):
    """What the innermost frame that has a name here was asked for."""
    if any(frame.startswith(("asm_exc_page_fault", "exc_page_fault")) for frame in stack):
        return "kernel: new pages"
    for frame in stack:
        for pattern, name in NAMED:
            found = pattern.match(frame)
            if found:
                part = found.group(1) if found.groups() else ""
                return f"{name or ''}{part}"
    if any("rayon" in frame or "sched_yield" in frame for frame in stack):
        return "waiting for the other thread"
    return "everything else"


def profile(program, options):
    """Shares of a step's samples by what was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "perf.data"
        command = ["perf", "record", "-q", "-F", "199", "--call-graph", "dwarf,16384", "-o", data, program, *options, "--steps", "2"]
        subprocess.run(command, check=True, capture_output=True)
        script = ["perf", "script", "-i", data, "-F", "ip,sym", "--no-inline"]
        text = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    counts = collections.Counter()
    for sample in text.split("\n\n"):
        stack = [line.strip().split(" ", 1)[-1] for line in sample.splitlines() if line.strip()]
        # `<impl Trait for Type>::name` and `<Type as Trait>::name` say where they are behind the bracket.
        stack = [frame.lstrip("<") for frame in stack]
        if stack:
            counts[asked(stack)] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/debug/microdit-step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=2048, help="rows of the large product")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES)[:2])
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.profile:
        for case in arguments.cases:
            counts = profile(arguments.program, CASES[case])
            print(f"| {case} | share |\n|---|---:|")
            for name, count in counts.most_common():
                if count >= counts.total() / 200:
                    print(f"| {name} | {count / counts.total():.1%} |")
            print()
        return
    print("| case | rounds | a product, TFLOP/s | a step | share of it: median (least to most) |\n|---|---:|---:|---:|---:|", flush=True)
    for case in arguments.cases:
        pairs = []
        precision = [option for option in CASES[case] if option == "--bf16"]
        for _ in range(arguments.rounds):
            product = max(steps(arguments.program, ["--product", str(arguments.size), *precision], 20))
            pairs.append((product, max(steps(arguments.program, CASES[case], 2))))
        shares = [step / product for product, step in pairs]
        product, step = (statistics.median(column) for column in zip(*pairs))
        print(
            f"| {case} | {len(pairs)} | {product:.3f} | {step:.3f} | {statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
