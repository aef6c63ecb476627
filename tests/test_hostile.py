"""Files of strangers: one line that names the file, the right exit code, and the rest of a batch goes on."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gwapctl.cli import console
from gwapctl.cli.console import shown
from gwapctl.config import read_recipe
from gwapctl.datasets import download, open_dataset
from gwapctl.datasets.cells import plain_cell, safe_cell
from gwapctl.datasets.download import unpack
from gwapctl.draw import Mark, draw_overlay
from gwapctl.errors import DataError, ModelError, UsageError, reading
from gwapctl.formats.base import check_names
from gwapctl.formats.tables import Csv, read_csv
from gwapctl.images.decode import read_image
from gwapctl.images.files import check_distinct, name_problem
from gwapctl.images.likeness import alike, likeness
from gwapctl.networks.backbones.caffemodel import caffe_weights
from gwapctl.networks.classifier import load_classifier, save_model
from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.runs import Run
from tests.factories import (
    coco,
    coco_object,
    make_coco,
    make_small_classifier,
    make_voc,
    save_image,
    voc_object,
    voc_xml,
    write,
)

Cli = Callable[..., Any]
SEVEN = b"\xff\xd8\xff\xc0\x00\x11\x08"


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), IndexError(), KeyError("a\nb")], ids=repr)
def test_the_boundary_names_the_file_in_one_line(error: Exception) -> None:
    with pytest.raises(DataError, match=r"^a\.xml cannot be read[^\n]*$"), reading("a.xml"):
        raise error


def test_the_boundary_lets_errors_of_ours_and_the_user_pass() -> None:
    with pytest.raises(UsageError, match="mine"), reading("a.xml"):
        raise UsageError("mine")
    with pytest.raises(KeyboardInterrupt), reading("a.xml"):
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------- one bad file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(make_small_classifier(names=("a\nb", "\x1b[31mred")), tmp_path / "model")
    return tmp_path / "model"


def test_bad_files_and_names_do_not_end_a_batch(model: Path, tmp_path: Path, run_cli: Cli) -> None:
    photos = tmp_path / "photos"
    save_image(photos / "good.jpg")
    save_image(photos / ("n" * 248 + ".jpg"))
    write(photos / "seven.jpg", SEVEN)
    result = run_cli("localize", photos, "--model", model, "--out", tmp_path / "out", "--format", "jsonl")
    assert result.code == 3, result.stderr
    rows = {row["id"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert "seven.jpg is truncated" in rows["seven.jpg"]["error"]["message"]
    assert "a name of 256 bytes" in rows["n" * 248 + ".jpg"]["error"]["message"]
    assert rows["good.jpg"]["error"] is None
    assert (tmp_path / "out/overlays/good.jpg.jpg").is_file()


def test_a_class_name_of_two_lines_is_drawn() -> None:
    picture = draw_overlay(np.zeros((60, 80, 3), np.uint8), None, [Mark((5, 5, 60, 50), "a\nb\r\tc 0.5")])
    assert picture.any()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.eye(3))
    return file.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        npz()[:40],
        b"PK\x03\x04",
        header("{'descr': '<f2', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"),
        header("{'descr': '<f2', 'fortran_order': [[[, 'shape': (3, 4)"),
        b"",
    ],
    ids=["zip cut off", "zip", "a terabyte", "no Python", "empty"],
)
def test_broken_maps_are_named(data: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg.npy", data)
    with pytest.raises(DataError, match=r"a\.jpg\.npy"):
        MapFolder(tmp_path).load("a.jpg")


# ------------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    "document",
    [
        coco(categories=[{"id": 1}]),
        coco(categories=[{"id": "k", "name": "cat"}, {"id": 2, "name": "dog"}, {"id": [3], "name": "x"}]),
        coco(images=[{"id": 1, "file_name": "a.jpg", "width": float("inf"), "height": 9}]),
        coco(annotations=[coco_object(1, 1, 1, [10**400, 1, 2, 3])]),
    ],
    ids=["no name", "kinds of ids", "infinite", "huge"],
)
def test_coco_never_ends_in_an_internal_error(document: dict[str, object], tmp_path: Path, run_cli: Cli) -> None:
    result = run_cli("data", "check", make_coco(tmp_path, document))
    assert result.code in (0, 4)
    assert "internal error" not in result.stderr


@pytest.mark.parametrize(
    "xml",
    [
        '<?xml version="1.0" encoding="martian"?><annotation/>',
        "<annotation><size><width>1e400</width><height>9</height></size></annotation>",
        voc_xml("<object><name>cat</name><score>nan</score></object>"),
        "<a>" * 20_000,
    ],
    ids=["encoding", "infinite", "score", "deep"],
)
def test_voc_never_ends_in_an_internal_error(xml: str, tmp_path: Path, run_cli: Cli) -> None:
    make_voc(tmp_path / "set", {"a": voc_xml(voc_object()), "b": xml})
    result = run_cli("data", "check", tmp_path / "set")
    assert result.code in (0, 4)
    assert "internal error" not in result.stderr
    assert result.code == 0 or "b.xml" in result.stdout + result.stderr


@pytest.mark.parametrize("text", ["a = " + "9" * 4301, "a = " + "[" * 5000, "a" + ".a" * 50_000 + " = 1", "a = '"])
def test_toml_is_refused_quickly(text: str, tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(DataError, match=r"recipe\.toml"):
        read_recipe(write(tmp_path / "recipe.toml", text))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", ["9" * 4301, '{"a":' * 50_000, '{"schema_version": 1, "images": [{"image": NaN}]}'])
def test_json_names_its_file(text: str, tmp_path: Path, run_cli: Cli) -> None:
    result = run_cli("boxes", write(tmp_path / "found.json", text), "--out", tmp_path / "a.csv")
    assert result.code == 4
    assert "found.json" in result.stderr


RUN = {"schema_version": 1, "status": "finished", "config": {"backbone": "resnet-s"}, "dataset": {"name": "set"}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", RUN | {"config": [1]}),
        ("run.json", RUN | {"status": 7}),
        ("evaluations/a.json", [1]),
        ("evaluations/a.json", {"metrics": 3}),
        ("evaluations/a.json", {"dataset": "a", "split": ["b"]}),
        ("history.jsonl", b"\xff\xfe\x00"),
    ],
)
def test_a_broken_run_is_named(name: str, content: object, tmp_path: Path, run_cli: Cli) -> None:
    write(tmp_path / "run/run.json", RUN)
    write(tmp_path / "run" / name, content)
    result = run_cli("report", tmp_path / "run")
    assert result.code == 4, result.stderr
    assert Path(name).name in result.stderr


def test_rows_of_a_history_that_are_none_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "run.json", RUN)
    write(tmp_path / "history.jsonl", '{"iteration": 1}\n7\n[]\n' + "9" * 4301 + '\n{"loss": 1}\n{"iteration": 2, "lo')
    assert Run.open(tmp_path).history() == [{"iteration": 1}]


@pytest.mark.parametrize("data", [b"", b"\xa2\x06\x04\x0a\x02\xff\xff", b"\xff" * 40], ids=["empty", "name", "numbers"])
def test_caffe_files_are_named(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.caffemodel"):
        caffe_weights(write(tmp_path / "net.caffemodel", data), "vgg16")


@pytest.mark.parametrize("label", ["2000000000", "nan", "inf", "-1", "0.5", ""])
def test_labels_of_wsolevaluation_are_classes(label: str, tmp_path: Path) -> None:
    write(tmp_path / "test/image_ids.txt", "a.jpg\n")
    write(tmp_path / "test/class_labels.txt", f"a.jpg,{label}\n" if label else "")
    write(tmp_path / "test/localization.txt", "a.jpg,1,2,3,4\n")
    with pytest.raises(DataError, match=r"class_labels\.txt"):
        open_dataset(str(tmp_path))


def test_weights_that_are_not_finite_name_the_model(model: Path) -> None:
    tensors = load_file(model / "weights.safetensors")
    next(tensor for tensor in tensors.values() if tensor.is_floating_point()).view(-1)[0] = torch.nan
    save_file(tensors, model / "weights.safetensors")
    with pytest.raises(ModelError, match=r"model/weights\.safetensors holds weights that are not finite"):
        load_classifier(model)


# ------------------------------------------------------------------------------------------------------------ archives


def make_zip(path: Path, name: str, content: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(name, content)
    return path


def test_lzma_which_takes_any_memory_is_refused(tmp_path: Path) -> None:
    file = make_zip(tmp_path / "a.zip", "a.txt", b"content", zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"a\.zip packs a\.txt neither by deflate nor by bzip2"):
        unpack(file, tmp_path / "out")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.add(file, "a.txt")
    with pytest.raises(DataError, match=r"a\.tar\.xz is neither a zip nor a tar file"):
        unpack(tmp_path / "a.tar.xz", tmp_path / "out")


@pytest.mark.parametrize("kind", ["", "gz", "bz2"])
def test_tar_files_packed_otherwise_are_read(kind: str, tmp_path: Path) -> None:
    content = tmp_path / "content.txt"
    content.write_text("content")
    with tarfile.open(tmp_path / "a.tar", f"w:{kind}") as archive:
        archive.add(content, "a/b.txt")
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_text() == "content"


def test_an_encrypted_archive(tmp_path: Path) -> None:
    file = make_zip(tmp_path / "a.zip", "a.txt", b"content")
    data = bytearray(file.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.zip .*password"):
        unpack(file, tmp_path / "out")


@pytest.mark.parametrize("name", [".", "./"])
def test_a_member_without_a_name(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="without a name"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_an_archive_that_grows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_ALWAYS", 1 << 20)
    file = make_zip(tmp_path / "a.zip", "a.txt", bytes(3 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="times its own size: refused"):
        unpack(file, tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------- what a person is shown


def test_controls_are_shown_escaped(model: Path, tmp_path: Path, run_cli: Cli) -> None:
    save_image(tmp_path / "photos" / "a\x1b[2Jb.jpg")
    write(tmp_path / "photos" / "c\x1b[2Jd.jpg", SEVEN)
    result = run_cli("localize", tmp_path / "photos", "--model", model)
    assert "\x1b" not in result.stdout + result.stderr
    assert r"a\x1b[2Jb.jpg" in result.stdout
    assert r"c\x1b[2Jd.jpg" in result.stderr
    assert r"a\nb" in result.stdout or r"\x1b[31mred" in result.stdout


def test_what_is_shown() -> None:
    assert shown("é \u202e\x9b\x7f\r\n") == "é \\u202e\\x9b\\x7f\\x0d\n"
    assert shown("a\tb\nc", line=True) == "a\\tb\\nc"


def test_json_keeps_its_controls(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": "a\x1b\x9b"})
    assert json.loads(capsys.readouterr().out) == {"name": "a\x1b\x9b"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("data", "list"), ("--help",)])
def test_a_full_output_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "gwapctl", *words]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 4
    assert result.stderr.startswith("error: cannot write to standard output")
    assert result.stderr.count("\n") == 1


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\tx", "'=x", "'tis", "-1.5", "+3e2", "cat", "", "-"]


@pytest.mark.parametrize("text", FORMULAS)
def test_cells_are_safe_and_come_back(text: str) -> None:
    assert plain_cell(safe_cell(text)) == text
    assert safe_cell(text)[:1] not in "=+-@\t" or text in ("", "-1.5", "+3e2")


def test_a_table_of_boxes_runs_nothing(tmp_path: Path) -> None:
    found = [Prediction("=a.jpg", 80, 60, predictions=(ClassPrediction("@cat", "-1.5", 0.5, (1.0, 2.0, 30.0, 40.0)),))]
    Csv().write(tmp_path / "a.csv", found)
    assert (tmp_path / "a.csv").read_text().splitlines()[1].startswith("'=a.jpg,80,60,'@cat,-1.5,0.5,1.0,2.0")
    assert list(read_csv(tmp_path / "a.csv")) == found


# ---------------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("other", ["A.jpg", "./a.jpg", "b/../a.jpg"])
def test_ids_that_collide_are_refused(other: str) -> None:
    with pytest.raises(UsageError, match="one file"):
        check_distinct(["b.jpg", "a.jpg", other])
    if ".." not in other:
        with pytest.raises(UsageError, match="share"):
            check_names(["b.png", "a.jpg", other])


def test_collisions_are_refused_before_work(model: Path, tmp_path: Path, run_cli: Cli) -> None:
    for name in ("a.jpg", "A.jpg"):
        save_image(tmp_path / "photos" / name)
    if len(list((tmp_path / "photos").iterdir())) < 2:
        pytest.skip("upper and lower case are one here")
    result = run_cli("localize", tmp_path / "photos", "--model", model, "--out", tmp_path / "out")
    assert result.code == 2
    assert not (tmp_path / "out").exists()
    assert run_cli("localize", tmp_path / "photos", "--model", model).code == 0  # nothing is written


@pytest.mark.parametrize("name", ["NUL", "a/con.jpg", "a./b.jpg", "a /b.jpg", "a:b.jpg", "com1.tar.gz", 'a"b'])
def test_names_that_windows_cannot_have(name: str) -> None:
    assert name_problem(name) is not None
    assert name_problem("a/console.jpg") is name_problem(".a/b.c") is None


# ------------------------------------------------------------------------------------------------------- data check


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((120, 90), Image.Resampling.BICUBIC)


def test_data_check_finds_leaks(tmp_path: Path, run_cli: Cli) -> None:
    for index, name in enumerate("abcd"):
        (tmp_path / "set").mkdir(exist_ok=True)
        picture(index).save(tmp_path / "set" / f"{name}.jpg")
    picture(0).resize((64, 48)).save(tmp_path / "set" / "small.jpg", quality=60)
    rows = [
        "image,label,split",
        "a.jpg,cat,train",
        "b.jpg,dog,train",
        "b.jpg,dog,val",
        "c.jpg,cat,val",
        "d.jpg,dog,test",
    ]
    write(tmp_path / "set" / "manifest.csv", "\n".join([*rows, "small.jpg,cat,test"]))
    document = json.loads(run_cli("data", "check", tmp_path / "set", "--json").stdout)
    text = "\n".join(document["warnings"])
    assert "b.jpg is in the splits 'train' and 'val'" in text
    assert "a.jpg (train) and" in text
    assert "small.jpg (test) look alike" in text
    assert text.count("look alike") == 1


def test_data_check_finds_annotations_without_images(tmp_path: Path, run_cli: Cli) -> None:
    make_voc(tmp_path / "set", {"a": voc_xml(voc_object())})
    write(tmp_path / "set/ImageSets/Main/train.txt", "a\n")
    write(tmp_path / "set/Annotations/lost.xml", voc_xml())
    assert "lost.xml is the annotation of an image" in run_cli("data", "check", tmp_path / "set").stdout


def test_likeness() -> None:
    hashes = [likeness(np.asarray(picture(seed))) for seed in range(40)]
    again = [likeness(np.asarray(picture(seed).resize((60, 45)))) for seed in range(40)]
    assert None not in hashes
    assert sorted(alike([*hashes, *again])) == [(index, index + 40) for index in range(40)]  # type: ignore[list-item]
    assert likeness(np.full((60, 80, 3), 7, np.uint8)) is None


def test_the_limit_on_pixels_says_what_it_enforces(tmp_path: Path) -> None:
    data = bytearray(save_image(tmp_path / "a.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (14_000).to_bytes(2) * 2
    write(tmp_path / "a.jpg", bytes(data))
    with pytest.raises(DataError, match=r"14000 x 14000 pixels: 196\.0 megapixels, and at most 100 are decoded"):
        read_image(tmp_path / "a.jpg")


GROWTH = """
import re, sys
from pathlib import Path
from gwapctl.images.decode import read_image
def most():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024
before = most()
read_image(Path(sys.argv[1]))
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep the most memory in a file")
def test_the_largest_images_are_decoded_in_a_gigabyte(tmp_path: Path) -> None:
    flat = Image.new("RGB", (10_000, 10_000), (200, 100, 50))  # whose end looks missing; all coefficients are kept
    flat.save(tmp_path / "a.jpg", progressive=True, subsampling=0)
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "a.jpg")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 300_000_000 < grown < 1_000_000_000
