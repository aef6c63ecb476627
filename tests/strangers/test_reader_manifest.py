"""CSV manifests of strangers: rows of an image find together, and one broken row costs no other."""

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
HEADER = "image,label,x0,y0,x1,y1\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in "ab":
        save_image(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def test_rows_of_an_image_find_together(photos: Path) -> None:
    """Apart, spelled otherwise, and repeated."""
    rows = "images/a.jpg,cat,10,20,30,40\nimages/b.jpg,dog,1,2,3,4\n./images/a.jpg,dog,5,5,9,9\n"
    rows += "images\\a.jpg,cat,10,20,30,40\na.jpg,cat,50,20,60,40\n"
    dataset = open_dataset(str(write(photos / "list.csv", HEADER + rows)))
    assert boxes_by_id(dataset) == {
        "images/a.jpg": (["cat", "dog"], [[10, 20, 30, 40], [5, 5, 9, 9], [50, 20, 60, 40]]),
        "images/b.jpg": (["dog"], [[1, 2, 3, 4]]),
    }
    (line,) = dataset.warnings()
    assert "images/a.jpg has 1 rows that repeat another" in line


BROKEN_ROWS = {
    "a word": ("images/b.jpg,dog,1,2,three,4", "could not convert", 1),
    "half a box": ("images/b.jpg,dog,1,2,,4", "needs all of x0", 1),
    "too many cells": ("images/b.jpg,dog,1,2,3,4,5", "more cells than the header", 0),
    "no image": (",dog,1,2,3,4", "'image' is empty", 0),
    "gone": ("images/c.jpg,dog,1,2,3,4", "there is no image", 0),
}


@pytest.mark.parametrize(("row", "words", "images"), BROKEN_ROWS.values(), ids=BROKEN_ROWS)
def test_a_broken_row_is_named_and_costs_nothing_else(
    photos: Path, row: str, words: str, images: int, run_cli: Cli
) -> None:
    good = "images/a.jpg,cat,10,20,30,40\nimages/b.jpg,cat,10,20,30,40\nimages/b.jpg,dog,,,,\n"
    file = write(photos / "list.csv", f"{HEADER}{good}{row}\n")
    with pytest.raises(DataError, match=f"list.csv.*{words}"):
        open_dataset(str(file)).boxed_samples("train")
    result = run_cli("data", "check", file, "--json")
    document = json.loads(result.stdout)
    assert result.code == 4
    assert len(document["broken"]) == 1
    assert images in (0, 1)
    assert [(item["images"]["train"], item["boxes"]["train"]) for item in document["classes"]] == [(2, 2), (1, 0)]


@pytest.mark.parametrize(("listed", "on_disk"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_names_in_either_unicode_form(tmp_path: Path, listed: str, on_disk: str) -> None:
    save_image(tmp_path / "images" / on_disk / f"{on_disk}.jpg")
    rows = f"images/{listed}/{listed}.jpg,{listed}\nimages/{on_disk}/{on_disk}.jpg,{on_disk}\n"
    dataset = open_dataset(str(write(tmp_path / "list.csv", f"image,label\n{rows}")))
    (sample,) = dataset.boxed_samples("train")
    assert sample.path.is_file()
    assert [item.name for item in dataset.classes] == ["caf\u00e9"]
    assert not dataset.multi_label


def test_a_split_by_its_usual_names(photos: Path) -> None:
    rows = "image,label,split\nimages/a.jpg,cat,Training\nimages/b.jpg,dog,valid\n"
    assert open_dataset(str(write(photos / "list.csv", rows))).splits() == ("train", "val")
    alone = open_dataset(str(write(photos / "test.csv", "image,label\nimages/a.jpg,cat\n")))
    assert alone.splits() == ("test",)


def test_text_in_another_encoding_is_named(photos: Path) -> None:
    file = write(photos / "list.csv", "image,label\nimages/a.jpg,caf\u00e9\n", "latin-1")
    with pytest.raises(DataError, match=r"list\.csv is not UTF-8 text.*Save it as UTF-8"):
        open_dataset(str(file))
    write(file, "image,label\nimages/a.jpg,cat\n", "utf-16-le")
    with pytest.raises(DataError, match=r"list\.csv holds zero bytes"):
        open_dataset(str(file))
