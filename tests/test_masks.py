"""The pixels of objects leave in the formats of other tools, and come back from each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as pycocotools

from gwapctl.boxes import from_xywh
from gwapctl.datasets import open_dataset
from gwapctl.formats.reading import read_boxes
from gwapctl.predict.map_folder import MAPS, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.predict.predictions import read_predictions
from gwapctl.regions.masks import (
    brush,
    cropped_runs,
    decode,
    encode,
    enlarged,
    from_brush,
    from_cropped_runs,
    polygons,
)
from tests.factories import write

Run = Callable[..., Any]
Mask = npt.NDArray[np.bool_]
MASKS = st.tuples(st.integers(1, 9), st.integers(1, 13)).flatmap(lambda shape: arrays(np.bool_, shape))
WIDTH, HEIGHT = 80, 48  # four times the map


def ellipse(width: int = 90, height: int = 60) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2 + 7, height // 2), (width // 3, height // 4), 30, 0, 360, 1, -1)
    return mask > 0


# --- encodings -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(mask=MASKS)
def test_rle_is_that_of_pycocotools(mask: Mask) -> None:
    height, width = mask.shape
    theirs = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert encode(mask) == theirs
    np.testing.assert_array_equal(decode(theirs, width, height), mask)


def test_long_runs() -> None:
    mask = np.zeros((700, 301), bool)
    mask[3:690, 10:250] = True
    mask[300:310, 17] = False
    assert encode(mask) == pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(from_brush(brush(mask), 301, 700), mask)


@settings(max_examples=60, deadline=None)
@given(mask=MASKS)
def test_brush_and_cvats_runs_come_back(mask: Mask) -> None:
    height, width = mask.shape
    np.testing.assert_array_equal(from_brush(brush(mask), width, height), mask)
    if mask.any():
        runs, box = cropped_runs(mask)
        assert runs.sum() == box[2] * box[3]
        np.testing.assert_array_equal(from_cropped_runs(runs.tolist(), box, width, height), mask)


def test_brush_by_hand() -> None:
    """One pixel of an object: 4 values in 8 bits, then one run: 1, size 00, length 4 less one in 3 bits, 255."""
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    packed = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert brush(np.array([[True]])) == packed


def test_outlines_fill_to_the_mask() -> None:
    mask = ellipse()
    mask[2:5, 2:9] = True  # a second part
    outlines = polygons(mask)
    assert len(outlines) == 2
    filled = pycocotools.decode(pycocotools.merge(pycocotools.frPyObjects(outlines, *mask.shape))) > 0
    assert (filled & mask).sum() / (filled | mask).sum() > 0.98


def test_masks_grow_smoothly() -> None:
    small = np.zeros((12, 20), bool)
    small[2:8, 2:10] = True
    large = enlarged(small, 80, 48)
    rows, columns = np.nonzero(large)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (8, 8, 40, 32)
    assert enlarged(ellipse(), 45, 30).mean() == pytest.approx(ellipse().mean(), rel=0.05)


# --- gwapctl boxes --masks -------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What localize would leave: an image with two cats and a dog, and one whose map shows nothing."""
    heat = np.zeros((2, 12, 20), np.float16)
    heat[0, 2:8, 2:10], heat[0, 1:4, 14:18], heat[1, 9:12, 5:15] = 0.6, 1.0, 1.0
    found = (ClassPrediction("cat", "cat", 0.8), ClassPrediction("dog", "dog", 0.6))
    items = [
        Prediction("in/a.jpg", WIDTH, HEIGHT, "tiny", (64,), found, id="a.jpg"),
        Prediction("in/flat.jpg", 33, 20, "tiny", (64,), found[:1], id="flat.jpg"),
    ]
    write(tmp_path / "out/predictions.jsonl", "".join(json.dumps(item.to_json()) + "\n" for item in items))
    write_map(tmp_path / "out" / MAPS, "a.jpg", heat)
    write_map(tmp_path / "out" / MAPS, "flat.jpg", np.zeros((1, 20, 33), np.float16))
    about = {"a.jpg": MapImage(WIDTH, HEIGHT, ("cat", "dog")), "flat.jpg": MapImage(33, 20, ("cat",))}
    write_maps_info(tmp_path / "out" / MAPS, MapsInfo(class_agnostic=False, box_rule="paper20"), about.items())
    return tmp_path / "out"


def expected() -> list[tuple[str, Mask]]:
    """Return the classes and masks of the first image in order."""
    small = np.zeros((3, 12, 20), bool)
    small[0, 1:4, 14:18] = small[1, 2:8, 2:10] = small[2, 9:12, 5:15] = True
    return list(zip(("cat", "cat", "dog"), (enlarged(mask, WIDTH, HEIGHT) for mask in small), strict=True))


def export(run_cli: Run, out: Path, form: str, masks: str, name: str) -> Path:
    path = out.parent / name
    result = run_cli("boxes", out, "--format", form, "--max-boxes", "3", "--masks", masks, "--out", path)
    assert result.code == 0, result.stderr
    return path


def assert_same(found: list[tuple[str, Mask]], at_least: float = 1.0) -> None:
    for (label, mask), (wanted, truth) in zip(found, expected(), strict=True):
        assert label == wanted
        assert (mask & truth).sum() / (mask | truth).sum() >= at_least


@pytest.mark.parametrize(("masks", "at_least"), [("rle", 1.0), ("polygons", 0.9)])
def test_pycocotools_reads_the_masks(run_cli: Run, out: Path, masks: str, at_least: float) -> None:
    from pycocotools.coco import COCO

    path = export(run_cli, out, "coco", masks, "boxes.json")
    coco = COCO(str(path))
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert_same([(coco.cats[one["category_id"]]["name"], coco.annToMask(one) > 0) for one in annotations], at_least)
    assert [one["area"] for one in annotations] == [mask.sum() for _, mask in expected()]
    assert all(0 <= one["doubt"] <= 1 for one in annotations)


@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_our_reader_reads_boxes_with_masks(run_cli: Run, out: Path, masks: str) -> None:
    for name in ("a.jpg", "flat.jpg"):
        (out.parent / "set").mkdir(exist_ok=True)
        cv2.imwrite(str(out.parent / "set" / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    path = export(run_cli, out, "coco", masks, "set/boxes.json")
    dataset = open_dataset(str(path))
    sample = next(one for one in dataset.boxed_samples("train") if one.id.startswith("a"))
    document = json.loads(path.read_text())["annotations"]
    np.testing.assert_allclose(sample.boxes, from_xywh([one["bbox"] for one in document]))
    assert [dataset.classes[label].name for label in sample.box_labels] == ["cat", "cat", "dog"]


@pytest.mark.parametrize(("masks", "kind", "at_least"), [("rle", "brush", 1.0), ("polygons", "polygon", 0.9)])
def test_label_studio_gets_the_pixels_in_place_of_boxes(
    run_cli: Run, out: Path, masks: str, kind: str, at_least: float
) -> None:
    tasks = json.loads(export(run_cli, out, "label-studio", masks, "tasks.json").read_text())
    regions = tasks[0]["predictions"][0]["result"]
    assert [one["type"] for one in regions] == [f"{kind}labels"] * 3
    found = []
    for region in regions:
        value = region["value"]
        if kind == "brush":
            mask = from_brush(value["rle"], WIDTH, HEIGHT)
        else:
            points = np.array(value["points"]) * [WIDTH / 100, HEIGHT / 100]
            mask = pycocotools.decode(pycocotools.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH))[..., 0] > 0
        found.append((value[f"{kind}labels"][0], mask))
    assert_same(found, at_least)
    assert len({one["id"] for one in regions}) == 3
    assert {one["from_name"] for one in regions} == {"mask"}
    said = run_cli("boxes", out, "--format", "label-studio", "--masks", masks).stderr
    assert f'<{kind.title()}Labels name="mask" toName="image">' in said


@pytest.mark.parametrize(("masks", "tag", "at_least"), [("rle", "mask", 1.0), ("polygons", "polygon", 0.9)])
def test_cvat_gets_the_pixels_in_place_of_boxes(run_cli: Run, out: Path, masks: str, tag: str, at_least: float) -> None:
    root = ElementTree.parse(export(run_cli, out, "cvat", masks, "boxes.xml")).getroot()
    image = root.find("image")
    assert [child.tag for child in image] == [tag] * 3
    found = []
    for shape in image.findall(tag):
        if tag == "mask":
            runs = [int(run) for run in shape.get("rle").split(",")]
            box = [int(shape.get(key)) for key in ("left", "top", "width", "height")]
            mask = from_cropped_runs(runs, box, WIDTH, HEIGHT)
        else:
            points = [float(number) for pair in shape.get("points").split(";") for number in pair.split(",")]
            mask = pycocotools.decode(pycocotools.frPyObjects([points], HEIGHT, WIDTH))[..., 0] > 0
        found.append((shape.get("label"), mask))
        assert {one.get("name") for one in shape.findall("attribute")} == {"score", "doubt"}
    assert_same(found, at_least)


@pytest.mark.parametrize("masks", ["rle", "polygons"])
@pytest.mark.parametrize(("form", "name"), [("coco", "x.json"), ("cvat", "x.xml"), ("label-studio", "x.json")])
def test_our_readers_of_boxes_read_what_tools_get(run_cli: Run, out: Path, form: str, name: str, masks: str) -> None:
    """Boxes around the pixels are those of the map, for nothing is refined here; score and doubt come back, too."""
    path = export(run_cli, out, form, masks, name)
    plain = next(iter(read_boxes(export(run_cli, out, "jsonl", "rle", "plain.jsonl")).values()))
    found = next(item for key, item in read_boxes(path).items() if key.endswith("a.jpg"))
    np.testing.assert_allclose(found.boxes, plain.boxes, atol=0 if masks == "rle" else 0.6)
    np.testing.assert_allclose(found.scores, plain.scores)
    assert [one.doubt for one in found.predictions] == [one.doubt for one in plain.predictions]


def test_jsonl_holds_cocos_rle(run_cli: Run, out: Path) -> None:
    path = export(run_cli, out, "jsonl", "rle", "boxes.jsonl")
    found = json.loads(path.read_text().splitlines()[0])["predictions"]
    assert_same([(one["label"], pycocotools.decode(one["mask"]) > 0) for one in found])
    first = next(read_predictions(path))
    assert first.predictions[0].mask is not None
    again = run_cli("boxes", path, "--format", "coco").stdout  # a file of boxes keeps its masks
    assert json.loads(again)["annotations"][0]["segmentation"] == found[0]["mask"]


def test_png_masks(run_cli: Run, out: Path) -> None:
    assert run_cli("boxes", out, "--format", "png", "--max-boxes", "3", "--out", out.parent / "png").code == 0
    classes, objects = (
        cv2.imread(str(out.parent / "png" / kind / "a.png"), cv2.IMREAD_UNCHANGED) for kind in ("classes", "objects")
    )
    names = (out.parent / "png/classes.txt").read_text().splitlines()
    assert_same([(label, objects == number) for number, (label, _) in enumerate(expected(), start=1)])
    np.testing.assert_array_equal(classes == 1 + names.index("dog"), expected()[2][1])
    flat = cv2.imread(str(out.parent / "png/objects/flat.png"), cv2.IMREAD_UNCHANGED)
    assert flat.shape == (20, 33)
    assert not flat.any()


@pytest.mark.parametrize(("form", "masks"), [("yolo", "rle"), ("csv", "polygons"), ("jsonl", "polygons")])
def test_formats_without_masks_say_so(run_cli: Run, out: Path, form: str, masks: str) -> None:
    result = run_cli("boxes", out, "--format", form, "--masks", masks, "--out", out.parent / "x")
    assert result.code == 2
    assert f"--masks {masks} does not go with --format {form}" in result.stderr
    assert not (out.parent / "x").exists()


def test_masks_need_maps(run_cli: Run, out: Path) -> None:
    alone = write(out.parent / "alone.jsonl", (out / "predictions.jsonl").read_text())
    result = run_cli("boxes", alone, "--format", "coco", "--masks", "rle")
    assert result.code == 4
    assert "no maps" in result.stderr


def test_single_and_split_exclude_what_they_must(run_cli: Run, out: Path) -> None:
    result = run_cli("boxes", out, "--single", "--max-boxes", "2")
    assert (result.code, "--single is one box" in result.stderr) == (2, True)
    rows = run_cli("boxes", out, "--single").stdout.splitlines()
    assert len(rows) == 1 + 3
    assert len(run_cli("boxes", out, "--split").stdout.splitlines()) == 1 + 4
