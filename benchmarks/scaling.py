"""What very many images cost: bytes, seconds and money per stage, from rates that were measured.

    python benchmarks/scaling.py --measure      # write benchmarks/scaling_rates.csv: what one core of this machine does
    python benchmarks/scaling.py                # print the tables of docs/scaling.md
    python benchmarks/scaling.py --gpu-rate 1500 --gpu-machine-hour 55

Rates are images per second of processor time, so that other programs on the machine do not change them. Rates of a GPU,
the sizes of files in the world, and prices are assumptions: options, each with the value that the page is made with.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

RATES = Path(__file__).parent / "scaling_rates.csv"
MEASURED = 24  # images; each rate is the best of three rounds
ILSVRC, WEB = 1_281_167, 1_000_000_000

# what is assumed, and what it is of
ASSUMED = {
    "image_bytes": (110_000.0, "bytes of a photo, the mean of ILSVRC's training images (138 GB)"),
    "gpu_rate": (2_000.0, "images per second and GPU through the network at 224 px, one scale; not measured here"),
    "gpus": (8.0, "GPUs of a machine"),
    "cores": (96.0, "cores of a machine with GPUs"),
    "machines": (16.0, "such machines in the cluster"),
    "network_gigabits": (100.0, "network of a machine, gigabits per second"),
    "gpu_machine_hour": (40.0, "price of a machine with GPUs per hour"),
    "store_gigabyte_month": (0.023, "price of a gigabyte in an object store per month"),
    "thousand_reads": (0.0004, "price of 1,000 reads from an object store"),
    "thousand_writes": (0.005, "price of 1,000 writes to an object store"),
    "tar_images": (10_000.0, "images in one tar or shard"),
}


class Stage(NamedTuple):
    """One stage: what it moves, and how long a machine is busy with it."""

    name: str
    gigabytes: float
    seconds: float
    alone: bool = False  # on one machine


def measure() -> dict[str, tuple[float, str]]:
    """Return what one core does, and how many bytes results have, per image."""
    import cv2
    import numpy as np
    import torch

    from gwapctl.images.decode import read_image
    from gwapctl.inputs import find_inputs
    from gwapctl.predict.classifier import load_model
    from gwapctl.predict.folder import localize_inputs
    from gwapctl.predict.merging import merge_localized
    from gwapctl.predict.shards import Shard, matching

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, random = Path(name), np.random.default_rng(0)
        (folder / "in").mkdir()
        for index in range(MEASURED):
            small = random.integers(0, 256, (60, 80, 3), np.uint8)
            cv2.imwrite(str(folder / "in" / f"{index}.jpg"), cv2.resize(small, (500, 375)))
        inputs = find_inputs([str(folder / "in")])
        found["decode_rate"] = _rate(lambda: [read_image(item.path) for item in inputs]), "decoding 500 x 375 JPEG"
        model = load_model("resnet-s-gwap-tiny-imagenet", device="cpu", precision="fp32")
        predictor = model.predictor(scales=(224,))
        images = [read_image(item.path) for item in inputs]
        found["prepare_rate"] = _rate(lambda: [predictor._prepare(image) for image in images]), "resizing to 224 px"
        rate = _rate(lambda: predictor.find(images))
        found["cpu_rate"] = rate, "resizing, resnet-s at 224 px, map and box, without a GPU"
        parts = [Shard(index, 2).of(inputs, predictor.batch_size) for index in range(2)]
        for index, part in enumerate(parts):
            list(localize_inputs(predictor, "m", part, out=folder / str(index), save=("map",), workers=0))
        sizes = [file.stat().st_size for file in folder.glob("[01]/maps/*.npy")]
        found["map_bytes"] = sum(sizes) / MEASURED, "bytes of a map of 500 x 375 in float16"
        rows = sum((folder / str(index) / "predictions.jsonl").stat().st_size for index in range(2))
        found["row_bytes"] = rows / MEASURED, "bytes of a line of predictions.jsonl"
        rounds = iter(range(99))
        records = matching([folder / "0", folder / "1"])
        merged = _rate(lambda: merge_localized(records, folder / f"all{next(rounds)}"))
        found["merge_rate"] = merged, "gwapctl merge, with maps linked"
    return found


def _rate(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return MEASURED / max(min(times), 1e-9)


def read_rates() -> dict[str, float]:
    """Return the measured rates by name."""
    with RATES.open(encoding="utf-8", newline="") as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def stages(images: int, machines: float, rates: dict[str, float], assumed: dict[str, float]) -> Iterator[Stage]:
    """Yield the stages of localizing ``images`` on ``machines``, each as if it were alone."""
    network = machines * assumed["network_gigabits"] / 8  # gigabytes per second
    cores, gpus = machines * assumed["cores"], machines * assumed["gpus"]
    read, maps = images * assumed["image_bytes"] / 1e9, images * rates["map_bytes"] / 1e9
    rows = images * rates["row_bytes"] / 1e9
    yield Stage("read the images", read, read / network)
    yield Stage("decode them (CPU)", 0, images / rates["decode_rate"] / cores)
    yield Stage("resize them (CPU)", 0, images / rates["prepare_rate"] / cores)
    yield Stage("network and maps (GPU, assumed)", 0, images / assumed["gpu_rate"] / gpus)
    yield Stage("write rows", rows, rows / network)
    yield Stage("write maps, where kept", maps, maps / network)
    yield Stage("merge (one core of one machine)", rows, images / rates["merge_rate"], alone=True)


def table(images: int, machines: float, rates: dict[str, float], assumed: dict[str, float]) -> list[str]:
    """Return the Markdown table of one case, with what it costs."""
    lines = ["| stage | gigabytes | seconds | cost |", "|---|---:|---:|---:|"]
    every, second = list(stages(images, machines, rates, assumed)), assumed["gpu_machine_hour"] / 3600
    for one in every:
        cost = one.seconds * second * (1 if one.alone else machines)
        lines.append(f"| {one.name} | {one.gigabytes:,.1f} | {one.seconds:,.0f} | {cost:,.2f} |")
    by_name = {one.name: one for one in every}
    cpu = by_name["decode them (CPU)"].seconds + by_name["resize them (CPU)"].seconds
    bound = max(by_name["read the images"].seconds, cpu, by_name["network and maps (GPU, assumed)"].seconds)
    machine = bound * second * machines
    objects = images / assumed["tar_images"]
    requests = objects / 1000 * (assumed["thousand_reads"] + assumed["thousand_writes"])
    alone = images / 1000 * assumed["thousand_reads"]
    month = by_name["read the images"].gigabytes * assumed["store_gigabyte_month"]
    which = "the GPUs" if bound > cpu else "decoding and resizing"
    lines += [
        "",
        f"All but merging overlaps, and {which} bound it: {bound:,.0f} seconds, {machine:,.2f} for machines. Reading "
        f"and writing tars of {assumed['tar_images']:,.0f} images costs {requests:,.2f}; reading every image by itself "
        f"{alone:,.2f}. Keeping the images for a month costs {month:,.0f}.",
    ]
    return lines


def page(rates: dict[str, float], assumed: dict[str, float]) -> str:
    """Return the part of docs/scaling.md that is computed."""
    with RATES.open(encoding="utf-8", newline="") as file:
        measured = [f"| {row['name']} | {float(row['value']):,.0f} | {row['about']} |" for row in csv.DictReader(file)]
    lines = ["| measured | value | of |", "|---|---:|---|", *measured, ""]
    lines += ["| assumed | value | of |", "|---|---:|---|"]
    lines += [f"| `--{key.replace('_', '-')}` | {assumed[key]:,g} | {about} |" for key, (_, about) in ASSUMED.items()]
    lines += ["", "### ILSVRC's training images on one machine", "", *table(ILSVRC, 1, rates, assumed)]
    name = f"A billion images on {assumed['machines']:g} machines"
    lines += ["", f"### {name}", "", *table(WEB, assumed["machines"], rates, assumed)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true")
    for key, (value, about) in ASSUMED.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=float, default=value, help=about)
    asked = parser.parse_args(arguments)
    if asked.measure:
        rows = [(name, f"{value:.6g}", about) for name, (value, about) in measure().items()]
        with RATES.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("name", "value", "about"), *rows])
    print(page(read_rates(), {key: getattr(asked, key) for key in ASSUMED}))


if __name__ == "__main__":
    main()
