"""Training losses of several runs on one plot, and their means over a hundred steps as a table.

    for p in F32 Bf16; do cargo run -- train quickstart --run runs/quickstart-$p --set model.precision=$p --set stages.masked.steps=700; done
    python3 -m venv venv && venv/bin/pip install matplotlib
    venv/bin/python benches/curves.py runs/quickstart-F32 runs/quickstart-Bf16 --plot curves.svg
"""

import argparse
import collections
import json
import pathlib
import statistics

# Steps that a point of the plot is the mean of, and a row of the table.
POINT, ROW = 20, 100


def means(run, steps):
    """Means of a run's losses over every `steps` steps, by the last step of each."""
    losses = collections.defaultdict(list)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        losses[-(-row["step"] // steps) * steps].append(row["loss"])
    return {step: statistics.mean(of) for step, of in losses.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw them, as SVG")
    arguments = parser.parse_args()
    rows = {run.name: means(run, ROW) for run in arguments.runs}
    print("| up to step | " + " | ".join(rows) + " |\n|---:|" + "---:|" * len(rows))
    for step in sorted(set().union(*rows.values())):
        print(f"| {step:,} | " + " | ".join(f"{of[step]:.4f}" if step in of else "" for of in rows.values()) + " |")
    if not arguments.plot:
        return
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for run in arguments.runs:
        axes.plot(*zip(*sorted(means(run, POINT).items())), label=run.name)
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(arguments.plot)


if __name__ == "__main__":
    main()
