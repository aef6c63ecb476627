"""LID: masks of a part of ImageNet's validation images, on a small tree; and the foreground IoU over its masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.datasets import open_dataset, reporting_split, training_splits
from gwapctl.datasets.check import list_datasets
from gwapctl.errors import DataError
from gwapctl.evaluate import GroundTruth
from gwapctl.predict.map_folder import write_map
from tests.judging import evaluate_maps

WNIDS = ("n01440764", "n02012849")
WIDTH, HEIGHT = 30, 20


def val(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def write_image(path: Path, image: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint8) if image is None else image)


def box_mask(x0: int, y0: int, x1: int, y1: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = value
    return mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with ImageNet (four images of val) and the masks of two of them beside it."""
    root = tmp_path / "data"
    for number in range(1, 5):
        write_image(root / "imagenet" / "val" / WNIDS[number % 2] / f"{val(number)}.JPEG")
    for wnid in WNIDS:
        write_image(root / "imagenet" / "train" / wnid / f"{wnid}_1.JPEG")
    write_image(root / "lid" / "a" / f"{val(2)}.png", box_mask(5, 4, 20, 14))
    write_image(root / "lid" / "a" / f"{val(3)}.png", box_mask(10, 2, 25, 18, value=1))
    return root


def test_samples_are_the_images_with_a_mask(data: Path) -> None:
    dataset = open_dataset("lid", data)
    assert dataset.splits() == ("train", "val")
    assert (reporting_split(dataset), training_splits(dataset)) == ("val", ("train", None))
    samples = dataset.boxed_samples("val")
    assert {sample.id for sample in samples} == {f"{val(2)}.JPEG", f"{val(3)}.JPEG"}
    assert all(sample.mask is not None and sample.mask.stem == sample.path.stem for sample in samples)
    assert [dataset.classes[sample.labels[0]].id for sample in samples] == [
        sample.path.parent.name for sample in samples
    ]
    assert not hasattr(dataset.samples("val")[0], "mask")
    assert len(dataset.samples("train")) == 2
    assert dataset.notes("val") == ["2 masks are here, not the 23,151 of the challenge"]
    assert dataset.notes("train") == []
    assert open_dataset("lid", data / "lid").boxed_samples("val")[0].mask == samples[0].mask


def test_imagenet_may_lie_below(data: Path) -> None:
    (data / "imagenet").rename(data / "lid" / "imagenet")
    assert len(open_dataset("lid", data).boxed_samples("val")) == 2
    shutil.rmtree(data / "lid" / "imagenet")
    with pytest.raises(DataError, match=r"lid holds masks .* missing: imagenet is not here"):
        open_dataset("lid", data)


def test_the_list_of_ids_decides(data: Path) -> None:
    listed = data / "lid" / "ILSVRC_Val_Mask_23151_cls.txt"
    listed.write_text(f"{val(3)}.JPEG 65\n")
    assert [sample.id for sample in open_dataset("lid", data).boxed_samples("val")] == [f"{val(3)}.JPEG"]
    listed.write_text(f"{val(3)}\n{val(1)}\n")
    with pytest.raises(DataError, match=rf"lacks 1 of the 2 masks .* such as {val(1)}\.png"):
        open_dataset("lid", data).boxed_samples("val")


def test_a_mask_without_its_image_is_named(data: Path) -> None:
    write_image(data / "lid" / f"{val(7)}.png", box_mask(0, 0, 5, 5))
    with pytest.raises(DataError, match="lacks 1 of the 3 images that have a mask"):
        open_dataset("lid", data).boxed_samples("val")


def test_without_masks_the_command_says_what_to_fetch(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="gwapctl data get lid"):
        open_dataset("lid", tmp_path)
    done = run_cli("data", "get", "lid", "--root", tmp_path)
    assert done.code == 4
    assert "lidchallenge.github.io" in done.stderr
    assert str(tmp_path / "lid") in "".join(done.stderr.split())
    row = next(row for row in list_datasets(tmp_path) if row["name"] == "lid")
    assert (row["root"], row["how"], row["download_mb"]) == (None, "by hand", 0)


def test_foreground_iou_by_hand(data: Path, tmp_path: Path) -> None:
    """Two byte maps: 255 in the object, 100 or 200 in some place beside it."""
    masks = {2: box_mask(5, 4, 20, 14, 1), 3: box_mask(10, 2, 25, 18, 1)}  # 150 and 240 pixels
    wrong = {2: box_mask(0, 15, 30, 20, 1), 3: box_mask(0, 0, 5, 12, 1)}  # 150 and 60 pixels beside the object
    for number, beside in ((2, 100), (3, 200)):
        heat = np.where(masks[number] > 0, 255, beside * wrong[number]).astype(np.uint8)
        write_map(tmp_path / "maps", f"{val(number)}.JPEG", heat)
    dataset = open_dataset("lid", data)
    document = evaluate_maps(tmp_path / "maps", GroundTruth(dataset, "val", dataset.boxed_samples("val")))
    metrics = document.metrics
    assert metrics["fg_iou"] == metrics["fg_iou_pooled"] == 1
    assert metrics["fg_iou_threshold"] == metrics["fg_iou_pooled_threshold"] == 200
    curve = document.fg_iou_curve
    assert len(curve["mean"]) == len(curve["pooled"]) == 256
    assert curve["mean"][0] == pytest.approx((150 / 300 + 240 / 300) / 2)
    assert curve["mean"][100] == pytest.approx((1 + 240 / 300) / 2)
    assert curve["pooled"][0] == pytest.approx(390 / 600)
    assert curve["pooled"][100] == pytest.approx(390 / 450)
    assert curve["mean"][255] == 0
    floor = document.floors["full_image"]
    assert floor["fg_iou"] == pytest.approx((150 + 240) / 2 / (WIDTH * HEIGHT))
    assert document.notes[-1] == "2 masks are here, not the 23,151 of the challenge"
