"""One line instead of a traceback where a script lacks what it needs: each one ends with ``run_script(main)``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

SCRIPT = Path(sys.argv[0]).name
PARITY_MAPS = Path(__file__).parents[1] / "tests" / "wsolevaluation" / "maps"
PHOTOS = Path(__file__).parents[1] / "data" / "photos"


def stop(problem: str, code: int = 2) -> NoReturn:
    """Say what is wrong in one line and exit with ``code``."""
    print(f"error: {problem}", file=sys.stderr)
    raise SystemExit(code)


def need_package(module: str, install: str) -> None:
    """Stop unless ``module`` can be imported."""
    if find_spec(module) is None:
        stop(f"{SCRIPT} needs the package {module}; get it by `{install}`.")


def need_photos(folder: Path) -> list[Path]:
    """Return the JPEG photos below ``folder``, sorted; stop where there is none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        stop(f"{SCRIPT} needs JPEG photos and {folder} has none; get them by --images FOLDER.")
    return files


def need_maps(folder: Path) -> list[Any]:
    """Return the maps (``*.npy``) below ``folder`` as float64 (224, 224) in [0, 1]; stop where there is none."""
    import numpy as np

    from gwapctl.metrics.wsoleval import grid_map

    files = sorted(folder.rglob("*.npy"))
    if not files:
        stop(f"{SCRIPT} needs maps (*.npy) and {folder} has none; get them by `gwapctl localize --save map`.")
    return [grid_map(np.load(file)) for file in files]


def run_script(main: Callable[[], None]) -> None:
    """Call ``main``; say errors that a user can cause, and failures of processes it started, in one line."""
    from gwapctl.errors import GwapctlError

    try:
        main()
    except GwapctlError as error:
        stop(f"{SCRIPT}: {error}", error.exit_code)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr or "see above"
        last = said.strip().splitlines()[-1]
        own = last.startswith("error: ")  # of a process that ran this script or gwapctl
        stop(last.removeprefix("error: ") if own else f"{SCRIPT}: {error} {last}", error.returncode)


need_package("gwapctl", "pip install -e .")
