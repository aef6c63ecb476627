"""``gwapctl data``: what it prints, what it finds, and its exit codes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gwapctl.datasets import DATASETS
from gwapctl.datasets.synthetic import make_synthetic_voc

Cli = Callable[..., "object"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scenes"
    make_synthetic_voc(path, images=10, seed=1, size=(64, 80))
    return path


def test_a_sound_data_set(folder: Path, run_cli: Cli) -> None:
    result = run_cli("data", "check", folder, "--json")
    assert result.code == 0
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert document["broken"] == []
    assert {row["split"]: row["images"] for row in document["splits"]} == {"train": 6, "val": 2, "test": 2}
    assert sum(row["masks"] for row in document["splits"]) == 10
    for row in document["splits"]:
        assert 40 <= row["height"]["min"] <= row["height"]["median"] <= row["height"]["max"] <= 80
        assert row["boxes"] == sum(item["boxes"][row["split"]] for item in document["classes"])
    table = run_cli("data", "check", folder)
    assert table.code == 0
    assert "several labels per image" in table.stdout
    assert "mug" in table.stdout


def test_every_broken_file_is_named_at_once(folder: Path, run_cli: Cli) -> None:
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    (images / "000000.jpg").write_bytes(b"")
    (images / "000001.jpg").write_bytes((images / "000001.jpg").read_bytes()[:700])
    (images / "000002.jpg").unlink()
    (annotations / "000003.xml").write_text("<annotation>")
    (annotations / "000004.xml").unlink()
    Image.new("L", (7, 5)).save(folder / "Masks" / "000005.png")
    Image.new("RGB", (33, 44)).save(images / "000006.jpg")
    result = run_cli("data", "check", folder, "--json")
    assert result.code == 4
    assert result.stderr.count("error:") == 1
    document = json.loads(result.stdout)
    broken = "\n".join(document["broken"])
    for name in ("000000.jpg", "000001.jpg", "000003.xml", "000004.xml", "000005.png"):
        assert name in broken
    assert "no image 000002" in broken
    assert any("000006.jpg is 33 x 44" in message for message in document["warnings"])
    table = run_cli("data", "check", folder)
    assert table.code == 4
    assert all(message in table.stdout for message in document["broken"])


def test_classes_without_training_images_are_pointed_out(folder: Path, run_cli: Cli) -> None:
    main = folder / "ImageSets" / "Main"
    lines = (main / "train.txt").read_text().splitlines()
    (main / "train.txt").write_text(lines[0] + "\n")
    document = json.loads(run_cli("data", "check", folder, "--json").stdout)
    assert any("has no image in split 'train'" in message for message in document["warnings"])


def test_a_data_set_that_cannot_be_opened(tmp_path: Path, run_cli: Cli) -> None:
    assert run_cli("data", "check", tmp_path).code == 4
    unknown = run_cli("data", "check", "vocc", "--root", tmp_path)
    assert unknown.code == 2
    assert "Did you mean 'voc" in unknown.stderr


def test_many_classes_are_summed_up_unless_verbose(tmp_path: Path, run_cli: Cli) -> None:
    for number in range(40):
        path = tmp_path / "many" / f"class{number:02d}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 9)).save(path)
    brief = run_cli("data", "check", tmp_path / "many").stdout
    assert "40 classes" in brief
    assert "class07" not in brief
    assert "class07" in run_cli("data", "check", tmp_path / "many", "-v").stdout


def test_list_names_every_data_set(folder: Path, run_cli: Cli, tmp_path: Path) -> None:
    document = json.loads(run_cli("data", "list", "--json", "--root", tmp_path).stdout)
    assert [row["name"] for row in document["datasets"]] == list(DATASETS)
    assert all(row["root"] is None and row["splits"] == [] for row in document["datasets"])
    assert run_cli("data", "list", "--root", tmp_path).code == 0
    folder.rename(tmp_path / "VOC2007")
    rows = {
        row["name"]: row for row in json.loads(run_cli("data", "list", "--json", "--root", tmp_path).stdout)["datasets"]
    }
    assert rows["voc"]["splits"] == ["train", "val", "test"]


def test_synth_and_its_mistakes(tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / "s"
    assert run_cli("data", "synth", "--out", out, "--images", 5, "--image-size", "64-70").code == 0
    assert len(list((out / "JPEGImages").iterdir())) == 5
    again = run_cli("data", "synth", "--out", out, "--images", 5, "--image-size", 64)
    assert again.code == 2
    assert "--overwrite" in again.stderr
    assert run_cli("data", "synth", "--out", out, "--images", 5, "--image-size", 64, "--overwrite").code == 0
    assert run_cli("data", "synth", "--out", tmp_path / "t", "--image-size", "wide").code == 2
    assert not (tmp_path / "t").exists()


def test_get_offline_and_from_a_file(folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    refused = run_cli("data", "get", "voc", "--offline", "--root", tmp_path)
    assert refused.code == 4
    assert "--archive" in refused.stderr
    with tarfile.open(tmp_path / "mine.tar", "w") as tar:
        tar.add(folder, "VOCdevkit/VOC2007")
    arguments = ("data", "get", "voc", "--root", tmp_path, "--archive", tmp_path / "mine.tar")
    wrong = run_cli(*arguments)
    assert wrong.code == 4
    assert "SHA256" in wrong.stderr
    right = run_cli(*arguments, "--no-verify")
    assert right.code == 0
    assert "train, val, test" in right.stdout
