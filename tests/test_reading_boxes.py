"""Files of boxes that labelling tools export are read as they come: their names, ids, percents, turned shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample, ClassName
from gwapctl.errors import DataError
from gwapctl.evaluate.training_boxes import TrainingBoxes
from gwapctl.formats import EXPORTERS, READERS
from gwapctl.formats.decisions import read_decisions
from gwapctl.formats.reading import Corrections, checked_samples, kind_of, read_boxes, stored_boxes
from gwapctl.predict.prediction import ClassPrediction, Prediction
from tests.factories import coco, coco_object, save_image, write

Run = Callable[..., Any]
Boxes = dict[str, list[tuple[str, list[float] | None]]]


def read(file: Path) -> Boxes:
    """Return label and box of everything by image, boxes to six decimals."""
    return {
        name: [(one.label, None if one.box is None else [round(x, 6) for x in one.box]) for one in item.predictions]
        for name, item in read_boxes(file).items()
    }


def ls_region(label: str, x: float, y: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    """Return a rectangle of Label Studio on an image of 80 x 60, in percent."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": more.pop("rotation", 0)}
    return {
        "id": "Dx_aB91ISN",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "value": {**value, "rectanglelabels": [label]},
    } | more


def ls_task(image: str, *annotations: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    answers = [{"id": i, "result": result, "was_cancelled": False} for i, result in enumerate(annotations)]
    return {"id": 7, "data": {"image": image}, "annotations": answers, "predictions": []} | more


# --- Label Studio ----------------------------------------------------------------------------------------------------


def test_label_studio_json(tmp_path: Path) -> None:
    tasks = [
        ls_task("/data/local-files/?d=photos/red%20a.jpg", [ls_region("apple", 10, 50, 20, 25)]),
        ls_task("/data/upload/3/0a1b2c3d-b.jpg", []),
        ls_task("s3://bucket/c.jpg"),  # nobody looked at it
    ]
    file = write(tmp_path / "project-1-at-2026.json", tasks)
    assert kind_of(file) == "label-studio"
    assert read(file) == {"photos/red a.jpg": [("apple", [8, 30, 24, 45])], "b.jpg": []}
    assert (read_boxes(file)["photos/red a.jpg"].width, read_boxes(file)["photos/red a.jpg"].height) == (80, 60)


def test_the_newest_annotation_that_was_not_skipped_counts(tmp_path: Path) -> None:
    old, new = [ls_region("apple", 0, 0, 50, 50)], [ls_region("pear", 0, 0, 100, 50)]
    answers = [
        {"result": new, "updated_at": "2026-11-02"},
        {"result": old, "updated_at": "2026-11-01"},
        {"result": [], "updated_at": "2026-11-03", "was_cancelled": True},
    ]
    file = write(tmp_path / "ls.json", [ls_task("a.jpg", annotations=answers)])
    assert read(file) == {"a.jpg": [("pear", [0, 0, 80, 30])]}


def test_a_turned_rectangle_becomes_the_box_around_it(tmp_path: Path) -> None:
    # 20 x 12 pixels at (40, 12), turned by 90 degrees about that corner: 12 to the left, 20 down
    file = write(tmp_path / "ls.json", [ls_task("a.jpg", [ls_region("apple", 50, 20, 25, 20, rotation=90)])])
    assert read(file) == {"a.jpg": [("apple", [28, 12, 40, 32])]}


def test_polygons_and_ellipses_become_boxes_and_masks_are_left_out(tmp_path: Path) -> None:
    size = {"original_width": 80, "original_height": 60}
    polygon = {"points": [[10, 10], [30, 20], [20, 50]], "polygonlabels": ["apple"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 0, "ellipselabels": ["pear"]}
    brush = {"rle": [0, 1], "brushlabels": ["plum"]}
    values = {"polygonlabels": polygon, "ellipselabels": ellipse, "brushlabels": brush}
    result = [{"type": kind, "value": value, **size} for kind, value in values.items()]
    file = write(tmp_path / "ls.json", [ls_task("a.jpg", result)])
    assert read(file) == {"a.jpg": [("apple", [8, 6, 24, 30]), ("pear", [20, 24, 60, 36])]}


def test_json_min(tmp_path: Path) -> None:
    region = {"x": 10, "y": 50, "width": 20, "height": 25, "rotation": 0, "rectanglelabels": ["apple"]}
    sizes = {"original_width": 80, "original_height": 60}
    task = {"image": "/data/upload/0a1b2c3d-a.jpg", "id": 1, "label": [{**region, **sizes}], "annotator": 1}
    assert read(write(tmp_path / "min.json", [task])) == {"a.jpg": [("apple", [8, 30, 24, 45])]}


def test_label_studio_coco(tmp_path: Path) -> None:
    """Its ids count from 0, names carry the mark of an upload, backslashes come from Windows."""
    images = [
        {"id": 0, "file_name": "images\\/0a1b2c3d-a.jpg", "width": 80, "height": 60},
        {"id": 1, "file_name": "images/0a1b2c3e-b.jpg", "width": 80, "height": 60},
    ]
    document = coco(images, [coco_object(0, 1, 0)], [{"id": 0, "name": "apple"}])
    file = write(tmp_path / "result.json", document | {"info": {"contributor": "Label Studio"}})
    assert read(file) == {"a.jpg": [], "b.jpg": [("apple", [10, 20, 30, 40])]}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"id": 4, "data": {}, "annotations": [{"result": []}]}], "task 4 has no image"),
        ([ls_task("a.jpg", [ls_region("apple", 0, 0, 9, 9) | {"original_width": None}])], "original_width"),
        ([ls_task("a.jpg", [ls_region("apple", 0, 0, 9, 9) | {"value": 3}])], "task 7 cannot be read"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}], "has no image in its data"),
        ([3], "no list of Label Studio's tasks"),
    ],
)
def test_broken_exports_of_label_studio_are_named(tmp_path: Path, tasks: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(write(tmp_path / "ls.json", tasks))


# --- CVAT ------------------------------------------------------------------------------------------------------------


def cvat_xml(*shapes: str) -> str:
    return (
        "<annotations><version>1.1</version><meta><task><name>fruit</name></task></meta>"
        f'<image id="5" name="sub/a.jpg" subset="default" task_id="3" width="80" height="60">{"".join(shapes)}</image>'
        '<image id="6" name="b.png" width="40" height="24"></image></annotations>'
    )


def test_cvat_xml(tmp_path: Path) -> None:
    box = 'label="apple" source="manual" occluded="0" z_order="0"'
    file = write(
        tmp_path / "annotations.xml",
        cvat_xml(
            f'<box {box} xtl="8.50" ytl="30" xbr="24" ybr="45"><attribute name="score">0.25</attribute></box>',
            f'<box {box} xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.00"></box>',
            f'<polygon {box} points="1,2;9,4;3,8"></polygon>',
            f'<mask {box} rle="3, 4" left="5" top="6" width="7" height="8"></mask>',
            f'<ellipse {box} cx="40" cy="30" rx="20" ry="10"></ellipse>',
            f'<polyline {box} points="1,2;9,4"></polyline>',
        ),
    )
    boxes = [[8.5, 30, 24, 45], [15, 5, 25, 25], [1, 2, 9, 8], [5, 6, 12, 14], [20, 20, 60, 40]]
    assert read(file) == {"sub/a.jpg": [("apple", box) for box in boxes], "b.png": []}
    assert read_boxes(file)["sub/a.jpg"].predictions[0].score == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation/>", "no export of images from CVAT"),
        ("<annotations><track/></annotations>", "CVAT for images 1.1"),
        ("<annotations>", "not XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "not XML"),
        (cvat_xml('<box label="apple" xtl="1"/>'), "a shape of 'sub/a.jpg'"),
    ],
)
def test_broken_exports_of_cvat_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(write(tmp_path / "annotations.xml", text))


def test_cvat_coco(tmp_path: Path) -> None:
    """An object that was drawn as a polygon may have no box."""
    polygon = {"id": 2, "image_id": 2, "category_id": 2, "segmentation": [[1, 2, 9, 4, 3, 8]], "bbox": []}
    file = write(tmp_path / "instances_default.json", coco(None, [coco_object(1, 1, 1), polygon]))
    assert read(file) == {"a.jpg": [("cat", [10, 20, 30, 40])], "b.jpg": [("dog", [1, 2, 9, 8])]}


def test_broken_coco_is_named(tmp_path: Path) -> None:
    for annotation, message in (
        ({"id": 3, "image_id": 1, "category_id": 9}, "category_id 9"),
        ({"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, "x", 3]}, "annotation 3"),
        ({"id": 3, "category_id": 1}, "no 'image_id'"),
    ):
        with pytest.raises(DataError, match=message):
            read_boxes(write(tmp_path / "a.json", coco(None, [annotation])))


# --- every kind ------------------------------------------------------------------------------------------------------

APPLE = ClassPrediction("apple", "apple", 0.5, (8, 4, 40, 30))
ITEMS = [Prediction("sub/a.jpg", 80, 60, predictions=(APPLE,)), Prediction("b.jpg", 40, 24)]


@pytest.mark.parametrize("name", [name for name, entry in EXPORTERS.items() if entry.filename])
def test_what_is_written_in_one_file_is_read_back(tmp_path: Path, name: str) -> None:
    file = tmp_path / EXPORTERS[name].filename
    EXPORTERS[name].build().write(file, ITEMS)
    found = read(file)
    assert found["sub/a.jpg"] == [("apple", [8, 4, 40, 30])]
    assert found["b.jpg"] == []
    assert read_boxes(file)["sub/a.jpg"].predictions[0].score == 0.5


def test_a_folder_of_voc_is_read_back(tmp_path: Path) -> None:
    EXPORTERS["voc"].build().write(tmp_path / "voc", ITEMS)
    found = read_boxes(tmp_path / "voc")
    assert {name: (one.width, one.height) for name, one in found.items()} == {"sub/a.jpg": (80, 60), "b.jpg": (40, 24)}
    assert found["sub/a.jpg"].predictions == (replace(APPLE, label_id=""),)
    assert found["b.jpg"].predictions == ()
    (tmp_path / "voc" / "b.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"b\.xml is not a valid annotation"):
        read_boxes(tmp_path / "voc")


@pytest.mark.parametrize("scores", [False, True])
def test_a_folder_of_yolo_is_read_back_where_sizes_are_known(tmp_path: Path, scores: bool) -> None:
    folder = tmp_path / "yolo"
    EXPORTERS["yolo"].build(scores=scores).write(folder, ITEMS)
    with pytest.raises(DataError, match=r"a\.txt has fractions of an image that is not there|b\.txt has fractions"):
        read_boxes(folder)
    told = {item.id: item for item in stored_boxes(folder, {"sub/a": (80, 60)}.get)}
    save_image(folder / "images" / "sub" / "a.jpg", 80, 60)
    save_image(folder / "images" / "b.jpg", 40, 24)
    found = read_boxes(folder)
    assert set(told) == {"sub/a"}  # b is somebody else's
    assert found["sub/a"].predictions == told["sub/a"].predictions
    assert found["sub/a"].predictions[0].box == pytest.approx((8, 4, 40, 30), abs=1e-4)
    assert (found["b"].width, found["b"].predictions) == (40, ())
    assert found["sub/a"].predictions[0].score == (0.5 if scores else 1)
    (folder / "labels" / "b.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"b\.txt: class 7, but .*classes\.txt names 0 to 0"):
        read_boxes(folder)


def test_unknown_files_list_what_is_known(tmp_path: Path) -> None:
    for file in (write(tmp_path / "a.json", {"x": 1}), write(tmp_path / "a.bin", b"")):
        with pytest.raises(DataError, match="no file of boxes") as error:
            read_boxes(file)
        assert all(entry.label in str(error.value) for entry in READERS.values())
    with pytest.raises(DataError, match="does not exist"):
        read_boxes(tmp_path / "none.json")


def decisions(*images: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 1, "review": "0123", "images": list(images)}


def decided(name: str, decision: str, *boxes: list[float], proposed: list[float] | None = None) -> dict[str, Any]:
    def shown(corners: list[float]) -> dict[str, Any]:
        return {"label": "pear", "label_id": "pear", "score": 1, "box": corners}

    about = {"image": f"in/{name}", "id": name, "width": 80, "height": 60, "decision": decision}
    return about | {"predictions": [*map(shown, boxes)], "proposed": [shown(proposed)] if proposed else []}


def test_decisions_leave_out_what_was_rejected(tmp_path: Path) -> None:
    document = decisions(
        decided("a.jpg", "corrected", [1, 2, 30, 40], proposed=[0, 0, 80, 60]), decided("b.jpg", "rejected")
    )
    file = write(tmp_path / "decisions.json", document)
    assert read(file) == {"a.jpg": [("pear", [1, 2, 30, 40])]}
    first, second = read_decisions(file)
    assert first.proposed.predictions[0].box == (0, 0, 80, 60)
    assert (second.decision, second.checked) == ("rejected", None)
    with pytest.raises(DataError, match="image 0: decision 'maybe' is not accepted, corrected or rejected"):
        read_boxes(write(file, decisions(decided("a.jpg", "maybe"))))


def test_checked_images_change_rejected_ones_go_and_the_others_stay(tmp_path: Path) -> None:
    document = decisions(
        decided("a.jpg", "accepted", [0, 0, 9, 9]), decided("c.jpg", "rejected"), decided("d.jpg", "rejected")
    )
    corrections = Corrections(write(tmp_path / "decisions.json", document))
    first, second = corrections.apply([*ITEMS, Prediction("c.jpg", 80, 60, predictions=(APPLE,))])
    assert [(one.label, one.box) for one in first.predictions] == [("pear", (0, 0, 9, 9))]
    assert (first.id, second) == ("sub/a.jpg", ITEMS[1])
    assert (corrections.applied, corrections.left_out, list(corrections.unknown)) == (1, 1, ["d.jpg"])


def test_checked_samples_have_the_checked_boxes_at_the_size_of_their_image(tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"{name}.png", 80, 60) for name in ("a", "b")]
    samples = [BoxedSample(path.name, path, (1,), size=(80, 60)) for path in paths]
    classes = (ClassName("pear", "1"), ClassName("apple", "2"))
    twice = Prediction("images/a.jpg", 160, 120, predictions=(ClassPrediction("apple", "apple", 1, (16, 8, 160, 120)),))
    file = tmp_path / "f.json"
    (sample,) = checked_samples(samples, classes, {"a": twice}, file)
    assert (sample.id, sample.labels, sample.box_labels.tolist()) == ("a.png", (1,), [1])
    assert sample.boxes.tolist() == [[8, 4, 80, 60]]
    with pytest.raises(DataError, match="none of these images"):
        checked_samples(samples, classes, {"c": twice}, file)
    with pytest.raises(DataError, match="shows 'apple'"):
        checked_samples(samples, classes[:1], {"a": twice}, file)


def test_boxes_turns_one_format_into_another(run_cli: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "ls.json", [ls_task("a.jpg", [ls_region("apple", 10, 50, 20, 25)])])
    result = run_cli("boxes", file)
    assert result.stdout.splitlines()[1] == "a.jpg,80,60,apple,,1.0,8.0,30.0,24.0,45.0,"


def test_boxes_puts_in_what_was_checked(run_cli: Run, tmp_path: Path) -> None:
    found = tmp_path / "found.jsonl"
    EXPORTERS["jsonl"].build().write(found, ITEMS)
    tasks = [ls_task("/data/local-files/?d=sub/a.jpg", [ls_region("pear", 10, 50, 20, 25)]), ls_task("x.jpg", [])]
    file = write(tmp_path / "ls.json", tasks)
    result = run_cli("boxes", found, "--apply", file)
    assert result.code == 0
    rows = result.stdout.splitlines()[1:]
    assert rows == ["sub/a.jpg,80,60,pear,,1.0,8.0,30.0,24.0,45.0,", "b.jpg,40,24,,,,,,,,"]
    assert f"as {file} has them: 1 image\n" in result.stderr
    assert f"not in the input: 1 image of {file}, such as 'x.jpg'" in result.stderr
    alone = run_cli("boxes", "--apply", write(file, tasks[:1]))
    assert alone.stdout.splitlines()[1:] == rows[:1]
    assert alone.stderr == ""
    assert run_cli("boxes").code == 2


def test_boxes_are_judged_by_those_that_a_person_checked(run_cli: Run, tmp_path: Path) -> None:
    """The data set says that every object fills the lower right; a person says otherwise of two images."""
    folder = tmp_path / "set"
    rows = ["image,label,split,x0,y0,x1,y1"]
    for name in "abcd":
        save_image(folder / f"{name}.png", 80, 60)
        rows.append(f"{name}.png,pear,val,40,30,80,60")
    write(folder / "manifest.csv", "\n".join(rows))
    found = tmp_path / "found.jsonl"
    upper_left = ClassPrediction("pear", "pear", 0.5, (0, 0, 40, 30))
    EXPORTERS["jsonl"].build().write(
        found, [Prediction(f"{name}.png", 80, 60, predictions=(upper_left,)) for name in "abcd"]
    )
    lines = [
        decided("a.png", "accepted", [0, 0, 40, 30]),
        decided("b.png", "corrected", [9, 9, 80, 60]),
        decided("c.png", "rejected"),
        decided("d.png", "corrected"),  # shows nothing: there is no class to judge
    ]
    file = write(tmp_path / "decisions.json", decisions(*lines))

    def judged(*more: object) -> tuple[str, int, float]:
        document = json.loads(run_cli("evaluate", found, "--dataset", folder, "--json", *more).stdout)
        return document["split"], document["n"], document["metrics"]["gt_known_error"]

    assert judged() == ("val", 4, 100)
    assert judged("--boxes", file) == ("val, boxes of decisions.json", 2, 50)


def test_a_detector_learns_from_checked_boxes_as_from_true_ones(tmp_path: Path) -> None:
    """What was not checked, and what was rejected, has no box to learn from."""
    folder = tmp_path / "set"
    for name in "abc":
        save_image(folder / "train" / "pear" / f"{name}.png", 80, 60)
    save_image(folder / "train" / "apple" / "d.png", 80, 60)
    lines = [
        decided("a.png", "corrected", [9, 9, 80, 60], [0, 0, 20, 20]),
        decided("b.png", "rejected", proposed=[0, 0, 9, 9]),
    ]
    file = write(tmp_path / "decisions.json", decisions(*lines))
    dataset = open_dataset(str(folder))
    samples = dataset.samples("train")
    found = TrainingBoxes(str(file))(dataset, samples, lambda _: None)
    by_name = {sample.path.stem: boxes for sample, boxes in zip(samples, found, strict=True)}
    assert by_name["a"].boxes.tolist() == [[9, 9, 80, 60], [0, 0, 20, 20]]
    assert by_name["a"].weights.tolist() == [1, 1]
    assert [len(by_name[name]) for name in "bcd"] == [0, 0, 0]
