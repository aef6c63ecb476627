"""Is the memory of localizing flat? Peak resident memory for 2,000 images beside that for 200, each in a fresh process.

python benchmarks/localize_memory.py [--images FOLDER] [--counts 200 2000] [--save]; the target is within 10 %.

The same few photos are read again and again under different names; resnet-s with random weights, scales 64 and 96.
``--save`` writes overlays, maps and masks, too, into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from needs import PHOTOS, need_photos, run_script

TARGET = 1.10


def localize(folder: Path, count: int, save: bool) -> None:
    """Localize ``count`` images in this process and print its peak resident memory in MiB."""
    from gwapctl.datasets.base import ClassName
    from gwapctl.inputs import ImageInput
    from gwapctl.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD
    from gwapctl.networks.classifier import ModelInfo, build_classifier
    from gwapctl.predict.classifier import Model
    from gwapctl.predict.folder import SAVES, localize_inputs

    files = need_photos(folder)
    inputs = [ImageInput(files[index % len(files)], f"{index}.jpg") for index in range(count)]
    info = ModelInfo(
        backbone="resnet-s",
        head="gwap",
        classes=tuple(ClassName(str(index), str(index)) for index in range(200)),
        multi_label=False,
        input_size=(64, 64),
        train_sizes=(64, 64),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    predictor = Model(build_classifier(info).eval(), "resnet-s", device="cpu").predictor(scales=(64, 96))
    with tempfile.TemporaryDirectory() as out:
        for found in localize_inputs(predictor, "resnet-s", inputs, out=Path(out) / "out", save=SAVES if save else ()):
            json.dumps(found.to_json())
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024))


def main() -> None:
    """Measure each count in a process of its own and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=PHOTOS)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        localize(options.images, options.one, options.save)
        return
    need_photos(options.images)
    peaks = []
    for count in options.counts:
        command = [sys.executable, __file__, "--images", str(options.images), "--one", str(count)]
        done = subprocess.run(command + ["--save"] * options.save, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
        print(f"{count:>7} images: peak {peaks[-1]:8.0f} MiB")
    print(f"ratio {peaks[-1] / peaks[0]:.3f}, target at most {TARGET}")


if __name__ == "__main__":
    run_script(main)
