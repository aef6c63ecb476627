"""Do all engines draw the same boxes? Each engine and number format beside fp32 torch, on photos.

python benchmarks/engine_boxes.py [--images FOLDER] [--model MODEL] [--limit 100]

The model as it is (its scales, map and box rule), without --model the default one. Of every image: the IoU of the two
boxes of fp32 torch's best class, and whether the best class is the same. Targets: a mean IoU of 0.98 in bf16 and 0.95
in int8, whose ranges are set by the same photos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from needs import PHOTOS, need_photos, run_script

from gwapctl.boxes import as_boxes, iou
from gwapctl.datasets.base import ClassName
from gwapctl.engines import ENGINES
from gwapctl.networks.zoo import default_model
from gwapctl.predict.classifier import load_model
from gwapctl.predict.labelled import Labels
from gwapctl.predict.prediction import ClassPrediction


def predictions(
    model: str, files: list[Path], engine: str, precision: str, labels: Labels | None
) -> list[ClassPrediction]:
    """Return the best class and its box in each image, or of the class that ``labels`` names."""
    loaded = load_model(model, device="cpu", precision=precision, engine=engine)
    predictor = loaded.predictor(labels=labels)
    predictor.settle(files)
    return [found.predictions[0] for found in predictor.stream(files)]


def main() -> None:
    """Print a row for each engine and number format that is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--model", default=default_model()[0])
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    files = need_photos(options.images)[: options.limit]
    plain = predictions(options.model, files, "torch", "fp32", None)
    known: Labels = {str(file): (ClassName(one.label_id, one.label),) for file, one in zip(files, plain, strict=True)}
    print(f"{options.model}, {len(files)} images, beside fp32 torch")
    print(f"{'engine':<24}{'mean IoU':>10}{'least':>8}{'same class':>12}")
    for name, engine in ENGINES.items():
        for precision in engine.precisions if engine.installed else ():
            if (name, precision) == ("torch", "fp32"):
                continue
            boxed = predictions(options.model, files, name, precision, known)
            free = predictions(options.model, files, name, precision, None)
            same = [one.label_id == other.label_id for one, other in zip(free, plain, strict=True)]
            pairs = zip(boxed, plain, strict=True)
            overlaps = [float(iou(as_boxes([a.box or ()]), as_boxes([b.box or ()])).max(initial=0)) for a, b in pairs]
            print(f"{name + ' ' + precision:<24}{np.mean(overlaps):>10.3f}{min(overlaps):>8.3f}{sum(same):>12}")


if __name__ == "__main__":
    run_script(main)
