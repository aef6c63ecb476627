"""Write a CycloneDX bill of materials: gwapctl and the packages that it runs on, with versions and licences.

python benchmarks/write_sbom.py [FILE]      (sbom.json, as `make sbom` has it)

Listed is what is installed of `write_licences.runtime_packages`: what only tests and benchmarks need is left out, and
what a wheel for CUDA brings along is in. The same environment gives the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from needs import need_package, run_script
from packaging.utils import canonicalize_name
from write_licences import ROOT, runtime_packages

OURS = "root-component"


def main() -> None:
    """Write the file that is named."""
    need_package("cyclonedx_py", "pip install cyclonedx-bom")
    environment = ["environment", "--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
    command = [sys.executable, "-m", "cyclonedx_py", *environment, "--output-file", "-", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = only(json.loads(done.stdout), {package.name for package in runtime_packages()})
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "sbom.json")
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{file}: gwapctl and {len(document['components'])} packages")


def only(document: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a bill of an environment with no other packages than ``names``, and what depends on what of these."""
    kept = [one for one in document["components"] if canonicalize_name(one["name"]) in names]
    known = {one["bom-ref"] for one in kept} | {OURS}
    links = []
    for link in document["dependencies"]:
        if link["ref"] in known:
            on = [other for other in link.get("dependsOn", []) if other in known]
            links.append({"ref": link["ref"]} | ({"dependsOn": on} if on else {}))
    return document | {"components": kept, "dependencies": links}


if __name__ == "__main__":
    run_script(main)
