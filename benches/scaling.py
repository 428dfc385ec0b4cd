"""Step time, communication and cost of a recipe on many GPUs, from published bandwidths. Prints the tables of docs/src/notes/scaling.md.

    cargo build --workspace
    python3 benches/scaling.py

Peak bandwidths in one direction, of machines with eight H100 SXM:
- NVLink 4: 900 GB/s to and from a GPU (NVIDIA H100 Tensor Core GPU, data sheet).
- PCIe Gen5: 128 GB/s to and from a GPU (same data sheet).
- Network: eight ConnectX-7 of 400 Gb/s, one for each GPU (NVIDIA DGX H100, data sheet).
Latencies are left out, every link is taken to reach `--reached` of its peak, and the utilization is that of a whole run, its exchange
included: the tables are estimates, not forecasts.
"""

import argparse
import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
GPUS_OF_A_MACHINE = 8
NVLINK, PCIE, ADAPTER = 450e9, 64e9, 50e9


def plan(recipe):
    command = [ROOT / "target/debug/microdit", "plan", recipe, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)


def as_built(weights, machines, narrow, reached):
    """A process on every machine. Its GPUs sum by NCCL, in a ring, and the first hands its weights to the others. Between machines,
    gradients and weights go through the memory of the host and one adapter; buckets of them overlap both ways."""
    devices = GPUS_OF_A_MACHINE
    within = 2 * (devices - 1) / devices * weights / NVLINK + (devices - 1) * weights / NVLINK
    sent = (machines - 1) / machines * weights
    crosses = weights if machines > 1 else 0
    gradients = max(sent / (2 if narrow else 1) / ADAPTER, crosses / PCIE)
    gathered = max(sent / ADAPTER, crosses / PCIE)
    return (within + gradients + gathered) / reached


def at_best(weights, machines, narrow, reached):
    """Every GPU sends its eighth by an adapter of its own, after a ring over NVLink, and nothing leaves the GPUs."""
    devices = GPUS_OF_A_MACHINE
    ring = (devices - 1) / devices * weights / NVLINK
    sent = (machines - 1) / machines * weights / devices / ADAPTER
    return (ring + sent + (ring + sent) / (2 if narrow else 1)) / reached


WAYS = {
    "as built, F32": (as_built, False),
    "as built, Bf16": (as_built, True),
    "bound of the links": (at_best, False),
}


def rows(plan, counts, reached):
    """Of every number of GPUs: time of a step's products, and for every way the communication, hours and dollars of the run."""
    machine, stages = plan["machine"], plan["stages"]
    rate = 1e12 * machine["gpu"]["tflops"] * machine["mfu"]
    steps = sum(stage["images"] / stage["batch"] for stage in stages)
    weights = 4 * stages[0]["parameters"]
    for count in counts:
        seconds = sum(stage["flop"] for stage in stages) / (rate * count)
        ways = {}
        for name, (way, narrow) in WAYS.items():
            exchange = way(weights, count / GPUS_OF_A_MACHINE, narrow, reached)
            hours = (seconds + steps * exchange) / 3600
            ways[name] = exchange, hours, hours * count * machine["usd_per_gpu_hour"]
        yield count, seconds / steps, ways


def table(plan, counts, reached):
    batch = plan["stages"][0]["batch"]
    lines = [f"{plan['recipe']}, batch {batch:,}:", ""]
    heads = "".join(f" {name}: ms | hours | $ |" for name in WAYS)
    lines += [f"| GPUs | products, ms |{heads}", "|---:|---:|" + "---:|" * 3 * len(WAYS)]
    for count, products, ways in rows(plan, counts, reached):
        if batch < count:
            lines.append(f"| {count:,} | fewer samples than GPUs |" + " |" * 3 * len(WAYS))
            continue
        cells = "".join(f" {1e3 * ms:.0f} | {hours:.1f} | {usd:,.0f} |" for ms, hours, usd in ways.values())
        lines.append(f"| {count:,} | {1e3 * products:.1f} |{cells}")
    return "\n".join(lines)


def pays(plan, reached, most):
    """For every way, the largest number of GPUs with which the run costs at most `most` times what it costs on one machine."""
    counts = [GPUS_OF_A_MACHINE * machines for machines in range(1, 513)]
    found = {}
    for count, _, ways in rows(plan, counts, reached):
        for name, (_, hours, usd) in ways.items():
            first = found.setdefault(name, [usd, 0, 0])
            if usd <= most * first[0]:
                first[1:] = count, hours
    return "\n".join(f"- {name}: {count} GPUs, {hours:.1f} hours" for name, (_, count, hours) in found.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="microdit-xl2")
    parser.add_argument("--plan", type=pathlib.Path, help="output of `microdit plan --json`, in place of running it")
    parser.add_argument("--batch", type=int, help="in place of the recipe's")
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--reached", type=float, default=0.8)
    arguments = parser.parse_args()
    if arguments.plan:
        found = json.loads(arguments.plan.read_text())
    else:
        found = plan(arguments.recipe)
    # The same images, in fewer steps.
    if arguments.batch:
        for stage in found["stages"]:
            stage["batch"] = arguments.batch
    print(table(found, arguments.counts, arguments.reached))
    print("\nAt most 1.5 times the cost of one machine:\n")
    print(pays(found, arguments.reached, 1.5))


if __name__ == "__main__":
    main()
