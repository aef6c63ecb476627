"""Write tests/wsolevaluation: maps of ours, and what clovaai/wsolevaluation computes on them.

    python benchmarks/write_parity.py --wsolevaluation ../wsolevaluation

The images are synthetic (``gwapctl data synth``), the maps are the bundled model's weight maps, and ``expected.json``
holds the numbers of the evaluators in that checkout's ``evaluation.py``, which is run as it is. It reads arrays of
224 x 224; the maps are brought there as its ``inference.py`` does: bicubic, then min-max.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gwapctl import cli
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample
from gwapctl.images.decode import image_size, read_image

OUT = Path(__file__).parents[1] / "tests" / "wsolevaluation"
MODEL = "resnet-s-gwap-tiny-imagenet"
GRID, THRESHOLDS, LEVELS = 224, list(np.arange(0, 1, 0.001)), [30, 50, 70]


def main() -> None:
    """Make images, maps, metadata and the expected numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wsolevaluation", type=Path, required=True, help="a checkout of clovaai/wsolevaluation")
    checkout = parser.parse_args().wsolevaluation
    if not (checkout / "evaluation.py").is_file():
        parser.error(f"{checkout} is no checkout of clovaai/wsolevaluation: it has no evaluation.py.")
    shutil.rmtree(OUT, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        scenes = Path(temporary) / "scenes"
        cli.run(["data", "synth", "-n", "20", "--image-size", "64-72", "--seed", "5", "--out", str(scenes), "-q"])
        read = ["--model", MODEL, "--device", "cpu", "--map", "weight", "--scales", "96", "--save", "map", "-q"]
        cli.run(["localize", str(scenes / "JPEGImages"), *read, "--out", str(scenes / "out")])
        dataset = open_dataset(str(scenes))
        samples = [sample for split in dataset.splits() for sample in dataset.boxed_samples(split)]
        for sample in sorted(samples, key=lambda sample: sample.path.name):
            add_image(sample, scenes)
    expected = {"of": "clovaai/wsolevaluation", "boxes": of_boxes(checkout), "masks": of_masks(checkout)}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


def add_image(sample: BoxedSample, scenes: Path) -> None:
    """Write the map of one image, the boxes and the mask of its first class, and a box that is ignored."""
    name, (width, height) = sample.path.name, image_size(sample.path)
    label = int(sample.box_labels[0])
    boxes = np.round(sample.boxes[sample.box_labels == label]).astype(int) - [0, 0, 1, 1]  # inclusive there
    heatmap = np.load(scenes / "out" / "maps" / f"{name}.npy")
    for folder in ("maps", "boxes", "masks", "png"):
        (OUT / folder).mkdir(parents=True, exist_ok=True)
    np.save(OUT / "maps" / f"{name}.npy", heatmap[0] if heatmap.ndim == 3 else heatmap)
    stem = sample.path.stem
    shape = read_image(scenes / "Masks" / f"{stem}.png")[..., 0] > 0
    inside, ignored = np.zeros((height, width), bool), np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        inside[y0 : y1 + 1, x0 : x1 + 1] = True
    ignored[: height // 4, width // 2 :] = 255
    cv2.imwrite(str(OUT / "png" / f"{stem}.png"), (shape & inside).astype(np.uint8) * 255)
    cv2.imwrite(str(OUT / "png" / f"{stem}_ignore.png"), ignored)
    append("boxes", "localization.txt", [f"{name},{','.join(map(str, box))}" for box in boxes.tolist()])
    append("masks", "localization.txt", [f"{name},{stem}.png,{stem}_ignore.png"])
    for folder in ("boxes", "masks"):
        append(folder, "image_ids.txt", [name])
        append(folder, "class_labels.txt", [f"{name},{label}"])
        append(folder, "image_sizes.txt", [f"{name},{width},{height}"])


def append(folder: str, name: str, lines: list[str]) -> None:
    """Add lines to a file of the metadata."""
    with (OUT / folder / name).open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def of_boxes(checkout: Path) -> dict[str, float]:
    """Return the accuracies by boxes, of the largest contour and of all."""
    one, every = (run(checkout, "BoxEvaluator", "CUB", "boxes", multi) for multi in (False, True))
    of_one, of_every = one.compute(), every.compute()
    return {
        "max_box_acc": of_one[1],
        "max_box_acc_threshold": THRESHOLDS[int(one.num_correct[50].argmax())],
        **{f"max_box_acc_{level}": value for level, value in zip(LEVELS, of_one, strict=True)},
        "max_box_acc_v2": float(np.average(of_every)),
        **{f"max_box_acc_v2_{level}": value for level, value in zip(LEVELS, of_every, strict=True)},
    }


def of_masks(checkout: Path) -> dict[str, float]:
    """Return the average precision of pixels."""
    return {"px_ap": float(run(checkout, "MaskEvaluator", "OpenImages", "masks", False).compute())}


def run(checkout: Path, evaluator: str, dataset: str, folder: str, multi_contour: bool) -> Any:
    """Let one of wsolevaluation's evaluators see every map."""
    np.float = float  # type: ignore[attr-defined]  # the name that its numpy still had
    sys.path.insert(0, str(checkout))
    theirs, loaders = importlib.import_module("evaluation"), importlib.import_module("data_loaders")
    metadata = loaders.configure_metadata(str(OUT / folder))
    judge = getattr(theirs, evaluator)(
        metadata=metadata,
        dataset_name=dataset,
        split="val",
        cam_threshold_list=THRESHOLDS,
        iou_threshold_list=LEVELS,
        mask_root=str(OUT / "png"),
        multi_contour_eval=multi_contour,
    )
    for image_id in loaders.get_image_ids(metadata):
        judge.accumulate(on_grid(np.load(OUT / "maps" / f"{image_id}.npy")), image_id)
    return judge


def on_grid(heatmap: np.ndarray) -> np.ndarray:
    """Return a map as its ``inference.py`` hands it to the evaluator."""
    resized = cv2.resize(heatmap.astype(float), (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    spread = resized.max() - resized.min()
    return np.zeros_like(resized) if spread == 0 else (resized - resized.min()) / spread


if __name__ == "__main__":
    main()
