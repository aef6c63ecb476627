"""What the README shows is true: its commands run in order, made cheap by added options, and so does its Python."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from gwapctl import cli

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("gwapctl ")
]
CHEAPER = {
    "data": ["--images", "20", "--quiet"],
    "train": ["--image-size", "32", "--batch-size", "4", "--iterations", "2", "--feature-cache", "features"],
    "evaluate": ["--device", "cpu"],
    "localize": ["--device", "cpu"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_commands_run_in_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert [command[0] for command in COMMANDS].count("localize") >= 3
    for command in COMMANDS:
        assert cli.run([*command, *CHEAPER.get(command[0], [])]) == 0, (
            f"{shlex.join(command)}: {capsys.readouterr().err}"
        )
        if command[0] == "data":
            photos = sorted((place / "scenes" / "JPEGImages").glob("*.jpg"))
            (place / "photos").mkdir()
            for name, photo in zip(("photo.jpg", "image.jpg", "photos/a.jpg", "photos/b.jpg"), photos, strict=False):
                shutil.copy(photo, place / name)
    assert (place / "boxes.json").is_file()
    assert (place / "runs" / "a" / "report.html").is_file()
    assert len(list((place / "found" / "overlays").iterdir())) == 2


def test_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["found"].boxes.shape == (1, 4)
    assert str(namespace["found"].classes) in capsys.readouterr().out


def test_it_names_every_verb_and_exit_code() -> None:
    for verb in [*cli.VERBS, *cli.GROUPS]:
        assert f"`{verb}`" in README
    for code in ("0 done", "1 internal", "2 wrong", "3 finished", "4 bad", "5 missing", "10 a gate", "130 interrupted"):
        assert code in README


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parent.parent / link).exists()] == []


@pytest.mark.slow
def test_the_example_beats_both_floors_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first three commands, as they stand: CorLoc 53.1 on the test images, where the floors have 0.0 and 9.3."""
    monkeypatch.chdir(tmp_path)
    for command, added in zip(COMMANDS[:3], ([], ["--feature-cache", "features"], ["--json"]), strict=True):
        capsys.readouterr()
        assert cli.run([*command, *added]) == 0, capsys.readouterr().err
    assert [command[0] for command in COMMANDS[:3]] == ["data", "train", "evaluate"]
    document = json.loads(capsys.readouterr().out)
    floor = max(part["cor_loc"] for part in document["floors"].values())
    assert document["metrics"]["cor_loc"] > floor + 30
    assert document["metrics"]["margin"] > 30
