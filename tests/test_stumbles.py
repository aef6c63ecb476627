"""What people stumbled over at the command line: each thing as they typed it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwapctl.datasets import DATASETS
from gwapctl.datasets.download import missing_archives
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.classifier import load_info, save_model
from gwapctl.networks.heads import HEADS
from gwapctl.networks.zoo import entries
from gwapctl.train.recipes import with_network_of_weights
from tests.factories import make_small_classifier, save_image

Run = Callable[..., Any]
SMALL = ("--backbone", "resnet-s", "--weights", "none", "--image-size", 32, "--epochs", 1, "--batch-size", 4)
ENTRY = "resnet-s-gwap-tiny-imagenet"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no data anywhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def photos(here: Path) -> Path:
    """Class folders without any split."""
    for name in ("cat", "dog"):
        for index in range(6):
            save_image(here / "my photos" / name / f"{index}.jpg", 40 + index, 30)
    return Path("my photos")


# --- a folder that is called as a data set ---


@pytest.mark.parametrize(
    "command", [("data", "check", "voc"), ("train", "voc", *SMALL), ("train", "voc", *SMALL, "--dry-run")]
)
def test_a_folder_that_is_called_as_a_data_set_stops_it(here: Path, run_cli: Run, command: tuple[object, ...]) -> None:
    save_image(here / "voc" / "cat" / "a.jpg")
    done = run_cli(*command)
    assert done.code == 2
    assert f"Write {here / 'voc'} for the folder" in done.stderr
    assert "--root" in done.stderr
    assert "downloading" not in done.stderr


def test_a_root_or_a_path_says_which_is_meant(here: Path, run_cli: Run, voc: Path) -> None:
    shutil.copytree(voc, here / "voc")
    assert run_cli("data", "check", "./voc").code == 0
    done = run_cli("data", "check", "voc", "--root", ".")
    assert "voc is not here" in done.stderr
    shutil.copytree(voc, here / "data" / "VOCdevkit" / "VOC2007")
    shutil.rmtree(here / "voc")
    (here / "voc").mkdir()  # an empty folder is nobody's data set
    assert "voc at data/VOCdevkit/VOC2007" in run_cli("data", "check", "voc").stdout
    assert run_cli("data", "list").code == 0


def test_the_data_set_itself_may_be_called_so(here: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save_image(here / "voc" / "cat" / "a.jpg")
    monkeypatch.setenv("GWAPCTL_DATA", "voc")
    assert missing_archives("voc", None)
    assert run_cli("data", "check", "voc").code == 2
    opened = DATASETS["voc"]
    monkeypatch.setattr(type(opened), "load", lambda _: lambda roots: type("Set", (), {"root": roots[0] / "x"})())
    from gwapctl.datasets import open_dataset

    assert open_dataset("voc").root == Path("voc", "x")


# --- files that are passed over, and files under several names ---


def test_files_that_are_no_images_are_counted_by_suffix(photos: Path, run_cli: Run) -> None:
    for name in ("a.mp4", "b.MP4", "c.txt", "d", ".hidden"):
        (photos / "cat" / name).touch()
    words = "4 files passed over, for they are no images: 2 .mp4, 1 .txt, 1 without suffix."
    for command in (("localize", photos, "--dry-run"), ("data", "check", photos), ("train", photos, *SMALL)):
        done = run_cli(*command)
        assert words in " ".join((done.stdout + done.stderr).split()), command


def test_label_images_of_a_data_set_are_no_photos(tmp_path: Path, run_cli: Run) -> None:
    for name in ("JPEGImages/1.jpg", "SegmentationClass/1.png", "Masks/1.png", "more/Masks/2.png"):
        save_image(tmp_path / "VOC2012" / name)
    done = run_cli("localize", tmp_path, "--dry-run")
    said = " ".join(done.stderr.split())
    assert "2 images" in said, said  # Masks alone may be photos of masks
    assert "not read, for beside JPEGImages its images are labels of pixels" in said
    assert "SegmentationClass" in said


def test_the_same_file_under_two_names_is_said(photos: Path, run_cli: Run) -> None:
    (photos / "dog" / "again.jpg").symlink_to(Path("..", "cat", "1.jpg"))
    os.link(photos / "cat" / "2.jpg", photos / "dog" / "copy.jpg")  # a hard link is a file of its own right
    for command in (("localize", photos, "--dry-run"), ("data", "check", photos), ("train", photos, *SMALL)):
        done = run_cli(*command)
        said = done.stdout + done.stderr
        assert said.count("the same file under 2 names") == 1, command
        assert f"dog{os.sep}again.jpg" in said
        assert "copy.jpg" not in said


def test_one_problem_is_one(photos: Path, run_cli: Run) -> None:
    (photos / "cat" / "0.jpg").write_bytes(b"x")
    done = run_cli("data", "check", photos)
    assert done.code == 4
    assert "error: 1 problem in my photos." in done.stderr


# --- before anything is downloaded or trained ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no/such", "--backbone", "resnet50"), "does not exist"),
        (("nosuch", "--backbone", "resnet50"), "unknown dataset"),
        (("my photos", "--backbone", "resnet50", "--device", "cuda:99"), "is not there"),
        (("voc", "--backbone", "resnet50", "--device", "cuda:99"), "is not there"),
        (("voc", "--backbone", "resnet50", "--weights", "nosuch"), "no model 'nosuch'"),
        (("my photos", "--backbone", "resnet50", "--set", "keep=last", "--weights", "x.caffemodel"), "x.caffemodel"),
    ],
)
def test_mistakes_come_before_downloads_and_leave_no_folder(
    photos: Path, run_cli: Run, arguments: tuple[str, ...], words: str
) -> None:
    done = run_cli("train", *arguments, "--out", "run")
    assert done.code in (2, 4, 5)
    assert words in done.stderr
    assert "downloading" not in done.stderr
    assert not Path("run").exists()


def test_a_download_is_announced_when_it_comes(photos: Path, run_cli: Run) -> None:
    done = run_cli("train", photos, "--backbone", "resnet50", "--out", "run")
    lines = done.stderr.splitlines()
    assert lines[-2].startswith("downloading ImageNet weights of resnet50")
    assert lines[-3].endswith("to validate on (0.1 of train, seed 0)")
    assert lines[-1].startswith("error: cannot download")
    assert f"--weights efficientnet-lite0-imagenet or {ENTRY}" in lines[-1]
    assert not Path("run").exists()
    assert "downloading" not in run_cli("train", photos, *SMALL, "--out", "run").stderr


def test_offline_names_an_entry_that_is_here_as_the_way_on(photos: Path, run_cli: Run) -> None:
    done = run_cli("train", photos, "--backbone", "resnet50", "--offline", "--out", "run")
    assert done.code == 2
    assert f"--weights efficientnet-lite0-imagenet or {ENTRY}, which are here" in done.stderr
    assert not Path("run").exists()
    done = run_cli("train", photos, "--weights", ENTRY, "--offline", *SMALL[4:], "--out", "run")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize("verb", [("train", "my photos"), ("reproduce", "i", "--dataset", "my photos")])
def test_a_dry_run_asks_for_the_device(photos: Path, run_cli: Run, verb: tuple[str, ...]) -> None:
    done = run_cli(*verb, "--device", "cuda:99", "--dry-run")
    assert (done.code, done.stdout) == (5, "")
    assert "device 'cuda:99' is not there. Use --device cpu" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("boxes", "my photos", "--out", "x.foo"),
        ("evaluate", ENTRY, "--dataset", "nosuch", "--out", "x.foo"),
        ("report", "--table", "i", "--out", "x.foo"),
        ("report", "run", "--out", "x.foo"),
        ("report", "--figure", "7", "--out", "x.foo"),
        ("report", "--record", "x.foo"),
        ("reproduce", "i", "--record", "x.foo"),
    ],
)
def test_a_suffix_that_means_nothing_is_refused(photos: Path, run_cli: Run, command: tuple[str, ...]) -> None:
    done = run_cli(*command)
    assert done.code == 2
    assert "x.foo" in done.stderr
    assert not Path("x.foo").exists()


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        ("top1_error=5", "several classes"),
        ("px_ap_=5", "unknown metric"),
        ("det_map_area=5", "no detector"),
        ("images_per_second=5", "does not measure it"),
        ("cor_loc_calibrated=5", "--calibrate-on"),
    ],
)
def test_a_gate_that_cannot_be_measured_stops_before_any_work(
    here: Path, voc: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch, gate: str, why: str
) -> None:
    save_model(make_small_classifier(), here / "model")

    def working(*_: object) -> None:
        raise AssertionError("it works already")

    monkeypatch.setattr("gwapctl.evaluate.run.judge", working)
    done = run_cli("evaluate", "model", "--dataset", voc, "--fail-under", gate)
    assert done.code == 2
    assert why in done.stderr


# --- what is next ---


def test_next_lines_work_as_they_are_printed(photos: Path, run_cli: Run) -> None:
    """Class folders have no test split: there it is the images held out that can be measured on."""
    done = run_cli("train", photos, *SMALL, "--val-fraction", 0.3, "--out", "a run")
    commands = [shlex.split(line.removeprefix("next: ")) for line in done.stderr.splitlines() if "next: " in line]
    assert [command[:2] for command in commands] == [["gwapctl", "evaluate"], ["gwapctl", "localize"]]
    for command in commands:
        again = run_cli(*command[1:])
        assert again.code == 0, again.stderr
    plain = run_cli("evaluate", "a run")
    assert plain.code == 4
    assert "--split held-out" in plain.stderr


def test_what_synth_says_is_next_works(here: Path, run_cli: Run) -> None:
    done = run_cli("data", "synth", "--images", 12, "--image-size", 64, "--out", "voc")
    command = shlex.split(done.stdout.rpartition("Next: ")[2])
    assert run_cli(*command[1:], "--dry-run").code == 0


# --- weights that name their network ---


def test_weights_of_a_model_bring_its_backbone(photos: Path, run_cli: Run) -> None:
    done = run_cli("train", photos, "--weights", ENTRY, *SMALL[4:], "--out", "run")
    assert done.code == 0, done.stderr
    assert load_info(Path("run")).backbone == load_info(entries()[ENTRY]).backbone == "resnet-s"
    assert json.loads(Path("run", "run.json").read_text())["config"]["weights"] == ENTRY
    listed = run_cli("train", photos, "--weights", ENTRY, "--settings", "--json")
    rows = {row["key"]: row for row in json.loads(listed.stdout)["settings"]}
    assert (rows["backbone"]["value"], rows["backbone"]["origin"]) == ("resnet-s", "--weights")


def test_a_backbone_that_is_named_stays(tmp_path: Path) -> None:
    asked = {"weights": ENTRY, "backbone": "resnet18"}
    assert with_network_of_weights(asked) == asked
    for weights in ("imagenet", "none", "nosuch"):
        assert with_network_of_weights({"weights": weights}) == {"weights": weights}
    info = make_small_classifier().info.model_copy(update={"backbone": "googlenet+cam2"})
    (tmp_path / "model.json").write_text(info.model_dump_json())
    found = with_network_of_weights({"weights": str(tmp_path)})
    assert found == {"backbone": "googlenet", "cam_conv": True, "cam_groups": 2, "weights": str(tmp_path)}


# --- output, completion ---


def test_localize_prints_json(photos: Path, run_cli: Run) -> None:
    save_model(make_small_classifier(), Path("model"))
    asked = ("localize", photos, "--model", "model", "--limit", 2)
    document = json.loads(run_cli(*asked, "--json").stdout)
    assert document == json.loads(run_cli(*asked, "--format", "json").stdout)
    assert len(document["images"]) == 2
    assert run_cli(*asked, "--json", "--format", "jsonl").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train --head gw", [name for name in HEADS if name.startswith("gw")]),
        ("train --backbone eff", [name for name in BACKBONES if name.startswith("eff")]),
        ("train vo", ["voc", "voc2012", "voc07+12"]),
        ("localize --map gradc", ["gradcam"]),
        ("localize --model resnet-s", [ENTRY]),
        ("report --table dg", ["dgl"]),
        ("boxes --format co", ["coco"]),
    ],
)
def test_the_shell_completes_values_without_torch(words: str, expected: list[str]) -> None:
    line = f"gwapctl {words}"
    script = "import sys; sys.argv = ['gwapctl']\nfrom gwapctl.cli import main\n"
    script += "try: main()\nfinally: print('torch' in sys.modules)"
    environment = {**os.environ, "_GWAPCTL_COMPLETE": "complete_bash", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(line.split()) - 1)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == [*expected, "False"]


def test_data_that_is_missing_is_no_mistake_of_a_dry_run(here: Path, run_cli: Run) -> None:
    done = run_cli("train", "tiny-imagenet", "--dry-run")
    assert done.code == 0
    assert "images not counted" in done.stderr
