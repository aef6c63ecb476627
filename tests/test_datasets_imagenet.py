"""ImageNet in both layouts, CUB and metadata folders of wsolevaluation, on small faithful trees."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from gwapctl.datasets import DATASETS, download, open_dataset, reporting_split, training_splits
from gwapctl.datasets.imagenet import ImageNet
from gwapctl.datasets.wsoleval import WsolevalDataset
from gwapctl.errors import DataError
from gwapctl.evaluate import GroundTruth
from gwapctl.evaluate.ground_truth import Masks
from gwapctl.predict.map_folder import write_map
from tests import factories
from tests.factories import voc_object, voc_xml, write
from tests.judging import evaluate_maps

TENCH, CRANE, OTHER_CRANE = "n01440764", "n02012849", "n03126707"
WNIDS = (TENCH, CRANE, OTHER_CRANE)
WORDS = {TENCH: "tench, Tinca tinca", CRANE: "crane", OTHER_CRANE: "crane, derrick"}
NAMES = ["tench", f"crane ({CRANE})", f"crane ({OTHER_CRANE})"]
VAL = {1: CRANE, 2: TENCH, 3: OTHER_CRANE}  # image number -> class
DEVKIT_NUMBERS = {OTHER_CRANE: 1, TENCH: 2, CRANE: 3}  # not in the order of wnids


save_image = partial(factories.save_image, width=50, height=30)


def xml(wnid: str, *boxes: tuple[int, int, int, int]) -> str:
    return voc_xml(*(voc_object(wnid, box, "<difficult>0</difficult>") for box in boxes), size=(50, 30))


def val_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def write_devkit(folder: Path) -> None:
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, wnid, WORDS[wnid], 0) for wnid, number in DEVKIT_NUMBERS.items()]
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": np.array([*rows, (1001, "n00001740", "entity", 5)], dtype=kind)})
    truth = "".join(f"{DEVKIT_NUMBERS[wnid]}\n" for _, wnid in sorted(VAL.items()))
    write(folder / "ILSVRC2012_validation_ground_truth.txt", truth)
    write(folder / "ILSVRC2014_clsloc_validation_blacklist.txt", "2\n3\n")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for wnid in WNIDS:
        for number in (7, 10):
            save_image(root / "train" / wnid / f"{wnid}_{number}.JPEG")
    for number in VAL:
        save_image(root / "val" / f"{val_name(number)}.JPEG")
    write_devkit(root / "ILSVRC2012_devkit_t12" / "data")
    for number, wnid in VAL.items():
        write(root / "Annotations" / "val" / f"{val_name(number)}.xml", xml(wnid, (0, 3, 49, 29), (5, 6, 7, 8)))
    write(root / "Annotations" / "train" / TENCH / f"{TENCH}_10.xml", xml(TENCH, (1, 2, 3, 4)))
    return root


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet-object-localization-challenge"
    for wnid in WNIDS:
        save_image(root / "ILSVRC" / "Data" / "CLS-LOC" / "train" / wnid / f"{wnid}_10.JPEG")
    annotations = root / "ILSVRC" / "Annotations" / "CLS-LOC"
    write(annotations / "train" / TENCH / f"{TENCH}_10.xml", xml(TENCH, (1, 2, 3, 4)))
    lines = ["ImageId,PredictionString"]
    for number, wnid in VAL.items():
        save_image(root / "ILSVRC" / "Data" / "CLS-LOC" / "val" / f"{val_name(number)}.JPEG")
        write(annotations / "val" / f"{val_name(number)}.xml", xml(wnid, (0, 3, 49, 29)))
        lines.append(f"{val_name(number)},{wnid} 0 3 49 29 ")
    write(root / "LOC_val_solution.csv", "\n".join(lines))
    write(root / "LOC_synset_mapping.txt", "".join(f"{wnid} {words}\n" for wnid, words in WORDS.items()))
    return root


@pytest.mark.parametrize("layout", ["official", "kaggle"])
def test_imagenet(layout: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(layout)
    dataset = open_dataset("imagenet", root.parent)
    assert [item.name for item in dataset.classes] == NAMES
    assert [item.id for item in dataset.classes] == list(WNIDS)
    assert dataset.splits() == ("train", "val")
    assert training_splits(dataset) == ("train", None)
    assert reporting_split(dataset) == "val"
    val = dataset.boxed_samples("val")
    assert [sample.id for sample in val] == [f"{val_name(number)}.JPEG" for number in (1, 2, 3)]
    assert [dataset.classes[sample.labels[0]].id for sample in val] == list(VAL.values())
    np.testing.assert_array_equal(val[0].boxes[0], [0, 3, 50, 30])  # 0-based inclusive on disk
    assert val[0].size == (50, 30)
    train = {sample.id: sample for sample in dataset.boxed_samples("train")}
    np.testing.assert_array_equal(train[f"{TENCH}_10.JPEG"].boxes, [[1, 2, 4, 5]])
    assert len(train[f"{CRANE}_10.JPEG"].boxes) == 0
    assert [sample.labels for sample in dataset.samples("train")] == [sample.labels for sample in train.values()]
    assert [sample.id for sample in dataset.samples("val")] == [sample.id for sample in val]
    assert not dataset.multi_label
    assert open_dataset("imagenet", root).samples("val") == dataset.samples("val")


def test_imagenet_blacklist(official: Path, kaggle: Path) -> None:
    assert open_dataset("imagenet", official).blacklist == {f"{val_name(2)}.JPEG", f"{val_name(3)}.JPEG"}
    assert open_dataset("imagenet", kaggle).blacklist == frozenset()


def test_localization_leaves_blacklisted_images_out_or_says_that_it_cannot(official: Path) -> None:
    """Boxes of image 1 are right, those of 2 and 3 (blacklisted) wrong: 0 of 1, or 2 of 3."""
    maps = official.parent / "maps"
    for number in VAL:
        heat = np.zeros((30, 50), np.float32)
        heat[(slice(3, 30), slice(0, 50)) if number == 1 else (slice(0, 2), slice(0, 3))] = 1
        write_map(maps, f"{val_name(number)}.JPEG", heat)

    def measured() -> tuple[float, list[str], int]:
        dataset = open_dataset("imagenet", official)
        document = evaluate_maps(maps, GroundTruth(dataset, "val", dataset.boxed_samples("val")))
        return document.metrics["gt_known_error"], document.notes, document.n

    error, notes, n = measured()
    assert (error, n) == (0, 3)
    assert "localization leaves out 2 blacklisted images" in notes
    assert not any("no blacklist" in note for note in notes)
    (official / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt").unlink()
    error, notes, n = measured()
    assert (error, n) == (pytest.approx(200 / 3), 3)
    assert any("no blacklist" in note and "counts all images of val" in note for note in notes)
    assert open_dataset("imagenet", official).notes("train") == []


def test_imagenet_val_labels_from_any_source(official: Path) -> None:
    by_devkit = [sample.labels for sample in open_dataset("imagenet", official).samples("val")]
    (official / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt").unlink()
    by_boxes = [sample.labels for sample in open_dataset("imagenet", official).samples("val")]
    assert by_boxes == by_devkit
    for number, wnid in VAL.items():
        (official / "val" / wnid).mkdir()
        (official / "val" / f"{val_name(number)}.JPEG").rename(official / "val" / wnid / f"{val_name(number)}.JPEG")
    in_folders = {sample.id: sample.labels for sample in open_dataset("imagenet", official).samples("val")}
    assert [in_folders[f"{val_name(number)}.JPEG"] for number in VAL] == by_devkit


def test_imagenet_with_val_only(official: Path) -> None:
    (official / "train").rename(official.parent / "elsewhere")
    dataset = open_dataset("imagenet", official)
    assert dataset.splits() == ("val",)
    assert [item.name for item in dataset.classes] == NAMES


def test_imagenet_is_recognised(official: Path, kaggle: Path) -> None:
    assert isinstance(open_dataset(str(official)), ImageNet)
    assert isinstance(open_dataset(str(kaggle)), ImageNet)


def test_class_folders_with_wnids_are_not_called_imagenet(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_image(tmp_path / "imagenette" / split / TENCH / "a.JPEG")
    assert open_dataset(str(tmp_path / "imagenette")).name == "imagenette"


def test_imagenet_problems_are_named(official: Path) -> None:
    annotation = official / "Annotations" / "val" / f"{val_name(2)}.xml"
    annotation.write_text("<")
    with pytest.raises(DataError, match=re.escape(str(annotation))):
        open_dataset("imagenet", official).boxed_samples("val")
    for path in (official / "ILSVRC2012_devkit_t12" / "data").iterdir():
        path.unlink()
    for path in (official / "Annotations" / "val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="nothing says the class of"):
        open_dataset("imagenet", official).samples("val")


def test_imagenet_archives_are_unpacked_to_their_places(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pack(file: Path, source: Path, names: dict[str, str]) -> None:
        with tarfile.open(file, "w") as tar:
            for inside, name in names.items():
                tar.add(source / name, inside)

    parts = []
    train = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(train, "w") as tar:
        for wnid in WNIDS:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                inner.add(official / "train" / wnid / f"{wnid}_7.JPEG", f"{wnid}_7.JPEG")
            member = tarfile.TarInfo(f"{wnid}.tar")
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
    parts.append(train)
    for name, source, names in (
        ("ILSVRC2012_img_val.tar", "val", {f"{val_name(n)}.JPEG": f"{val_name(n)}.JPEG" for n in VAL}),
        ("ILSVRC2012_bbox_val_v3.tgz", "Annotations", {"val": "val"}),
        ("ILSVRC2012_devkit_t12.tar.gz", ".", {"ILSVRC2012_devkit_t12": "ILSVRC2012_devkit_t12"}),
    ):
        parts.append(tmp_path / name)
        pack(parts[-1], official / source, names)
    with pytest.raises(DataError, match=r"needs an account.*ILSVRC2012_img_val\.tar"):
        download.get_dataset("imagenet", tmp_path / "new")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in parts}
    known = tuple(replace(item, checksum=sums.get(item.file, "")) for item in DATASETS["imagenet"].archives)
    monkeypatch.setitem(DATASETS, "imagenet", replace(DATASETS["imagenet"], archives=known))
    download.get_dataset("imagenet", tmp_path / "new", files=parts)
    dataset = open_dataset("imagenet", tmp_path / "new")
    assert [len(sample.boxes) for sample in dataset.boxed_samples("val")] == [2, 2, 2]
    assert [sample.id for sample in dataset.samples("train")] == [f"{wnid}_7.JPEG" for wnid in WNIDS]
    left = download.missing_archives("imagenet", tmp_path / "new")
    assert [item.file for item in left] == ["ILSVRC2012_bbox_train_v2.tar.gz"]


# ---------------------------------------------------------------------------------------------------------------- CUB


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    images = ["001.Black_footed_Albatross/a_1.jpg", "001.Black_footed_Albatross/a_2.jpg", "002.Laysan_Albatross/b.jpg"]
    for name in [*images, "002.Laysan_Albatross/stray_rgb.jpg"]:
        save_image(root / "images" / name)
    tables = {
        "images": images,
        "classes": ["001.Black_footed_Albatross", "002.Laysan_Albatross"],
        "image_class_labels": ["1", "1", "2"],
        "train_test_split": ["1", "0", "0"],
        "bounding_boxes": ["10.0 7.0 20.0 15.0", "0.0 0.0 50.0 30.0", "40.0 20.0 30.0 5.0"],
    }
    for name, values in tables.items():
        write(root / f"{name}.txt", "".join(f"{number} {value}\n" for number, value in enumerate(values, start=1)))
    return root


def test_cub(cub: Path) -> None:
    dataset = open_dataset("cub", cub.parent)
    assert [(item.name, item.id) for item in dataset.classes] == [
        ("Black footed Albatross", "001.Black_footed_Albatross"),
        ("Laysan Albatross", "002.Laysan_Albatross"),
    ]
    (train,) = dataset.boxed_samples("train")
    assert (train.id, train.labels, train.size) == ("001.Black_footed_Albatross/a_1.jpg", (0,), (50, 30))
    np.testing.assert_array_equal(train.boxes, [[10, 7, 30, 22]])
    test = dataset.boxed_samples("test")
    assert [sample.labels for sample in test] == [(0,), (1,)]
    np.testing.assert_array_equal(test[1].boxes, [[40, 20, 50, 25]])
    assert training_splits(dataset) == ("train", None)
    assert reporting_split(dataset) == "test"
    assert open_dataset(str(cub)).samples("test") == dataset.samples("test")
    assert all(sample.mask is None for sample in test)


def test_cub_segmentations(cub: Path) -> None:
    mask = cub.parent / "segmentations" / "002.Laysan_Albatross" / "b.png"
    save_image(mask)
    dataset = open_dataset("cub", cub)
    assert dataset.notes("test") == ["its masks count the pixels that at least half of the annotators marked"]
    samples = dataset.boxed_samples("test")
    assert [sample.mask for sample in samples] == [None, mask]
    marked = np.array([[0, 51, 102, 127, 153, 204, 255]] * 3, np.uint8)  # by none to all of the annotators
    Image.fromarray(marked).save(mask)
    (pixels,) = {tuple(row) for row in Masks().at(samples[1], 7, 3).tolist()}
    assert pixels == (0, 0, 0, 1, 1, 1, 1)
    assert Masks(mask.parent).at(samples[1], 7, 3)[0].tolist() == [0, 1, 1, 1, 1, 1, 1]  # a folder of one's own
    assert {sample.mask_level for sample in open_dataset("cub:2", cub).boxed_samples("test")} == {127}


def test_cub_broken_tables_are_named(cub: Path) -> None:
    write(cub / "bounding_boxes.txt", "1 10 7 20\n")
    with pytest.raises(DataError, match=r"bounding_boxes\.txt, line 1"):
        open_dataset("cub", cub).boxed_samples("train")
    write(cub / "bounding_boxes.txt", "1 10 7 20 15\n")
    with pytest.raises(DataError, match="disagree about '2'"):
        open_dataset("cub", cub).boxed_samples("test")
    (cub / "images" / "001.Black_footed_Albatross" / "a_1.jpg").unlink()
    with pytest.raises(DataError, match=r"a_1\.jpg, which is not there"):
        open_dataset("cub", cub).boxed_samples("train")


# ----------------------------------------------------------------------------------------------------- wsolevaluation


def test_wsolevaluation_metadata_is_recognised(tmp_path: Path) -> None:
    folder = tmp_path / "metadata" / "CUB" / "test"
    write(folder / "image_ids.txt", "a/1.jpg\nb/2.jpg\n")
    write(folder / "class_labels.txt", "a/1.jpg,0\nb/2.jpg,1\n")
    write(folder / "image_sizes.txt", "a/1.jpg,50,30\nb/2.jpg,40,20\n")
    write(folder / "localization.txt", "a/1.jpg,1,2,3,4\nb/2.jpg,5,6,7,8\nb/2.jpg,0,0,39,19\n")
    for place, split in ((folder, "test"), (folder.parent, "test")):
        dataset = open_dataset(str(place))
        assert isinstance(dataset, WsolevalDataset)
        samples = dataset.boxed_samples(split)
        assert [sample.labels for sample in samples] == [(0,), (1,)]
        assert samples[1].boxes.tolist() == [[5, 6, 8, 9], [0, 0, 40, 20]]
