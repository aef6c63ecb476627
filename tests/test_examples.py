"""The examples in docstrings are true, and every module that docs/python-api.md sends a user to has one."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import gwapctl

PACKAGE = Path(gwapctl.__file__).parent
DOCS = (PACKAGE.parent / "docs" / "python-api.md").read_text(encoding="utf-8")
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_zoo" not in path.parts and re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_show(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    done = doctest.testmod(importlib.import_module(module), optionflags=FLAGS)
    assert done.attempted > 0
    assert done.failed == 0


def test_what_the_page_names_has_an_example() -> None:
    """Whatever a heading or an import of the page names has its example where it is defined."""
    named = {("gwapctl", name) for name in re.findall(r"^## `(?:gwapctl\.)?(\w+)", DOCS, re.MULTILINE)}
    for module, names in re.findall(r"^from (gwapctl[\w.]*) import (.*)$", DOCS, re.MULTILINE):
        named |= {(module, name) for name in names.split(", ")}
    assert {("gwapctl", "load_model"), ("gwapctl.predictions", "MapFolder")} < named
    defined = {getattr(importlib.import_module(module), name).__module__ for module, name in named}
    assert defined - set(MODULES) == set()
