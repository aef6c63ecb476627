"""Every format says what was found, to the reader that it is meant for, within its own precision."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from defusedxml import ElementTree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gwapctl import boxes
from gwapctl.datasets.cells import plain_cell
from gwapctl.errors import DataError, GwapctlError, UsageError
from gwapctl.formats import EXPORTERS
from gwapctl.formats.base import FileExporter, FolderExporter, annotation_name, check_names, class_table
from gwapctl.formats.label_studio import LabelStudio
from gwapctl.formats.voc import whole_pixels
from gwapctl.formats.yolo import Yolo
from gwapctl.predict.prediction import ClassPrediction, Prediction, PredictionError
from gwapctl.predict.predictions import read_predictions

CAT_BOX = (10.25, 20.5, 110.75, 80.0)
DOG_BOX = (0.0, 0.0, 200.0, 100.0)
IMAGES = [
    Prediction(
        "photos/sub/kočka 1.jpg",
        200,
        100,
        "tiny",
        (64,),
        (
            ClassPrediction("kočka & <pes>", "n01", 0.875, CAT_BOX, doubt=0.25),
            ClassPrediction("dog", "n02", 0.125, DOG_BOX),
        ),
        id="sub/kočka 1.jpg",
    ),
    Prediction("photos/empty.png", 31, 47, "tiny", (64,), (), id="empty.png"),
    Prediction("photos/flat.png", 50, 30, "tiny", (64,), (ClassPrediction("dog", "n02", 0.5),), id="flat.png"),
    Prediction("photos/bad.jpg", 0, 0, "tiny", (64,), (), PredictionError("DataError", "torn"), id="bad.jpg"),
]
FILES = [name for name, entry in EXPORTERS.items() if isinstance(entry.build(), FileExporter)]
FOLDERS = [name for name, entry in EXPORTERS.items() if isinstance(entry.build(), FolderExporter)]


def text(name: str, items: list[Prediction], classes: list[str] | None = None) -> str:
    exporter = EXPORTERS[name].build()
    assert isinstance(exporter, FileExporter)
    return "".join(exporter.text(iter(items), classes))


def one(box: tuple[float, float, float, float], width: int, height: int, name: str = "a.png") -> Prediction:
    return Prediction(name, width, height, "m", (64,), (ClassPrediction("cat", "cat", 0.5, box),))


# --- golden files ----------------------------------------------------------------------------------------------------


def test_csv_keeps_every_number_and_every_image() -> None:
    assert text("csv", IMAGES) == (
        "image,width,height,label,label_id,score,x0,y0,x1,y1,doubt\n"
        "photos/sub/kočka 1.jpg,200,100,kočka & <pes>,n01,0.875,10.25,20.5,110.75,80.0,0.25\n"
        "photos/sub/kočka 1.jpg,200,100,dog,n02,0.125,0.0,0.0,200.0,100.0,\n"
        "photos/empty.png,31,47,,,,,,,,\n"
        "photos/flat.png,50,30,dog,n02,0.5,,,,,\n"
    )


def test_jsonl_is_what_localize_writes(tmp_path: Path) -> None:
    EXPORTERS["jsonl"].build().write(tmp_path / "boxes.jsonl", iter(IMAGES))
    assert list(read_predictions(tmp_path / "boxes.jsonl")) == IMAGES


def test_coco_document() -> None:
    document = json.loads(text("coco", IMAGES))
    assert document["images"] == [
        {"id": 1, "file_name": "sub/kočka 1.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "empty.png", "width": 31, "height": 47},
        {"id": 3, "file_name": "flat.png", "width": 50, "height": 30},
    ]
    assert document["categories"] == [
        {"id": 1, "name": "dog", "supercategory": ""},
        {"id": 2, "name": "kočka & <pes>", "supercategory": ""},
    ]
    first, second = document["annotations"]
    expected = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10.25, 20.5, 100.5, 59.5], "area": 100.5 * 59.5}
    assert first == expected | {"iscrowd": 0, "segmentation": [], "score": 0.875, "doubt": 0.25}
    assert (second["id"], second["image_id"], second["category_id"], second["area"]) == (2, 1, 1, 20000.0)


@pytest.mark.parametrize(("name", "suffix"), [("voc", ".xml"), ("yolo", ".txt")])
def test_a_second_export_removes_what_the_first_wrote_and_nothing_else(tmp_path: Path, name: str, suffix: str) -> None:
    EXPORTERS[name].build().write(tmp_path, iter(IMAGES))
    mine = tmp_path / f"mine{suffix}"
    mine.write_text("mine")
    before = {path for path in tmp_path.rglob(f"*{suffix}")}
    EXPORTERS[name].build().write(tmp_path, iter(IMAGES[1:]))
    gone = before - set(tmp_path.rglob(f"*{suffix}"))
    assert [path.stem for path in gone] == ["kočka 1"]
    assert mine.read_text() == "mine"

    outside = tmp_path.parent / f"{tmp_path.name}{suffix}"
    outside.write_text("mine")
    (tmp_path / ".gwapctl-export").write_text(json.dumps([f"../{outside.name}", str(outside), mine.name]))
    EXPORTERS[name].build().write(tmp_path, iter(IMAGES[1:]))
    assert outside.exists()
    assert not mine.exists()  # the list says so, and it lies inside


def test_voc_file(tmp_path: Path) -> None:
    EXPORTERS["voc"].build().write(tmp_path, iter(IMAGES))
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"sub/kočka 1.xml", "empty.xml", "flat.xml", ".gwapctl-export"}
    assert (
        (tmp_path / "sub/kočka 1.xml")
        .read_text(encoding="utf-8")
        .startswith(
            "<annotation>\n  <folder>sub</folder>\n  <filename>kočka 1.jpg</filename>\n"
            "  <source>\n    <database>gwapctl</database>\n  </source>\n"
            "  <size>\n    <width>200</width>\n    <height>100</height>\n    <depth>3</depth>\n  </size>\n"
            "  <segmented>0</segmented>\n"
            "  <object>\n    <name>kočka &amp; &lt;pes&gt;</name>\n    <pose>Unspecified</pose>\n"
            "    <truncated>0</truncated>\n    <difficult>0</difficult>\n"
            "    <score>0.875</score>\n    <doubt>0.25</doubt>\n"
            "    <bndbox>\n      <xmin>11</xmin>\n      <ymin>21</ymin>\n"
            "      <xmax>111</xmax>\n      <ymax>80</ymax>\n    </bndbox>\n  </object>\n"
        )
    )
    root = ElementTree.parse(tmp_path / "flat.xml").getroot()
    assert root.find("object") is None
    assert root.findtext("size/width") == "50"


def test_yolo_folder(tmp_path: Path) -> None:
    Yolo().write(tmp_path, iter(IMAGES))
    assert (tmp_path / "labels/sub/kočka 1.txt").read_text() == (
        "1 0.302500 0.502500 0.502500 0.595000\n0 0.500000 0.500000 1.000000 1.000000\n"
    )
    assert (tmp_path / "labels/empty.txt").read_bytes() == b""
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8") == "dog\nkočka & <pes>\n"
    assert (tmp_path / "data.yaml").read_text(encoding="utf-8") == (
        'train: images\nval: images\nnc: 2\nnames:\n  0: "dog"\n  1: "kočka & <pes>"\n'
    )


def test_yolo_scores_are_a_sixth_column(tmp_path: Path) -> None:
    Yolo(scores=True).write(tmp_path, iter(IMAGES))
    rows = (tmp_path / "labels/sub/kočka 1.txt").read_text().splitlines()
    assert [row.split()[5] for row in rows] == ["0.875000", "0.125000"]


def test_label_studio_tasks() -> None:
    tasks = json.loads(text("label-studio", IMAGES))
    assert [unquote(task["data"]["image"]) for task in tasks] == [
        "/data/local-files/?d=sub/kočka 1.jpg",
        "/data/local-files/?d=empty.png",
        "/data/local-files/?d=flat.png",
    ]
    (prediction,) = tasks[0]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("tiny", 0.875)
    assert prediction["result"][0] == {
        "id": "box0",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "value": {
            "x": 5.125,
            "y": 20.5,
            "width": 50.25,
            "height": 59.5,
            "rotation": 0,
            "rectanglelabels": ["kočka & <pes>"],
        },
        "score": 0.875,
        "meta": {"text": ["doubt 0.25"], "doubt": 0.25},
    }
    assert tasks[1]["predictions"] == tasks[2]["predictions"] == []


def test_label_studio_interface_fits_the_tasks() -> None:
    table = class_table({("a & <b>", "x"), ("c", "y")})
    root = ElementTree.fromstring(LabelStudio().setup(table))
    assert [label.get("value") for label in root.iter("Label")] == ["a & <b>", "c"]
    assert root.find("RectangleLabels").get("name") == "label"  # type: ignore[union-attr]
    assert root.find("Image").get("value") == "$image"  # type: ignore[union-attr]


def test_cvat_document() -> None:
    root = ElementTree.fromstring(text("cvat", IMAGES))
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == ["dog", "kočka & <pes>"]
    assert [dict(image.attrib) for image in root.iter("image")] == [
        {"id": "0", "name": "sub/kočka 1.jpg", "width": "200", "height": "100"},
        {"id": "1", "name": "empty.png", "width": "31", "height": "47"},
        {"id": "2", "name": "flat.png", "width": "50", "height": "30"},
    ]
    box = next(root.iter("box"))
    assert tuple(float(box.get(key, "")) for key in ("xtl", "ytl", "xbr", "ybr")) == CAT_BOX
    assert (box.get("label"), box.get("source"), box.findtext("attribute")) == ("kočka & <pes>", "auto", "0.875")


def test_cvat_task_labels_declare_the_score() -> None:
    labels = json.loads(EXPORTERS["cvat"].build().setup(class_table({("cat", "n1")})))
    assert [label["name"] for label in labels] == ["cat"]
    assert [attribute["name"] for attribute in labels[0]["attributes"]] == ["score", "doubt"]


@pytest.mark.parametrize("name", FILES)
def test_no_image_is_still_a_document(name: str) -> None:
    written = text(name, [])
    readers: dict[str, Any] = {"csv": str, "jsonl": str, "cvat": ElementTree.fromstring}
    readers.get(name, json.loads)(written)


# --- read back by others ---------------------------------------------------------------------------------------------


@pytest.fixture
def flat_images(tmp_path: Path) -> tuple[Path, list[Prediction]]:
    """Three images in one folder, as supervision reads them: two boxes of two classes, one box, none."""
    folder = tmp_path / "images"
    folder.mkdir()
    items = [
        replace(IMAGES[0], id="a.jpg", image="a.jpg"),
        one((3.5, 1.25, 30.0, 46.75), 31, 47, "b.png"),
        Prediction("c.png", 50, 30),
    ]
    for item in items:
        cv2.imwrite(str(folder / item.id), np.zeros((item.height, item.width, 3), np.uint8))
    return folder, items


def found_boxes(item: Prediction) -> boxes.FloatArray:
    return boxes.as_boxes([p.box for p in item.predictions if p.box is not None])


def found_labels(item: Prediction) -> list[str]:
    return [p.label for p in item.predictions if p.box is not None]


def assert_same(dataset: Any, items: list[Prediction], tolerance: float) -> None:
    assert len(dataset) == len(items)
    read = {Path(path).name: detections for path, _, detections in dataset}
    for item in items:
        detections = read[item.id]
        assert detections.xyxy.reshape(-1, 4) == pytest.approx(found_boxes(item), abs=tolerance)
        assert [dataset.classes[i] for i in detections.class_id] == found_labels(item)


def test_pycocotools_reads_coco(tmp_path: Path, flat_images: tuple[Path, list[Prediction]]) -> None:
    from pycocotools.coco import COCO

    _, items = flat_images
    EXPORTERS["coco"].build().write(tmp_path / "boxes.json", iter(items))
    coco = COCO(str(tmp_path / "boxes.json"))
    assert coco.getImgIds() == [1, 2, 3]
    for number, item in enumerate(items, start=1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert np.array_equal(boxes.from_xywh([a["bbox"] for a in annotations]), found_boxes(item))
        assert [coco.cats[a["category_id"]]["name"] for a in annotations] == found_labels(item)
        assert [a["score"] for a in annotations] == [p.score for p in item.predictions]


def test_a_coco_file_of_boxes_agrees_with_itself(tmp_path: Path, flat_images: tuple[Path, list[Prediction]]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    EXPORTERS["coco"].build().write(tmp_path / "boxes.json", iter(flat_images[1]))
    truth = COCO(str(tmp_path / "boxes.json"))
    evaluation = COCOeval(truth, truth.loadRes(truth.dataset["annotations"]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_supervision_reads_coco(tmp_path: Path, flat_images: tuple[Path, list[Prediction]]) -> None:
    import supervision

    folder, items = flat_images
    EXPORTERS["coco"].build().write(tmp_path / "boxes.json", iter(items))
    dataset = supervision.DetectionDataset.from_coco(str(folder), str(tmp_path / "boxes.json"))
    assert_same(dataset, items, 1e-4)  # float32


def test_supervision_reads_yolo(tmp_path: Path, flat_images: tuple[Path, list[Prediction]]) -> None:
    import supervision

    folder, items = flat_images
    Yolo().write(tmp_path / "yolo", iter(items))
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder), str(tmp_path / "yolo/labels"), str(tmp_path / "yolo/data.yaml")
    )
    assert_same(dataset, items, 200 * 1e-6)


def test_supervision_reads_voc_but_for_its_own_pixel(
    tmp_path: Path, flat_images: tuple[Path, list[Prediction]]
) -> None:
    """Older versions take 1 off all four corners (the last pixel read as an edge), newer ones read as we do."""
    import supervision

    folder, items = flat_images
    EXPORTERS["voc"].build().write(tmp_path / "voc", iter(items))
    dataset = supervision.DetectionDataset.from_pascal_voc(str(folder), str(tmp_path / "voc"))
    read = {Path(path).name: detections for path, _, detections in dataset}
    expected = np.concatenate([boxes.from_voc([whole_pixels(box) for box in found_boxes(item)]) for item in items])
    shift = np.concatenate([read[item.id].xyxy.reshape(-1, 4) for item in items]) - expected
    assert len(expected) == 3
    assert np.array_equal(shift, np.zeros((3, 4))) or np.array_equal(shift, np.tile([0, 0, -1, -1], (3, 1)))
    names = [[dataset.classes[i] for i in read[item.id].class_id] for item in items]
    assert names == [found_labels(item) for item in items]


# --- any box through any format --------------------------------------------------------------------------------------


def read_csv(path: Path, width: int, height: int) -> list[float]:
    (row,) = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return [float(row[key]) for key in ("x0", "y0", "x1", "y1")]


def read_jsonl(path: Path, width: int, height: int) -> list[float]:
    return json.loads(path.read_text(encoding="utf-8"))["predictions"][0]["box"]


def read_coco(path: Path, width: int, height: int) -> list[float]:
    return list(boxes.from_xywh(json.loads(path.read_text(encoding="utf-8"))["annotations"][0]["bbox"])[0])


def read_label_studio(path: Path, width: int, height: int) -> list[float]:
    value = json.loads(path.read_text(encoding="utf-8"))[0]["predictions"][0]["result"][0]["value"]
    sides = [value[key] for key in ("x", "y", "width", "height")]
    return list(boxes.from_xywh(np.array(sides) * [width, height, width, height] / 100)[0])


def read_cvat(path: Path, width: int, height: int) -> list[float]:
    box = next(ElementTree.parse(path).getroot().iter("box"))
    return [float(box.get(key)) for key in ("xtl", "ytl", "xbr", "ybr")]


def read_voc(path: Path, width: int, height: int) -> list[float]:
    corners = ElementTree.parse(path / "a.xml").getroot().find("object/bndbox")
    values = [int(corners.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")]
    assert 1 <= values[0] <= values[2] <= width
    assert 1 <= values[1] <= values[3] <= height
    return list(boxes.from_voc(values)[0])


def read_yolo(path: Path, width: int, height: int) -> list[float]:
    numbers = [float(number) for number in (path / "labels/a.txt").read_text().split()[1:]]
    assert len(numbers) == 4
    assert all(0 <= number <= 1 for number in numbers)
    return list(boxes.from_yolo(numbers, width, height)[0])


ROUND_TRIPS = {  # format -> reader, and its error in pixels for an image of that longest side
    "csv": (read_csv, lambda side: 0.0),
    "jsonl": (read_jsonl, lambda side: 0.0),
    "coco": (read_coco, lambda side: side * 1e-12),
    "label-studio": (read_label_studio, lambda side: side * 1e-12),
    "cvat": (read_cvat, lambda side: 0.0),
    "voc": (read_voc, lambda side: 1.0),
    "yolo": (read_yolo, lambda side: side * 1e-6),
}


def test_every_format_has_a_round_trip() -> None:
    assert set(ROUND_TRIPS) == set(EXPORTERS) - {"png"}  # which has masks alone: test_masks.py


@st.composite
def images_with_a_box(draw: st.DrawFn) -> Prediction:
    width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 5000))
    sides = []
    for length in (width, height):
        size = draw(st.floats(min(0.01, length / 2), length))
        start = draw(st.floats(0, length - size))
        sides.append((start, min(start + size, float(length))))
    return one((sides[0][0], sides[1][0], sides[0][1], sides[1][1]), width, height)


@pytest.mark.parametrize("name", list(ROUND_TRIPS))
@settings(max_examples=40, deadline=None)
@given(item=images_with_a_box())
def test_any_box_comes_back(tmp_path_factory: pytest.TempPathFactory, name: str, item: Prediction) -> None:
    path = tmp_path_factory.mktemp("trip") / "out"
    EXPORTERS[name].build().write(path, iter([item]))
    read, tolerance = ROUND_TRIPS[name]
    error = np.abs(np.array(read(path, item.width, item.height)) - found_boxes(item)[0]).max()
    assert error <= tolerance(max(item.width, item.height))


def test_voc_rounds_to_the_nearest_pixel_and_loses_no_box() -> None:
    assert whole_pixels((10.25, 20.5, 110.75, 80.0)) == [11, 21, 111, 80]
    assert whole_pixels((3.1, 5.0, 3.2, 6.0)) == [4, 6, 4, 6]  # thinner than a pixel: the pixel that holds it
    assert whole_pixels((9.6, 0.0, 10.0, 1.0)) == [10, 1, 10, 1]  # at the right edge of a 10-pixel image


@settings(max_examples=60, deadline=None)
@example(label="a,b", stem="\r")
@given(
    label=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    stem=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0\\:"), min_size=1, max_size=8),
)
def test_any_name_gives_readable_documents(label: str, stem: str) -> None:
    item = Prediction(f"{stem}.png", 9, 7, "m", (), (ClassPrediction(label, label, 1.0, (1, 1, 4, 5)),))
    assert json.loads(text("coco", [item]))["images"][0]["file_name"] == item.id
    assert len(list(ElementTree.fromstring(text("cvat", [item])).iter("box"))) == 1
    prefix = "/data/local-files/?d="
    assert unquote(json.loads(text("label-studio", [item]))[0]["data"]["image"]) == prefix + item.id
    (row,) = csv.DictReader(io.StringIO(text("csv", [item]), newline=""))
    assert (plain_cell(row["image"]), plain_cell(row["label"])) == (item.id, label)
    ElementTree.fromstring(LabelStudio().setup(class_table({(label, label)})))


# --- classes ---------------------------------------------------------------------------------------------------------


def test_classes_are_numbered_by_alphabet_whatever_comes_first() -> None:
    assert class_table([("b", "1"), ("a", "2"), ("b", "1")]).names == ("a", "b")


def test_two_classes_of_one_name_stay_two() -> None:
    table = class_table([("crane", "n02012849"), ("crane", "n03126707"), ("owl", "n01621127")])
    assert table.names == ("crane (n02012849)", "crane (n03126707)", "owl")
    assert table.number(ClassPrediction("crane", "n03126707", 1.0)) == 1


def test_a_list_of_classes_fixes_the_numbers() -> None:
    listed = ["zebra", "n02", "kočka & <pes>", "unused"]
    document = json.loads(text("coco", IMAGES, listed))
    assert [category["name"] for category in document["categories"]] == listed
    assert [annotation["category_id"] for annotation in document["annotations"]] == [3, 2]


def test_a_list_of_classes_must_be_complete_and_unique() -> None:
    with pytest.raises(UsageError, match=r"class 'dog' \(id 'n02'\) is not in the list"):
        text("coco", IMAGES, ["kočka & <pes>"])
    with pytest.raises(UsageError, match="twice"):
        text("coco", IMAGES, ["dog", "dog"])


def test_a_class_name_of_two_lines_is_one_line_of_classes_txt(tmp_path: Path) -> None:
    item = Prediction("a.png", 9, 7, "m", (), (ClassPrediction("big\n cat\x07", "1", 1.0, (1, 1, 4, 5)),))
    Yolo().write(tmp_path, [item])
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8") == "big cat\ufffd\n"


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("a.jpg", "a"),
        ("sub/a.b.JPG", "sub/a.b"),
        ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000001"),
        ("v1.5", "v1.5"),
        ("/data/a.png", "data/a"),
        ("../../etc/a.png", "etc/a"),
        ("C:/x/a.png", "x/a"),
    ],
)
def test_annotations_are_named_as_their_image_and_stay_in_the_folder(image_id: str, name: str) -> None:
    assert annotation_name(image_id) == name


@pytest.mark.parametrize("name", FOLDERS)
def test_two_images_of_one_stem_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    items = [Prediction(f"{i}.png", 9, 7) for i in range(3)] + [Prediction("2.jpg", 9, 7)]
    with pytest.raises(UsageError, match=r"'2.png' and '2.jpg' would share"):
        EXPORTERS[name].build().write(tmp_path / "out", iter(items))
    assert not (tmp_path / "out").exists()
    check_names(["a/x.jpg", "b/x.jpg", "x.jpg"])  # in other folders it is fine


@pytest.mark.parametrize("name", FILES)
def test_one_file_can_hold_two_images_of_one_stem(name: str) -> None:
    assert text(name, [Prediction("2.png", 9, 7), Prediction("2.jpg", 9, 7)])


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(EXPORTERS))
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (one((5, 5, 4, 8), 31, 47), r"image 'a.png' \(31 x 47\): the box .* is inverted or outside"),
        (one((40, 5, 50, 8), 31, 47), "inverted or outside"),
        (one((1, 1, 2, 2), 0, 0), r"no size \(0 x 0\)"),
        (Prediction("a\udcff.png", 9, 7), "not valid UTF-8"),
    ],
)
def test_a_broken_image_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, name: str, broken: Prediction, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        EXPORTERS[name].build().write(tmp_path / "out", iter([IMAGES[0], broken]))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_a_source_that_breaks_leaves_nothing(tmp_path: Path, name: str) -> None:
    def items() -> Any:
        yield IMAGES[0]
        raise DataError("boxes.jsonl, line 2 is not valid JSON")

    with pytest.raises(GwapctlError, match="line 2"):
        EXPORTERS[name].build().write(tmp_path / "out", items())
    assert list(tmp_path.iterdir()) == []


def test_a_box_over_the_edge_is_cut_to_the_image() -> None:
    document = json.loads(text("coco", [one((-3, 2, 40, 50), 31, 47)]))
    assert document["annotations"][0]["bbox"] == [0, 2, 31, 45]


def test_exporting_needs_no_torch() -> None:
    code = "import sys, gwapctl.formats, gwapctl.formats.stored; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
