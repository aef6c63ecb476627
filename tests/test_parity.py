"""wsolevaluation's metadata and protocol: a hand-worked tree, and its own numbers on maps of ours."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl.datasets.wsoleval import WsolevalDataset, open_if_wsoleval
from gwapctl.errors import DataError
from gwapctl.evaluate import Options, evaluate

WSOLEVALUATION = Path(__file__).parent / "wsolevaluation"


def write_metadata(folder: Path, localization: str, sizes: str = "", images: str = "x/a.jpg\nx/b.jpg\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "image_ids.txt").write_text(images)
    (folder / "class_labels.txt").write_text("x/b.jpg,1\nx/a.jpg,2\n")
    (folder / "localization.txt").write_text(localization)
    if sizes:
        (folder / "image_sizes.txt").write_text(sizes)
    return folder


BOXES = "x/b.jpg,0,0,223,111\nx/a.jpg,0,0,55,55\nx/a.jpg,100,50,199,99\n"
SIZES = "x/a.jpg,448,112\nx/b.jpg,224,224\n"


def test_boxes_are_read_as_inclusive(tmp_path: Path) -> None:
    dataset = WsolevalDataset(write_metadata(tmp_path / "val", BOXES, SIZES))
    assert dataset.splits() == ("val",)
    assert len(dataset.classes) == 3
    first, second = dataset.boxed_samples("val")
    assert (first.id, first.labels, first.size) == ("x/a.jpg", (2,), (448, 112))
    assert first.boxes.tolist() == [[0, 0, 56, 56], [100, 50, 200, 100]]
    assert first.box_labels.tolist() == [2, 2]
    assert second.boxes.tolist() == [[0, 0, 224, 112]]


def test_folder_of_splits(tmp_path: Path) -> None:
    for split in ("val", "test"):
        write_metadata(tmp_path / "CUB" / split, BOXES, SIZES)
    assert open_if_wsoleval(tmp_path / "CUB") is not None
    assert open_if_wsoleval(tmp_path) is None
    dataset = WsolevalDataset(tmp_path / "CUB")
    assert dataset.splits() == ("test", "val")
    assert len(dataset.samples("test")) == 2
    with pytest.raises(DataError, match="no split 'train'"):
        dataset.samples("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_ids.txt": ""}, "is empty"),
        ({"image_ids.txt": "x/c.jpg"}, r"class_labels.txt says nothing about 'x/c.jpg'"),
        ({"localization.txt": "x/a.jpg,0,0,55,55"}, r"localization.txt says nothing about 'x/b.jpg'"),
        ({"localization.txt": BOXES + "x/a.jpg,1,2,3\n"}, "'1,2,3' should be 4 numbers"),
        ({"class_labels.txt": "x/a.jpg\n"}, "line 1: 'x/a.jpg' has no value"),
        ({"class_labels.txt": "x/a.jpg,two\n"}, "'two' should be 1 number"),
        ({"image_sizes.txt": "x/a.jpg,448\n"}, "'448' should be 2 numbers"),
        ({"localization.txt": "x/a.jpg,m.png,\nx/b.jpg,m.png,\n"}, r"mask m.png .* is not under .*masks="),
    ],
)
def test_broken_metadata_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    folder = write_metadata(tmp_path / "val", BOXES, SIZES)
    for name, text in change.items():
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        WsolevalDataset(folder).boxed_samples("val")


def test_hand_worked_boxes(tmp_path: Path) -> None:
    """A map whose contour is rows 0..55 of the left half, loosened by a pixel; see the comments for both images."""
    folder = write_metadata(tmp_path / "meta", BOXES, SIZES)
    heat = np.zeros((224, 224), np.float16)
    heat[:112] = 1
    for name in "ab":
        (tmp_path / "maps" / "x").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "maps" / "x" / f"{name}.jpg.npy", heat)
    document = evaluate(str(tmp_path / "maps"), Options(dataset=str(folder), protocol="wsoleval"))
    # a: objects on the grid 0,0,27,110 and 50,100,99,198; the box 0,0,223,112 covers 224 x 113: IoU at most 0.123
    # b: object 0,0,223,111, the same box: 112 / 113
    assert document.metrics["max_box_acc"] == 50
    assert document.metrics["max_box_acc_30"] == 50
    assert document.metrics["max_box_acc_v2_70"] == 50
    assert document.floors["full_image"]["max_box_acc"] == 50  # b: exactly one half
    assert document.floors["full_image"]["max_box_acc_70"] == 0
    assert document.floors["centred_box"]["max_box_acc_30"] == 50  # b: 168 x 84 of 224 x 112 + 168 x 84 = 0.36
    assert document.floors["centred_box"]["max_box_acc"] == 0


def write_masks(folder: Path) -> Path:
    """Write two instances side by side, and an ignored box over the second and the strip below."""
    folder.mkdir(parents=True)
    one, two, ignore = (np.zeros((224, 224), np.uint8) for _ in range(3))
    one[:100, :50], two[:100, 50:100], ignore[:120, 50:] = 255, 255, 255
    for name, mask in (("one", one), ("two", two), ("ignore", ignore)):
        cv2.imwrite(str(folder / f"{name}.png"), mask)
    return folder


MASKS = "x/a.jpg,one.png,ignore.png\nx/a.jpg,two.png,\n"


def test_masks_are_united_and_the_ignored_box_is_cut(tmp_path: Path) -> None:
    write_masks(tmp_path / "masks" / "Set")
    dataset = WsolevalDataset(write_metadata(tmp_path / "metadata", MASKS, images="x/a.jpg\n"))
    (sample,) = dataset.boxed_samples("metadata")
    mask = sample.mask_at(224, 224)
    assert (mask == 1).sum() == 100 * 100
    assert (mask == 255).sum() == 120 * 174 - 100 * 50
    assert mask[:100, :100].all()
    assert mask[110, 60] == 255
    assert mask[130, 60] == 0
    assert sample.mask_at(56, 112).shape == (112, 56)


@pytest.mark.parametrize("given", [False, True])
def test_hand_worked_px_ap(tmp_path: Path, given: bool) -> None:
    """Half of the object at 1, the other half below a stripe of background."""
    masks = write_masks(tmp_path / "elsewhere" if given else tmp_path / "masks")
    folder = write_metadata(tmp_path / "metadata", MASKS, images="x/a.jpg\n")
    heat = np.zeros((224, 224), np.float32)
    heat[:50, :100], heat[50:100, :100], heat[200:210] = 1, 0.25, 0.5
    heat[:100, 100:] = 0.9  # ignored
    (tmp_path / "maps" / "x").mkdir(parents=True)
    np.save(tmp_path / "maps" / "x" / "a.jpg.npy", heat)
    options = Options(dataset=str(folder), protocol="wsoleval", masks=masks if given else None)
    document = evaluate(str(tmp_path / "maps"), options)
    stripe = 10 * 224  # AP = 0.5 x 1 + 0.5 x 1e4 / (1e4 + stripe)
    assert document.metrics == {"px_ap": pytest.approx(100 * (0.5 + 0.5 * 1e4 / (1e4 + stripe)))}
    counted = 224 * 224 - (120 * 174 - 5000)
    assert document.floors["full_image"]["px_ap"] == pytest.approx(100 * 1e4 / counted)


def test_a_map_of_zeros_has_wsolevaluations_box(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "meta", "x/a.jpg,0,0,0,0\n", "x/a.jpg,224,224\n", "x/a.jpg\n")
    np.save(tmp_path / "a.jpg.npy", np.zeros((224, 224)))
    document = evaluate(str(tmp_path), Options(dataset=str(folder), protocol="wsoleval"))
    assert document.n_degenerate == 1
    assert document.metrics["max_box_acc"] == 100


@pytest.mark.parametrize(("truth", "masks"), [("boxes", None), ("masks", WSOLEVALUATION / "png")])
def test_wsolevaluations_own_numbers_to_the_last_digit(truth: str, masks: Path | None) -> None:
    """Maps of ours, judged by its code (benchmarks/write_parity.py) and by ours."""
    options = Options(dataset=str(WSOLEVALUATION / truth), protocol="wsoleval", masks=masks)
    document = evaluate(str(WSOLEVALUATION / "maps"), options)
    assert document.n == 20
    assert document.metrics == json.loads((WSOLEVALUATION / "expected.json").read_text())[truth]
