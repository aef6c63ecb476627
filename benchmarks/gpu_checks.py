"""The checks of ``gpu.py``: what a device computes beside the CPU in float32. Each yields an error with its limit."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import Measured
from torch import Tensor

from gwapctl.boxes import iou
from gwapctl.config import build_train_config
from gwapctl.images.decode import read_image
from gwapctl.maps.forward import Network
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading
from gwapctl.networks.classifier import Classifier, load_classifier, load_tensors
from gwapctl.networks.rfcn.inference import DetectorReader
from gwapctl.networks.rfcn.store import load_detector
from gwapctl.networks.zoo import resolve_model
from gwapctl.progress import Progress
from gwapctl.regions import map_to_boxes, parse_box_rule
from gwapctl.runs import Run
from gwapctl.train.loop import train
from gwapctl.train.task import Listener

MODEL = "resnet-s-gwap-tiny-imagenet"  # comes with the checkout
RULE = parse_box_rule("paper20")
PRECISIONS = ("fp32", "bf16")
CLASSIFIER: dict[str, Any] = {"head": "gwap", "image_size": (96, 64), "iterations": 6, "lr": 1e-3, "epochs": None}
DETECTOR: dict[str, Any] = {"detector": "rfcn", "weak": "gwap", "iterations": 4, "lr": 2e-3, "batch_size": 2}
DETECTOR |= {"short_side": 96, "long_side": 160}


@cache
def known_model() -> Classifier:
    """Return a trained classifier."""
    return load_classifier(resolve_model(MODEL))


@cache
def pictures(folder: Path, count: int = 8) -> list[np.ndarray]:
    """Return the first made-up images, of several shapes."""
    return [read_image(path) for path in sorted(folder.rglob("*.jpg"))[:count]]


def error(found: Any, expected: Any) -> float:
    """Return the norm of the difference, relative to that of what is expected."""
    found, expected = (torch.as_tensor(one).detach().cpu().double() for one in (found, expected))
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def check_logits(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare the logits of a batch."""
    size = known_model().info.input_size
    images = np.random.default_rng(0).integers(0, 256, (8, *size[::-1], 3), dtype=np.uint8)
    exact = Network(known_model(), device=torch.device("cpu"))(images).output.logits
    for precision, limit in zip(PRECISIONS, (1e-3, 5e-2), strict=True):
        logits = Network(known_model(), device=torch.device(options.device), precision=precision)(images).output.logits
        yield Measured(f"logits, {precision}", "error of 8 x 200 beside the CPU's in fp32", error(logits, exact)), limit


def check_maps(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare heatmaps, and the boxes in them."""
    images = pictures(options.voc)
    readings = {
        "class map": (MapReading("class"), PRECISIONS),
        "weight map, two scales, mirrored": (MapReading("weight", (64, 96), flip=True), PRECISIONS),
        "gradcam": (MapReading("gradcam"), ("fp32",)),
        "dgl": (MapReading("dgl"), ("fp32",)),
        "backprop": (MapReading("backprop"), ("fp32",)),
    }
    for name, (reading, precisions) in readings.items():
        ask = partial(Localizer.run, images=images, classes=[(0, 1)] * len(images), top_k=0)
        expected = ask(Localizer(known_model(), reading, device="cpu"))
        for precision in precisions:
            found = ask(Localizer(known_model(), reading, device=options.device, precision=precision))
            pairs = [
                (one.heatmap(channel), other.heatmap(channel))
                for one, other in zip(found, expected, strict=True)
                for channel in range(len(one.heatmaps))
            ]
            worst = max(error(*pair) for pair in pairs)
            told = f"{len(pairs)} heatmaps beside the CPU's in fp32"
            yield (
                Measured(f"{name}, {precision}", f"largest error of {told}", worst),
                1e-2 if precision == "fp32" else 0.2,
            )
            ious = [iou(*(map_to_boxes(heat, RULE)[0].box[None] for heat in pair)).item() for pair in pairs]
            lost = 1 - float(np.mean(ious))
            yield Measured(f"boxes of {name}, {precision}", f"1 - mean IoU, {told}", lost), 0.02


def trained(options: Namespace, device: str, name: str, listener: Listener = Listener(), **given: Any) -> Run:  # noqa: B008
    """Train on the made-up images, or resume that, in the folder ``name``."""
    resume = given.pop("resume", False)
    settings = {"backbone": "resnet-s", "weights": "none", "batch_size": 4, "deterministic": True, **given}
    config = build_train_config(str(options.voc), None, settings | {"precision": given.get("precision", "fp32")})
    return train(config, options.folder / name, device=device, workers=2, resume=resume, listener=listener)


def weights(run: Run) -> Tensor:
    """Return all weights of a run, one after the other."""
    return torch.cat(
        [tensor.float().flatten() for _, tensor in sorted(load_tensors(run.folder / "weights.safetensors").items())]
    )


def check_training(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Train a classifier and a detector from JPEGs, on the CPU and on the device."""
    device = options.device
    for name, given, limits in (
        ("classifier", CLASSIFIER, (1e-2, 5e-2)),
        ("detector", DETECTOR, (0.3, 0.3)),
    ):
        expected = trained(options, "cpu", f"{name}-cpu", **given)
        for precision, limit in zip(PRECISIONS, limits, strict=True):
            found = trained(options, device, f"{name}-{precision}", **given, precision=precision)
            lost = error(*([row["loss"] for row in run.history()] for run in (found, expected)))
            told = "the detector draws regions at random" if name == "detector" else "same seed"
            yield (
                Measured(
                    f"training a {name}, {precision}", f"error of the loss beside the CPU's in fp32; {told}", lost
                ),
                limit,
            )


def check_resume(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Interrupt a training on the device and resume it."""

    def stop(state: Progress) -> None:
        if state.done == 3 and state.unit == "it":
            raise KeyboardInterrupt

    whole = trained(options, options.device, "whole", **CLASSIFIER)
    with contextlib.suppress(KeyboardInterrupt):
        trained(options, options.device, "parts", Listener(progress=stop), **CLASSIFIER)
    parts = trained(options, options.device, "parts", **CLASSIFIER, resume=True)
    yield (
        Measured(
            "resumed training", "error of the weights beside going through", error(weights(parts), weights(whole))
        ),
        1e-6,
    )


def check_detector(options: Namespace) -> Iterator[tuple[Measured, float]]:
    """Compare the best boxes of the detector that was just trained."""
    images = pictures(options.voc, 4)
    readers = {
        device: DetectorReader(load_detector(options.folder / "detector-cpu"), device=device)
        for device in ("cpu", options.device)
    }
    expected, found = (readers[device].run(images, maps=True) for device in ("cpu", options.device))
    best = [iou(one.boxes[:5], other.boxes).max(1) for one, other in zip(expected, found, strict=True)]
    yield (
        Measured("detector's boxes, fp32", "1 - mean IoU of the best 5 with the CPU's", 1 - float(np.mean(best))),
        0.02,
    )
    maps = max(error(one.weight_maps, other.weight_maps) for one, other in zip(found, expected, strict=True))
    yield Measured("detector's weight maps, fp32", "error beside the CPU's", maps), 1e-2
