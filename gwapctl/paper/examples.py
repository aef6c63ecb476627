"""The best and the worst localizations of an evaluation as pictures: predicted box solid, ground truth dashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwapctl.errors import GwapctlError
from gwapctl.paper.curves import Picture, data_uri

COUNT = 6  # best, and as many worst
LONG_SIDE = 480  # pixels of a picture
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Examples:
    """Pictures, best first and worst first; ``missing`` counts images that are not where they were."""

    best: tuple[Picture, ...] = ()
    worst: tuple[Picture, ...] = ()
    missing: int = 0


def find_examples(evaluation: Mapping[str, Any], dataset: str, root: Path | None) -> Examples:
    """Draw the best and worst of the ``examples`` that an evaluation document carries, if it does.

    An example is ``{"image", "path", "iou", "box", "truth"}`` and optionally ``label``; boxes are in original pixels,
    ``box`` is null where the map gave none. Images that moved are looked for in ``dataset`` below ``root``.
    """
    ordered = sorted(evaluation.get("examples") or [], key=lambda example: -float(example["iou"]))
    count = min(COUNT, (len(ordered) + 1) // 2)
    best, worst = ordered[:count], ordered[count:][::-1][:COUNT]
    files = _image_files([*best, *worst], dataset, str(evaluation.get("split")), root)
    best_drawn, worst_drawn = ([_draw(example, files) for example in chosen] for chosen in (best, worst))
    return Examples(
        tuple(picture for picture in best_drawn if picture is not None),
        tuple(picture for picture in worst_drawn if picture is not None),
        missing=[*best_drawn, *worst_drawn].count(None),
    )


def _image_files(examples: Sequence[Mapping[str, Any]], dataset: str, split: str, root: Path | None) -> dict[str, Path]:
    """Return where the images are now, by id: where they were, else where the data set has them."""
    found = {str(example["image"]): Path(str(example.get("path") or "")) for example in examples}
    if all(path.is_file() for path in found.values()):
        return found
    from gwapctl.datasets import open_dataset

    try:
        samples = open_dataset(dataset, root).samples(split)
    except GwapctlError:  # the page is worth having without pictures
        return found
    return {**found, **{sample.id: sample.path for sample in samples if sample.id in found}}


def _draw(example: Mapping[str, Any], files: Mapping[str, Path]) -> Picture | None:
    """Draw one example; None where its image is gone or broken."""
    import cv2

    from gwapctl.draw import Mark, draw_overlay
    from gwapctl.images.decode import read_image

    path = files[str(example["image"])]
    if not path.is_file():
        return None
    try:
        image = read_image(path)
    except GwapctlError:
        return None
    height, width = image.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    if factor < 1:
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype("uint8")
    box, label = example.get("box"), str(example.get("label") or "")
    marks = [Mark(truth, ground_truth=True) for truth in example.get("truth") or []]
    marks += [] if box is None else [Mark(box, label)]
    picture = draw_overlay(image, None, marks, size=(width, height))
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    )
    iou = f"IoU {float(example['iou']):.2f}" if box is not None else "no box"
    title = f"{example['image']}: {iou}"
    return Picture(title, title, data_uri("image/jpeg", encoded.tobytes()))
