"""What does each map cost beside the class activation map? Images per second, and the tensors alive at once.

python benchmarks/gradient_maps.py [--backbone googlenet] [--batch 8] [--rounds 5] [--device cpu]

224 x 224 pixels, random weights, 1000 classes, one thread, images resized before: the network, the map of the best
class, and the heatmap at 224 pixels. The methods take turns in every round; the median counts. "memory" is the most
bytes of tensors alive at once, per image, without what libraries take inside an operation (on a GPU, what torch
allocated). A layer is given by its number as `gwapctl models show` prints it.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from gwapctl.datasets.base import ClassName
from gwapctl.maps.heatmap import PreparedImage
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.memory import peak_memory
from gwapctl.maps.reading import MapReading
from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, convolutions

SIDE, CLASSES = 224, 1000
MEBIBYTE = 2**20


def classifier(backbone: str) -> Classifier:
    """Return a network with random weights and a gwap head."""
    names = tuple(ClassName(str(index), str(index)) for index in range(CLASSES))
    info = ModelInfo(
        backbone=backbone,
        head="gwap",
        classes=names,
        multi_label=False,
        input_size=(SIDE, SIDE),
        train_sizes=(SIDE, SIDE),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return build_classifier(info).eval()


def ways(model: Classifier) -> dict[str, MapReading]:
    """Return the ways to read a map that are compared, by name."""
    count = len(convolutions(model.backbone))
    middle = [count // 2]
    return {
        "class": MapReading("class"),
        "weight": MapReading("weight"),
        "fused": MapReading("fused"),
        "gradcam": MapReading("gradcam"),
        "layercam": MapReading("layercam"),
        "dgl": MapReading("dgl"),
        f"gradcam, layer {count // 2}": MapReading("gradcam", layer=middle),
        f"dgl, layer {count // 2}": MapReading("dgl", layer=middle),
        f"dgl, layers {count // 2} and -1": MapReading("dgl", layer=[count // 2, -1]),
        "backprop": MapReading("backprop"),
    }


def seconds(localizer: Localizer, images: list[PreparedImage]) -> float:
    """Return the wall time of the maps of one batch."""
    start = time.perf_counter()
    localizer.run(images)  # brings the heatmaps to the CPU, so that a GPU has finished
    return time.perf_counter() - start


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="googlenet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = classifier(options.backbone)
    readers = {
        name: Localizer(model, reading, device=options.device, batch_size=options.batch)
        for name, reading in ways(model).items()
    }
    pixels = np.random.default_rng(0).integers(0, 256, (options.batch, SIDE, SIDE, 3), dtype=np.uint8)
    images = [readers["class"].prepare(image) for image in pixels]
    times: dict[str, list[float]] = {name: [] for name in readers}
    for round_number in range(options.rounds + 1):
        for name, localizer in readers.items():
            elapsed = seconds(localizer, images)
            if round_number:  # the first one chooses kernels and fills caches
                times[name].append(elapsed)
    print(f"{options.backbone}, batch {options.batch}, {options.device}, median of {options.rounds} rounds")
    print(f"{'map':<26}{'images/s':>10}{'of class':>10}{'MiB/image':>12}{'of class':>10}")
    rates = {name: options.batch / statistics.median(values) for name, values in times.items()}
    peaks: dict[str, float] = {}
    for name, localizer in readers.items():
        peak = peak_memory(lambda localizer=localizer: localizer.run(images), localizer.device)
        peaks[name] = (peak or 0) / options.batch / MEBIBYTE
        shares = rates[name] / rates["class"], peaks[name] / peaks["class"]
        print(f"{name:<26}{rates[name]:>10.1f}{shares[0]:>10.2f}{peaks[name]:>12.1f}{shares[1]:>10.2f}")


if __name__ == "__main__":
    main()
