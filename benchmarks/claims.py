"""The papers' claims as comparisons of cells of tables, and what is measured of them, by ``gwapctl.paper.claims``.

A comparison is one quantity per seed, so signed that the claim says it is positive. Its family, within which p values
are adjusted, is its claim on all data sets together; numbers that stand beside a headline, and the negative control,
are families of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gwapctl.boxes import FloatArray
from gwapctl.metrics.localization import FLOORS
from gwapctl.paper.build import BuiltTable
from gwapctl.paper.claims import LEVEL, Evidence, Verdict, decide, holm, judge_all, weigh
from gwapctl.paper.measured import records
from gwapctl.paper.replicates import Evaluation, ReplicatesOnFile
from gwapctl.paper.specification import Column, Row, TableSpec

# the smallest difference that counts, stated before anything was measured by this rule; in the unit of the metric
COUNTS = {
    "voc_map_11pt": 0.5,
    "top1_error": 1.0,
    "f_measure": 0.01,
    "fg_recall": 0.01,
    "fg_iou": 0.01,
    "gt_known_error": 1.0,
    "gt_known_error_calibrated": 1.0,
    "top1_loc_error": 1.0,
    "max_box_acc": 1.0,
    "max_box_acc_v2": 1.0,
    "det_map_11pt": 1.0,
}
# one side must beat both floors
OF_BOXES = {"gt_known_error", "gt_known_error_calibrated", "top1_loc_error", "max_box_acc", "max_box_acc_v2"}


@dataclass(frozen=True)
class Side:
    """One cell: table, row and column by their names."""

    table: str
    row: str
    column: str


@dataclass(frozen=True)
class Comparison:
    """One quantity per seed, made of the numbers of ``sides``, that the claim says is positive.

    ``counts``: the smallest that matters, as the table prints numbers. ``decimals`` are for printing. ``of_boxes``:
    there is nothing to decide unless a side beats both floors. ``beside``: it stands beside the headline.
    """

    text: str
    sides: tuple[Side, ...]
    value: Callable[[Sequence[Any]], Any]
    counts: float
    decimals: int = 2
    of_boxes: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim, what the paper prints for it, and the comparisons that must all be positive.

    ``moot``: why it cannot be decided here whatever is measured.
    """

    title: str
    paper: str
    comparisons: tuple[Comparison, ...]
    moot: str = ""


@dataclass(frozen=True)
class Outcome:
    """A comparison on one data set: each side's numbers by seed, the evidence, and that of margins over the floors."""

    comparison: Comparison
    numbers: tuple[Mapping[int, float], ...]
    evidence: Evidence
    margins: tuple[Evidence, ...] = ()
    moot: str = ""

    @property
    def blind(self) -> bool:
        """Whether neither side is shown to beat both floors, where one has to."""
        adjusted = holm(one.p_value for one in self.margins)
        told = [decide(*pair) for pair in zip(self.margins, adjusted, strict=True)]
        return self.comparison.of_boxes and "holds" not in told

    def verdict(self, adjusted: float) -> tuple[Verdict, str]:
        """Return what the rule says, and why it says no more; ``adjusted`` is the p value within the family."""
        if self.moot:
            return "not decidable here", self.moot
        if self.evidence.doubt:
            return "cannot be told", self.evidence.doubt
        if self.blind:
            return "not decidable here", "neither side is shown to beat both floors"
        found = decide(self.evidence, adjusted)
        if found == "cannot be told":
            return found, "no difference shown"
        small = abs(self.evidence.mean) < self.comparison.counts
        return found, "smaller than what counts" if small else ""


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(claim: Claim, comparison: Comparison, tables: Mapping[str, BuiltTable], file: ReplicatesOnFile) -> Outcome:
    """Read a comparison's numbers from built tables of one data set; a seed counts that every side has."""
    cells = [_Cell.of(side, tables, file) for side in comparison.sides]
    seeds = sorted(set.intersection(*(set(one.numbers) for one in cells)))
    differences = [float(comparison.value([one.numbers[seed] for one in cells])) for seed in seeds]
    drawn = [[one.replicates(seed) for one in cells] for seed in seeds]
    evidence = weigh(differences, _rows([_combine(comparison, one) for one in drawn]))
    margins = tuple(one.margin(seeds) for one in cells) if comparison.of_boxes else ()
    return Outcome(comparison, tuple(one.numbers for one in cells), evidence, margins, claim.moot)


def _combine(comparison: Comparison, sides: Sequence[FloatArray | None]) -> FloatArray | None:
    known = [one for one in sides if one is not None]
    return np.asarray(comparison.value(known)) if len(known) == len(sides) else None


def _rows(rows: Sequence[FloatArray | None]) -> FloatArray | None:
    known = [one for one in rows if one is not None]
    return np.stack(known) if known and len(known) == len(rows) else None


@dataclass(frozen=True)
class _Cell:
    """A measured cell: its numbers by seed, and where to find their replicates."""

    column: Column
    numbers: Mapping[int, float]
    evaluations: Mapping[int, Evaluation]
    floors: Mapping[int, tuple[float, float]]
    file: ReplicatesOnFile

    @classmethod
    def of(cls, side: Side, tables: Mapping[str, BuiltTable], file: ReplicatesOnFile) -> _Cell:
        table = tables[side.table]
        column = next(one for one in table.spec.columns if one.key == side.column)
        found = table.measured[(table.measured["id"] == side.row) & (table.measured["key"] == side.column)]
        cells = records(found)
        sources = [one for cell in cells for one in cell["sources"] if one["seed"] is not None]
        place = (table.measured_on.dataset, str(table.measured_on.split), table.spec.protocol)
        floors = [one for cell in cells for one in cell["floors"]]
        return cls(
            column,
            {one["seed"]: one["value"] for one in sources},
            {one["seed"]: (one["run"], *place, one["options"]) for one in sources},
            {one["seed"]: pair for one, pair in zip(sources, floors, strict=True)} if floors else {},
            file,
        )

    def replicates(self, seed: int, floor: str = "") -> FloatArray | None:
        """Return the number of a seed, or of a floor beside it, on the resamples (B,); None: they are not on file."""
        evaluation, metric = self.evaluations[seed], str(self.column.metric)
        if floor:
            found = self.file.find(evaluation, f"floors/{floor}/{metric}")
        elif self.column.classes:
            found = self.file.mean_of_classes(evaluation, metric, self.column.classes)
        else:
            found = self.file.find(evaluation, metric)
        value = self.floors[seed][[*FLOORS].index(floor)] if floor else self.numbers[seed]
        return None if found is None else value + (100 if self.column.percent else 1) * found

    def margin(self, seeds: Sequence[int]) -> Evidence:
        """Return the evidence of being better than the better one of the floors."""
        sign = -1 if self.column.best == "lowest" else 1
        known = [seed for seed in seeds if seed in self.floors]
        best = {seed: max(zip(self.floors[seed], FLOORS, strict=True), key=lambda one: sign * one[0]) for seed in known}
        drawn = []
        for seed in known:
            own, floor = self.replicates(seed), self.replicates(seed, best[seed][1])
            drawn.append(None if own is None or floor is None else sign * (own - floor))
        return weigh([sign * (self.numbers[seed] - best[seed][0]) for seed in known], _rows(drawn))


# --- the claims -----------------------------------------------------------------------------------------------------

GAP, GWAP, NO_SIGMOID, NO_EXP = "googlenet-gap", "googlenet-gwap", "googlenet-gwap-no-sigmoid", "googlenet-gwap-no-exp"
WITH_BOXES, MAXIMUM, ORIGINAL, SCALES = (
    "googlenet-gwap-gt",
    "googlenet-gmp",
    "googlenet-original",
    "googlenet-gwap-multi-scale",
)
SAME_STAGES = "the stand-in for the unmodified network has no last stage that GAP and GWAP remove"


def paper_claims(tables: Mapping[str, TableSpec]) -> list[Claim]:
    """Return the claims of the papers, and one of ours, as far as they can be stated on ``tables`` (by name).

    Rows of table I to IV are the ones of network G. A claim about mAP is about every column of table I: mAP where
    images have several labels, the top-1 error where they have one.
    """
    say = _Words(tables)
    claims = [
        Claim("GWAP classifies better than GAP", "mAP 70.4 against 68.6 (CaffeNet), 85.1 against 84.7 (GoogLeNet)",
              say.better("i", GWAP, GAP)),
        Claim("The sigmoid is needed", "without it mAP 57.7 and 81.5, F-measure 0.1344 and 0.1905",
              (*say.better("i", GWAP, NO_SIGMOID), *say.better("ii", GWAP, NO_SIGMOID))),
        Claim("exp helps", "without it mAP 68.4 and 83.7, F-measure 0.3611 and 0.4577",
              (*say.better("i", GWAP, NO_EXP), *say.better("ii", GWAP, NO_EXP))),
        Claim("Weights from ground-truth boxes classify best", "mAP 73.7 (CaffeNet), 86.5 (GoogLeNet)",
              tuple(one for row in (GWAP, GAP, NO_EXP, NO_SIGMOID) for one in say.better("i", WITH_BOXES, row))),
        Claim("F-measure: GWAP above w/o exp above GAP above w/o σ", "0.5450, 0.4577, 0.4164, 0.1905 (GoogLeNet)",
              (*say.better("ii", GWAP, NO_EXP), *say.better("ii", NO_EXP, GAP), *say.better("ii", GAP, NO_SIGMOID))),
        Claim("w/o exp is below GAP in mAP, but above it in F-measure",
              "mAP 83.7 against 84.7, F-measure 0.4577 against 0.4164 (GoogLeNet)",
              (*say.better("i", GAP, NO_EXP), *say.better("ii", NO_EXP, GAP))),
        Claim("Localization error: GWAP below GAP below GMP", "54.99, 56.40, 57.78",
              (*say.better("iv", GWAP, GAP, keys=("top1",)), *say.better("iv", GAP, MAXIMUM, keys=("top1",)))),
        Claim("GWAP has not the classification drop against the unmodified network that GAP has",
              "top-1 error 31.8 (GWAP), 31.9 (unmodified), 35.0 (GAP)",
              (*say.better("iii", ORIGINAL, GAP, keys=("top1",)), *say.better("iii", GWAP, GAP, keys=("top1",)),
               *say.no_drop()), moot=say.moot_drop()),
        Claim("Several scales localize better than one", "error 54.09 against 54.99",
              say.better("iv", SCALES, GWAP, keys=("top1",))),
        Claim("Ours: the mean of weight map and class map gives better boxes than either", "not in the paper",
              tuple(one for half in ("weight", "class") for one in
                    say.better("fused", "fused", half, keys=("otsu", "max")))),
        Claim("Ours: the weight map gives better boxes than GAP's class map", "the paper compares their networks only",
              say.better("margins", "gwap-weight", "gap-class", keys=("error",))),
        Claim("Last stages trained, too: GWAP is better than GAP", "our second arm",
              say.better("last-stages", "gwap", "gap", keys=("top1", "f_measure", "calibrated"))),
        Claim("Last stages trained, too: exp helps", "our second arm",
              say.better("last-stages", "gwap", "gwap-no-exp", keys=("top1", "f_measure"))),
        Claim("Dual gradients: several scales localize better than one", "mIoU 61.46 against 58.23 (LID, slides)",
              say.better("dgl", "dgl-multi-scale", "dgl", called=("several scales", "one"))),
        Claim("Dual gradients: closing the maps helps", "mIoU 62.22 against 61.46 (LID, slides)",
              say.better("dgl", "dgl-multi-scale-close", "dgl-multi-scale", called=("closed", "not closed"))),
        Claim("Background images: the maps grow to cover the objects", "the abstract says so without a number",
              tuple(one for table in ("background", "background-ilsvrc") for one in
                    say.better(table, "background", "gap", keys=("top1", "gt_known", "recall")))),
        Claim("Detection: the weak branch helps", "at every proportion, by 9.97 to 2.12 points (GWAP)",
              say.better("v", "rfcn-gwap", "rfcn")),
        Claim("Detection: it helps more with fewer boxes", "39.86 - 29.89 = 9.97 at 0.01, 63.17 - 61.05 = 2.12 at 0.1",
              say.gains()),
        Claim("Detection: GWAP is above GAP", "except at 0.05: 57.34 against 57.36",
              say.better("v", "rfcn-gwap", "rfcn-gap")),
        Claim("Detection: GWAP+GAP is best at 0.01 and 0.05", "40.24 and 57.48; at 0.02 and 0.1 GWAP alone",
              tuple(one for row in ("rfcn", "rfcn-gap", "rfcn-gwap") for one in
                    say.better("v", "rfcn-gwap-gap", row, keys=say.proportions(0.01, 0.05)))),
    ]  # fmt: skip
    return [claim for claim in claims if claim.comparisons]


@dataclass(frozen=True)
class _Words:
    """Writes comparisons of two cells, the better one first, with the names that the tables print.

    What a table does not have on this data set (a row, a column, itself) gives none.
    """

    tables: Mapping[str, TableSpec]

    def better(
        self, table: str, better: str, worse: str, *, keys: Sequence[str] = (), called: tuple[str, str] | None = None
    ) -> tuple[Comparison, ...]:
        """Say that row ``better`` is above row ``worse`` in columns where high is good, below where low is.

        ``keys``: the columns, by default all that are measured. ``called``: names instead of their first labels.
        """
        if not self._has(table, better, worse):
            return ()
        first, second = called or tuple(self._row(table, row).labels[0] for row in (better, worse))
        found = []
        for column in self._columns(table):
            sign = -1 if column.best == "lowest" else 1
            if column.metric in COUNTS and (not keys or column.key in keys):
                text = f"{column.name}: {first} {'above' if sign > 0 else 'below'} {second}"
                sides = (Side(table, better, column.key), Side(table, worse, column.key))
                found.append(self._comparison(text, table, column, sides, lambda n, sign=sign: sign * (n[0] - n[1])))
        return tuple(found)

    def no_drop(self) -> tuple[Comparison, ...]:
        """Compare what GWAP takes back of GAP's drop with half of that drop: our reading of "has not the drop"."""
        if not self._has("iii", GAP, GWAP, ORIGINAL):
            return ()
        sides = tuple(Side("iii", row, "top1") for row in (GAP, GWAP, ORIGINAL))
        text = "GWAP takes back more than half of GAP's drop (top-1 error)"
        column = next(one for one in self._columns("iii") if one.key == "top1")
        return (self._comparison(text, "iii", column, sides, lambda n: (n[0] - n[1]) - (n[0] - n[2]) / 2),)

    def moot_drop(self) -> str:
        """Say why the drop cannot be decided: the same network stands for the unmodified one and for the others."""
        if not self._has("iii", ORIGINAL, GAP):
            return ""
        rows = [self._row("iii", row) for row in (ORIGINAL, GAP)]
        networks = {row.instead.get("backbone", row.config.get("backbone")) for row in rows}
        return SAME_STAGES if len(networks) == 1 else ""

    def gains(self) -> tuple[Comparison, ...]:
        """Compare what the weak branch gives at the smallest and at the greatest proportion of boxed images."""
        if not self._has("v", "rfcn", "rfcn-gwap"):
            return ()
        columns = [one for one in self._columns("v") if not self._is_beside("v", one)]
        ordered = sorted(columns, key=lambda one: float(str(one.config["box_proportion"])))
        if len(ordered) < 2:
            return ()
        few, many = ordered[0], ordered[-1]
        sides = tuple(Side("v", row, one.key) for one in (few, many) for row in ("rfcn-gwap", "rfcn"))
        text = f"gain at {few.name} above gain at {many.name}"
        return (self._comparison(text, "v", few, sides, lambda n: (n[0] - n[1]) - (n[2] - n[3])),)

    def proportions(self, *asked: float) -> tuple[str, ...]:
        """Return the columns of table V at these proportions of boxed images; a name that no column has if none is."""
        there = self._columns("v") if "v" in self.tables else ()
        return tuple(one.key for one in there if one.config.get("box_proportion") in asked) or ("none",)

    def _comparison(
        self, text: str, table: str, column: Column, sides: tuple[Side, ...], value: Callable[[Sequence[Any]], Any]
    ) -> Comparison:
        metric = str(column.metric)
        counts = COUNTS[metric] * (100 if column.percent else 1)
        decimals = max(2, column.decimals)
        return Comparison(text, sides, value, counts, decimals, metric in OF_BOXES, self._is_beside(table, column))

    def _has(self, table: str, *rows: str) -> bool:
        return table in self.tables and set(rows) <= {row.id for row in self.tables[table].rows}

    def _row(self, table: str, name: str) -> Row:
        return next(row for row in self.tables[table].rows if row.id == name)

    def _columns(self, table: str) -> list[Column]:
        return [one for one in self.tables[table].columns if one.metric is not None]

    def _is_beside(self, table: str, column: Column) -> bool:
        """Whether the same is there over some classes, which is then the headline."""
        same = [one for one in self._columns(table) if (one.metric, one.config) == (column.metric, column.config)]
        return not column.classes and any(one.classes for one in same)


# --- families -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """An outcome on ``data``, its verdict within its family, why, and the level of the family's first step."""

    claim: Claim
    data: str
    outcome: Outcome
    adjusted: float
    level: float

    @property
    def verdict(self) -> Verdict:
        """What the rule says."""
        return self.outcome.verdict(self.adjusted)[0]

    @property
    def because(self) -> str:
        """Why it says no more."""
        return self.outcome.verdict(self.adjusted)[1]


def judge(outcomes: Sequence[tuple[Claim, str, Outcome]], control: str) -> list[Judged]:
    """Adjust p values within each family, and return every outcome with its verdict, in the order given."""
    names = [(claim.title, one.comparison.beside, data == control) for claim, data, one in outcomes]
    families: dict[tuple[str, bool, bool], list[int]] = {}
    for index, name in enumerate(names):
        families.setdefault(name, []).append(index)
    adjusted: dict[int, float] = {}
    for members in families.values():
        adjusted |= dict(zip(members, holm(outcomes[one][2].evidence.p_value for one in members), strict=True))
    return [
        Judged(*outcome, adjusted[index], LEVEL / len(families[names[index]])) for index, outcome in enumerate(outcomes)
    ]


def judge_claim(judged: Sequence[Judged]) -> Verdict:
    """Return the verdict on a claim on one data set, from those of its headline."""
    return judge_all(one.verdict for one in judged if not one.outcome.comparison.beside)
