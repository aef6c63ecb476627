"""How much of the speed of its parts does localizing keep? JPEG to JSON beside the network, and beside decoding, alone.

python benchmarks/localize_parts.py [--images FOLDER] [--count 200] [--rounds 3] [--engine auto] [--dataset FOLDER]

GoogLeNet with random weights and 1000 classes, cut at inception4e, at 224 pixels and at 224, 448 and 672. ``network``
runs the engine and the head on batches that lie in memory, ``decoding`` decodes and resizes; each is measured with all
cores to itself. "of the slower part" is beside the slower of both where the cores are shared out between them as is
best, whole cores each; "of both parts" beside all cores for one after the other, which nothing on a CPU can pass. Three
scales are set beside the sum of three calls with one scale each. With --dataset, a folder of ILSVRC's layout, the
default model's ``evaluate`` (all thresholds swept) is set beside its ``localize``, on the same images by the same
engine, each from loading the model on. Targets: 85 % of the slower part, three scales at most the sum of the three,
evaluating at the rate of localizing. All take turns in every round; the best round of each counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from map_cost import random_classifier
from needs import PHOTOS, need_photos, run_script
from results import Measured, add_csv_option, record

from gwapctl.datasets import open_dataset
from gwapctl.engines import AUTO, ENGINES
from gwapctl.evaluate import Options, evaluate
from gwapctl.networks.zoo import default_model
from gwapctl.predict.classifier import ClassifierPredictor, Model, load_model
from gwapctl.predict.threads import in_threads
from gwapctl.regions import parse_box_rule

SCALES = (224, 448, 672)
TARGET = 0.85


def seconds_of(rounds: int, contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Let the contenders take turns; return the seconds of each one's best round."""
    best = dict.fromkeys(contenders, float("inf"))
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender()
            if number:  # the round before warms up
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def localize(predictor: ClassifierPredictor, files: list[Path]) -> int:
    """Return how many characters of JSON the images gave."""
    return sum(len(json.dumps(found.to_json())) for found in predictor.stream(files))


def decode(predictor: ClassifierPredictor, files: list[Path]) -> int:
    """Decode and resize, as localizing does and in as many threads, and nothing else."""
    return sum(1 for _ in in_threads(lambda part: [*map(predictor._loaded, part)], files, chunk=predictor.batch_size))


def network(predictor: ClassifierPredictor, count: int) -> int:
    """Run ``count`` images of noise at every scale through engine and head, in the threads of localizing."""
    localizer = predictor.localizer

    def batches(side: int) -> list[torch.Tensor]:
        at_once = localizer._at_once((side, side))
        one = torch.randint(0, 256, (at_once, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        return [one] * (count // at_once)

    def work(part: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [localizer.model.head(localizer.engine.feature_map(images)).logits for images in part]

    every = [images for side in dict.fromkeys((SCALES[0], *predictor.scales)) for images in batches(side)]
    return sum(1 for _ in in_threads(work, every, chunk=1))


def slower_part(network: float, decoding: float) -> float:
    """Return the seconds of the slower part where the cores are shared out best; both are with all cores.

    >>> torch.set_num_threads(2); slower_part(2.0, 0.5)
    4.0
    """
    cores = torch.get_num_threads()
    if cores == 1:
        return network + decoding
    return min(max(network * cores / own, decoding * cores / (cores - own)) for own in range(1, cores))


def localizing(options: argparse.Namespace, files: list[Path]) -> list[Measured]:
    """Measure one scale and three, and their parts."""
    model = Model(random_classifier("googlenet"), "googlenet", device="cpu", precision=AUTO, engine=options.engine)
    rule = parse_box_rule("paper20")
    ways = {(side,): model.predictor(scales=(side,), box_rule=rule) for side in SCALES}
    ways |= {SCALES: model.predictor(scales=SCALES, box_rule=rule)}
    contenders: dict[str, Callable[[], Any]] = {}
    for scales, predictor in ways.items():
        predictor.settle(files)
        contenders[f"{scales}"] = partial(localize, predictor, files)
        if scales in ((SCALES[0],), SCALES):
            contenders[f"network {scales}"] = partial(network, predictor, len(files))
            contenders[f"decoding {scales}"] = partial(decode, predictor, files)
    best, measured = seconds_of(options.rounds, contenders), list[Measured]()
    for scales in ((SCALES[0],), SCALES):
        whole, parts = best[f"{scales}"], [best[f"{part} {scales}"] for part in ("network", "decoding")]
        text = ",".join(map(str, scales))
        told = f"googlenet, {ways[scales].choice}, {torch.get_num_threads()} threads, JPEG to JSON"
        rates = [len(files) / seconds for seconds in (whole, *parts)]
        print(f"{told}, {text} px: {rates[0]:.0f} images/s, network {rates[1]:.0f}, decoding {rates[2]:.0f}")
        measured.append(Measured(f"localizing at {text}, of the slower part", told, slower_part(*parts) / whole))
        measured.append(Measured(f"localizing at {text}, of both parts", told, sum(parts) / whole))
    each = sum(best[f"{(side,)}"] for side in SCALES)
    told = f"{told}; three calls with one scale each"
    return [*measured, Measured("three scales, beside the sum of one each", told, each / best[f"{SCALES}"])]


def evaluating(options: argparse.Namespace) -> list[Measured]:
    """Measure the default model's evaluation beside its localizing."""
    name, _ = default_model()
    dataset = open_dataset("imagenet", options.dataset)
    files = [sample.path for sample in dataset.samples("val")]
    model = load_model(name, device="cpu", precision=AUTO, engine=options.engine)
    assert isinstance(model, Model)
    predictor = model.predictor()
    predictor.settle(files)
    engine, precision = predictor.choice.engine, predictor.choice.precision
    asked = Options(dataset="imagenet", root=options.dataset, split="val", engine=engine, precision=precision)

    def localized() -> int:
        """Load the model, too, as evaluating does."""
        return localize(load_model(name, device="cpu", precision=precision, engine=engine).predictor(), files)

    contenders = {"localize": localized, "evaluate": partial(evaluate, name, asked)}
    best = seconds_of(options.rounds, contenders)
    told = f"{name}, {predictor.choice}, {torch.get_num_threads()} threads, {len(files)} images of {options.dataset}"
    print(f"{told}: " + ", ".join(f"{verb} {len(files) / seconds:.0f} images/s" for verb, seconds in best.items()))
    return [Measured("evaluate, beside localize", told, best["localize"] / best["evaluate"])]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default=AUTO, choices=(AUTO, *ENGINES))
    parser.add_argument("--dataset", type=Path, help="ILSVRC's layout with boxes, for evaluating")
    add_csv_option(parser)
    options = parser.parse_args()
    files = need_photos(options.images)
    torch.manual_seed(0)
    measured = localizing(options, [files[index % len(files)] for index in range(options.count)])
    measured += evaluating(options) if options.dataset is not None else []
    for row, _, ratio in measured:
        print(f"{row:<48}{ratio:8.2f}")
    print(f"targets: {TARGET:.2f} of the slower part; three scales and evaluate at 1 or more")
    record(options.csv, measured)


if __name__ == "__main__":
    run_script(main)
