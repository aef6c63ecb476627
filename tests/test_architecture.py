"""The layers of the package: imports go down or stay level, never in a circle; torch stays in its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gwapctl

PACKAGE = Path(gwapctl.__file__).parent
LAYERS = {
    0: {"errors", "boxes", "geometry", "files", "progress", "device"},
    1: {"images", "inputs", "config", "datasets", "regions", "metrics", "runs", "draw"},
    2: {"networks", "maps", "train", "engines"},
    3: {"predict", "predictions", "formats", "evaluate", "paper", "demo"},
    4: {"cli", "__main__"},
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
LOOSE = 12  # modules beside the folders, at most
NEEDS_TORCH = {"networks", "maps", "train", "engines", "device"}
NO_TORCH_ALL_THE_SAME = {
    "gwapctl.maps",
    "gwapctl.maps.reading",
    "gwapctl.networks.zoo",
    "gwapctl.networks.weights_packages",
    "gwapctl.train.recipes",
}

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_zoo" not in path.parts
}
ROOMS = {name.split(".")[1] for name in MODULES if "." in name}


def imports(tree: ast.AST) -> set[str]:
    """Return every absolute module name that ``tree`` imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
    return found


IMPORTS = {name: imports(ast.parse(path.read_text(encoding="utf-8"))) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_layer() -> None:
    assert ROOMS - set(LAYER_OF) == set()


def test_few_modules_stay_loose() -> None:
    loose = [path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= LOOSE, loose


@pytest.mark.parametrize("module", [name for name in MODULES if name != "gwapctl"])
def test_imports_never_climb(module: str) -> None:
    own = LAYER_OF[room_of(module)]
    targets = [name for name in IMPORTS[module] if name.startswith("gwapctl.")]
    assert [name for name in targets if LAYER_OF[room_of(name)] > own] == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of ``graph`` as a list of its nodes, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for target in sorted(graph.get(node, set())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_circle_between_modules() -> None:
    assert (
        circle({name: {target for target in IMPORTS[name] if target in MODULES} - {"gwapctl"} for name in MODULES})
        == []
    )


def test_no_circle_between_rooms() -> None:
    graph: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name in MODULES.keys() - {"gwapctl"}:
        targets = {room_of(target) for target in IMPORTS[name] if target.startswith("gwapctl.")}
        graph[room_of(name)] |= targets - {room_of(name)}
    assert circle(graph) == []


def test_torch_stays_in_its_rooms() -> None:
    free = [
        name
        for name in MODULES
        if name == "gwapctl" or room_of(name) not in NEEDS_TORCH or name in NO_TORCH_ALL_THE_SAME
    ]
    script = f"import sys, importlib\nfor name in {free!r}:\n    importlib.import_module(name)\n    "
    script += "if 'torch' in sys.modules: sys.exit(name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"importing this module imports torch: {done.stderr}"


def test_only_the_console_uses_rich() -> None:
    users = {name for name in MODULES if any(target.split(".")[0] == "rich" for target in IMPORTS[name])}
    assert users <= {"gwapctl.cli.console"}


def test_nobody_imports_click() -> None:
    assert [name for name in MODULES if any(target.split(".")[0] == "click" for target in IMPORTS[name])] == []


def test_nobody_imports_what_design_leaves_out() -> None:
    banned = {"lightning", "accelerate", "datumaro", "ultralytics", "cc3d", "hydra", "pickle", "xml"}
    assert {name: IMPORTS[name] & banned for name in MODULES if IMPORTS[name] & banned} == {}


def test_torchvision_decoders_are_not_used() -> None:
    assert [name for name in MODULES if any(target.startswith("torchvision.io") for target in IMPORTS[name])] == []
