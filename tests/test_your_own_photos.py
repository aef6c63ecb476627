"""docs/your-own-photos.md is true: its commands run in order on a generated folder.

What is added, so that it is fast, is ``SUBSTITUTED`` alone: 64 pixels in place of 224, 2 epochs in batches of 4, and
``--force``, for so few photos choose no threshold.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from gwapctl import cli
from gwapctl.runs import Run

PAGE = (Path(__file__).parent.parent / "docs" / "your-own-photos.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("gwapctl ")
]
SUBSTITUTED = {
    "train": "--image-size 64 --epochs 2 --batch-size 4 --device cpu --feature-cache features",
    "localize": "--device cpu",
    "evaluate": "--device cpu --force",
}
COLOURS = {"apple": (40, 40, 220), "pear": (40, 220, 160)}  # BGR


def draw(path: Path, colour: tuple[int, int, int], generator: np.random.Generator) -> list[int]:
    """Write a photo of one coloured block on noise; return the block as x, y, width, height."""
    image = generator.integers(0, 90, (72, 96, 3), dtype=np.uint8)
    x, y = int(generator.integers(4, 50)), int(generator.integers(4, 30))
    image[y : y + 36, x : x + 40] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return [x, y, 40, 36]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photos of each class, and a few others with drawn boxes as a tool exports them to COCO."""
    generator = np.random.default_rng(0)
    document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    for category, (name, colour) in enumerate(COLOURS.items(), start=1):
        document["categories"].append({"id": category, "name": name})
        for number in range(10):
            draw(tmp_path / "photos" / name / f"{number}.jpg", colour, generator)
        for number in range(3):
            file = f"{name}-{number}.jpg"
            box = draw(tmp_path / "drawn" / "images" / file, colour, generator)
            image = len(document["images"]) + 1
            document["images"].append({"id": image, "file_name": file, "width": 96, "height": 72})
            document["annotations"].append({"id": image, "image_id": image, "category_id": category, "bbox": box})
    (tmp_path / "drawn" / "val.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GWAPCTL_FEATURES", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
def test_the_commands_run_in_order(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [command[0] for command in COMMANDS][:3] == ["data", "train", "localize"]
    assert len(COMMANDS) == 11
    for command in COMMANDS:
        done = cli.run([*command, *shlex.split(SUBSTITUTED.get(command[0], ""))])
        said = capsys.readouterr()
        assert done == 0, f"{shlex.join(command)}: {said.err}"
        if command[0] == "train":
            assert "computing the feature maps of 20 images and of their mirror images once" in said.err
        if command[0] == "evaluate":
            assert "cross-validated on 6 images of val" in " ".join(said.err.split())
            assert "boxes: " in said.out.splitlines()[-1]
    run = Run.open(place / "runs" / "mine")
    assert (run.finished, run.document["config"]["cache_features"], run.document["dataset"]["n_val"]) == (True, True, 2)
    assert len(list((place / "found" / "overlays").rglob("*.jpg"))) == 20
    assert len(json.loads((place / "tasks.json").read_text())) == 20
    assert len(json.loads((place / "boxes.json").read_text())["images"]) == 20
    assert (place / "yolo" / "data.yaml").is_file()


def test_it_says_what_the_recipe_says() -> None:
    recipes = Path(__file__).parent.parent / "models" / "recipes"
    recipe = tomllib.loads((recipes / "photos.toml").read_text())
    assert recipe["val_fraction"] == 0.1
    assert "A tenth of the photos" in PAGE
    assert f"{recipe['epochs']} epochs" in PAGE
    assert f"output stride\n  {recipe['output_stride']}" in PAGE
    assert "88 MB" in (recipes / "photos-gwap-dinov2-vits14.toml").read_text()
    assert "88 MB" in PAGE


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / "docs" / link).exists()] == []
