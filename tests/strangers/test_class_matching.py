"""Whose class is whose: names before numbers, wherever two sides name the same classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import ClassName
from gwapctl.datasets.class_names import FOREIGN, ClassMatcher, is_name
from gwapctl.datasets.subset import without_classes
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate import GroundTruth
from gwapctl.evaluate.predictions import match_classes, spread
from gwapctl.formats.base import class_table
from gwapctl.formats.stored import open_stored
from gwapctl.predict.cut import Cutting
from gwapctl.predict.map_folder import MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from tests.judging import evaluate_boxes, evaluate_maps

WIDTH, HEIGHT = 40, 30
BOXES = {"cat": (4, 6, 16, 20), "dog": (22, 8, 36, 28)}
CRANES = [ClassName("crane", "n02012849"), ClassName("crane", "n03126707"), ClassName("tabby cat", "n02123045")]
COCO = [ClassName("cat", "1"), ClassName("dog", "2")]


@pytest.mark.parametrize(
    ("classes", "name", "class_id", "index"),
    [
        # ids that are names decide first
        (CRANES, "crane", "n03126707", 1),
        (CRANES, "Kran", "n03126707", 1),
        (CRANES, "n02012849", "", 0),
        (CRANES, "crane (n03126707)", "", 1),  # as exports call it
        (CRANES, "crane", "", FOREIGN),  # nobody knows which
        (CRANES[:1], "crane", "n03126707", FOREIGN),  # the other one
        (CRANES, "crane", "134", FOREIGN),
        ([ClassName("Katze", "cat")], "cat", "1", 0),
        ([ClassName("cat", "1")], "Katze", "cat", 0),
        # then names, however they are written
        (COCO, "dog", "1", 1),
        (COCO, "cat", "0", 0),
        (COCO, "Dog", "", 1),
        (COCO, "zebra", "1", FOREIGN),
        ([ClassName("Red_Panda", "7")], "red panda", "1", 0),
        ([ClassName("café", "1")], "café", "2", 0),
        # numbers only where a side has no names, as what they mean
        (COCO, "2", "2", 1),
        (COCO, "2", "", 1),
        (COCO, "", "1", 0),
        (COCO, "1.0", "", 0),
        (COCO, "3", "2.0", 1),
        ([ClassName("0", "0"), ClassName("1", "1")], "cat", "1", 1),
        ([ClassName("03", "03"), ClassName("4", "4")], "3", "3", 0),
        ([ClassName("1", "5"), ClassName("2", "6")], "2", "5", 1),  # names that are numbers are names
        ([ClassName("1", "5"), ClassName("2", "6")], "cat", "6", 1),
        (COCO, "5", "5", FOREIGN),
        (COCO, "", "", FOREIGN),
    ],
)
def test_one_rule(classes: Sequence[ClassName], name: str, class_id: str, index: int) -> None:
    assert ClassMatcher(classes).index(name, class_id) == index


def test_what_is_a_name() -> None:
    assert [is_name(text) for text in ("cat", "n02012849", "1a", "nan")] == [True] * 4
    assert [is_name(text) for text in ("", " ", "1", "1.0", "-3", " 07 ")] == [False] * 6


def test_a_model_numbered_otherwise_knows_the_classes() -> None:
    model = [ClassName("dog", "0"), ClassName("cat", "1")]
    match = match_classes(model, COCO, [0, 1], "m", "d")
    assert match.tolist() == [1, 0]
    assert spread(np.array([0.7, 0.3]), match, 2).tolist() == [0.3, 0.7]
    with pytest.raises(DataError, match="share no class name or id: m knows 'ant'"):
        match_classes([ClassName("ant", "1")], COCO, [0], "m", "d")


def test_of_two_classes_of_a_model_that_are_one_the_greater_counts() -> None:
    match = match_classes(CRANES[:2], [ClassName("crane", "crane")], [0], "m", "d")
    assert match.tolist() == [0, 0]
    assert spread(np.array([0.6, 0.1]), match, 1).tolist() == [0.6]


# -------------------------------------------------------------------------------------------- boxes and maps on disk


@pytest.fixture
def coco(tmp_path: Path) -> GroundTruth:
    """Return a COCO data set of two images, with a cat and a dog in each; cat is 1 and dog is 2."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    annotations = []
    for image in (1, 2):
        cv2.imwrite(str(folder / "images" / f"{image}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        for category, (x0, y0, x1, y1) in enumerate(BOXES.values(), start=1):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": 1, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": category, **box})
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "val.json").write_text(json.dumps(document))
    dataset = open_dataset(str(folder))
    return GroundTruth(dataset, "val", dataset.boxed_samples("val"))


IDS = {"as here": (1, 2), "swapped": (2, 1), "from 0": (0, 1), "floats": (2.0, 1.0), "none": ("", "")}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_boxes_are_judged_by_their_names(tmp_path: Path, coco: GroundTruth, ids: tuple, suffix: str) -> None:
    file = tmp_path / f"boxes.{suffix}"
    lines = ["image,width,height,label,label_id,score,x0,y0,x1,y1"] if suffix == "csv" else []
    for image in ("1.png", "2.png"):
        found = [(label, ids[place], 0.5, box) for place, (label, box) in enumerate(BOXES.items())]
        if suffix == "csv":
            lines += [f"{image},{WIDTH},{HEIGHT},{a},{b},{c},{','.join(map(str, box))}" for a, b, c, box in found]
        else:
            keys = ("label", "label_id", "score", "box")
            predictions = [dict(zip(keys, item, strict=True)) for item in found]
            lines.append(json.dumps({"image": image, "width": WIDTH, "height": HEIGHT, "predictions": predictions}))
    file.write_text("\n".join(lines))
    document = evaluate_boxes(file, coco)
    assert document.metrics["cor_loc"] == 100
    assert document.metrics["coco_map"] == pytest.approx(100)


def test_boxes_without_names_are_judged_by_number(tmp_path: Path, coco: GroundTruth) -> None:
    rows = [f"{image}.png,{WIDTH},{HEIGHT},,{place},0.5,{','.join(map(str, box))}"
            for image in (1, 2) for place, box in enumerate(BOXES.values(), start=1)]  # fmt: skip
    (tmp_path / "boxes.csv").write_text("image,width,height,label,label_id,score,x0,y0,x1,y1\n" + "\n".join(rows))
    assert evaluate_boxes(tmp_path / "boxes.csv", coco).metrics["cor_loc"] == 100


def test_classes_that_the_data_set_lacks_are_named(tmp_path: Path, coco: GroundTruth) -> None:
    header = "image,width,height,label,label_id,score,x0,y0,x1,y1\n"
    rows = f"1.png,{WIDTH},{HEIGHT},zebra,1,0.5,4,6,16,20\n"
    (tmp_path / "a.csv").write_text(header + rows)
    with pytest.raises(DataError, match=r"a\.csv and set share no class name or id: .* lacks, .*'zebra'"):
        evaluate_boxes(tmp_path / "a.csv", coco)
    cats = [f"{image}.png,{WIDTH},{HEIGHT},{label},9,0.5,4,6,16,20\n" for image in (1, 2) for label in BOXES]
    (tmp_path / "b.csv").write_text(header + rows + "".join(cats))
    document = evaluate_boxes(tmp_path / "b.csv", coco)
    assert any("b.csv has boxes of classes that set lacks" in note and "'zebra'" in note for note in document.notes)


def test_maps_are_matched_by_name(tmp_path: Path, coco: GroundTruth) -> None:
    images = []
    for name in ("1.png", "2.png"):
        maps = np.zeros((2, HEIGHT, WIDTH), np.float32)
        for channel, label in enumerate(("dog", "cat")):
            x0, y0, x1, y1 = BOXES[label]
            maps[channel, y0:y1, x0:x1] = 1
        write_map(tmp_path / "maps", name, maps)
        images.append((name, MapImage(WIDTH, HEIGHT, ("dog", "cat"), ("1", "2"))))
    write_maps_info(tmp_path / "maps", MapsInfo(class_agnostic=False), images)
    document = evaluate_maps(tmp_path / "maps", coco, box_rule="fixed:0.5")
    assert document.metrics["gt_known_error"] == 0
    assert document.metrics["max_box_acc"] == 100


# ----------------------------------------------------------------------------------------------------------- exports


def test_a_list_of_classes_is_matched_by_name_first() -> None:
    found = [("cat", "1"), ("dog", "0")]
    assert class_table(found, ["cat", "dog"]).numbers == {("cat", "1"): 0, ("dog", "0"): 1}
    assert class_table(found, ["0", "1"]).numbers == {("cat", "1"): 1, ("dog", "0"): 0}  # a list without names
    cranes = [("crane", "n02012849"), ("crane", "n03126707")]
    written = class_table(cranes).names  # what classes.txt says
    assert class_table(cranes, written).numbers == class_table(cranes).numbers
    with pytest.raises(UsageError, match=r"class 'crane' \(id 'n03126707'\) is not in the list"):
        class_table(cranes, ["n02012849"])


def test_one_name_with_several_numbers_is_one_class() -> None:
    table = class_table([("cat", "1"), ("cat", "7"), ("cat", ""), ("dog", "1")])
    assert table.names == ("cat", "dog")
    assert table.numbers["cat", "1"] == table.numbers["cat", "7"] == table.numbers["cat", ""] == 0


def test_boxes_are_cut_from_the_map_of_their_class(tmp_path: Path) -> None:
    maps = np.zeros((2, HEIGHT, WIDTH), np.float32)
    for channel, (x0, y0, x1, y1) in enumerate(BOXES.values()):
        maps[channel, y0:y1, x0:x1] = 1
    write_map(tmp_path / "maps", "a.png", maps)
    write_maps_info(
        tmp_path / "maps",
        MapsInfo(class_agnostic=False),
        [("a.png", MapImage(WIDTH, HEIGHT, ("cat", "dog"), ("1", "2")))],
    )
    dog = Prediction("a.png", WIDTH, HEIGHT, predictions=(ClassPrediction("dog", "1", 0.9),))
    (tmp_path / "predictions.jsonl").write_text(json.dumps(dog.to_json()) + "\n")
    source = open_stored(tmp_path, Cutting(max_boxes=1))
    assert source is not None
    [item] = source.items
    assert item.predictions[0].box == BOXES["dog"]


def test_background_classes_are_names_before_they_are_ids(coco: GroundTruth) -> None:
    dataset = coco.dataset
    dataset.classes = (ClassName("2", "1"), ClassName("dog", "2"), ClassName("ant", "3"))  # a class called 2
    assert [item.name for item in without_classes(dataset, ["2"]).classes] == ["dog", "ant"]
    assert [item.name for item in without_classes(dataset, ["3"]).classes] == ["2", "dog"]
    with pytest.raises(UsageError, match="has no class 'cow'"):
        without_classes(dataset, ["cow"])


def test_the_command_line_says_the_same(tmp_path: Path, coco: GroundTruth, run_cli: Callable) -> None:
    rows = [
        f"{image}.png,{WIDTH},{HEIGHT},{label},{place},0.5,{','.join(map(str, box))}"
        for image in (1, 2)
        for place, (label, box) in zip((2, 1), BOXES.items(), strict=True)
    ]
    (tmp_path / "boxes.csv").write_text("image,width,height,label,label_id,score,x0,y0,x1,y1\n" + "\n".join(rows))
    result = run_cli("evaluate", tmp_path / "boxes.csv", "--dataset", coco.dataset.root, "--json")
    assert json.loads(result.stdout)["metrics"]["cor_loc"] == 100
