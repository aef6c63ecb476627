"""YOLO trees: every usual form is read, the box is right, and what is missing or broken is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError
from tests.factories import boxes_by_id, save_image, write

Cli = Callable[..., Any]
CAT, DOG = "0 0.25 0.5 0.25 0.333333\n", "1 0.5 0.5 0.5 0.5\n"
CAT_BOX, DOG_BOX = [10, 20, 30, 40], [20, 15, 60, 45]
WHOLE = {"0.jpg": (["cat"], [CAT_BOX]), "1.jpg": (["cat", "dog"], [CAT_BOX, DOG_BOX])}
NAMES = "names: [cat, dog]\n"


def make_part(root: Path, images: str, labels: str) -> None:
    for name, text in (("0", CAT), ("1", CAT + DOG)):
        save_image(root / images / f"{name}.jpg")
        write(root / labels / f"{name}.txt", text)


def boxes(root: Path, split: str = "train") -> dict[str, tuple[list[str], list[list[float]]]]:
    """Return what is found, rounded to whole pixels: label files have six digits."""
    return {
        name: (labels, [[round(value) for value in box] for box in places])
        for name, (labels, places) in boxes_by_id(open_dataset(str(root)), split).items()
    }


FORMS = {
    "ultralytics": (
        [("images/train", "labels/train"), ("images/val", "labels/val")],
        {"data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"},
    ),
    "roboflow": (
        [("train/images", "train/labels"), ("valid/images", "valid/labels")],
        {"data.yaml": f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n{NAMES}"},
    ),
    "of another machine": (
        [("images/train", "labels/train"), ("images/val", "labels/val")],
        {"data.yaml": f"path: /content/set\ntrain: /content/set/images/train\nval: /content/set/images/val\n{NAMES}"},
    ),
    "names as a list of lines": (
        [("images/train", "labels/train"), ("images/val", "labels/val")],
        {"dataset.yaml": "train: images/train\nval: images/val\nnames:\n  - cat\n  - dog\n"},
    ),
    "any yaml": (
        [("images/train", "labels/train"), ("images/val", "labels/val")],
        {"pets.yml": f"train: images/train\nval: images/val\n{NAMES}", "other.yaml": "lr: 0.1\n"},
    ),
    "years": (
        [("images/train2017", "labels/train2017"), ("images/val2017", "labels/val2017")],
        {"data.yaml": f"train: images/train2017\nval: images/val2017\n{NAMES}"},
    ),
    "no paths": ([("images/train", "labels/train"), ("images/val", "labels/val")], {"data.yaml": NAMES}),
    "classes.txt": ([("images/train", "labels/train"), ("images/val", "labels/val")], {"classes.txt": "cat\ndog\n"}),
    "splits by folder, classes.txt": (
        [("train/images", "train/labels"), ("val/images", "val/labels")],
        {"classes.txt": "\ufeffcat\r\ndog\r\n"},
    ),
    "darknet, as CVAT writes it": (
        [("obj_train_data", "obj_train_data"), ("obj_validation_data", "obj_validation_data")],
        {"obj.names": "cat\ndog\n", "obj.data": "classes = 2\n", "train.txt": "data/obj_train_data/0.jpg\n"},
    ),
    "side by side": ([("train", "train"), ("valid", "valid")], {"train/_darknet.labels": "cat\ndog\n"}),
}


@pytest.mark.parametrize(("parts", "files"), FORMS.values(), ids=FORMS)
def test_every_form_is_read(tmp_path: Path, parts: list[tuple[str, str]], files: dict[str, str]) -> None:
    for images, labels in parts:
        make_part(tmp_path, images, labels)
    for name, text in files.items():
        write(tmp_path / name, text)
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert [(item.name, item.id) for item in dataset.classes] == [("cat", "cat"), ("dog", "dog")]
    assert dataset.multi_label
    assert boxes(tmp_path) == boxes(tmp_path, "val") == WHOLE


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), (".", "."), ("images", "images")])
@pytest.mark.parametrize("names", ["classes.txt", "labels/classes.txt", "data.yaml"])
def test_one_split(tmp_path: Path, images: str, labels: str, names: str) -> None:
    make_part(tmp_path, images, labels)
    write(tmp_path / names.replace("labels", labels), NAMES if names == "data.yaml" else "cat\ndog\n")
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train",)
    assert boxes(tmp_path) == WHOLE


def test_lists_of_images(tmp_path: Path) -> None:
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "train.txt", "./images/0.jpg\n")
    write(tmp_path / "lists" / "val.txt", "/content/set/images/1.jpg\nimages/0.jpg\n")
    write(tmp_path / "data.yaml", f"train: train.txt\nval: lists/val.txt\n{NAMES}")
    assert boxes(tmp_path) == {"images/0.jpg": WHOLE["0.jpg"]}
    assert boxes(tmp_path, "val") == {f"images/{name}": entry for name, entry in WHOLE.items()}
    write(tmp_path / "train.txt", "images/0.jpg\nimages/7.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt: there is no image images/7\.jpg"):
        open_dataset(str(tmp_path)).boxed_samples("train")


def test_the_yaml_itself_is_a_data_set(tmp_path: Path) -> None:
    make_part(tmp_path, "images/train", "labels/train")
    file = write(tmp_path / "data.yaml", f"train: images/train\n{NAMES}")
    assert boxes_by_id(open_dataset(str(file))) == boxes_by_id(open_dataset(str(tmp_path)))
    file.write_text(f"train: nowhere\n{NAMES}")
    (tmp_path / "images").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="names no folder of images"):
        open_dataset(str(file))


def test_polygons_count_by_their_box(tmp_path: Path) -> None:
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "labels" / "0.txt", "0 0.25 0.25 0.5 0.5 0.25 0.75\n1 0.1 0.1 0.9 0.1 0.9 0.5 0.1 0.5\n")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert boxes(tmp_path)["0.jpg"] == (["cat", "dog"], [[20, 15, 40, 45], [8, 6, 72, 30]])


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "0.jpg", 80, 60, orientation=6)
    write(tmp_path / "labels" / "0.txt", CAT)
    write(tmp_path / "classes.txt", "cat\n")
    assert boxes(tmp_path)["0.jpg"][1] == [[8, 27, 22, 53]]


def test_without_names_it_is_refused(tmp_path: Path, run_cli: Cli) -> None:
    for images, labels in (("images/train", "labels/train"), ("train/images", "train/labels"), ("images", "labels")):
        make_part(tmp_path / images / "x", images, labels)
        result = run_cli("data", "check", tmp_path / images / "x")
        assert result.code == 4
        assert "is a YOLO data set without class names. Add data.yaml" in result.stderr
    write(tmp_path / "images" / "x" / "data.yaml", "nc: 2\ntrain: images\n")
    assert "without class names" in run_cli("data", "check", tmp_path / "images" / "x").stderr


def test_a_description_without_labels_is_refused(tmp_path: Path, run_cli: Cli) -> None:
    save_image(tmp_path / "images" / "train" / "0.jpg")
    write(tmp_path / "data.yaml", f"train: images/train\n{NAMES}")
    result = run_cli("data", "check", tmp_path)
    assert result.code == 4
    assert "data.yaml describes a YOLO data set, but there is no label file" in result.stderr


def test_our_own_export_is_read_back(tmp_path: Path, run_cli: Cli) -> None:
    save_image(tmp_path / "images" / "0.jpg")
    prediction = {"label": "cat", "label_id": "cat", "score": 0.9, "box": [10, 20, 30, 40], "map": None}
    line = {"schema_version": 1, "image": "0.jpg", "width": 80, "height": 60, "model": "m", "scales": [32]}
    write(tmp_path / "predictions.jsonl", json.dumps({**line, "predictions": [prediction], "error": None}) + "\n")
    exported = run_cli("boxes", tmp_path / "predictions.jsonl", "--format", "yolo", "--out", tmp_path / "yolo")
    assert exported.code == 0, exported.stderr
    (tmp_path / "images").rename(tmp_path / "yolo" / "images")
    assert boxes(tmp_path / "yolo") == {"0.jpg": (["cat"], [CAT_BOX])}
    (line,) = open_dataset(str(tmp_path / "yolo")).warnings()
    assert "val and train are the same images" in line


def test_other_texts_do_not_matter(tmp_path: Path) -> None:
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "data.yaml", NAMES)
    write(tmp_path / "labels" / "about.txt", "Katze, H\u00f6hle", "latin-1")
    write(tmp_path / "labels" / "notes.txt", "drawn by me")
    dataset = open_dataset(str(tmp_path))
    assert list(boxes_by_id(dataset)) == ["0.jpg", "1.jpg"]
    assert dataset.warnings() == []


BROKEN_YAML = {
    "no YAML": ("names: [cat, dog\n", "is not valid YAML"),
    "no names": ("train: images\nnames: []\n", "has no class names"),
    "text": ("train: images\nnames: cat\n", "has no class names"),
    "a name that is none": ("train: images\nnames: [cat, ]\n", None),
    "null name": ("train: images\nnames: {0: cat, 1: }\n", "class 1 has no name"),
    "words as numbers": ("train: images\nnames: {cat: 0}\n", "key 'cat'"),
    "train is not there": ("train: photos\nval: images\nnames: [cat, dog]\n", "there is no train: photos"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN_YAML.values(), ids=BROKEN_YAML)
def test_a_broken_description_is_named(tmp_path: Path, text: str, words: str | None, run_cli: Cli) -> None:
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "labels" / "1.txt", CAT)
    write(tmp_path / "data.yaml", text)
    result = run_cli("data", "check", tmp_path)
    assert result.code == (4 if words else 0)
    assert (words or "") in result.stderr
    assert ("data.yaml" in result.stderr) == bool(words)


def test_names_stay_text(tmp_path: Path) -> None:
    """YAML would make no, on and 007 of these something else."""
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "labels" / "1.txt", DOG + "2 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "data.yaml", "names: [no, on, 007]\n")
    assert [item.name for item in open_dataset(str(tmp_path)).classes] == ["no", "on", "007"]


BROKEN_LINES = {
    "class out of range": ("7 0.5 0.5 0.2 0.2", "class 7, but", False),
    "negative class": ("-1 0.5 0.5 0.2 0.2", "class -1, but", False),
    "class by name": ("cat 0.5 0.5 0.2 0.2", "class cat, but", False),
    "pixels": ("1 40 30 20 10", "40 is no fraction", True),
    "four values": ("1 0.5 0.5 0.2", "4 values", True),
    "a score": ("1 0.5 0.5 0.2 0.2 0.9", "6 values", True),
    "a word": ("1 0.5 0.5 0.2 wide", "could not convert", True),
    "not a number": ("1 0.5 0.5 0.2 nan", "nan is no fraction", True),
}


@pytest.mark.parametrize(("line", "words", "label"), BROKEN_LINES.values(), ids=BROKEN_LINES)
def test_a_broken_line_is_named_and_costs_nothing_else(
    tmp_path: Path, line: str, words: str, label: bool, run_cli: Cli
) -> None:
    make_part(tmp_path, "images", "labels")
    write(tmp_path / "labels" / "0.txt", f"{CAT}{line}\n")
    write(tmp_path / "data.yaml", NAMES)
    with pytest.raises(DataError, match=rf"labels/0\.txt, line 2: {words}"):
        open_dataset(str(tmp_path)).boxed_samples("train")
    result = run_cli("data", "check", tmp_path, "--json")
    document = json.loads(result.stdout)
    assert result.code == 4
    assert len(document["broken"]) == 1
    assert [(item["images"]["train"], item["boxes"]["train"]) for item in document["classes"]] == [
        (2, 2),
        (1 + label, 1),
    ]


def test_what_is_left_out_is_said(tmp_path: Path, run_cli: Cli) -> None:
    make_part(tmp_path, "images", "labels")
    for name in ("bare", "empty"):
        save_image(tmp_path / "images" / f"{name}.jpg")
    write(tmp_path / "labels" / "empty.txt", "\n")
    write(tmp_path / "labels" / "orphan.txt", CAT)
    write(tmp_path / "data.yaml", "names: [cat, dog, owl, fox]\ntest: ../test/images\n")
    document = json.loads(run_cli("data", "check", tmp_path, "--json").stdout)
    assert document["broken"] == []
    assert [item["name"] for item in document["classes"]] == ["cat", "dog"]
    assert document["splits"][0]["images_without_label"] == 2
    told = "\n".join(document["warnings"])
    for words in ("1 of 4 images of split 'train' have no label file", "bare.jpg", "orphan.txt has no image"):
        assert words in told
    assert "2 of 4 names are on no image and are left out: owl, fox" in told


def test_two_images_of_one_label_file_are_an_error(tmp_path: Path) -> None:
    make_part(tmp_path, "images", "labels")
    save_image(tmp_path / "images" / "0.png")
    write(tmp_path / "data.yaml", NAMES)
    with pytest.raises(DataError, match=r"0\.txt may be about 0\.jpg or 0\.png"):
        open_dataset(str(tmp_path)).boxed_samples("train")


def test_names_of_files_in_either_unicode_form(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "cafe\u0301.jpg")
    write(tmp_path / "labels" / "caf\u00e9.txt", CAT)
    write(tmp_path / "classes.txt", "cat\n")
    assert [labels for labels, _ in boxes(tmp_path).values()] == [["cat"]]


def test_a_folder_called_images_above_the_data_set(tmp_path: Path) -> None:
    make_part(tmp_path / "images" / "set", ".", ".")
    write(tmp_path / "images" / "set" / "classes.txt", "cat\ndog\n")
    assert boxes(tmp_path / "images" / "set") == WHOLE


def test_train_and_evaluate_read_it(tmp_path: Path, run_cli: Cli) -> None:
    for split in ("train", "val"):
        make_part(tmp_path / "set", f"images/{split}", f"labels/{split}")
    write(tmp_path / "set" / "data.yaml", f"train: images/train\nval: images/val\n{NAMES}")
    options = ["--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--iterations", 1, "--batch-size", 2]
    options += ["--device", "cpu", "--workers", 0, "--val-fraction", 0, "--set", "keep=last"]
    trained = run_cli("train", tmp_path / "set", *options, "--out", tmp_path / "run")
    assert trained.code == 0, trained.stderr
    judged = run_cli("evaluate", tmp_path / "run", "--json", "--device", "cpu")
    assert judged.code == 0, judged.stderr
    document = json.loads(judged.stdout)
    assert (document["split"], document["n"]) == ("val", 2)
    assert {row["class"] if "class" in row else row.get("name") for row in document["per_class"]} >= {"cat", "dog"}
