"""Looking at a folder: what it is must be true, or it is refused by naming what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError
from tests.factories import boxes_by_id, save_image, write

Cli = Callable[..., Any]


def make_classes(root: Path, *folders: str, count: int = 2) -> Path:
    for folder in folders:
        for number in range(count):
            save_image(root / folder / f"{number}.jpg")
    return root


def classes(root: Path) -> list[str]:
    return [item.name for item in open_dataset(str(root)).classes]


WRAPPED = [
    ("archive/cat", "archive/dog"),
    ("archive/data/cat", "archive/data/dog"),
    ("archive/train/cat", "archive/train/dog"),
    ("train/train/cat", "train/train/dog"),
    ("images/cat", "images/dog"),
]


@pytest.mark.parametrize("folders", WRAPPED, ids=" ".join)
def test_class_folders_one_level_too_deep(tmp_path: Path, folders: tuple[str, ...]) -> None:
    write(make_classes(tmp_path, *folders) / "readme.md", "what this is")
    (tmp_path / "__MACOSX").mkdir()
    dataset = open_dataset(str(tmp_path))
    assert [item.name for item in dataset.classes] == ["cat", "dog"]
    assert len(dataset.boxed_samples("train")) == 4
    assert any("holds just the folder" in text for text in dataset.warnings())


def test_any_layout_may_be_wrapped(tmp_path: Path) -> None:
    save_image(tmp_path / "archive" / "images" / "a.jpg")
    write(tmp_path / "archive" / "list.csv", "image,label\nimages/a.jpg,cat\n")
    assert boxes_by_id(open_dataset(str(tmp_path))) == {"images/a.jpg": (["cat"], [])}


@pytest.mark.parametrize("folders", [("train", "car"), ("val", "train", "bus"), ("images", "cat"), ("labels", "cat")])
def test_a_class_may_be_called_like_a_part(tmp_path: Path, folders: tuple[str, ...]) -> None:
    assert classes(make_classes(tmp_path / "flat", *folders)) == sorted(folders)
    split = make_classes(tmp_path / "split", *(f"{split}/{name}" for split in ("train", "val") for name in folders))
    assert classes(split) == sorted(folders)
    assert open_dataset(str(split)).splits() == ("train", "val")


@pytest.mark.parametrize(
    "folders", [("images",), ("images", "labels"), ("images", "masks"), ("train", "val"), ("data",)]
)
def test_parts_alone_are_no_classes(tmp_path: Path, folders: tuple[str, ...], run_cli: Cli) -> None:
    result = run_cli("data", "check", make_classes(tmp_path, *folders))
    assert result.code == 4
    assert "no data set that we recognise" in result.stderr
    assert folders[0] in result.stderr.split("It has images in")[1]
    nested = run_cli("data", "check", make_classes(tmp_path / "set", *(f"train/{name}" for name in folders)))
    assert nested.code == 4


def test_a_lone_class_warns(tmp_path: Path, run_cli: Cli) -> None:
    root = make_classes(tmp_path / "set", "cat", count=4)
    document = json.loads(run_cli("data", "check", root, "--json").stdout)
    assert any("shows the one class 'cat'" in text for text in document["warnings"])
    options = ["--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--iterations", 1, "--batch-size", 2]
    options += ["--device", "cpu", "--workers", 0, "--val-fraction", 0, "--set", "keep=last"]
    trained = run_cli("train", root, *options, "--out", tmp_path / "run")
    assert trained.code == 0
    assert "warning: every image of split 'train'" in trained.stderr
    assert "learns nothing" in trained.stderr


def test_what_is_no_split_is_left_out_with_a_warning(tmp_path: Path) -> None:
    root = make_classes(tmp_path, "train/cat", "train/dog", "test", "more/cat")
    (line, other) = open_dataset(str(root)).warnings()
    assert "more has 2 images but is no split" in line
    assert "test has 2 images but is no split" in other


def test_two_folders_of_one_split_are_an_error(tmp_path: Path) -> None:
    root = make_classes(tmp_path, "train/cat", "train/dog", "val/cat", "validation/dog")
    with pytest.raises(DataError, match="are both split 'val'"):
        open_dataset(str(root))


SWAPPED = {
    "splits": (("cat/train", "cat/val", "dog/train", "dog/val"), "cat, dog hold folders called train, val"),
    "classes": (("one/cat", "one/dog", "two/cat", "two/dog"), "one, two are taken for classes, but all of them hold"),
    "neither": (("n01/images", "n02/images"), ""),
}


@pytest.mark.parametrize(("folders", "words"), SWAPPED.values(), ids=SWAPPED)
def test_levels_that_may_be_swapped_are_said(tmp_path: Path, folders: tuple[str, ...], words: str) -> None:
    dataset = open_dataset(str(make_classes(tmp_path, *folders)))
    assert [item.name for item in dataset.classes] == sorted({name.split("/")[0] for name in folders})
    assert [text for text in dataset.warnings() if words in text] == dataset.warnings()
    assert len(dataset.warnings()) == bool(words)


def test_a_link_to_the_folder_itself_ends(tmp_path: Path) -> None:
    root = make_classes(tmp_path, "cat", "dog")
    (root / "dog" / "again").symlink_to(root)
    assert classes(root) == ["cat", "dog"]


def test_a_folder_of_annotations_is_not_called_an_empty_class(tmp_path: Path) -> None:
    root = make_classes(tmp_path, "cat", "dog")
    write(root / "marks" / "0.txt", "something")
    with pytest.raises(DataError, match=r"marks has no image but other files, such as 0\.txt"):
        open_dataset(str(root)).boxed_samples("train")


def test_class_folders_in_either_unicode_form(tmp_path: Path) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    root = make_classes(tmp_path / "splits", f"train/{nfc}", "train/dog", f"val/{nfd}", "val/dog")
    dataset = open_dataset(str(root))
    assert [item.name for item in dataset.classes] == [nfc, "dog"]
    assert [sample.labels for sample in dataset.boxed_samples("val")] == [(0,), (0,), (1,), (1,)]
    both = open_dataset(str(make_classes(tmp_path / "one", nfc, nfd, "dog")))
    assert [item.name for item in both.classes] == [nfc, "dog"]
    assert len(boxes_by_id(both)) == 6


# ----------------------------------------------------------------------------------------------------------- and a CSV


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_classes(tmp_path, "images")


READ = {
    "synonyms": ("list.csv", "filename,class\nimages/0.jpg,cat\nimages/1.jpg,dog\n", "utf-8"),
    "capitals": ("list.csv", "File_Name;Category\nimages/0.jpg;cat\nimages/1.jpg;dog\n", "utf-8"),
    "names alone": ("list.csv", "image,label\n0.jpg,cat\n1.jpg,dog\n", "utf-8"),
    "UTF-16": ("list.csv", "image,label\nimages/0.jpg,cat\nimages/1.jpg,dog\n", "utf-16"),
    "UTF-16 big end": ("list.csv", "\ufeffimage,label\nimages/0.jpg,cat\nimages/1.jpg,dog\n", "utf-16-be"),
    "UTF-8 with mark": ("list.csv", "image,label\nimages/0.jpg,cat\nimages/1.jpg,dog\n", "utf-8-sig"),
    "tabs": ("list.tsv", "image\tlabel\nimages/0.jpg\tcat\nimages/1.jpg\tdog\n", "utf-8"),
}


@pytest.mark.parametrize(("name", "text", "encoding"), READ.values(), ids=READ)
def test_tables_that_are_clear_are_read(photos: Path, name: str, text: str, encoding: str) -> None:
    write(photos / name, text, encoding)
    assert boxes_by_id(open_dataset(str(photos))) == {"images/0.jpg": (["cat"], []), "images/1.jpg": (["dog"], [])}


def test_one_table_per_split(photos: Path) -> None:
    write(photos / "train.csv", "image,label\nimages/0.jpg,cat\n")
    write(photos / "val_labels.csv", "filename,class\nimages/1.jpg,dog\n")
    write(photos / "sizes.csv", "name,kb\n0,12\n")
    dataset = open_dataset(str(photos))
    assert dataset.splits() == ("train", "val")
    assert [item.name for item in dataset.classes] == ["cat", "dog"]
    assert list(boxes_by_id(dataset)) == ["images/0.jpg"]
    assert list(boxes_by_id(dataset, "val")) == ["images/1.jpg"]


REFUSED = {
    "no label": ("id,image\n1,images/0.jpg\n", "list.csv has no column 'label'"),
    "one column per class": ("image_id,cat,dog\n0,1,0\n", "list.csv has no column 'image' and 'label'"),
    "empty": ("", "its first line is: empty"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_tables_that_are_not_are_named(photos: Path, text: str, words: str, run_cli: Cli) -> None:
    write(photos / "list.csv", text)
    for arguments in (["data", "check", photos], ["train", photos, "--weights", "none", "--out", photos / "run"]):
        result = run_cli(*arguments)
        assert result.code == 4
        assert words in result.stderr
        assert "Name its columns image,label" in result.stderr


def test_one_table_in_the_folder_of_each_split(tmp_path: Path) -> None:
    """Roboflow's CSV."""
    for split, name in (("train", "cat"), ("valid", "dog")):
        save_image(tmp_path / split / "a.jpg")
        text = f"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,80,60,{name},1,2,30,40\n"
        write(tmp_path / split / "_annotations.csv", text)
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert boxes_by_id(dataset) == {"train/a.jpg": (["cat"], [[1, 2, 30, 40]])}
    assert boxes_by_id(dataset, "val") == {"valid/a.jpg": (["dog"], [[1, 2, 30, 40]])}


def test_several_tables_that_may_be_meant_are_named(photos: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(photos / name, "image,label\nimages/0.jpg,cat\n")
    with pytest.raises(DataError, match=re.escape("has several manifests: a.csv, b.csv")):
        open_dataset(str(photos))


def test_a_table_beside_class_folders_is_mentioned(tmp_path: Path) -> None:
    root = make_classes(tmp_path, "cat", "dog")
    write(root / "sizes.csv", "name,kb\n0,12\n")
    dataset = open_dataset(str(root))
    assert [item.name for item in dataset.classes] == ["cat", "dog"]
    (line,) = dataset.warnings()
    assert "sizes.csv has no column 'image' and 'label'" in line
