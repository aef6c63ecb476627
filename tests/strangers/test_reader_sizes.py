"""Two truths about one image: what its file is and what its annotation says it is. The file decides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gwapctl.boxes import scale, turn_upright
from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError
from gwapctl.images.decode import image_size, read_image, stored_size
from tests.factories import boxes_by_id, coco, coco_object, make_coco, make_voc, save_image, voc_object, voc_xml, write

Cli = Callable[..., Any]
Size = tuple[int, int]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_with_its_image(tmp_path: Path, orientation: int) -> None:
    """The pixels inside a box are the same before and after: compared with the decoder, which was written before."""
    stored = np.zeros((60, 80, 3), np.uint8)
    stored[20:40, 10:35] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    shown = read_image(tmp_path / "a.png")
    ((x0, y0, x1, y1),) = turn_upright([10, 20, 35, 40], 80, 60, orientation).astype(int)
    assert shown[y0:y1, x0:x1].min() == 255
    assert (shown > 0).sum() == 3 * (x1 - x0) * (y1 - y0)
    assert stored_size(tmp_path / "a.png") == (80, 60, orientation)
    assert image_size(tmp_path / "a.png") == (shown.shape[1], shown.shape[0])


def test_boxes_are_scaled_per_axis() -> None:
    np.testing.assert_array_equal(scale([[10, 20, 30, 40]], 80, 60, 160, 30), [[20, 10, 60, 20]])


# box (ours), size stated, size stored, orientation -> box in the upright file, words of the warning
AGREED: dict[str, tuple[list[float], Size | None, Size, int, list[float], str]] = {
    "the same": ([10, 20, 30, 40], (80, 60), (80, 60), 1, [10, 20, 30, 40], ""),
    "none": ([10, 20, 70, 50], None, (80, 60), 1, [10, 20, 70, 50], ""),
    "zero": ([10, 20, 70, 50], (0, 0), (80, 60), 1, [10, 20, 70, 50], ""),
    "exceeds the size stated": ([10, 20, 60, 50], (40, 30), (80, 60), 1, [10, 20, 60, 50], "fit the file and stay"),
    "other shape": ([10, 20, 60, 50], (50, 50), (80, 60), 1, [10, 20, 60, 50], "fit the file and stay"),
    "fits both": ([10, 20, 30, 28], (40, 30), (80, 60), 1, [10, 20, 30, 28], "fit both sizes"),
    "larger, fits both": ([10, 20, 30, 28], (160, 120), (80, 60), 1, [10, 20, 30, 28], "fit both sizes"),
    "shrunk": ([20, 40, 140, 100], (160, 120), (80, 60), 1, [10, 20, 70, 50], "scaled"),
    "shrunk, within 1 %": ([20, 40, 140, 100], (160, 121), (80, 60), 1, [10, 19.835, 70, 49.587], "scaled"),
    "before rotation 6": ([10, 20, 30, 40], (80, 60), (80, 60), 6, [20, 10, 40, 30], "before its EXIF rotation"),
    "before rotation 8": ([10, 20, 30, 40], (80, 60), (80, 60), 8, [20, 50, 40, 70], "before its EXIF rotation"),
    "after rotation": ([10, 20, 30, 70], (60, 80), (80, 60), 6, [10, 20, 30, 70], ""),
    "upright boxes, stored size": ([10, 20, 30, 70], (80, 60), (80, 60), 6, [10, 20, 30, 70], "fit the file and stay"),
    "upside down": ([10, 20, 30, 40], (80, 60), (80, 60), 3, [10, 20, 30, 40], ""),
}


def two_formats(root: Path, box: list[float], stated: Size | None, stored: Size, orientation: int) -> list[Path]:
    """Write the same image and box as VOC, COCO, and a CSV manifest."""
    x0, y0, x1, y1 = box
    for folder in ("voc/JPEGImages", "coco/images", "csv"):
        save_image(root / folder / "a.jpg", *stored, orientation)
    make_voc(root / "voc", {"a": voc_xml(voc_object("cat", (x0 + 1, y0 + 1, x1, y1)), size=stated)})
    entry = {"id": 1, "file_name": "a.jpg"} | (dict(zip(("width", "height"), stated, strict=True)) if stated else {})
    make_coco(root / "coco", coco([entry], [coco_object(1, 1, 1, [x0, y0, x1 - x0, y1 - y0])]), images="a")
    width, height = stated or ("", "")
    write(
        root / "csv" / "list.csv",
        f"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,{width},{height},cat,{x0},{y0},{x1},{y1}\n",
    )
    return [root / "voc", root / "coco", root / "csv"]


@pytest.mark.parametrize(("box", "stated", "stored", "orientation", "right", "words"), AGREED.values(), ids=AGREED)
def test_the_files_own_size_decides(
    tmp_path: Path,
    box: list[float],
    stated: Size | None,
    stored: Size,
    orientation: int,
    right: list[float],
    words: str,
) -> None:
    for folder in two_formats(tmp_path, box, stated, stored, orientation):
        dataset = open_dataset(str(folder))
        (sample,) = dataset.boxed_samples("train")
        assert sample.boxes.round(3).tolist() == [right]
        assert sample.size == image_size(sample.path)
        sizes = [text for text in dataset.problems.warnings if "but" in text]
        assert len(sizes) == bool(words)
        assert all(words in text and "a.jpg" in text for text in sizes)


REFUSED = {
    "another shape": ([20, 40, 140, 100], (160, 160), "differ in shape"),
    "fits neither": ([20, 40, 200, 100], (160, 120), "out of the size stated"),
}


@pytest.mark.parametrize(("box", "stated", "words"), REFUSED.values(), ids=REFUSED)
def test_what_fits_nothing_is_refused_by_name(
    tmp_path: Path, box: list[float], stated: Size, words: str, run_cli: Cli
) -> None:
    for folder in two_formats(tmp_path, box, stated, (80, 60), 1):
        with pytest.raises(DataError, match=f"a.jpg is 80 x 60, but .*{re.escape(words)}"):
            open_dataset(str(folder)).boxed_samples("train")
        result = run_cli("data", "check", folder, "--json")
        document = json.loads(result.stdout)
        assert result.code == 4
        assert len(document["broken"]) == 1
        assert words in document["broken"][0]
        assert document["classes"][0]["images"] == {"train": 1}  # the label stays
        assert not any("has no image" in text for text in document["warnings"])


def test_a_size_is_settled_once_per_image_not_per_box(tmp_path: Path) -> None:
    """One box that only the file explains explains the others."""
    objects = [voc_object("cat", (1, 1, 20, 20)), voc_object("cat", (51, 36, 70, 55))]
    dataset = open_dataset(str(make_voc(tmp_path, {"a": voc_xml(*objects, size=(40, 30))})))
    assert boxes_by_id(dataset) == {"a": (["cat"], [[0, 0, 20, 20], [50, 35, 70, 55]])}


def test_nothing_is_cut_in_silence(tmp_path: Path) -> None:
    boxes = [(51, 31, 99, 99), (1, 1, 80.4, 60)]
    dataset = open_dataset(str(make_voc(tmp_path, {"a": voc_xml(*(voc_object("cat", box) for box in boxes))})))
    assert boxes_by_id(dataset)["a"][1] == [[50, 30, 80, 60], [0, 0, 80, 60]]
    (warning,) = dataset.problems.warnings
    assert "a.xml" in warning
    assert "1 box cut to the image of 80 x 60" in warning


def test_evaluate_and_train_say_what_data_check_says(tmp_path: Path, run_cli: Cli) -> None:
    """The kept example: the truth is not cut to a wrong size, and the reader is told, once for all images."""
    objects = {"a": voc_object("dog", (11, 21, 60, 50)), "b": voc_object("cat", (51, 36, 70, 55))}
    images = {name: voc_xml(text, size=(40, 30)) for name, text in objects.items()}
    images["c"] = voc_xml(voc_object("cat") + voc_object("dog"), size=(40, 30))
    root = make_voc(tmp_path / "set", images, {"train": "a\nb\nc\n", "val": "a\nb\n"})
    rows = "image,width,height,label,label_id,score,x0,y0,x1,y1\n"
    rows += "a.jpg,80,60,dog,dog,0.9,10,20,60,50\nb.jpg,80,60,cat,cat,0.9,50,35,70,55\n"
    judged = run_cli("evaluate", write(tmp_path / "boxes.csv", rows), "--dataset", root, "--json")
    assert judged.code == 0, judged.stderr
    document = json.loads(judged.stdout)
    assert document["n"] == 2
    assert document["metrics"]["mean_iou"] == 1
    (note,) = [text for text in document["notes"] if "but" in text]
    checked = json.loads(run_cli("data", "check", root, "--json").stdout)["warnings"]
    checked = [text for text in checked if " look al" not in text and " in the splits " not in text]
    assert len(checked) == 3
    assert any(note.split(" (and 1 more")[0].split("80 x 60, but")[0] in text for text in checked)
    assert note.endswith("(and 1 more like this)")
    options = ["--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--iterations", 1, "--batch-size", 2]
    options += ["--device", "cpu", "--workers", 0, "--val-fraction", 0, "--set", "keep=last"]
    trained = run_cli("train", root, *options, "--out", tmp_path / "run")
    assert trained.code == 0, trained.stderr
    assert trained.stderr.count("warning:") == 1
    assert "80 x 60, but" in trained.stderr


def test_an_unreadable_image_keeps_its_annotation(tmp_path: Path, run_cli: Cli) -> None:
    root = make_voc(tmp_path, {"a": voc_xml(voc_object()), "b": voc_xml(voc_object("dog"))})
    (root / "JPEGImages" / "b.jpg").write_bytes(b"")
    document = json.loads(run_cli("data", "check", root, "--json").stdout)
    assert len(document["broken"]) == 1
    assert "b.jpg is empty" in document["broken"][0]
    assert [item["boxes"] for item in document["classes"]] == [{"train": 1}, {"train": 1}]
