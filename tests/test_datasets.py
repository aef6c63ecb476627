"""Readers: every layout gives the same kind of sample, quirks are mended, and what is broken is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gwapctl.boxes import to_list
from gwapctl.datasets import DATASETS, open_dataset, reporting_split, training_splits
from gwapctl.datasets.base import BoxedSample, Dataset, Sample
from gwapctl.datasets.voc import CLASSES
from gwapctl.errors import DataError, UsageError
from tests import factories
from tests.factories import make_voc, voc_object, voc_xml, write

Voc = Callable[..., Path]


save_image = partial(factories.save_image, width=60, height=40)


@pytest.fixture
def voc(tmp_path: Path) -> Voc:
    """A function that writes a folder in VOC layout: id -> objects, split -> ids."""

    def make(
        images: dict[str, str],
        splits: dict[str, list[str]] | None = None,
        folder: str = "mine",
        suffix: str = ".jpg",
        size: tuple[int, int] | None = (60, 40),
    ) -> Path:
        annotations = {name: voc_xml(objects, size=size) for name, objects in images.items()}
        lists = {split: "".join(f"{name}\n" for name in ids) for split, ids in (splits or {}).items()}
        return make_voc(tmp_path / folder, annotations, lists, (60, 40), suffix)

    return make


def only(dataset: Dataset, split: str = "train") -> BoxedSample:
    (sample,) = dataset.boxed_samples(split)
    return sample


# ---------------------------------------------------------------------------------------------------- the weak view


def test_the_weak_view_carries_no_box(voc: Voc) -> None:
    dataset = open_dataset(str(voc({"a": voc_object("cat")})))
    assert len(only(dataset).boxes) == 1
    (sample,) = dataset.samples("train")
    assert type(sample) is Sample
    assert {item.name for item in fields(sample)} == {"id", "path", "labels", "ignored", "size"}
    assert not any(isinstance(value, np.ndarray) for value in vars(sample).values())


# ---------------------------------------------------------------------------------------------------------------- VOC


def test_voc_boxes_are_one_based_inclusive(voc: Voc) -> None:
    dataset = open_dataset(str(voc({"a": voc_object("cat", (1, 1, 60, 40)) + voc_object("dog", (3, 5, 7, 11))})))
    sample = only(dataset)
    np.testing.assert_array_equal(sample.boxes, [[0, 0, 60, 40], [2, 4, 7, 11]])
    assert [dataset.classes[label].name for label in sample.box_labels] == ["cat", "dog"]
    assert sample.labels == (0, 1)
    assert sample.size == (60, 40)
    assert dataset.multi_label


def test_voc_difficult_objects_are_neither_positive_nor_negative(voc: Voc) -> None:
    hard = "<difficult>1</difficult>"
    objects = voc_object("cat") + voc_object("cat", extra=hard) + voc_object("dog", extra=hard)
    sample = only(open_dataset(str(voc({"a": objects}))))
    assert sample.labels == (0,)
    assert sample.ignored == (1,)
    assert sample.difficult.tolist() == [False, True, True]


def test_voc_quirks(voc: Voc) -> None:
    """Size 0x0 or missing, float coordinates, foreign names, labels without a box, any image suffix."""
    objects = voc_object("cat", (1.5, 2.25, 9.75, 20)) + voc_object("dog", None)
    for size, suffix in (((0, 0), ".png"), (None, ".JPEG")):
        dataset = open_dataset(str(voc({f"a{suffix}": objects}, folder=f"voc{suffix}", suffix=suffix, size=size)))
        sample = only(dataset)
        assert sample.size == (60, 40)
        assert sample.labels == (0, 1)
        np.testing.assert_array_equal(sample.boxes, [[0.5, 1.25, 9.75, 20]])
        assert sample.path.suffix == suffix
        assert not dataset.problems.warnings


def test_voc_boxes_are_mended_with_a_warning(voc: Voc) -> None:
    boxes = [(50, 30, 99, 99), (20, 20, 10, 10), (70, 5, 80, 9), (0, 0, 5, 5)]
    dataset = open_dataset(str(voc({"a": "".join(voc_object("cat", box) for box in boxes)})))
    np.testing.assert_array_equal(only(dataset).boxes, [[49, 29, 60, 40], [0, 0, 5, 5]])
    only(dataset)
    (warning,) = dataset.problems.warnings
    assert "a.xml" in warning
    assert "2 inverted or empty boxes" in warning


def test_voc_splits_ignore_per_class_files(voc: Voc) -> None:
    root = voc(
        {"b": voc_object("cat"), "a": voc_object("dog"), "c": ""},
        {"test": ["c"], "train": ["b", "a", "b"], "cat_train": ["b  1", "a -1"], "cat_test": ["c  0"]},
    )
    dataset = open_dataset(str(root))
    assert dataset.splits() == ("train", "test")
    assert [sample.id for sample in dataset.samples("train")] == ["b", "a"]
    assert only(dataset, "test").labels == ()
    with pytest.raises(DataError, match=r"no split 'val'\. Present: train, test"):
        dataset.boxed_samples("val")


def test_voc_masks(voc: Voc) -> None:
    root = voc({"a": voc_object("cat"), "b": voc_object("cat")})
    save_image(root / "Masks" / "b.png")
    first, second = open_dataset(str(root)).boxed_samples("train")
    assert first.mask is None
    assert second.mask == root / "Masks" / "b.png"


BROKEN_XML = {
    "not xml": "<annotation><object>",
    "empty": "",
    "no name": f"<annotation>{voc_object('')}</annotation>",
    "a word": voc_xml(voc_object("cat").replace("<xmax>30<", "<xmax>ten<")),
    "no xmax": voc_xml(voc_object("cat").replace("<xmax>30</xmax>", "")),
    "bomb": '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>',
}


@pytest.mark.parametrize("text", BROKEN_XML.values(), ids=BROKEN_XML.keys())
def test_voc_broken_annotations_are_named(voc: Voc, text: str) -> None:
    root = voc({"a": voc_object("cat"), "b": voc_object("cat")}, {"train": ["a", "b"]})
    (root / "Annotations" / "b.xml").write_text(text)
    with pytest.raises(DataError, match=re.escape(str(root / "Annotations" / "b.xml"))) as caught:
        open_dataset(str(root)).boxed_samples("train")
    assert "\n" not in str(caught.value)


def test_voc_missing_files_are_named(voc: Voc) -> None:
    root = voc({"a": voc_object("cat")}, {"train": ["a", "gone"]})
    with pytest.raises(DataError, match=r"gone\.xml"):
        open_dataset(str(root)).boxed_samples("train")
    (root / "Annotations" / "gone.xml").write_text(voc_xml(voc_object("cat")))
    with pytest.raises(DataError, match="no image gone"):
        open_dataset(str(root)).boxed_samples("train")


def test_problems_can_be_collected_instead(voc: Voc) -> None:
    root = voc({name: voc_object("cat") for name in "abc"}, {"train": ["a", "b", "c", "gone"]})
    (root / "Annotations" / "b.xml").write_text("<")
    dataset = open_dataset(str(root))
    dataset.problems.collecting = True
    assert [sample.id for sample in dataset.samples("train")] == ["a", "c"]
    assert len(dataset.problems.errors) == 3  # b.xml, gone.xml, gone's image


def test_voc_by_name(voc: Voc, tmp_path: Path) -> None:
    xml = voc_object("sheep", (2, 3, 30, 20))
    old = voc({"000001": xml, "000002": xml}, {"trainval": ["000001"], "test": ["000002"]}, "VOCdevkit/VOC2007")
    new = voc({"2008_000001": xml}, {"trainval": ["2008_000001"], "val": ["2008_000001"]}, "VOCdevkit/VOC2012")
    for root in (tmp_path, tmp_path / "VOCdevkit", old):
        dataset = open_dataset("voc", root)
        assert tuple(item.name for item in dataset.classes) == CLASSES
        assert len(CLASSES) == 20
        assert [sample.id for sample in dataset.samples("trainval")] == ["000001"]
        assert dataset.samples("test")[0].labels == (CLASSES.index("sheep"),)
    assert training_splits(dataset) == ("trainval", None)
    assert reporting_split(dataset) == "test"
    assert open_dataset("voc2012", new).splits() == ("val", "trainval")
    union = open_dataset("voc07+12", tmp_path)
    assert [sample.id for sample in union.samples("trainval")] == ["000001", "2008_000001"]
    assert [sample.id for sample in union.samples("test")] == ["000002"]
    assert training_splits(union) == ("trainval", None)


def test_voc_by_name_refuses_foreign_classes(voc: Voc, tmp_path: Path) -> None:
    voc({"000001": voc_object("unicorn")}, {"test": ["000001"]}, "VOCdevkit/VOC2007")
    with pytest.raises(DataError, match="'unicorn' is none of the 20 classes"):
        open_dataset("voc", tmp_path).boxed_samples("test")


# ------------------------------------------------------------------------------------------------------ Tiny ImageNet


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for number in (0, 10, 2):
            save_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", width=64, height=64)
        rows = [f"{wnid}_{number}.JPEG\t0\t{number}\t63\t40" for number in (0, 2, 99)] + [f"{wnid}_10.JPEG\t9\t5\t3\t8"]
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("\n".join(rows))
    save_image(root / "val" / "images" / "val_3.JPEG", width=64, height=64)
    (root / "val" / "val_annotations.txt").write_text("val_3.JPEG\tn02\t1\t2\t3\t4\nval_4.JPEG\tn01\t1\t2\t3\t4\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tcrane, a bird\nn02\tcrane, a machine\n")
    return root


def test_tiny_imagenet(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset("tiny-imagenet", tiny.parent)
    assert [(item.name, item.id) for item in dataset.classes] == [("crane (n01)", "n01"), ("crane (n02)", "n02")]
    train = dataset.boxed_samples("train")
    assert [sample.id for sample in train] == [f"{w}_{n}.JPEG" for w in ("n01", "n02") for n in (0, 10, 2)]
    assert [sample.labels for sample in train] == [(0,)] * 3 + [(1,)] * 3
    assert [sample.boxes.tolist() for sample in train[:3]] == [[[0, 0, 64, 41]], [], [[0, 2, 64, 41]]]
    assert [sample.box_labels.tolist() for sample in train[2:5]] == [[0], [1], []]
    val = only(dataset, "val")
    assert to_list(val.boxes[0]) == [1, 2, 4, 5]
    assert val.labels == (1,)
    assert not dataset.multi_label
    assert training_splits(dataset) == ("train", None)
    assert reporting_split(dataset) == "val"
    for again in (open_dataset("tiny-imagenet", tiny), open_dataset(str(tiny))):
        assert again.samples("train") == dataset.samples("train")
    monkeypatch.setenv("GWAPCTL_DATA", str(tiny.parent))
    assert open_dataset("tiny-imagenet").samples("val") == dataset.samples("val")


def test_tiny_imagenet_broken_rows_are_named(tiny: Path) -> None:
    boxes = tiny / "train" / "n01" / "n01_boxes.txt"
    boxes.write_text("n01_0.JPEG\t1\t2\t3\nn01_2.JPEG\t1\t2\t3\t4\n")
    with pytest.raises(DataError, match=r"n01_boxes\.txt, line 1"):
        open_dataset(str(tiny)).boxed_samples("train")
    (tiny / "val" / "val_annotations.txt").write_text("")
    with pytest.raises(DataError, match=r"no line for .*val_3\.JPEG"):
        open_dataset(str(tiny)).boxed_samples("val")


# ------------------------------------------------------------------------------------------------------ class folders


def test_class_folders_with_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "train/dog/sub/2.PNG", "valid/cat/3.jpg", "test/4.jpg", "train/cat/notes.md"):
        save_image(tmp_path / name) if not name.endswith("md") else (tmp_path / name).write_text("")
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert [item.name for item in dataset.classes] == ["cat", "dog"]
    assert [(sample.id, sample.labels) for sample in dataset.samples("train")] == [
        ("cat/1.jpg", (0,)),
        ("dog/sub/2.PNG", (1,)),
    ]
    assert training_splits(dataset) == ("train", None)
    assert reporting_split(dataset) == "val"
    assert not any(len(sample.boxes) for sample in dataset.boxed_samples("train"))
    assert not dataset.multi_label


def test_class_folders_without_splits(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg"):
        save_image(tmp_path / name)
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train",)
    assert training_splits(dataset) == ("train", None)
    with pytest.raises(DataError, match="choose with split="):
        reporting_split(dataset)
    (tmp_path / "owl").mkdir()
    with pytest.raises(DataError, match="owl has no image"):
        open_dataset(str(tmp_path)).boxed_samples("train")


# ----------------------------------------------------------------------------------------------------------- manifest


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in "abc":
        save_image(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path


def write_manifest(folder: Path, *lines: str) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    return path


def test_manifest_with_boxes_and_splits(photos: Path) -> None:
    path = write_manifest(
        photos,
        "image,label,split,x0,y0,x1,y1,difficult,note",
        "photos/a.jpg,cat,train,1,2.5,30,20,0,x",
        "photos/a.jpg,dog,train,0,0,70,10,1,",
        'photos/b.jpg,"cat|owl",train,,,,,,',
        "photos/c.jpg,,test,,,,,,",
    )
    dataset = open_dataset(str(path))
    assert dataset.splits() == ("train", "test")
    assert [item.name for item in dataset.classes] == ["cat", "dog", "owl"]
    first, second = dataset.boxed_samples("train")
    assert (first.id, first.labels, first.ignored, first.size) == ("photos/a.jpg", (0,), (1,), (60, 40))
    np.testing.assert_array_equal(first.boxes, [[1, 2.5, 30, 20], [0, 0, 60, 10]])
    assert first.difficult.tolist() == [False, True]
    assert second.labels == (0, 2)
    assert len(second.boxes) == 0
    assert only(dataset, "test").labels == ()
    assert dataset.multi_label
    assert open_dataset(str(photos)).samples("train") == dataset.samples("train")


def test_manifest_single_label_and_other_separators(photos: Path) -> None:
    path = write_manifest(photos, "label;image", "cat;photos/a.jpg", "dog;photos/b.jpg")
    dataset = open_dataset(str(path))
    assert not dataset.multi_label
    assert [sample.labels for sample in dataset.samples("train")] == [(0,), (1,)]


def test_manifest_ids_stay_inside(photos: Path) -> None:
    outside = save_image(photos / "elsewhere" / "z.jpg")
    (photos / "lists").mkdir()
    path = write_manifest(photos / "lists", "image,label", f"{outside},cat", "../photos/a.jpg,dog")
    ids = [sample.id for sample in open_dataset(str(path)).samples("train")]
    assert not any(name.startswith("/") or ".." in name for name in ids)
    assert len(set(ids)) == 2


BROKEN_MANIFESTS = {
    "column": (["image,lable", "photos/a.jpg,cat"], "no column 'label'. Did you mean 'lable'?"),
    "empty": ([""], "no column 'image'"),
    "no rows": (["image,label"], "lists no image"),
    "no labels": (["image,label", "photos/a.jpg,"], "has no label"),
    "half a box": (["image,label,x0,y0,x1,y1", "photos/a.jpg,cat,1,2,3,"], "line 2: a box needs all"),
    "word": (["image,label,x0,y0,x1,y1", "photos/a.jpg,cat,1,2,3,x"], "line 2: could not convert"),
    "two labels": (["image,label,x0,y0,x1,y1", "photos/a.jpg,cat|dog,1,2,3,4"], "exactly one label"),
    "too many cells": (["image,label", "photos/a.jpg,cat,dog"], "line 2: the row has more cells"),
    "difficult": (["image,label,difficult", "photos/a.jpg,cat,maybe"], "not 0 or 1"),
    "no image": (["image,label", ",cat"], "'image' is empty"),
    "gone": (["image,label", "photos/gone.jpg,cat"], "there is no image"),
}


@pytest.mark.parametrize(("lines", "message"), BROKEN_MANIFESTS.values(), ids=BROKEN_MANIFESTS.keys())
def test_broken_manifests(photos: Path, lines: list[str], message: str) -> None:
    path = write_manifest(photos, *lines)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        open_dataset(str(path)).boxed_samples("train")
    assert "list.csv" in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- COCO


def coco(images: list[str], annotations: list[dict[str, object]]) -> dict[str, object]:
    return {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(images, start=7)],
        "annotations": annotations,
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
    }


def test_coco_folder(tmp_path: Path) -> None:
    objects = [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20.5, 10]},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 90, "bbox": [3, 3, 0, 4]},
    ]
    save_image(tmp_path / "train2017" / "a.jpg")
    save_image(tmp_path / "images" / "val2017" / "b.jpg")
    write(tmp_path / "annotations" / "instances_train2017.json", coco(["a.jpg"], objects))
    write(tmp_path / "annotations" / "instances_val2017.json", coco(["b.jpg"], []))
    write(tmp_path / "annotations" / "captions_val2017.json", {"images": []})
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits() == ("train", "val")
    assert [(item.name, item.id) for item in dataset.classes] == [("person", "1"), ("toothbrush", "90")]
    sample = only(dataset)
    assert (sample.id, sample.labels, sample.ignored, sample.size) == ("a.jpg", (1,), (0,), (60, 40))
    np.testing.assert_array_equal(sample.boxes, [[10, 5, 30.5, 15], [0, 0, 60, 40]])
    assert sample.difficult.tolist() == [False, True]
    assert len(dataset.problems.warnings) == 1
    assert only(dataset, "val").labels == ()


def test_coco_file_and_roboflow_layout(tmp_path: Path) -> None:
    objects = [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 5]}]
    for split in ("train", "valid"):
        save_image(tmp_path / split / "a.jpg")
        path = write(tmp_path / split / "_annotations.coco.json", coco(["a.jpg"], objects))
    assert open_dataset(str(tmp_path)).splits() == ("train", "val")
    alone = open_dataset(str(path))
    assert only(alone, "val").path == tmp_path / "valid" / "a.jpg"
    assert reporting_split(alone) == "val"


BROKEN_COCO = {
    "results": ([{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "COCO *results*"),
    "no categories": ({"images": [], "annotations": []}, "lacks categories"),
    "unknown category": (coco(["a.jpg"], [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1]}]), "category_id 5"),
    "no image id": (coco(["a.jpg"], [{"category_id": 1, "bbox": [0, 0, 1, 1]}]), "'image_id'"),
    "short box": (coco(["a.jpg"], [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]), "not enough values"),
    "gone": (coco(["gone.jpg"], []), "no image gone.jpg"),
    "no images": (coco([], []), "lists no image"),
}


@pytest.mark.parametrize(("document", "message"), BROKEN_COCO.values(), ids=BROKEN_COCO.keys())
def test_broken_coco(tmp_path: Path, document: object, message: str) -> None:
    save_image(tmp_path / "a.jpg")
    path = write(tmp_path / "objects.json", document)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        open_dataset(str(path)).boxed_samples("train")
    assert "objects.json" in str(caught.value)
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(str(path))


# ------------------------------------------------------------------------------------------------------------ opening


def test_unknown_names_list_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'tiny-imagenet'"):
        open_dataset("tiny-imagnet", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"root=, or run: gwapctl data get") as caught:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="Looked for: Annotations"):
        open_dataset(str(tmp_path))
    (tmp_path / "a.npz").touch()
    with pytest.raises(DataError, match="Give a folder, a CSV manifest or a COCO JSON"):
        open_dataset(str(tmp_path / "a.npz"))


def test_a_folder_below_the_root(voc: Voc, tmp_path: Path) -> None:
    voc({"a": voc_object("cat")}, {"train": ["a"], "val": ["a"], "test": ["a"], "trainval": ["a"]}, "blood")
    dataset = open_dataset("blood", tmp_path)
    assert dataset.name == "blood"
    assert training_splits(dataset) == ("train", "val")
    assert reporting_split(dataset) == "test"


@pytest.mark.parametrize(
    ("splits", "training", "reporting"),
    [
        (["trainval", "test"], ("trainval", None), "test"),
        (["train", "val"], ("train", None), "val"),
        (["train", "val", "trainval"], ("train", None), "val"),
        (["train", "test"], ("train", None), "test"),
        (["default"], ("default", None), "default"),
    ],
)
def test_which_splits_train_and_report(
    voc: Voc, splits: list[str], training: tuple[str, str | None], reporting: str
) -> None:
    dataset = open_dataset(str(voc({"a": voc_object("cat")}, {split: ["a"] for split in splits})))
    assert training_splits(dataset) == training
    assert reporting_split(dataset) == reporting
