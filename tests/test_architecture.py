"""The layers of the package: imports go down or stay level, never in a circle; torch stays in its rooms."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import gwapctl
from gwapctl.datasets import DATASETS
from gwapctl.datasets.layouts import LAYOUTS
from gwapctl.formats import EXPORTERS, READERS
from gwapctl.maps import MAPS
from gwapctl.metrics import METRICS
from gwapctl.networks.backbones import BACKBONES
from gwapctl.networks.heads import HEADS
from gwapctl.train.augmentations import AUGMENTATIONS

PACKAGE = Path(gwapctl.__file__).parent
LAYERS = {
    0: {"errors", "boxes", "geometry", "files", "lock", "offline", "progress", "device"},
    1: {"images", "inputs", "config", "datasets", "regions", "metrics", "runs", "draw"},
    2: {"networks", "maps", "train", "engines"},
    3: {"predict", "predictions", "formats", "evaluate", "paper", "demo", "label", "cluster"},
    4: {"cli", "__main__"},
}
LAYER_OF = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
LOOSE = 13  # modules beside the folders, at most
NEEDS_TORCH = {"networks", "maps", "train", "engines", "device"}
NO_TORCH_ALL_THE_SAME = {
    "gwapctl.maps",
    "gwapctl.maps.reading",
    "gwapctl.networks.backbones",
    "gwapctl.networks.backbones.pretrained",
    "gwapctl.networks.heads",
    "gwapctl.networks.zoo",
    "gwapctl.networks.weights_packages",
    "gwapctl.train.augmentations",
    "gwapctl.train.recipes",
}
# module and dict of every kind; an entry says all that others need to know of what it names
REGISTRIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "HEADS": ("gwapctl.networks.heads", HEADS),
    "BACKBONES": ("gwapctl.networks.backbones", BACKBONES),
    "MAPS": ("gwapctl.maps", MAPS),
    "AUGMENTATIONS": ("gwapctl.train.augmentations", AUGMENTATIONS),
    "DATASETS": ("gwapctl.datasets", DATASETS),
    "LAYOUTS": ("gwapctl.datasets.layouts", LAYOUTS),
    "EXPORTERS": ("gwapctl.formats", EXPORTERS),
    "READERS": ("gwapctl.formats", READERS),
    "METRICS": ("gwapctl.metrics", METRICS),
}
MADE_IN = {"METRICS": "gwapctl.metrics."}  # a protocol writes out the names of the numbers that it makes
ARGUMENTS = 10  # of a function outside of cli/, at most

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


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_layer() -> None:
    assert ROOMS - set(LAYER_OF) == set()


def test_no_test_module_imports_another() -> None:
    """What several need is in ``factories.py``, ``toys.py``, ``conftest.py`` or ``reference/``."""
    tests = {path.stem: path for path in Path(__file__).parent.rglob("test_*.py")}
    found = {name: imports(ast.parse(path.read_text(encoding="utf-8"))) for name, path in tests.items()}
    assert any("tests.factories" in names for names in found.values())
    assert {name: names for name, names in found.items() if {n.split(".")[-1] for n in names} & set(tests)} == {}


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


@pytest.mark.parametrize("registry", REGISTRIES)
def test_every_kind_has_one_registry_of_light_entries(registry: str) -> None:
    module, entries = REGISTRIES[registry]
    assigned = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == registry and isinstance(node.value, ast.Dict)
    ]
    assert assigned == [module]
    for name, entry in entries.items():
        assert (registry == "METRICS" and not entry.path) or callable(resolve_name(entry.path)), name
        assert entry.label, name
        assert entry.help, name
        assert "\n" not in entry.help, name


def literals(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Yield the line and the strings of every tuple, list, set and dict that ``tree`` writes out."""
    for node in ast.walk(tree):
        items: list[ast.expr | None] = []
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            items = [*node.elts]
        elif isinstance(node, ast.Dict):
            items = [*node.keys, *node.values]
        yield (
            getattr(node, "lineno", 0),
            {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)},
        )


def docstrings(tree: ast.AST) -> set[int]:
    """Return the ids of the nodes that are docstrings."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and isinstance(node.body[0], ast.Expr)
    }


def help_texts(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Yield the line and the words of every string of ``tree`` but docstrings, whose examples are examples."""
    documented = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.lineno, set(re.findall(r"[a-z0-9+-]+", node.value))


@pytest.mark.parametrize("registry", REGISTRIES)
def test_no_second_list_of_names(registry: str) -> None:
    """Three names of a kind in one literal, or in one text of the command line, are a list that somebody must keep."""
    names = set(REGISTRIES[registry][1])
    of_registries = {module for module, _ in REGISTRIES.values()}
    found = [
        f"{module}, line {line}: {sorted(words & names)}"
        for module, tree in TREES.items()
        if module not in of_registries and not module.startswith(MADE_IN.get(registry, "-"))
        for line, words in [*literals(tree), *(help_texts(tree) if room_of(f"{module}.") == "cli" else [])]
        if len(words & names) >= 3
    ]
    assert found == []


def test_a_second_list_is_found() -> None:
    tree = ast.parse("""x = {"gap": 1, "gwap": 2}; y: Literal["gap", "lse"]; f(help="gap, gwap or lse")""")
    assert [words for _, words in literals(tree) if words] == [{"gap", "gwap"}, {"gap", "lse"}]
    assert {"gap", "gwap", "or", "lse"} in [words for _, words in help_texts(tree)]


def said_flags(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield texts with a flag in a sentence that quotes no command: ``errors.option`` is to write it."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    left_out = inside | docstrings(tree)
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node] if id(node) not in left_out else []
        text = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
        if re.search(r"(^|[ (])--[a-z]", text) and " " in text and not re.search(r"gwapctl |pip install", text):
            yield getattr(node, "lineno", 0), text


def test_messages_below_the_command_line_speak_python_too() -> None:
    tree = ast.parse("""raise UsageError(f"{x}: use --force."); y = "gwapctl boxes --force"; z = ["--force"]""")
    assert list(said_flags(tree)) == [(1, ": use --force.")]
    knows_flags = ("gwapctl.cli", "gwapctl.config.settings", "gwapctl.errors")
    found = {module: list(said_flags(tree)) for module, tree in TREES.items() if not module.startswith(knows_flags)}
    assert {module: texts for module, texts in found.items() if texts} == {}


def test_no_function_takes_many_arguments() -> None:
    """Options travel as values."""
    found = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and room_of(f"{module}.") != "cli":
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in arguments)
                if count > ARGUMENTS:
                    found[f"{module}.{node.name}"] = count
    assert found == {}


def test_the_table_of_what_to_touch_is_true() -> None:
    """Each row of CONTRIBUTING.md names a folder or file that is there, and the file that holds the kind's dict."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`([^`]+)`", line) for line in text.splitlines() if line.startswith("| ") and "`" in line]
    held = set()
    for place, *_, registry, file in rows:
        assert (PACKAGE.parent / place).exists(), place
        module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        assert (module, registry) in {(known, name) for name, (known, _) in REGISTRIES.items()}
        held.add(registry)
    assert held == set(REGISTRIES)


def test_the_page_of_the_rooms_names_every_room() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {
        name
        for line in text.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"`([a-z_]+)(?:/|\.py)`", line)
    }
    assert ROOMS - {"__main__", "predictions"} <= named
    assert named - {"loop", "task", "classification", "detection", "console", "rfcn"} <= ROOMS
