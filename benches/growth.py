"""How the cost of a training step grows with tokens, batch and width: seconds and memory beside the FLOPs that the network counts.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install matplotlib
    venv/bin/python benches/growth.py --plot growth.svg

Unmasked steps of the small network (width 256, depth 8). Every point is a process of its own; all points are measured `--rounds` times,
once up and once down the list, and the fastest step counts. The exponent is that of the seconds against the FLOPs between a point and
the one before: above 1, the cost grows faster than the arithmetic.
"""

import argparse
import json
import math
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
# What grows: a name, its values, and the options of a value.
AXES = {
    "tokens": ([64, 256, 1024, 4096], lambda n: ["--side", str(2 * math.isqrt(n)), "--batch", str(max(1, 4096 // n))]),
    "batch": ([1, 4, 16, 64], lambda n: ["--batch", str(n)]),
    "width": ([256, 512, 1024], lambda n: ["--width", str(n), "--batch", "4"]),
}


def measure(program, options, steps):
    """The fastest of some steps of a new process."""
    command = [program, "--network", "small", "--mask", "0", "--steps", str(steps), *options]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return min(map(json.loads, lines), key=lambda line: line["seconds"])


def plot(rows, path):
    """Seconds and memory over FLOPs, a line for each axis and precision."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for key in dict.fromkeys((row["axis"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["axis"], row["precision"]) == key]
        style = {"marker": "o", "linestyle": "-" if key[1] == "f32" else "--", "label": " ".join(key)}
        tflop = [row["tflop"] for row in own]
        left.loglog(tflop, [row["seconds"] for row in own], **style)
        right.loglog(tflop, [row["peak_mib"] for row in own], **style)
    ends = sorted(row["tflop"] for row in rows)
    ends = [ends[0], ends[-1]]
    unit = min(row["seconds"] / row["tflop"] for row in rows)
    left.loglog(ends, [unit * end for end in ends], color="grey", linewidth=1, label="as the FLOPs grow")
    for axes, label in ((left, "seconds of a step"), (right, "peak memory, MiB")):
        axes.set(xlabel="TFLOP of a step", ylabel=label)
        axes.grid(True, which="both", alpha=0.3)
    left.legend()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/debug/microdit-step")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process")
    parser.add_argument("--bf16", action="store_true", help="bf16 as well")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the rows")
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw them, as SVG")
    arguments = parser.parse_args()
    precisions = {"f32": [], **({"bf16": ["--bf16"]} if arguments.bf16 else {})}
    points = [
        (axis, value, precision, [*options(value), *more])
        for axis, (values, options) in AXES.items()
        for precision, more in precisions.items()
        for value in values
    ]
    best = {}
    for turn in range(arguments.rounds):
        for axis, value, precision, options in points if turn % 2 == 0 else reversed(points):
            found = measure(arguments.program, options, arguments.steps)
            print(f"# round {turn}: {axis} {value} {precision}: {found['seconds']:.3f} s", flush=True)
            key = axis, value, precision
            best[key] = min(best.get(key, found), found, key=lambda line: line["seconds"])
    rows = []
    print("| grows | to | precision | TFLOP | seconds | TFLOP/s | exponent | peak MiB |\n|---|---:|---|---:|---:|---:|---:|---:|")
    before = None
    for axis, value, precision, _ in points:
        found = best[axis, value, precision]
        row = {"axis": axis, "value": value, "precision": precision}
        row |= {key: found[key] for key in ("tflop", "seconds", "peak_mib")}
        exponent = ""
        if before and (before["axis"], before["precision"]) == (axis, precision):
            grown = math.log(row["tflop"] / before["tflop"])
            # The tokens of a step may stay the same, with only attention's part growing.
            exponent = f"{math.log(row['seconds'] / before['seconds']) / grown:.2f}" if grown > 0.3 else ""
        print(
            f"| {axis} | {value:,} | {precision} | {row['tflop']:.3f} | {row['seconds']:.3f} "
            f"| {row['tflop'] / row['seconds']:.3f} | {exponent} | {row['peak_mib']:,.0f} |"
        )
        rows.append(row)
        before = row
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
