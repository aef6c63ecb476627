"""VOC folders of strangers: lists, images of one name, folders called otherwise, single broken objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError
from tests.factories import boxes_by_id, make_voc, save_image, voc_object, voc_xml, write

Cli = Callable[..., Any]
IMAGES = {"a": voc_xml(voc_object("cat")), "b": voc_xml(voc_object("dog"))}
WHOLE = {"a": (["cat"], [[10, 20, 30, 40]]), "b": (["dog"], [[10, 20, 30, 40]])}

LISTS = {
    "suffixes": "a.jpg\nb.JPG\n",
    "paths": "JPEGImages/a.jpg\n./JPEGImages/b.jpg\n",
    "absolute paths": "/home/her/set/JPEGImages/a.jpg\nC:\\set\\JPEGImages\\b.jpg\n",
    "annotations": "a.xml\nAnnotations/b.xml\n",
    "pairs": "JPEGImages/a.jpg Annotations/a.xml\nJPEGImages/b.jpg Annotations/b.xml\n",
    "twice": "a\na.jpg\nb\nb\n",
    "windows": "a\r\nb\r\n",
    "byte order mark": "\ufeffa\nb\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_lists_mean_ids(tmp_path: Path, text: str) -> None:
    assert boxes_by_id(open_dataset(str(make_voc(tmp_path, IMAGES, {"train": text})))) == WHOLE


def test_an_id_may_look_like_a_file(tmp_path: Path) -> None:
    """Roboflow's ids hold a suffix: a_jpg.rf.0123; and a.jpg.jpg is the image a.jpg."""
    images = {"a_jpg.rf.0123": IMAGES["a"], "b.jpg": IMAGES["b"]}
    dataset = open_dataset(str(make_voc(tmp_path, images, {"train": "a_jpg.rf.0123\nb.jpg\n"})))
    assert list(boxes_by_id(dataset)) == ["a_jpg.rf.0123", "b.jpg"]


def test_a_list_that_names_nothing_says_what_is_missing(tmp_path: Path, run_cli: Cli) -> None:
    root = make_voc(tmp_path, IMAGES, {"train": "x.jpg\ny.jpg\n"})
    result = run_cli("data", "check", root)
    assert result.code == 4
    assert "Annotations/x.xml" in result.stderr
    assert "no annotated object" not in result.stderr


@pytest.mark.parametrize("suffixes", [(".jpg", ".png"), (".png", ".jpg")], ids=" ".join)
@pytest.mark.parametrize("told", ["by name", "by size"])
def test_of_two_images_of_one_name_the_annotation_says_which(
    tmp_path: Path, suffixes: tuple[str, str], told: str
) -> None:
    right, wrong = suffixes
    save_image(tmp_path / "JPEGImages" / f"a{right}")
    save_image(tmp_path / "JPEGImages" / f"a{wrong}", *((80, 60) if told == "by name" else (40, 30)))
    filename = f"C:\\photos\\a{right}" if told == "by name" else "other.jpg"
    dataset = open_dataset(str(make_voc(tmp_path, {"a": voc_xml(voc_object(), filename=filename)})))
    (sample,) = dataset.boxed_samples("train")
    assert sample.path.suffix == right
    (line,) = dataset.warnings()
    assert f"is about a{right}" in line


def test_two_images_that_nothing_tells_apart_are_an_error(tmp_path: Path, run_cli: Cli) -> None:
    for suffix in (".jpg", ".png"):
        save_image(tmp_path / "JPEGImages" / f"a{suffix}")
    root = make_voc(tmp_path, IMAGES)
    with pytest.raises(DataError, match=r"a\.xml may be about any of a\.jpg, a\.png"):
        open_dataset(str(root)).boxed_samples("train")
    document = json.loads(run_cli("data", "check", root, "--json").stdout)
    assert len(document["broken"]) == 1
    assert [split["images"] for split in document["splits"]] == [1]


BROKEN_OBJECTS = {
    "no xmax": (voc_object("dog").replace("<xmax>30</xmax>", ""), "no <xmax>"),
    "a word": (voc_object("dog").replace(">30<", ">wide<"), "<xmax> is 'wide'"),
    "not a number": (voc_object("dog").replace(">30<", ">nan<"), "<xmax> is 'nan'"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN_OBJECTS.values(), ids=BROKEN_OBJECTS)
def test_a_broken_object_is_named_and_costs_nothing_else(tmp_path: Path, text: str, words: str, run_cli: Cli) -> None:
    root = make_voc(tmp_path, IMAGES | {"b": voc_xml(voc_object("cat"), text)})
    with pytest.raises(DataError, match=rf"b\.xml: <object> 2 \(dog\): .*{words}"):
        open_dataset(str(root)).boxed_samples("train")
    result = run_cli("data", "check", root, "--json")
    document = json.loads(result.stdout)
    assert result.code == 4
    assert len(document["broken"]) == 1
    assert [(item["images"], item["boxes"]) for item in document["classes"]] == [
        ({"train": 2}, {"train": 2}),
        ({"train": 1}, {"train": 0}),
    ]
    assert document["warnings"] == []


def test_an_object_without_a_name_costs_nothing_else(tmp_path: Path, run_cli: Cli) -> None:
    root = make_voc(tmp_path, IMAGES | {"b": voc_xml(voc_object("dog"), voc_object(""))})
    document = json.loads(run_cli("data", "check", root, "--json").stdout)
    assert document["broken"] == [f"{root}/Annotations/b.xml: <object> 2 has no <name>. Repair or remove it."]
    assert [item["boxes"] for item in document["classes"]] == [{"train": 1}, {"train": 1}]


def test_a_size_that_is_no_number_is_no_size(tmp_path: Path) -> None:
    text = voc_xml(voc_object()).replace("<width>80</width>", "<width>unknown</width>")
    assert boxes_by_id(open_dataset(str(make_voc(tmp_path, {"a": text}))))["a"][1] == [[10, 20, 30, 40]]


def test_images_without_annotation_are_counted(tmp_path: Path) -> None:
    root = make_voc(tmp_path, IMAGES)
    for name in "cd":
        save_image(root / "JPEGImages" / f"{name}.jpg")
    dataset = open_dataset(str(root))
    assert boxes_by_id(dataset) == WHOLE
    assert dataset.warnings() == [
        f"JPEGImages/c.jpg has no annotation in {root}/Annotations and is left out. (and 1 more like this)".replace(
            f"{root}/", ""
        )
    ]


COUSINS = [
    ("Annotations", "images"),
    ("annotations", "images"),
    ("Annotations", "Images"),
    ("images", "images"),
    ("annotations", "."),
    (".", "."),
    ("train", "train"),
    ("train/annotations", "train/images"),
]


@pytest.mark.parametrize(("texts", "images"), COUSINS)
def test_voc_without_its_folder_names(tmp_path: Path, texts: str, images: str) -> None:
    for name, xml in IMAGES.items():
        write(tmp_path / texts / f"{name}.xml", xml)
        save_image(tmp_path / images / f"{name}.jpg")
    assert boxes_by_id(open_dataset(str(tmp_path))) == WHOLE


def test_one_folder_per_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name, xml in IMAGES.items():
            write(tmp_path / split / f"{name}.xml", xml)
            save_image(tmp_path / split / f"{name}.jpg")
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert boxes_by_id(dataset) == boxes_by_id(dataset, "val") == WHOLE


@pytest.mark.parametrize(("listed", "on_disk"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_ids_in_either_unicode_form(tmp_path: Path, listed: str, on_disk: str) -> None:
    for image, annotation in ((on_disk, listed), (listed, on_disk), (on_disk, on_disk)):
        root = tmp_path / f"{image == on_disk}{annotation == on_disk}"
        save_image(root / "JPEGImages" / f"{image}.jpg")
        write(root / "Annotations" / f"{annotation}.xml", voc_xml(voc_object(on_disk), voc_object(listed)))
        write(root / "ImageSets" / "Main" / "train.txt", f"{listed}\n{on_disk}\n")
        dataset = open_dataset(str(root))
        assert [item.name for item in dataset.classes] == ["caf\u00e9"]
        assert [(labels, len(boxes)) for labels, boxes in boxes_by_id(dataset).values()] == [(["caf\u00e9"], 2)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    root = make_voc(tmp_path, IMAGES, {"train": "a\nb\n"})
    write(
        root / "Annotations" / "a.xml",
        f'<?xml version="1.0" encoding="{encoding[:6].strip("-")}"?>{IMAGES["a"]}',
        encoding,
    )
    write(root / "ImageSets" / "Main" / "train.txt", "a\nb\n", encoding)
    assert boxes_by_id(open_dataset(str(root))) == WHOLE
