"""``gwapctl reproduce``: train and evaluate what a paper's table lacks, each network once, and go on after any end.

A run counts for a row by the same key as in a table, wherever it lies below the runs' folder: rows and tables share
trainings that way, and an interrupted run is continued. What a file of results has is not measured again where it was
measured on the same data, so that several machines may fill one table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from gwapctl.config import stored_config
from gwapctl.datasets import open_dataset, reporting_split, training_splits
from gwapctl.datasets.base import fingerprint
from gwapctl.datasets.subset import without_classes
from gwapctl.errors import DataError, GwapctlError, unknown_name
from gwapctl.evaluate import Options, evaluate
from gwapctl.files import require_output_folder
from gwapctl.maps.reading import split_options
from gwapctl.paper.costs import Cost, Speeds
from gwapctl.paper.lookup import cell_config, cell_key, concerned, home_ground, run_name
from gwapctl.paper.measured import Config, Record, records, run_config, run_rows, settings_hash
from gwapctl.paper.specification import Column, Row, TableSpec
from gwapctl.progress import ProgressCallback
from gwapctl.runs import Run, find_runs, new_run_folder

if TYPE_CHECKING:
    import pandas as pd

Watch = Callable[[str], AbstractContextManager[ProgressCallback]]


@dataclass(frozen=True)
class Machine:
    """Where and how the work runs: nothing that a number should depend on."""

    runs: Path = Path("runs")
    root: Path | None = None
    device: str = "auto"
    workers: int | None = None
    feature_cache: Path | None = None

    @property
    def where(self) -> dict[str, Any]:
        """What training and evaluating are told of it."""
        return {name: value for name, value in vars(self).items() if name != "runs"}


@dataclass(frozen=True)
class Reading:
    """One evaluation that a row asks of a network, for these columns; ``metrics`` are those that it must have."""

    row: Row
    columns: tuple[Column, ...]

    @property
    def metrics(self) -> list[str]:
        """The metrics of the columns that every data set has."""
        return [one.metric for one in self.columns if one.metric is not None and not one.optional]


@dataclass
class Work:
    """One network with one seed: its settings, the run that has it (if one does), and what is to be measured on it."""

    config: Config
    name: str
    readings: list[Reading] = field(default_factory=list)
    run: Run | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """The ids of the rows that need it."""
        return tuple(dict.fromkeys(reading.row.id for reading in self.readings))

    @property
    def state(self) -> str:
        """What there is of it: ``new``, ``trained``, or how its run ended."""
        if self.run is None:
            return "new"
        return "trained" if self.run.finished else str(self.run.document["status"])


@dataclass(frozen=True)
class Failure:
    """What could not be done, for which rows, and why."""

    rows: tuple[str, ...]
    seed: int
    what: str
    why: str


@dataclass
class Plan:
    """Everything that a table needs on one data set, seed after seed, so that the first seeds are whole first.

    ``results`` are rows that others measured: what they have is not measured again.
    """

    spec: TableSpec
    dataset: str
    machine: Machine
    works: list[Work]
    results: list[Record] = field(default_factory=list)

    @property
    def evaluated_on(self) -> str:
        """The name of the data set to evaluate on: the paper's own where it trains on another, else the same."""
        return self.spec.dataset if self.dataset == self.spec.train_dataset else self.dataset

    def folder(self, work: Work) -> Path:
        """Return the run folder of ``work``, the present or the future one."""
        return new_run_folder(self.machine.runs, work.name) if work.run is None else work.run.folder

    def missing(self, work: Work) -> list[Reading]:
        """Return the readings of ``work`` that no stored evaluation of its run fits, and no row of the results."""
        there = (self.is_there, self.is_recorded)
        return [reading for reading in work.readings if not any(known(work, reading) for known in there)]

    def is_recorded(self, work: Work, reading: Reading) -> bool:
        """Tell whether the results have what ``reading`` asks: of the same seed, trained on and measured on this data.

        Where the data is not here, the name by which it was called must do.
        """
        config, name = work.config, PurePath(self.dataset).name
        key = cell_key(reading.row, reading.columns[0], self.dataset)
        found = [
            row
            for row in self.results
            if row["seed"] == config.seed and key.fits(row) and all(row.get(one) is not None for one in reading.metrics)
        ]
        count, trained_on = self._evaluated, self._fingerprint(config) if found else None
        if trained_on is None:
            return any(PurePath(row["source"]).name == name for row in found)
        return any((row["fingerprint"], row["n"]) == (trained_on, count) for row in found)

    def _fingerprint(self, config: Config) -> str | None:
        """Return the identity of the images that ``config`` trains on, None where the data is not here."""
        from gwapctl.train.data import divide

        removed = getattr(config, "background_classes", ())
        parts = config.val_fraction, config.seed if config.val_fraction else 0, removed
        if parts not in self._fingerprints:
            try:
                dataset = open_dataset(self.dataset, self.machine.root)
                dataset = without_classes(dataset, removed) if removed else dataset
                own_val = not config.detects or config.val_fraction > 0
                train = divide(config, dataset, boxes=False, own_val=own_val).train
                self._fingerprints[parts] = fingerprint(train)
            except GwapctlError:
                self._fingerprints[parts] = None
        return self._fingerprints[parts]

    @cached_property
    def _fingerprints(self) -> dict[tuple[object, ...], str | None]:
        return {}

    def is_there(self, work: Work, reading: Reading) -> bool:
        """Tell whether a stored evaluation of the finished run of ``work`` is what ``reading`` asks."""
        if work.run is None or not work.run.finished:
            return False
        rows = concerned(self.spec, run_rows([work.run]))
        # a folder's data set may have a name of its own, which its run knows
        asked = rows["trained_on"] if self.evaluated_on == self.dataset else self.evaluated_on
        key = cell_key(reading.row, reading.columns[0], self.dataset)
        found = [row for row in records(rows[rows["dataset"] == asked]) if key.fits(row)]
        return any(all(row.get(metric) is not None for metric in reading.metrics) for row in found)

    def cost(self, work: Work) -> Cost:
        """Estimate what training takes, and what the missing evaluations take."""
        config = work.config
        images, holds_out = self._trained
        iterations, epochs = config.iterations, getattr(config, "epochs", None)
        if iterations is None and images is not None and epochs is not None:
            held = round(images * config.val_fraction) if holds_out else 0
            iterations = int(epochs) * max(1, (images - held) // config.batch_size)
        missing = self.missing(work)
        todo = 0 if work.state == "trained" or not missing else iterations
        scales = [reading.row.evaluate.scales for reading in missing]
        forward = sum(max(1, len(sizes)) if isinstance(sizes, tuple) else 1 for sizes in scales)  # per image
        taken = [self._speeds.evaluating(config, reading.row.evaluate.asked()) for reading in missing]
        return Cost(
            todo,
            None if todo is None else todo * config.batch_size * config.accumulate,
            None if self._evaluated is None else self._evaluated * forward,
            self._speeds.training(config),
            None if self._evaluated is None or None in taken else self._evaluated * sum(one or 0 for one in taken),
        )

    @cached_property
    def _trained(self) -> tuple[int | None, bool]:
        """How many images there are to train on (None: they are not here), and whether some are held out."""
        try:
            trained = open_dataset(self.dataset, self.machine.root)
            split, own_val = training_splits(trained)
            return len(trained.samples(split)), own_val is None
        except GwapctlError:
            return None, False

    @cached_property
    def _evaluated(self) -> int | None:
        """How many images there are to evaluate on; None: they are not here."""
        try:
            judged = open_dataset(self.evaluated_on, self.machine.root)
            return len(judged.samples(reporting_split(judged)))
        except GwapctlError:
            return None

    @cached_property
    def _speeds(self) -> Speeds:
        return Speeds(self.machine.runs)


def make_plan(
    spec: TableSpec,
    *,
    dataset: str | None = None,
    seeds: int | None = None,
    rows: Sequence[str] = (),
    machine: Machine | None = None,
    results: pd.DataFrame | None = None,
) -> Plan:
    """List what ``spec`` (a table, ``paper.profile.apply_profile`` may have changed it) needs on ``dataset``.

    Without ``dataset`` it is the profile's, else the paper's. ``rows`` takes these alone, by id; ``seeds`` counts from
    0, and is the profile's unless it is given. What ``results`` have is not measured again. Nothing is trained or read
    but the runs' documents.

    Raises:
        UsageError: there is no such row, or a recipe's or profile's settings are wrong.
        DataError: a row's recipe is missing, or a run is broken.

    """
    machine = machine or Machine()
    dataset = dataset or spec.default_dataset or spec.train_dataset
    spec = spec.on(dataset, *_names(dataset, machine.root))
    chosen = [row for row in spec.rows if row.quoted is None]
    for name in rows:
        if name not in [row.id for row in chosen]:
            raise unknown_name("row", name, [row.id for row in chosen])
    works: dict[Any, Work] = {}
    for seed in range(seeds or spec.seeds):
        for row in [row for row in chosen if row.id in (rows or [row.id])]:
            for columns in _columns(spec):
                config = cell_config(row, columns[0], dataset, seed)
                work = works.setdefault(_key(config), Work(config, _name(spec, row, columns[0], dataset, seed)))
                work.readings.append(Reading(row, columns))
    for run in find_runs(machine.runs):
        if (known := run_config(run)) is not None and (key := _key(known)) in works:
            work = works[key]  # of two runs of it the one that is further: the finished one, else the longer
            there = [run] if work.run is None else [work.run, run]
            work.run = max(there, key=lambda one: (one.finished, int(one.document.get("iterations", 0))))
    others = [] if results is None else records(concerned(spec, results))
    return Plan(spec, dataset, machine, list(works.values()), others)


def _names(dataset: str, root: Path | None) -> list[str]:
    """Return the name that the data set of a folder has of its own, where it is here."""
    try:
        return [open_dataset(dataset, root).name]
    except GwapctlError:
        return []


def carry_out(
    plan: Plan,
    *,
    watch: Watch,
    say: Callable[[str], None] = lambda _: None,
    before: Callable[[Config], None] = lambda _: None,
    keep: Callable[[Run], None] = lambda _: None,
) -> list[Failure]:
    """Train and evaluate what is missing, and return what failed: one failure stops nothing else.

    ``watch(text)`` opens a progress display, ``say`` is told each step, ``before`` is called before each training, and
    ``keep`` with a run that is finished already and after each evaluation.

    Raises:
        KeyboardInterrupt: it was stopped; the same call continues.

    """
    failures: list[Failure] = []

    def note(where: str, rows: tuple[str, ...], work: Work, what: str, error: Exception) -> None:
        why = str(error) if isinstance(error, GwapctlError) else f"{type(error).__name__}: {error}"
        failures.append(Failure(rows, work.config.seed, f"{what} of {work.name}", why))
        say(f"{where}: {what} failed: {why}")

    for index, work in enumerate(plan.works, start=1):
        config = work.config
        where = f"[{index}/{len(plan.works)}] {', '.join(work.rows)}, seed {config.seed}"
        try:
            if work.run is not None and work.run.finished:
                work.run.settle()
                keep(work.run)
            if not plan.missing(work):
                continue
            if work.state != "trained":
                before(config)
                network = getattr(config, "network", config.backbone)
                say(f"{where}: training {network} + {config.method} on {config.dataset}")
                work.run = _train(plan, work, watch)
        except Exception as error:  # whatever it is, the other rows do not depend on it
            note(where, work.rows, work, "training", error)
            continue
        for reading in work.readings:
            try:
                if not (plan.is_there(work, reading) or plan.is_recorded(work, reading)):
                    say(f"{where}: evaluating {work.run and work.run.folder} for {reading.row.id}")
                    keep(_evaluate(plan, work, reading, watch))
            except Exception as error:
                note(where, (reading.row.id,), work, "evaluation", error)
    return failures


def _train(plan: Plan, work: Work, watch: Watch) -> Run:
    """Train ``work`` in a new run folder, or where it was interrupted."""
    from gwapctl.train.loop import train
    from gwapctl.train.task import Listener

    resume, folder = work.run is not None, plan.folder(work)
    config = work.config if work.run is None else stored_config(work.run.document["config"])
    require_output_folder(folder, overwrite=False, resume=resume)
    with watch(f"training {folder.name}") as progress:
        return train(config, folder, resume=resume, listener=Listener(progress=progress), **plan.machine.where)


def _evaluate(plan: Plan, work: Work, reading: Reading, watch: Watch) -> Run:
    """Measure what one row asks of a finished run; the run, which keeps it, is returned."""
    assert work.run is not None
    asked = reading.row.evaluate.asked()
    if asked.get("scales") == "own":  # said, because a calibrated run may store others
        sides = set(getattr(work.config, "image_size", ()))
        asked["scales"] = tuple(sides) if len(sides) == 1 else None
    maps, others = split_options(asked)
    options = Options(dataset=plan.evaluated_on, reading=maps, **plan.machine.where, **others)
    with watch(f"evaluating {work.run.name}") as progress:
        result = evaluate(str(work.run.folder), options, progress=progress)
    work.run = Run.open(work.run.folder)
    lacking = [metric for metric in reading.metrics if metric not in result.metrics]
    if lacking:
        why = "; ".join(result.notes) or "the data set does not support it"
        raise DataError(f"{', '.join(lacking)} cannot be measured on {result.dataset} {result.split}: {why}.")
    return work.run


# --- which network -------------------------------------------------------------------------------------------------


def _columns(spec: TableSpec) -> list[tuple[Column, ...]]:
    """Group the columns that read the same network: all of them, unless they have settings of their own."""
    groups: dict[str, list[Column]] = {}
    for column in spec.columns:
        if column.quoted is None:
            groups.setdefault(repr(sorted(column.config.items())), []).append(column)
    return [tuple(group) for group in groups.values()]


def _key(config: Config) -> tuple[object, ...]:
    """Return what two configs share that give the same network."""
    return PurePath(config.dataset).name, config.recipe, settings_hash(config), config.seed


def _name(spec: TableSpec, row: Row, column: Column, dataset: str, seed: int) -> str:
    """Name the run folder after recipe, column, data set, profile and seed, as far as they are not the paper's."""
    home = home_ground(spec)
    measured_on = home if dataset == home.train_dataset else replace(home, home=False, argument=dataset)
    profile = spec.profile and PurePath(spec.profile).stem
    ending = [text for text in (profile, f"seed{seed}" if seed else None) if text]
    return "-".join([run_name(row, column, measured_on), *ending])
