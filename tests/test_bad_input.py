"""Bad input of every kind: one clear line on stderr, the right exit code, nothing half written."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gwapctl.datasets.synthetic import make_synthetic_voc
from tests.factories import make_small_classifier, write

Run = Callable[..., Any]
Arguments = list[object]
TRAIN = ["--backbone", "resnet-s", "--weights", "none", "--image-size", "32", "--iterations", "2", "--batch-size", "2"]
TRAIN += ["--device", "cpu", "--workers", "0"]


@dataclass(frozen=True)
class World:
    """Good things to break, in a folder of the test's own."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def voc(self) -> Path:
        return self.folder / "voc"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def train(self, dataset: object, *more: object) -> Arguments:
        return ["train", dataset, *TRAIN, "--out", self.out, *more]

    def annotation(self) -> Path:
        return sorted((self.voc / "Annotations").glob("*.xml"))[0]

    def image(self) -> Path:
        return sorted((self.voc / "JPEGImages").glob("*.jpg"))[0]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set and a small model."""
    from gwapctl.networks.classifier import save_model

    folder = tmp_path_factory.mktemp("good")
    make_synthetic_voc(folder / "voc", images=10, seed=0, size=(64, 72))
    save_model(make_small_classifier(names=("a", "b", "c")), folder / "model")
    return folder


@pytest.fixture
def world(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)


# ---------------------------------------------------------------------------- how each thing breaks


LOCALIZE = "localize IMAGE --model model"
TO_OUT = f"{LOCALIZE} --out out"
# what is typed, the exit code, words of the error; IMAGE is one of ./voc, and train gets the flags of TRAIN
ASKED: list[tuple[str, int, str]] = [
    ("train ./voc --backbone resnet-z", 2, "Did you mean 'resnet-s'?"),
    ("train ./voc --head gwab", 2, "Did you mean 'gwap'?"),
    ("train ./voc --backbone resnet-z --dry-run", 2, "Did you mean 'resnet-s'?"),
    ("train ./voc --head lse --set head_options=q=3 --dry-run", 2, "no option 'q'"),
    ("train ./voc --detector rfcn --backbone resnet51 --dry-run", 2, "Did you mean 'resnet50'?"),
    ("train tiny-imagenat", 2, "Did you mean 'tiny-imagenet'?"),
    (f"{LOCALIZE} --map weigt", 2, "weight"),
    (f"{LOCALIZE} --box-rule papr20", 2, "paper20"),
    ("localize IMAGE --model resnet-s-gwap-tiny-imagenat", 4, "resnet-s-gwap-tiny-imagenet"),
    ("boxes voc --format cocoa --out out", 2, "coco"),
    ("report --table vi", 2, "iv"),
    ("train ./nowhere", 4, "nowhere does not exist"),
    ("localize nowhere.jpg --model model --out out", 2, "nowhere.jpg does not exist"),
    ("train voc --root . --offline", 4, "--archive"),
    ("train ./voc --backbone resnet18 --weights imagenet --offline", 2, "--weights none"),
    ("evaluate model --dataset ./voc --split tset", 4, "no split 'tset'"),
    ("evaluate model --dataset ./voc --split test", 4, "share no class"),
    ("train ./voc --device cuda", 5, "'cuda' is not there"),
    (f"{TO_OUT} --device cuda", 5, "'cuda' is not there"),
    (f"{TO_OUT} --device gpu", 2, "unknown device 'gpu'"),
    (f"{LOCALIZE} --scales '224;448'", 2, "--scales 224,448,672"),
    ("train ./voc --epochs 1", 2, "exactly one of epochs and iterations"),
    ("report ./voc", 4, "is not a run"),
]
# the same after a file was written: its path (ANNOTATION is one of ./voc) and content
WRITTEN: list[tuple[str, str | bytes, str, int, str]] = [
    ("recipe.toml", "learning_rat = 1\nlr = -1\n", "train ./voc --recipe recipe.toml", 2, "2 wrong settings"),
    ("recipe.toml", "lr = = 1\n", "train ./voc --recipe recipe.toml", 4, "recipe.toml is not valid TOML"),
    ("odd/readme.md", "nothing here", "train odd", 4, "no data set that we recognise"),
    ("empty/readme.md", "nothing here", "localize empty --model model --out out", 4, "no image in"),
    ("voc/ImageSets/Main/train.txt", "", "train ./voc", 4, "has no image in split 'train'"),
    ("ANNOTATION", "<annotation><object></annotation>", "train ./voc", 4, ".xml is not a valid annotation"),
    (
        *("ANNOTATION", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),
        *("train ./voc", 4, ".xml is not a valid annotation"),
    ),
    ("set/annotations.json", '{"images": [', "train set/annotations.json", 4, "is not valid JSON"),
    ("set/a.csv", "image,label,x0,y0,x1,y1\na.jpg,cat,1,2,three,4\n", "train set/a.csv", 4, "a.csv, line 2"),
    ("set/a.csv", "file,class\na.jpg,cat\n", "train set/a.csv", 4, "no column 'image'"),
    ("a.jsonl", '{"schema_version": 1\n', "boxes a.jsonl --out out/a.csv", 4, "a.jsonl"),
    ("model/weights.safetensors", b"\x08" + bytes(7) + b"{garbage", TO_OUT, 4, "not a readable safetensors file"),
    ("model/weights.safetensors", b"\x80\x04\x95" + bytes(8) + b"N.", TO_OUT, 4, "is a pickle"),
    ("model/model.json", "[]", TO_OUT, 4, "model.json is not a model description"),
    (
        *("run/run.json", '{"schema_version": 1, "status": "running"}'),
        *("localize IMAGE --model run", 4, "unfinished"),
    ),
]


def class_without_images(world: World) -> str:
    for name in ("cat", "dog"):
        shutil.copytree(world.voc / "JPEGImages", world.folder / "pets" / "train" / name)
    (world.folder / "pets" / "train" / "bird").mkdir()
    return "train pets"


def truncated_training_image(world: World) -> str:
    for image in (world.voc / "JPEGImages").glob("*.jpg"):
        image.write_bytes(image.read_bytes()[:900])
    return "train ./voc"


def maps_of_other_images(world: World) -> str:
    (world.folder / "maps").mkdir()
    np.save(world.folder / "maps" / "other.npy", np.eye(7, 9, dtype=np.float16))
    return "evaluate maps --dataset ./voc --split test"


def checkpoint_of_another_class_count(world: World) -> str:
    description = json.loads((world.model / "model.json").read_text())
    description["classes"] = description["classes"][:2]
    (world.model / "model.json").write_text(json.dumps(description))
    return TO_OUT


def pickle_as_weights(world: World) -> str:
    import torch

    torch.save({"layer": torch.zeros(2)}, world.folder / "weights.pt")
    return "train ./voc --weights weights.pt"


MADE: list[tuple[Callable[[World], str], int, str]] = [
    (class_without_images, 4, "bird"),
    (truncated_training_image, 4, "truncated"),
    (maps_of_other_images, 4, "maps"),
    (checkpoint_of_another_class_count, 4, "weights do not fit model.json"),
    (pickle_as_weights, 4, "is a pickle"),
]


@pytest.fixture
def refused(world: World, run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, str], None]:
    """Type a command and see that it ends with this code, one line with these words, and nothing half written."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setenv("TORCH_HOME", str(world.folder / "torch"))

    def check(typed: str, code: int, words: str) -> None:
        before = files(world.folder)
        arguments: Arguments = shlex.split(typed.replace("IMAGE", str(world.image())))
        if arguments[0] == "train" and "--detector" not in arguments:
            arguments = world.train(arguments[1], *arguments[2:])
        result = run_cli(*arguments)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.code == code, result.stderr
        assert len(errors) == 1
        assert result.stderr.endswith(errors[0] + "\n")
        assert words in errors[0]
        assert "internal error" not in errors[0]
        assert result.stdout == ""
        assert_nothing_half_written(world, before)

    return check


Refused = Callable[[str, int, str], None]


@pytest.mark.parametrize(("typed", "code", "words"), ASKED)
def test_bad_requests(typed: str, code: int, words: str, refused: Refused) -> None:
    refused(typed, code, words)


@pytest.mark.parametrize(("name", "content", "typed", "code", "words"), WRITTEN)
def test_bad_files(
    name: str, content: str | bytes, typed: str, code: int, words: str, world: World, refused: Refused
) -> None:
    write(world.annotation() if name == "ANNOTATION" else world.folder / name, content)
    refused(typed, code, words)


@pytest.mark.parametrize(("make", "code", "words"), MADE)
def test_bad_input(make: Callable[[World], str], code: int, words: str, world: World, refused: Refused) -> None:
    refused(make(world), code, words)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def assert_nothing_half_written(world: World, before: set[Path]) -> None:
    """No new file, but for a run folder that says itself that it failed."""
    new = files(world.folder) - before
    assert [path for path in new if path.name.startswith(".")] == []
    if world.out / "run.json" in new:
        assert json.loads((world.out / "run.json").read_text())["status"] == "failed"
        assert new <= {world.out / "run.json", world.out / "history.jsonl"}
    else:
        assert new == set()


# ---------------------------------------------------------------------------- images: one of them must not stop all


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def save_cmyk(path: Path) -> None:
    Image.new("CMYK", (40, 30), (0, 200, 100, 0)).save(path)


def save_animation(path: Path) -> None:
    frames = [Image.new("P", (40, 30), color) for color in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


ODD_IMAGES: dict[str, tuple[Callable[[World, Path], object], str | None]] = {
    "truncated.jpg": (lambda world, path: path.write_bytes(world.image().read_bytes()[:900]), "truncated"),
    "zero.jpg": (lambda world, path: path.write_bytes(b""), "0 bytes"),
    "text.png": (lambda world, path: path.write_text("not an image"), "not an image"),
    "huge.png": (lambda world, path: path.write_bytes(png_of(40_000, 40_000)), "megapixels"),
    "cmyk.jpg": (lambda world, path: save_cmyk(path), None),
    "sixteen.png": (lambda world, path: Image.fromarray(np.full((30, 40), 9000, np.uint16)).save(path), None),
    "animated.gif": (lambda world, path: save_animation(path), None),
    "alpha.png": (lambda world, path: Image.new("RGBA", (40, 30), (9, 9, 9, 128)).save(path), None),
    "one-pixel.png": (lambda world, path: Image.new("RGB", (1, 1)).save(path), None),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_are_read_or_skipped(name: str, world: World, run_cli: Run) -> None:
    make, problem = ODD_IMAGES[name]
    (world.folder / "photos").mkdir()
    shutil.copy(world.image(), world.folder / "photos" / "good.jpg")
    make(world, world.folder / "photos" / name)
    result = run_cli(
        "localize", world.folder / "photos", "--model", world.model, "--format", "jsonl", "--out", world.out
    )
    assert result.code == (3 if problem else 0), result.stderr
    rows = {Path(row["image"]).name: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows.keys() == {"good.jpg", name}
    assert rows["good.jpg"]["error"] is None
    assert (world.out / "maps" / "good.jpg.npy").is_file()
    if problem:
        assert problem in rows[name]["error"]["message"]
        assert problem in result.stderr
        assert not (world.out / "maps" / f"{name}.npy").exists()
    else:
        assert rows[name]["error"] is None
        assert len(rows[name]["predictions"]) == 1


@pytest.mark.parametrize(("box", "words"), [((60, 10, 20, 40), "inverted"), ((9000, 10, 9100, 40), "outside")])
def test_impossible_boxes_are_left_out_with_a_warning(
    box: tuple[int, int, int, int], words: str, world: World, run_cli: Run
) -> None:
    file = world.annotation()
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    text = file.read_text()
    start, end = text.index("<bndbox>"), text.index("</bndbox>")
    file.write_text(text[:start] + "<bndbox>" + tags + text[end:])
    result = run_cli("data", "check", world.voc)
    assert result.code == 0
    assert words in result.stdout + result.stderr
    assert file.name in result.stdout + result.stderr


# ---------------------------------------------------------------------------- output folders


def into_used_folder(world: World, verb: str) -> Arguments:
    write(world.folder / "out/precious.txt", "mine")
    return {
        "train": world.train(world.voc),
        "localize": ["localize", world.image(), "--model", world.model, "--out", world.out],
        "data synth": ["data", "synth", "--out", world.out, "--images", "5"],
        "boxes": ["boxes", predictions(world), "--format", "yolo", "--out", world.out],
    }[verb]


def predictions(world: World) -> Path:
    document = {
        "schema_version": 1,
        "image": "a.jpg",
        "width": 40,
        "height": 30,
        "model": "m",
        "scales": [32],
        "predictions": [{"label": "cat", "label_id": "cat", "score": 0.5, "box": [1, 2, 30, 20], "map": None}],
        "error": None,
    }
    return write(world.folder / "found/predictions.jsonl", json.dumps(document) + "\n")


@pytest.mark.parametrize("verb", ["train", "localize", "data synth", "boxes"])
def test_a_used_output_folder_is_refused(verb: str, world: World, run_cli: Run) -> None:
    arguments = into_used_folder(world, verb)
    before = files(world.folder)
    result = run_cli(*arguments)
    assert result.code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "--overwrite" in result.stderr
    assert files(world.folder) == before
    assert (world.out / "precious.txt").read_text() == "mine"


def test_a_file_is_not_overwritten(world: World, run_cli: Run) -> None:
    target = write(world.folder / "boxes.csv", "mine")
    result = run_cli("boxes", predictions(world), "--out", target)
    assert result.code == 2
    assert "--overwrite" in result.stderr
    assert target.read_text() == "mine"


# ---------------------------------------------------------------------------- full disk


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let every file end after ``limit`` bytes, with the system's own error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL_DISK: dict[str, Callable[[World], Arguments]] = {
    "train": lambda world: world.train(world.voc),
    "localize": lambda world: ["localize", world.image(), "--model", world.model, "--out", world.out],
    "data synth": lambda world: ["data", "synth", "--out", world.out, "--images", "5"],
    "boxes": lambda world: ["boxes", predictions(world), "--out", world.out / "boxes.json", "--format", "coco"],
    "report": lambda world: ["report", "--table", "i", "--out", world.out / "i.html"],
}


@pytest.mark.parametrize("verb", FULL_DISK)
def test_a_full_disk_leaves_nothing_half_written(verb: str, world: World, run_cli: Run) -> None:
    arguments = FULL_DISK[verb](world)
    before = files(world.folder)
    with full_disk(64):
        result = run_cli(*arguments)
    assert result.code == 4, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: cannot write ")
    new = files(world.folder) - before
    assert [path for path in new if path.name.startswith(".")] == []
    assert [path for path in new if path.suffix in (".json", ".npy", ".jpg", ".png", ".safetensors", ".html")] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(world: World, run_cli: Run) -> None:
    closed = world.folder / "closed"
    closed.mkdir(mode=0o555)
    result = run_cli(*world.train(world.voc)[:-1], closed / "run")
    assert result.code == 4
    assert "closed" in result.stderr
