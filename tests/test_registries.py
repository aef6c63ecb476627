"""One file plus one line: a toy of every kind is found in help, errors, listings, docs and figures, and it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import write_names

from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError, UsageError
from gwapctl.formats.destination import format_name
from gwapctl.networks.backbones import build_backbone
from gwapctl.networks.heads import build_head
from gwapctl.networks.rfcn.trunk import ResNetSTrunk, build_trunk
from gwapctl.paper.figures.inputs import newest_runs
from gwapctl.runs import Run
from gwapctl.train.recipes import default_recipe
from tests.toys import LINES

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, name, entry in LINES:
        monkeypatch.setitem(registry, name, entry)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A root with class folders of two classes in ``toys``, images not square."""
    generator = np.random.default_rng(0)
    for name in ("left", "right"):
        for number in range(2):
            path = tmp_path / "toys" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), generator.integers(0, 255, (40, 56, 3), dtype=np.uint8))
    return tmp_path


def test_help_names_the_toys() -> None:
    script = """
from tests.toys import LINES
for registry, name, entry in LINES:
    registry[name] = entry
from gwapctl.cli import run
for verb in ("train", "localize", "boxes"):
    assert run([verb, "--help"]) == 0
    print("-" * 9)
"""
    wide = {**os.environ, "COLUMNS": "400", "TERMINAL_WIDTH": "400", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=wide)
    expected = (["toyhead", "toybone", "toy layout"], ["toymap"], ["toyformat"])
    for page, names in zip(done.stdout.split("-" * 9), expected, strict=False):
        assert [name for name in names if name not in page] == []


@pytest.mark.usefixtures("toys")
def test_errors_name_the_toys(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "a.png").touch()
    calls: dict[str, Callable[[], object]] = {
        "toyhead": lambda: build_head("toyheat", 3, 2),
        "toybone": lambda: build_backbone("toybones"),
        "toyset": lambda: open_dataset("toysets", tmp_path),
        "toyformat": lambda: format_name("toyformal", None),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=rf"Did you mean '{name}'\? Choose one of: .*{name}"):
            call()
    with pytest.raises(UsageError, match=r"unknown backbone of a detector 'toybon'.*toybone"):
        build_trunk("toybon")
    with pytest.raises(DataError, match=r"Looked for: .*toy\.txt \(toys\)"):
        open_dataset(str(tmp_path))
    answer = run_cli("train", "voc", "--set", "map=toymaps", "--dry-run")
    assert answer.code == 2
    assert "unknown map method 'toymaps'. Did you mean 'toymap'?" in answer.stderr


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("command", "kind", "name", "text"),
    [
        ("models", "heads", "toyhead", "a toy's mean"),
        ("models", "backbones", "toybone", "a toy's network"),
        ("models", "maps", "toymap", "a toy's map"),
        ("models", "augmentations", "toychange", "a toy's change"),
        ("models", "engines", "toyengine", "a toy's arithmetic"),
        ("data", "datasets", "toyset", "a toy's images"),
        ("data", "formats", "toyformat", "a toy's file"),
        ("data", "readers", "toyreader", "a toy"),
    ],
)
def test_listings_and_docs_name_the_toys(
    command: str, kind: str, name: str, text: str, run_cli: Callable[..., Any]
) -> None:
    (line,) = [line for line in run_cli(command, "list", kind).stdout.splitlines() if line.startswith(name)]
    assert text in line
    rows = json.loads(run_cli(command, "list", kind, "--json").stdout)[kind]
    assert {"name": name, "help": text} == {key: rows[-1][key] for key in ("name", "help")}
    assert write_names.table(kind).splitlines()[-1].startswith(f"| `{name}` | ")


@pytest.mark.usefixtures("toys")
def test_an_unknown_kind_lists_the_kinds(run_cli: Callable[..., Any]) -> None:
    answer = run_cli("models", "list", "head")
    assert answer.code == 2
    assert (
        "unknown kind 'head'. Did you mean 'heads'? Choose one of: augmentations, backbones, engines, heads, maps, zoo."
        in answer.stderr
    )


@pytest.mark.usefixtures("toys")
def test_figures_take_the_toy_head_last(tmp_path: Path) -> None:
    for head in ("toyhead", "gwap-gt", "gap"):
        run = Run.create(tmp_path / head, {"config": {"head": head}})
        run.update(status="finished")
        (run.folder / "model.json").touch()
    assert newest_runs(tmp_path) == [str(tmp_path / "gap"), str(tmp_path / "toyhead")]


@pytest.mark.usefixtures("toys")
def test_the_toys_work(data: Path, run_cli: Callable[..., Any]) -> None:
    """A training by the name of the data set alone, maps by the toy method, boxes by the suffix of the toy format."""
    rows = {
        row["name"]: row for row in json.loads(run_cli("data", "list", "--root", data, "--json").stdout)["datasets"]
    }
    assert rows["toyset"]["splits"] == ["train"]
    assert default_recipe("toyset", {}) is None
    assert build_train_config("toyset", None, {}).backbone == "toybone"
    trained = run_cli("train", "toyset", "--root", data, "--out", data / "run", "--device", "cpu")
    assert trained.code == 0, trained.stderr
    found = run_cli(
        "localize", data / "toys", "--model", data / "run", "--map", "toymap", "--save", "map", "--out", data / "found"
    )
    assert found.code == 0, found.stderr
    assert json.loads((data / "found" / "maps" / "maps.json").read_text())["method"] == "toymap"
    written = run_cli("boxes", data / "found", "--out", data / "all.toy")
    assert written.code == 0, written.stderr
    assert (data / "all.toy").read_text().splitlines() == [
        "toy left/0.png",
        "toy left/1.png",
        "toy right/0.png",
        "toy right/1.png",
    ]
    judged = run_cli("evaluate", data / "run", "--root", data, "--split", "train", "--json", "--device", "cpu")
    assert json.loads(judged.stdout)["metrics"]["toy_width"] == 56, judged.stderr
    wrong = run_cli("boxes", data / "found", "--format", "toyformat", "--out", data / "all.csv")
    assert "--format toyformat writes .toy files" in wrong.stderr


@pytest.mark.usefixtures("toys")
def test_a_toy_backbone_serves_a_detector_and_a_toy_layout_is_recognised(data: Path) -> None:
    assert isinstance(build_trunk("toybone"), ResNetSTrunk)
    (data / "odd").mkdir()
    (data / "toys").rename(data / "odd" / "inside")
    (data / "odd" / "toy.txt").touch()
    assert [item.name for item in open_dataset(str(data / "odd")).classes] == ["left", "right"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_of_the_docs_say_what_the_entries_say(path: Path) -> None:
    """A row that is not there yet is no mistake: `python benchmarks/write_names.py` adds it."""
    for kind, lines in write_names.tables_of(path.read_text(encoding="utf-8")).items():
        wrong = set(lines) - set(write_names.table(kind).splitlines())
        assert not wrong, "run: python benchmarks/write_names.py"
        assert len(lines) > 3


def test_every_kind_has_its_table_in_the_docs() -> None:
    tables = [kind for path in PAGES for kind in write_names.tables_of(path.read_text(encoding="utf-8"))]
    assert sorted(tables) == sorted(write_names.KINDS)
