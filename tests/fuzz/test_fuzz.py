"""Every reader with broken files: what was found once stays mended, and a few new inputs each find nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.harness import CORPUS, Place, fuzz, kept, limits
from tests.fuzz.targets import TARGETS

INPUTS = 200

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited in Linux's way")


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir() if path.is_dir()))
def test_every_finding_stays_mended(name: str, tmp_path: Path) -> None:
    place, found = Place(name, tmp_path), {}
    assert kept(name)
    with limits():
        for number, file in kept(name):
            data = (CORPUS / name / number / file).read_bytes()
            found[f"{number}/{file}"] = place.problem(TARGETS[name], file, data)
    assert {key: problem for key, problem in found.items() if problem is not None} == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_new_inputs_find_nothing(name: str, tmp_path: Path) -> None:
    assert [f"{one.number} {one.file}: {one.problem}" for one in fuzz(name, range(INPUTS), tmp_path)] == []
