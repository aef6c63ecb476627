"""Files of boxes, lists and recipes as other programs leave them: sorted, doubled, with byte order marks."""

from __future__ import annotations

import codecs
import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl.config import read_recipe
from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate import GroundTruth
from gwapctl.files import read_json, read_text
from gwapctl.formats import EXPORTERS
from gwapctl.formats.destination import read_class_list
from gwapctl.inputs import find_inputs
from gwapctl.predict.prediction import ClassPrediction, Prediction, PredictionError, merge
from gwapctl.predict.predictions import finished_ids, read_predictions
from tests.judging import evaluate_boxes

WIDTH, HEIGHT = 40, 30
CAT, DOG, WRONG = (4, 6, 16, 20), (22, 8, 36, 28), (0, 0, 3, 2)
HEADER = "image,width,height,label,label_id,score,x0,y0,x1,y1"
MARKED = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def encoded(text: str, encoding: str) -> bytes:
    """Return ``text`` with the byte order mark that Windows programs put before it in ``encoding``."""
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    return mark + text.replace("\n", "\r\n").encode(encoding)


@pytest.fixture
def ground(tmp_path: Path) -> GroundTruth:
    """Return a COCO data set: a.png shows a cat and a dog, sub/b.png a dog."""
    folder = tmp_path / "set"
    for name in ("a.png", "sub/b.png"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    objects = [(1, 1, CAT), (1, 2, DOG), (2, 2, DOG)]
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(("a.png", "sub/b.png"), start=1)],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for place, (image, category, (x0, y0, x1, y1)) in enumerate(objects, start=1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "val.json").write_text(json.dumps(document))
    dataset = open_dataset(str(folder))
    return GroundTruth(dataset, "val", dataset.boxed_samples("val"))


ROWS = [
    ("a.png", "cat", 0.9, CAT),
    ("a.png", "cat", 0.2, WRONG),
    ("a.png", "dog", 0.8, DOG),
    ("sub/b.png", "dog", 0.7, DOG),
    ("sub/b.png", "dog", 0.4, WRONG),
]


def as_csv(rows: list) -> str:
    lines = [f"{image},{WIDTH},{HEIGHT},{name},{name},{c},{','.join(map(str, box))}" for image, name, c, box in rows]
    return "\n".join([HEADER, *lines]) + "\n"


def as_jsonl(rows: list) -> str:
    """Return a line per box: images stand in several lines."""
    documents = [
        Prediction(image, WIDTH, HEIGHT, predictions=(ClassPrediction(name, name, score, box),)).to_json()
        for image, name, score, box in rows
    ]
    return "".join(json.dumps(document) + "\n" for document in documents)


WRITERS: dict[str, Callable[[list], str]] = {"csv": as_csv, "jsonl": as_jsonl}


# ------------------------------------------------------------------------------------------------------- silent loss


@pytest.mark.parametrize("suffix", WRITERS)
def test_rows_of_an_image_may_stand_apart(tmp_path: Path, ground: GroundTruth, suffix: str) -> None:
    file = tmp_path / f"boxes.{suffix}"
    file.write_text(WRITERS[suffix](ROWS))
    expected = evaluate_boxes(file, ground).metrics
    assert expected["cor_loc"] == 100
    for seed in range(3):
        file.write_text(WRITERS[suffix](random.Random(seed).sample(ROWS, len(ROWS))))
        assert evaluate_boxes(file, ground).metrics == pytest.approx(expected)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_box_listed_twice_counts_once_and_is_noticed(tmp_path: Path, ground: GroundTruth, suffix: str) -> None:
    once, twice = tmp_path / f"once.{suffix}", tmp_path / f"twice.{suffix}"
    once.write_text(WRITERS[suffix](ROWS))
    twice.write_text(WRITERS[suffix](ROWS + ROWS[1:3]))
    first, second = evaluate_boxes(once, ground), evaluate_boxes(twice, ground)
    assert second.metrics == pytest.approx(first.metrics)
    assert not any("twice" in note for note in first.notes)
    assert any(f"twice.{suffix} has 2 predictions twice" in note for note in second.notes)


def test_sizes_that_differ_are_named(tmp_path: Path, ground: GroundTruth) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(as_csv(ROWS) + f"a.png,{WIDTH + 1},{HEIGHT},cat,cat,0.1,1,1,9,9\n")
    with pytest.raises(DataError, match=r"boxes\.csv says of a\.png that it is 40 x 30 and 41 x 30"):
        evaluate_boxes(file, ground)


def test_a_size_may_be_missing_or_a_decimal(tmp_path: Path, ground: GroundTruth) -> None:
    file = tmp_path / "boxes.csv"
    text = as_csv(ROWS).replace(f",{WIDTH},{HEIGHT},cat", ",,,cat").replace(f",{WIDTH},{HEIGHT},dog", ",40.0,30.0,dog")
    file.write_text(text)
    assert evaluate_boxes(file, ground).metrics["cor_loc"] == 100


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,40,30,cat", "line 7: the row has not as many cells"),
        ("a.png,40,30,cat,cat,1,4,6,16,20,extra", "line 7: the row has not as many cells"),
        ("a.png,40,30,,,1,4,6,16,20", "line 7: there is a box, but no label"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, ground: GroundTruth, row: str, message: str) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text(as_csv(ROWS) + row + "\n")
    with pytest.raises(DataError, match=rf"boxes\.csv, {message}"):
        evaluate_boxes(file, ground)


def test_of_two_images_that_fit_the_nearer_one_counts(tmp_path: Path, ground: GroundTruth) -> None:
    def file_of(*names: str) -> Path:
        rows = [("a.png", "cat", 0.9, CAT), ("a.png", "dog", 0.9, DOG)]
        rows += [(name, "dog", 0.9, DOG if name.startswith("images") else WRONG) for name in names]
        file = tmp_path / "boxes.csv"
        file.write_text(as_csv(rows))
        return file

    both = ("old/sub/b.png", "images/sub/b.png")
    for names in (both, both[::-1]):
        assert evaluate_boxes(file_of(*names), ground).metrics["cor_loc"] == 100
    assert evaluate_boxes(file_of("images/sub/b.png", "sub/b.png"), ground).metrics["cor_loc"] < 100  # its very id
    with pytest.raises(DataError, match=r"boxes\.csv has 'x/sub/b.png' and 'y/sub/b.png', and both fit .*sub/b\.png"):
        evaluate_boxes(file_of("x/sub/b.png", "y/sub/b.png"), ground)


def test_what_worked_in_the_end_counts() -> None:
    good = Prediction("a.png", 4, 3, predictions=(ClassPrediction("cat", "cat", 1.0),))
    bad = Prediction("a.png", 0, 0, error=PredictionError("DataError", "a.png is empty"))
    assert merge([bad, good], "f") == merge([good, bad], "f") == good
    assert merge([bad, bad], "f") == bad


def test_an_image_in_two_lines_is_one_in_every_export(tmp_path: Path, run_cli: Callable) -> None:
    file = tmp_path / "pred.jsonl"
    file.write_text(as_jsonl([ROWS[0], ROWS[3], ROWS[2], ROWS[2]]))
    result = run_cli("boxes", file, "--format", "yolo", "--out", tmp_path / "yolo")
    assert result.code == 0
    assert "2 images stand in the input again" in result.stderr
    assert "boxes of 2 images in" in result.stderr
    assert len((tmp_path / "yolo" / "labels" / "a.txt").read_text().splitlines()) == 2
    document = json.loads(run_cli("boxes", file, "--format", "coco").stdout)
    assert [image["file_name"] for image in document["images"]] == ["a.png", "sub/b.png"]
    assert [item["image_id"] for item in document["annotations"]] == [1, 1, 2]


# ------------------------------------------------------------------------------------------------- byte order marks


@pytest.mark.parametrize("encoding", MARKED)
def test_every_text_file_of_a_user_may_have_a_mark(tmp_path: Path, ground: GroundTruth, encoding: str) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(encoded(text, encoding))
        return tmp_path / name

    assert read_class_list(write("classes.txt", "café\n\n cat \n")) == ["café", "cat"]
    assert evaluate_boxes(write("boxes.csv", as_csv(ROWS)), ground).metrics["cor_loc"] == 100
    assert evaluate_boxes(write("boxes.jsonl", as_jsonl(ROWS)), ground).metrics["cor_loc"] == 100
    images = {"schema_version": 1, "images": [json.loads(line) for line in as_jsonl(ROWS).splitlines()]}
    assert len(list(read_predictions(write("boxes.json", json.dumps(images))))) == len(ROWS)
    assert read_json(write("a.json", '{"é": 1}')) == {"é": 1}
    assert read_recipe(write("recipe.toml", 'head = "gwap"\nepochs = 3\n')) == {"head": "gwap", "epochs": 3}
    found = find_inputs([str(write("list.txt", "set/images/a.png\nset/images/sub/b.png\n"))])
    assert [item.id for item in found] == ["a.png", "sub/b.png"]


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("café\n".encode("latin-1"))
    for read in (read_class_list, read_text, read_recipe):
        with pytest.raises(DataError, match=r"classes\.txt is not UTF-8 text: .*Save it as UTF-8"):
            read(file)


def test_a_file_with_zero_bytes_is_named(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("cat\n".encode("utf-16-le"))  # and no mark
    for read in (read_class_list, read_json, read_recipe):
        with pytest.raises(DataError, match=r"classes\.txt holds zero bytes: .*Save it as UTF-8"):
            read(file)


def test_resuming_reads_a_file_that_an_editor_marked(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(codecs.BOM_UTF8 + as_jsonl(ROWS[:1]).encode())
    assert finished_ids(file) == {"a.png"}


def test_the_command_line_reads_marked_files(tmp_path: Path, ground: GroundTruth, run_cli: Callable) -> None:
    (tmp_path / "classes.txt").write_bytes(codecs.BOM_UTF8 + b"dog\r\ncat\r\n")
    (tmp_path / "pred.jsonl").write_bytes(codecs.BOM_UTF8 + as_jsonl(ROWS).encode())
    result = run_cli("boxes", tmp_path / "pred.jsonl", "--format", "coco", "--classes", tmp_path / "classes.txt")
    assert result.code == 0
    assert [item["name"] for item in json.loads(result.stdout)["categories"]] == ["dog", "cat"]
    (tmp_path / "boxes.csv").write_bytes(codecs.BOM_UTF8 + as_csv(ROWS).encode())
    assert run_cli("evaluate", tmp_path / "boxes.csv", "--dataset", ground.dataset.root).code == 0


# ----------------------------------------------------------------------------------------------------------- exports


def test_a_list_of_classes_is_named_when_it_does_not_do(tmp_path: Path) -> None:
    item = Prediction("a.png", 9, 7, predictions=(ClassPrediction("cat", "1", 1.0, (1, 1, 4, 5)),))
    file = tmp_path / "classes.txt"
    for text, message in (("dog\n", r"class 'cat' \(id '1'\) is not in the list of classes .*classes\.txt"),
                          ("cat\ncat\n", r"list of classes .*classes\.txt names a class twice: 'cat'")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            EXPORTERS["yolo"].build().write(tmp_path / "yolo", [item], read_class_list(file))
    assert not (tmp_path / "yolo").exists()


def test_data_yaml_is_found_from_any_folder(tmp_path: Path) -> None:
    item = Prediction("a.png", 9, 7, predictions=(ClassPrediction("cat", "1", 1.0, (1, 1, 4, 5)),))
    EXPORTERS["yolo"].build().write(tmp_path, [item])
    lines = (tmp_path / "data.yaml").read_text().splitlines()
    assert lines == ["train: images", "val: images", "nc: 1", "names:", '  0: "cat"']  # no path: the YAML's own folder


@pytest.mark.parametrize("name", ["yolo", "voc"])
@pytest.mark.parametrize("suffix", ["png", "JFIF", "heic", "webp"])
def test_images_that_would_share_a_label_file_are_refused(tmp_path: Path, name: str, suffix: str) -> None:
    items = [Prediction(image, 9, 7) for image in ("s/a.jpg", f"s/a.{suffix}")]
    with pytest.raises(UsageError, match=rf"'s/a.jpg' and 's/a.{suffix}' would share the annotation 's/a'"):
        EXPORTERS[name].build().write(tmp_path / "out", items)
    assert not (tmp_path / "out").exists()
