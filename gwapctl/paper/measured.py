"""What was measured: one row per evaluation, of finished runs and of ``models/results.csv``, in one kind of DataFrame.

The columns are ``COLUMNS``, then one per metric. ``settings`` is the hash of a run's settings, ``changed`` are those in
which it differs from its recipe (from the data set's defaults where it has none), ``source`` is how the training data
was named on the command line, ``trained_on`` its name, ``classes`` how many it has. ``changed``, ``options``,
``floors`` and ``per_class`` (the AP of each class) are dicts; in the file they are JSON. ``shipped`` marks rows of the
file, ``replicates`` are those of a run's evaluation; neither is a column of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.config import DetectorConfig, TrainConfig, build_train_config, stored_config
from gwapctl.errors import DataError, UsageError, reading
from gwapctl.files import changing, write_text
from gwapctl.metrics import METRICS
from gwapctl.networks.zoo import zoo_folder
from gwapctl.paper.replicates import record_replicates, replicates_file
from gwapctl.runs import Run, find_runs

if TYPE_CHECKING:
    import pandas as pd

Config = TrainConfig | DetectorConfig
Record = dict[str, Any]  # a row of a DataFrame as a plain dict: what is missing is None

COLUMNS = (
    *("run", "recipe", "settings", "changed", "backbone", "method", "seed", "source", "trained_on", "classes"),
    "fingerprint",
    *("dataset", "split", "protocol", "options", "n", "n_degenerate", "date", "gwapctl", "torch", "floors"),
    "per_class",
)
WHOLE = {"seed", "classes", "n", "n_degenerate"}  # columns of whole numbers
AS_JSON = ("changed", "options", "floors", "per_class")
NOT_IN_THE_FILE = ("shipped", "replicates")
SAME_EVALUATION = ("run", "dataset", "split", "protocol", "options")
HELD_OUT = "held-out"  # how `evaluate --split held-out` calls the images that a run kept out of its training
# settings that decide how a number is computed or have a column of their own, not which network comes out
NOT_THE_NETWORK = {"dataset", "recipe", "seed", "precision", "deterministic", "compile"}
PATHS = ("dataset", "weights", "background")  # settings that may be paths, which differ from machine to machine


def is_chosen_on(split: str, val_split: str | None) -> bool:
    """Tell whether a run's settings or weights were chosen on ``split``; ``val_split`` is what ``run.json`` says."""
    return split.startswith(HELD_OUT) or split == val_split


# --- settings -------------------------------------------------------------------------------------------------------


def recipe_file(name: str) -> Path | None:
    """Return the file of a recipe, None where this version does not have it."""
    path = zoo_folder() / "recipes" / f"{name}.toml"
    return path if path.is_file() else None


def run_config(run: Run) -> Config | None:
    """Return a run's settings, None where this version does not understand them."""
    try:
        return stored_config(run.document["config"])
    except DataError:
        return None


def settings_hash(config: Config) -> str:
    """Return what two configs share that give the same network, whatever its recipe, data set and seed.

    Settings at their defaults do not count, so that a later version's further settings change nothing.
    """
    stated = config.model_dump(mode="json", exclude=NOT_THE_NETWORK, exclude_defaults=True)
    stated |= {key: PurePath(stated[key]).name for key in PATHS if stated.get(key)}
    text = json.dumps([config.method, stated], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def changed_settings(config: Config) -> dict[str, Any]:
    """Return the settings in which ``config`` differs from its recipe, or from the defaults where it has none."""
    base = usual_settings(config.dataset, config.recipe, detector=config.detects)
    own = config.model_dump(mode="json", exclude=NOT_THE_NETWORK)
    return {key: _name(value) if key in PATHS else value for key, value in own.items() if value != base.get(key)}


@cache
def usual_settings(dataset: str, recipe: str | None, *, detector: bool = False) -> dict[str, Any]:
    """Return the settings of a recipe on ``dataset``, or the defaults; nothing where this version has no such."""
    file = None if recipe is None else recipe_file(recipe)
    try:
        config = build_train_config(dataset, file, {"detector": "rfcn"} if detector and file is None else {})
    except UsageError:
        return {}
    return config.model_dump(mode="json")


def _name(value: Any) -> Any:
    """Cut an absolute path to its last part."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


# --- of run folders -------------------------------------------------------------------------------------------------


def measured_rows(folder: Path) -> pd.DataFrame:
    """Return every evaluation of every finished run below ``folder``, runs in the order of their names.

    Evaluations on images on which a run's settings were chosen are left out: they are no results. A DataError names a
    broken document.
    """
    return run_rows(run for run in find_runs(folder) if run.finished)


def run_rows(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the evaluations of ``runs``; a DataError names a document that lacks what a table needs."""
    rows = []
    for run in runs:
        with reading(run.folder / "run.json"):
            about = _writable(_about(run))
        val_split = (run.document.get("dataset") or {}).get("val_split")
        for document in run.evaluations():
            try:
                if not is_chosen_on(str(document["split"]), val_split):
                    rows.append(about | _writable(_evaluation(document)))
            except (DataError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
                raise DataError(
                    f"{run.folder / 'evaluations'} holds a broken evaluation ({type(error).__name__}: {error}). "
                    f"Repeat it with: gwapctl evaluate {run.folder}."
                ) from error
    return _frame(rows).assign(shipped=False)


def _writable(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row; it is a ``ValueError`` that a table cannot hold it."""
    json.dumps(row, ensure_ascii=False, default=str).encode()  # half of a character, as JSON may state it
    for name in WHOLE & row.keys():
        value = row[name]
        if value is not None and not (isinstance(value, int) and abs(value) < 2**63):
            raise ValueError(f"{name} is {str(value)[:40]!r}, no whole number")
    return row


def _about(run: Run) -> dict[str, Any]:
    document, config = run.document, run_config(run)
    stated, data = document.get("config") or {}, document.get("dataset") or {}
    versions = document.get("versions") or {}
    return {
        "run": str(run.folder),
        "recipe": stated.get("recipe"),
        "settings": "" if config is None else settings_hash(config),
        "changed": dict(stated) if config is None else changed_settings(config),
        "backbone": str(stated.get("backbone", "?")),
        "method": str(stated.get("head", "?")) if config is None else config.method,
        "seed": document.get("seed", stated.get("seed")),
        "source": str(stated.get("dataset", data.get("name", ""))),
        "trained_on": str(data.get("name", "")),
        "classes": len(data.get("classes") or ()) or None,
        "fingerprint": data.get("fingerprint"),
        **{name: versions.get(name) for name in ("gwapctl", "torch")},
    }


def _evaluation(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: str(document[key]) for key in ("dataset", "split", "protocol")},
        "options": document.get("options") or {},
        "n": int(document["n"]),
        "n_degenerate": document.get("n_degenerate"),
        "date": str(document.get("created", "")),
        "floors": document.get("floors") or {},
        "per_class": _per_class(document.get("per_class") or ()),
        "replicates": document.get("replicates") or {},
        **{key: float(value) for key, value in document["metrics"].items() if value is not None},
    }


def _per_class(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return ``{key: {class: number}}`` of the numbers of which a metric is the mean over classes."""
    keys = [one.class_key for one in METRICS.values() if one.class_key]
    found = {key: {str(row["class"]): row[key] for row in rows if row.get(key) is not None} for key in keys}
    return {key: numbers for key, numbers in found.items() if numbers}


# --- of the file ----------------------------------------------------------------------------------------------------


def read_results(file: Path | None = None) -> pd.DataFrame:
    """Read the rows of ``file`` (by default what ships with gwapctl); none where there is no such file.

    A DataError says that it is no table of results.
    """
    import pandas as pd

    file = file or zoo_folder() / "results.csv"  # in the wheel, else in the checkout
    if not file.is_file():
        return _frame([]).assign(shipped=True)
    try:
        rows = pd.read_csv(file, dtype="str")
        rows = rows if "per_class" in rows else rows.assign(per_class="{}")  # of version 0.1.0
        rows = rows.assign(**{name: rows[name].map(json.loads) for name in AS_JSON})
        metrics = dict.fromkeys(set(rows.columns) - {*COLUMNS}, "float64")
        return _in_order(rows.astype(metrics)).assign(shipped=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the results in {file}: {error}.") from error


def record(rows: pd.DataFrame, file: Path) -> None:
    """Add ``rows`` to the results in ``file``, in place of earlier ones of the same runs; it names no machine.

    Their replicates go into ``replicates_file(file)``. Several processes may do so at a time.

    Raises:
        DataError: the file is no table of results, or cannot be written.

    """
    with changing(file):
        _record(rows, file)


def _record(rows: pd.DataFrame, file: Path) -> None:
    import pandas as pd

    new = rows.assign(run=rows["run"].map(lambda path: PurePath(path).name), source=rows["source"].map(_name))
    both = _in_order(
        pd.concat([read_results(file), new], ignore_index=True).drop(columns=[*NOT_IN_THE_FILE], errors="ignore")
    )
    for name in AS_JSON:
        both[name] = [json.dumps(value, sort_keys=True, separators=(",", ":")) for value in both[name]]
    both = both.drop_duplicates([*SAME_EVALUATION], keep="last").sort_values([*SAME_EVALUATION])
    write_text(file, both.to_csv(index=False, lineterminator="\n"))
    record_replicates(rows, replicates_file(file))


def records(frame: pd.DataFrame) -> list[Record]:
    """Return the rows of a DataFrame as plain dicts."""
    import pandas as pd

    rows = frame.to_dict("records")
    return [{str(key): None if one is pd.NA or one != one else one for key, one in row.items()} for row in rows]


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return _in_order(pd.DataFrame(rows, columns=None if rows else [*COLUMNS]))


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the columns in the file's order: what is known of an evaluation, then its metrics by name."""
    last = rows.columns.intersection([*NOT_IN_THE_FILE])
    metrics = sorted({*rows.columns} - {*COLUMNS, *last})
    return rows.reindex(columns=[*COLUMNS, *metrics, *last]).astype(dict.fromkeys(sorted(WHOLE), "Int64"))
