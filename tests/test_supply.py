"""What gwapctl runs on: licences, the bill of materials, and that the lock and pyproject.toml agree."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path

import pytest
import write_licences
import write_sbom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = write_licences.runtime_packages()
LOCKED = {
    canonicalize_name(requirement.name): requirement
    for requirement in (
        Requirement(line.removesuffix("\\").strip())
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if line[:1].isalnum()
    )
}


def test_every_package_is_permissive_or_an_exception_with_a_reason() -> None:
    assert {"torch", "numpy", "typer"} <= {package.name for package in PACKAGES}
    assert [package for package in PACKAGES if not (package.permissive or package.exception)] == []


@pytest.mark.parametrize(
    ("stated", "permissive"),
    [
        ({"License-Expression": "MIT"}, True),
        ({"License-Expression": "Apache-2.0 OR GPL-3.0-only"}, True),
        ({"License-Expression": "MIT AND GPL-3.0-only"}, False),
        ({"License": "BSD 3-Clause License", "Classifier": "License :: OSI Approved :: BSD License"}, True),
        ({"License": "MIT", "Classifier": "License :: OSI Approved :: GNU Affero General Public License v3"}, False),
        ({"License": "Permission is granted\nto all", "Classifier": "License :: OSI Approved :: MIT License"}, True),
        ({"License": "UNKNOWN"}, False),
        ({}, False),
    ],
)
def test_a_licence_counts_as_permissive_where_all_that_is_stated_is(stated: dict[str, str], permissive: bool) -> None:
    metadata = Message()
    for name, text in stated.items():
        metadata[name] = text
    found = [*write_licences.statements(metadata)]
    assert (bool(found) and all(map(write_licences.is_permissive, found))) == permissive


def test_no_exception_is_left_over() -> None:
    """Beside those of CUDA, which a wheel for CPUs does not bring along, and of extras that are not here."""
    absent = {"cuda-toolkit", "nvidia-*", "certifi"}
    reasons = {package.exception for package in PACKAGES}
    assert [name for name, why in write_licences.EXCEPTIONS.items() if why not in reasons and name not in absent] == []


def test_the_page_lists_every_locked_package() -> None:
    page = write_licences.PAGE.read_text(encoding="utf-8")
    assert all(f"- {name}: {why}." in page for name, why in write_licences.EXCEPTIONS.items())
    locked = [one for one in PACKAGES if one.name in LOCKED and LOCKED[one.name].specifier.contains(one.version)]
    missing = [package.row for package in locked if package.row not in page]
    assert missing == [], "run: python benchmarks/write_licences.py"


def test_the_lock_holds_what_development_needs_by_hash_and_from_nowhere_in_particular() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]
    outdated = [str(one) for one in wanted if not one.specifier.contains(pinned(one.name))]
    assert outdated == [], "run: make lock"
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert text.count("--hash=sha256:") > 10 * len(LOCKED)
    assert "://" not in text


def pinned(name: str) -> str:
    return next(iter(LOCKED[canonicalize_name(name)].specifier)).version


def test_a_bill_keeps_the_packages_of_a_run_alone() -> None:
    bill = {
        "bomFormat": "CycloneDX",
        "components": [{"name": name, "bom-ref": f"{name}==1"} for name in ("Py_Torch", "pytest")],
        "dependencies": [
            {"ref": "root-component", "dependsOn": ["Py_Torch==1", "pytest==1"]},
            {"ref": "Py_Torch==1", "dependsOn": ["pytest==1"]},
            {"ref": "pytest==1"},
        ],
    }
    assert write_sbom.only(bill, {"py-torch"}) == {
        "bomFormat": "CycloneDX",
        "components": [{"name": "Py_Torch", "bom-ref": "Py_Torch==1"}],
        "dependencies": [{"ref": "root-component", "dependsOn": ["Py_Torch==1"]}, {"ref": "Py_Torch==1"}],
    }


@pytest.mark.slow
def test_the_bill_of_this_environment_is_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py")
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        subprocess.run([sys.executable, "benchmarks/write_sbom.py", str(file)], cwd=ROOT, check=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    bill = json.loads(files[0].read_bytes())
    assert {canonicalize_name(one["name"]) for one in bill["components"]} == {package.name for package in PACKAGES}
    assert "file://" not in files[0].read_text(encoding="utf-8")
