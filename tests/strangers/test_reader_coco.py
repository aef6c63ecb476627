"""COCO JSON of strangers: numbers mean what they say, and one broken entry costs no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError
from tests.factories import boxes_by_id, coco, coco_object, make_coco, save_image, write

Cli = Callable[..., Any]
WHOLE = {"a.jpg": (["cat"], [[10, 20, 30, 40]]), "b.jpg": (["dog"], [[10, 20, 30, 40]])}


def images(*ids: object) -> list[dict[str, object]]:
    names = [f"{name}.jpg" for name in "abcdef"[: len(ids)]]
    return [
        {"id": number, "file_name": name, "width": 80, "height": 60} for number, name in zip(ids, names, strict=True)
    ]


SAME_IDS = {
    "text in images": coco(images=images("1", "2")),
    "text in annotations": coco(annotations=[coco_object("1", "1", "1"), coco_object("2", "2", "2")]),
    "floats": coco(images=images(1.0, 2.0), annotations=[coco_object(1, 1, 1.0), coco_object(2, "2", 2)]),
    "leading zeros": coco(images=images("0001", "0002")),
    "mixed categories": coco(categories=[{"id": "1", "name": "cat"}, {"id": 2, "name": "dog"}]),
    "numbers and words": coco(
        images=images("one", 2),
        annotations=[coco_object(1, "one", "k"), coco_object(2, 2, 7)],
        categories=[{"id": "k", "name": "cat"}, {"id": 7, "name": "dog"}],
    ),
}


@pytest.mark.parametrize("document", SAME_IDS.values(), ids=SAME_IDS)
def test_ids_compare_as_what_they_mean(tmp_path: Path, document: dict[str, object]) -> None:
    assert boxes_by_id(open_dataset(str(make_coco(tmp_path, document)))) == WHOLE


BROKEN_BOXES = [[], [None] * 4, [1, 2, 3], [1, 2, 3, "x"], "none", 7, [1, 2, 3, float("nan")], [[1, 2, 3, 4]], {}]


@pytest.mark.parametrize("bbox", BROKEN_BOXES, ids=str)
def test_a_broken_box_is_named_and_costs_nothing_else(tmp_path: Path, bbox: object, run_cli: Cli) -> None:
    annotations = [coco_object(1, 1, 1), coco_object(2, 2, 2, bbox), coco_object(3, 2, 1)]
    root = make_coco(tmp_path, coco(annotations=annotations))
    with pytest.raises(DataError, match=r"instances_train\.json: annotation 2 has the bbox "):
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


def test_an_annotation_without_a_box_is_a_label(tmp_path: Path) -> None:
    annotations = [coco_object(1, 1, 1), {"id": 2, "image_id": 2, "category_id": 2}, coco_object(3, 2, 2, None)]
    dataset = open_dataset(str(make_coco(tmp_path, coco(annotations=annotations))))
    assert boxes_by_id(dataset) == WHOLE | {"b.jpg": (["dog"], [])}
    (line,) = dataset.warnings()
    assert line.startswith("annotations/instances_train.json: annotation 2 has no bbox")
    assert line.endswith("(and 1 more like this)")
    only_labels = [{"id": n, "image_id": n, "category_id": n} for n in (1, 2)]
    without = open_dataset(str(make_coco(tmp_path / "labels", coco(annotations=only_labels))))
    assert [labels for labels, _ in boxes_by_id(without).values()] == [["cat"], ["dog"]]
    assert without.warnings() == []


NAMED: dict[str, tuple[dict[str, object], str]] = {
    "unlisted image": (coco(annotations=[coco_object(1, 1, 1), coco_object(9, 3, 2)]), "annotation 9 is of image_id 3"),
    "no image": (coco(annotations=[{"id": 5, "category_id": 1}]), "annotation 5 has no 'image_id'"),
    "no id at all": (coco(annotations=[coco_object(1, 1, 1), "x"]), "annotations[1] has no 'image_id'"),
    "no category": (coco(annotations=[{"id": 5, "image_id": 1}]), "annotation 5 has no 'category_id'"),
    "unlisted category": (coco(annotations=[coco_object(5, 1, 77), coco_object(6, 1, 1)]), "5 has category_id 77"),
    "image without name": (coco(images=[{"id": 1}, {"id": 2, "file_name": "b.jpg"}]), "image 1 has no 'file_name'"),
    "image without id": (coco(images=[{"file_name": "a.jpg"}]), "images[0] has no 'id'"),
    "one id for two images": (coco(images=images(1, "1")), "a.jpg and b.jpg are both image 1"),
    "no categories": (coco(categories=[]), "lists no category"),
    "category without name": (coco(categories=[{"id": 1}, {"id": 2, "name": "dog"}]), "category 1 has no name"),
    "null name": (coco(categories=[{"id": 1, "name": None}]), "category 1 has no name (it says null)"),
    "empty name": (coco(categories=[{"id": 1, "name": " "}]), "category 1 has no name"),
    "number as name": (coco(categories=[{"id": 1, "name": 5}]), "category 1 has no name (it says 5)"),
    "category without id": (coco(categories=[{"name": "cat"}]), "categories[0] has no 'id'"),
}


@pytest.mark.parametrize(("document", "words"), NAMED.values(), ids=NAMED)
def test_what_is_wrong_is_named(tmp_path: Path, document: dict[str, object], words: str, run_cli: Cli) -> None:
    root = make_coco(tmp_path / "set", document)
    with pytest.raises(DataError) as caught:
        open_dataset(str(root)).boxed_samples("train")
    assert "instances_train.json" in str(caught.value)
    assert words in str(caught.value)
    for arguments in (["data", "check", root], ["train", root, "--out", tmp_path / "run", "--weights", "none"]):
        result = run_cli(*arguments)
        assert result.code == 4
        assert "internal error" not in result.stderr
        assert words in result.stdout + result.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_image_listed_twice_counts_once(tmp_path: Path) -> None:
    listed = [*images(1, 2), {"id": 1, "file_name": "a.jpg"}, {"id": 3, "file_name": "./a.jpg"}]
    annotations = [coco_object(1, 1, 1), coco_object(2, 2, 2), coco_object(3, 3, 1), coco_object(4, 3, 2)]
    dataset = open_dataset(str(make_coco(tmp_path, coco(listed, annotations))))
    assert boxes_by_id(dataset) == WHOLE | {"a.jpg": (["cat", "dog"], [[10, 20, 30, 40], [10, 20, 30, 40]])}
    (line,) = dataset.warnings()
    assert line.endswith("(and 1 more like this)")


def test_categories_that_no_image_shows_are_left_out_with_a_note(tmp_path: Path) -> None:
    """Roboflow lists its project as category 0, above all others."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        *({"id": n, "name": t} for n, t in ((1, "cat"), (2, "dog"))),
    ]
    dataset = open_dataset(str(make_coco(tmp_path, coco(categories=categories))))
    assert [(item.name, item.id) for item in dataset.classes] == [("cat", "1"), ("dog", "2")]
    assert boxes_by_id(dataset) == WHOLE
    (line,) = dataset.warnings()
    assert "1 of 3 categories have no annotation and are left out: pets" in line


def test_names_in_either_unicode_form(tmp_path: Path) -> None:
    """The file says NFC, the disk NFD, and the other way round."""
    nfc, nfd = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for folder, on_disk, written in (("one", nfd, nfc), ("two", nfc, nfd)):
        save_image(tmp_path / folder / "images" / on_disk)
        document = coco([{"id": 1, "file_name": written}], [coco_object(1, 1, 1)])
        (sample,) = open_dataset(str(make_coco(tmp_path / folder, document, images=""))).boxed_samples("train")
        assert sample.path.name == on_disk


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    root = make_coco(tmp_path, coco())
    file = root / "annotations" / "instances_train.json"
    write(file, file.read_text(), encoding)
    assert boxes_by_id(open_dataset(str(root))) == WHOLE
