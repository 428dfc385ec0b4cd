"""Compares the loader with `webdataset` and `mosaicml-streaming` in Python, on the same samples, by turns on one machine.

    cargo build --workspace
    python3 -m venv venv && venv/bin/pip install numpy pillow torch webdataset mosaicml-streaming
    venv/bin/python benches/loaders.py

The samples are written once: JPEGs of --size pixels, and latents of 4 x SIZE/8 x SIZE/8 with captions of 77 x 1024, 16-bit floats, both as
tars and as MDS shards. Every loader shuffles, decodes to 32-bit floats and makes batches of 64. Each takes a turn of --seconds in a
process of its own, and the turns are repeated; the table has medians of samples a second, and of samples for each second of a core,
which is not charged for what the host of a virtual machine took.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
OURS = ROOT / "target/debug/microdit-feed"
BATCH = 64
SHARD = 256
CASES = [
    ("microdit", "tar"),
    ("webdataset", "tar"),
    ("microdit", "mds"),
    ("streaming", "mds"),
]


def jpeg(random, size):
    """A picture of soft shapes with a little grain, about as long as a photograph's file."""
    from PIL import Image

    coarse = random.integers(0, 256, (size // 16, size // 16, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    levels = np.clip(soft + random.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "jpeg", quality=90)
    return file.getvalue()


def samples(kind, size, count):
    random = np.random.default_rng(0)
    for i in range(count):
        caption = f"picture {i} of soft shapes on a plain background"
        if kind == "pictures":
            yield {"jpg": jpeg(random, size), "txt": caption.encode()}
            continue
        latent = random.normal(size=(4, size // 8, size // 8)).astype(np.float16)
        states = random.normal(size=(77, 1024)).astype(np.float16)
        yield {"latent": latent, "states": states, "txt": caption.encode()}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(folder, kind, size, count):
    """The samples as tars and as MDS shards."""
    from streaming import MDSWriter

    (folder / "tar").mkdir(parents=True)
    if kind == "pictures":
        columns = {"image": "bytes", "caption": "str"}
    else:
        columns = {f"latents_{size}": "bytes", "caption_latents": "bytes", "caption": "str"}
    tar = None
    with MDSWriter(out=str(folder / "mds"), columns=columns, size_limit=64 << 20) as mds:
        for i, sample in enumerate(samples(kind, size, count)):
            if i % SHARD == 0:
                if tar:
                    tar.close()
                tar = tarfile.open(folder / "tar" / f"{i // SHARD:06}.tar", "w", format=tarfile.USTAR_FORMAT)
            caption = sample["txt"].decode()
            if kind == "pictures":
                members = {"jpg": sample["jpg"], "txt": sample["txt"]}
                mds.write({"image": sample["jpg"], "caption": caption})
            else:
                members = {
                    f"latent-{size}.npy": npy(sample["latent"]),
                    "caption.npy": npy(sample["states"]),
                    "txt": sample["txt"],
                }
                row = {"caption_latents": sample["states"].tobytes(), "caption": caption}
                mds.write({f"latents_{size}": sample["latent"].tobytes()} | row)
            for name, content in members.items():
                member = tarfile.TarInfo(f"{i:08}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    tar.close()


def picture(file, size):
    from PIL import Image

    image = Image.open(io.BytesIO(file)).convert("RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1


def batches_of_webdataset(folder, kind, size):
    import webdataset

    urls = sorted(str(path) for path in (folder / "tar").iterdir())
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(2000)
    if kind == "pictures":
        data = data.map(lambda sample: (picture(sample["jpg"], size), sample["txt"].decode()))
    else:

        def array(file):
            return np.load(io.BytesIO(file)).astype(np.float32)

        data = data.map(lambda sample: (array(sample[f"latent-{size}.npy"]), array(sample["caption.npy"])))
    batch = []
    while True:
        for sample in data:
            batch.append(sample)
            if len(batch) == BATCH:
                yield collate(batch)
                batch = []


def batches_of_streaming(folder, kind, size):
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    batch = []
    while True:
        for row in data:
            if kind == "pictures":
                sample = (picture(row["image"], size), row["caption"])
            else:
                latent = np.frombuffer(row[f"latents_{size}"], np.float16).reshape(4, size // 8, size // 8)
                states = np.frombuffer(row["caption_latents"], np.float16).reshape(77, 1024)
                sample = (latent.astype(np.float32), states.astype(np.float32))
            batch.append(sample)
            if len(batch) == BATCH:
                yield collate(batch)
                batch = []


def collate(batch):
    images, captions = zip(*batch)
    return np.stack(images), captions if isinstance(captions[0], str) else np.stack(captions)


def turn(arguments):
    """One turn of a loader in Python."""
    make = {"webdataset": batches_of_webdataset, "streaming": batches_of_streaming}[arguments.turn]
    batches = make(arguments.folder, arguments.kind, arguments.size)
    next(batches)
    begun, before, count = time.monotonic(), time.process_time(), 0
    while time.monotonic() - begun < arguments.seconds:
        images, captions = next(batches)
        assert len(images) == len(captions) == BATCH
        count += BATCH
    seconds, cores = time.monotonic() - begun, time.process_time() - before
    figures = {"samples_per_second": count / seconds, "samples_per_core_second": count / cores}
    print(json.dumps(figures), flush=True)
    # Streaming leaves threads behind that end with the process.
    os._exit(0)


def measure(loader, form, folder, kind, arguments):
    common = ["--kind", kind, "--size", str(arguments.size), "--seconds", str(arguments.seconds)]
    if loader == "microdit":
        command = [arguments.binary, folder / form, *common]
    else:
        command = [sys.executable, __file__, "--turn", loader, "--folder", folder, *common]
    # One thread each: what is compared is a core.
    threads = {name: "1" for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]}
    output = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if output.returncode != 0:
        sys.exit(output.stderr)
    return json.loads(output.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=pathlib.Path, default=OURS)
    parser.add_argument("--kind", choices=["pictures", "latents"])
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        turn(arguments)
    print("| samples | loader | form | samples/s | samples/s of a core | MB/s of a core |")
    print("|---|---|---|---|---|---|")
    for kind in [arguments.kind] if arguments.kind else ["latents", "pictures"]:
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / kind
            write(folder, kind, arguments.size, arguments.samples)
            megabytes = {
                form: sum(path.stat().st_size for path in (folder / form).iterdir()) / arguments.samples / 1e6
                for form in ["tar", "mds"]
            }
            found = {case: [] for case in CASES}
            for _ in range(arguments.rounds):
                for case in CASES:
                    found[case].append(measure(*case, folder, kind, arguments))
            for (loader, form), turns in found.items():
                rates, cores = (
                    [figures[key] for figures in turns] for key in ["samples_per_second", "samples_per_core_second"]
                )
                spread = f"{statistics.median(cores):.0f} ({min(cores):.0f} to {max(cores):.0f})"
                bytes_of_core = statistics.median(cores) * megabytes[form]
                print(
                    f"| {kind} of {arguments.size} px | {loader} | {form} "
                    f"| {statistics.median(rates):.0f} | {spread} | {bytes_of_core:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
