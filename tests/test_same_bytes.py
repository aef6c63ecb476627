"""The same seed gives the same bytes, of every verb, in another process; and no verb opens a socket on its way.

Every command is run in two folders by two fresh processes, in which a socket is an error and whose hashes of texts
differ. What may differ is named here: times, and rates that follow from them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# times of day, and how fast it went; nothing else may differ
MAY_DIFFER = frozenset(("started", "finished", "created", "images_per_s", "images_per_second", "seconds", "took"))

SETUP = """
import json, socket, sys
def no_socket(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket.__init__ = socket.create_connection = socket.getaddrinfo = no_socket
from gwapctl import cli
from gwapctl.label import plan
plan.packaged_weights = dict  # no ImageNet weights are at hand: a small network is trained
plan.SMALL = {"backbone": "resnet-s", "weights": "none", "image_size": (40, 32), "precision": "fp32"}
for command in json.load(sys.stdin):
    print("$", " ".join(command), flush=True)
    code = cli.run(command)
    if code:
        sys.exit(f"{' '.join(command)}: {code}")
"""
TINY = "--backbone resnet-s --weights none --batch-size 4 --device cpu --workers 0 --seed 5"
DETECTOR = "--set short_side=40 --set long_side=48 --iterations 2"
LABEL = "classifier.batch_size=4 classifier.epochs=1 detector.iterations=2 detector.short_side=40 detector.long_side=48"
COMMANDS = f"""
doctor --json
models list
models show resnet-s-gwap-tiny-imagenet
models verify resnet-s-gwap-tiny-imagenet
data list
data synth --images 16 --image-size 64-96 --out scenes
data check scenes
train scenes {TINY} --image-size 48x40 --epochs 1 --out run
train --from-run run --out again --device cpu --workers 0
train scenes --detector rfcn {TINY.replace("--batch-size 4", DETECTOR)} --out detector
localize scenes/JPEGImages --model run --out found --limit 3
localize scenes/JPEGImages --model detector --out found-by-detector --limit 2 --format json
evaluate run --device cpu --workers 0 --json
boxes found --format coco --out boxes.json
boxes found --review review
report run --out page.html
report --table iii --format html --out tables.html
reproduce iii --profile smoke --dry-run
export onnx --model run --out run.onnx
label labelled-photos {" ".join("--set " + one for one in LABEL.split())} --device cpu --workers 0 --out labelled
"""


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders, each with what all commands wrote and ``said.txt``, what they printed."""
    folders = tmp_path_factory.mktemp("first") / "work", tmp_path_factory.mktemp("second") / "work"
    for seed, folder in enumerate(folders):
        _run_all(folder, str(seed + 1))
    return folders


def _run_all(folder: Path, hash_seed: str) -> None:
    folder.mkdir()
    commands = [line.split() for line in COMMANDS.strip().splitlines()]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "XDG_CACHE_HOME": str(folder / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "GWAPCTL_FEATURES": str(folder / "cache" / "features")}
    _photos(folder / "labelled-photos")
    done = subprocess.run(
        [sys.executable, "-c", SETUP],
        input=json.dumps(commands),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")


def _photos(folder: Path) -> None:
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    for name, colour in (("apple", (40, 40, 220)), ("pear", (40, 220, 160))):
        for number in range(6):
            image = generator.integers(0, 90, (48, 64, 3), dtype=np.uint8)
            image[10:34, 10 + number : 40 + number] = colour
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{number}.png"), image)


def comparable(file: Path, top: Path) -> bytes:
    """Return the bytes of a file, those of JSON without the values that may differ; ``top`` is no part of them."""
    data = file.read_bytes().replace(str(top.resolve()).encode(), b"TOP")
    if file.suffix == ".json":
        return json.dumps(_without(json.loads(data))).encode()
    if file.suffix == ".jsonl":
        return b"\n".join(json.dumps(_without(json.loads(line))).encode() for line in data.splitlines())
    if file.suffix in (".html", ".txt"):  # pages and what was said have dates; a review page has a name of its place
        data = re.sub(rb'"review":"[0-9a-f]{16}"', b'"review":"PLACE"', data)
        data = re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": 0', data)
        return re.sub(rb"\d{4}-\d\d-\d\d(T| )\d\d:\d\d(:\d\d)?(\+00:00)?( UTC)?", b"TIME", data)
    return data


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in MAY_DIFFER}
    return [_without(item) for item in value] if isinstance(value, list) else value


def test_every_verb_writes_the_same_bytes_again_and_opens_no_socket(twice: tuple[Path, Path]) -> None:
    names = [{path.relative_to(top) for path in top.rglob("*") if path.is_file()} for top in twice]
    assert names[0] == names[1]
    assert len(names[0]) > 60
    differing = [
        name.as_posix()
        for name in sorted(names[0])
        if name.parts[0] != "cache" and comparable(twice[0] / name, twice[0]) != comparable(twice[1] / name, twice[1])
    ]
    assert differing == []


def test_a_run_that_is_repeated_has_the_same_weights(twice: tuple[Path, Path]) -> None:
    top = twice[0]
    assert (top / "again" / "weights.safetensors").read_bytes() == (top / "run" / "weights.safetensors").read_bytes()
