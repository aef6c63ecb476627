"""Do the papers' claims hold? Paired over seeds, by one rule that was written down before anything was measured.

For every seed that both sides of a comparison have, the difference is taken so that the claim says it is positive. With
at least three seeds and a mean further from zero than twice its standard error, the comparison holds or does not hold;
anything else is not decidable here. A claim holds where all its comparisons do, and does not where one does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from gwapctl.paper.build import BuiltTable
from gwapctl.paper.specification import TableSpec

Result = Literal["holds", "does not hold", "not decidable here"]

LEAST_SEEDS = 3
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Side:
    """One cell: table, row and column by their names."""

    table: str
    row: str
    column: str


@dataclass(frozen=True)
class Comparison:
    """One quantity per seed, made of the numbers of ``sides``, that the claim says is positive.

    ``decimals`` are for printing.
    """

    text: str
    sides: tuple[Side, ...]
    value: Callable[[Sequence[float]], float]
    decimals: int = 2


@dataclass(frozen=True)
class Claim:
    """A claim, what the paper prints for it, and the comparisons that must all be positive."""

    title: str
    paper: str
    comparisons: tuple[Comparison, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it is about."""
        return tuple(dict.fromkeys(side.table for comparison in self.comparisons for side in comparison.sides))


@dataclass(frozen=True)
class Outcome:
    """A comparison on one data set: the quantity of each seed, and the numbers of each side by seed."""

    comparison: Comparison
    numbers: tuple[Mapping[int, float], ...]
    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def error(self) -> float | None:
        """Standard error of the mean, None for a single seed."""
        return statistics.stdev(self.values.values()) / math.sqrt(len(self.values)) if len(self.values) > 1 else None

    @property
    def doubt(self) -> str:
        """Why the rule cannot decide; empty where it does."""
        error = self.error
        if not self.values:
            return "not measured"
        if len(self.values) < LEAST_SEEDS or error is None:
            return f"too few seeds: {len(self.values)}"
        return "within the error" if abs(self.mean) <= STANDARD_ERRORS * error else ""

    @property
    def result(self) -> Result:
        """What the rule says."""
        if self.doubt:
            return "not decidable here"
        return "holds" if self.mean > 0 else "does not hold"


def judge_claim(outcomes: Sequence[Outcome]) -> Result:
    """Return the result of a claim from those on all its comparisons."""
    results = {outcome.result for outcome in outcomes}
    if "does not hold" in results:
        return "does not hold"
    return "holds" if results == {"holds"} else "not decidable here"


def measure_comparison(comparison: Comparison, tables: Mapping[str, BuiltTable]) -> Outcome:
    """Read a comparison's numbers from built tables of one data set; a seed counts that every side has."""
    numbers = tuple(_numbers(side, tables) for side in comparison.sides)
    seeds = sorted(set.intersection(*(set(one) for one in numbers)))
    values = {seed: comparison.value([one[seed] for one in numbers]) for seed in seeds}
    return Outcome(comparison, numbers, values)


def _numbers(side: Side, tables: Mapping[str, BuiltTable]) -> dict[int, float]:
    """Return the numbers of one cell by seed, as the table prints them; empty where there is none."""
    table = tables.get(side.table)
    if table is None:
        return {}
    cells = table.measured[(table.measured["id"] == side.row) & (table.measured["key"] == side.column)]
    return {one["seed"]: one["value"] for sources in cells["sources"] for one in sources if one["seed"] is not None}


# --- the claims -----------------------------------------------------------------------------------------------------

GAP, GWAP, NO_SIGMOID, NO_EXP = "googlenet-gap", "googlenet-gwap", "googlenet-gwap-no-sigmoid", "googlenet-gwap-no-exp"
WITH_BOXES, MAXIMUM, ORIGINAL, SCALES = (
    "googlenet-gwap-gt",
    "googlenet-gmp",
    "googlenet-original",
    "googlenet-gwap-multi-scale",
)


def paper_claims(tables: Mapping[str, TableSpec]) -> list[Claim]:
    """Return the claims of the GWAP paper, and one of ours, that can be stated on ``tables`` (by name).

    Rows of table I to IV are the ones of network G. Table V is compared at whichever proportions it has.
    """
    say = _Words(tables)
    claims = [
        Claim("GWAP classifies better than GAP", "mAP 70.4 against 68.6 (CaffeNet), 85.1 against 84.7 (GoogLeNet)",
              (say.better("i", "map", GWAP, GAP),)),
        Claim("The sigmoid is needed", "without it mAP 57.7 and 81.5, F-measure 0.1344 and 0.1905",
              (say.better("i", "map", GWAP, NO_SIGMOID), say.better("ii", "f", GWAP, NO_SIGMOID))),
        Claim("exp helps", "without it mAP 68.4 and 83.7, F-measure 0.3611 and 0.4577",
              (say.better("i", "map", GWAP, NO_EXP), say.better("ii", "f", GWAP, NO_EXP))),
        Claim("Weights from ground-truth boxes classify best", "mAP 73.7 (CaffeNet), 86.5 (GoogLeNet)",
              tuple(say.better("i", "map", WITH_BOXES, row) for row in (GWAP, GAP, NO_EXP, NO_SIGMOID))),
        Claim("F-measure: GWAP above w/o exp above GAP above w/o σ", "0.5450, 0.4577, 0.4164, 0.1905 (GoogLeNet)",
              (say.better("ii", "f", GWAP, NO_EXP), say.better("ii", "f", NO_EXP, GAP),
               say.better("ii", "f", GAP, NO_SIGMOID))),
        Claim("w/o exp is below GAP in mAP, but above it in F-measure",
              "mAP 83.7 against 84.7, F-measure 0.4577 against 0.4164 (GoogLeNet)",
              (say.better("i", "map", GAP, NO_EXP), say.better("ii", "f", NO_EXP, GAP))),
        Claim("F-measure and classification go together", "rank correlation over the four heads 0.8 for either network",
              (_correlation(),)),
        Claim("Localization error: GWAP below GAP below GMP", "54.99, 56.40, 57.78",
              (say.better("iv", "top1", GWAP, GAP), say.better("iv", "top1", GAP, MAXIMUM))),
        Claim("GWAP has not the classification drop against the unmodified network that GAP has",
              "top-1 error 31.8 (GWAP), 31.9 (unmodified), 35.0 (GAP)",
              (say.better("iii", "top1", ORIGINAL, GAP), say.better("iii", "top1", GWAP, GAP), _no_drop())),
        Claim("Several scales localize better than one", "error 54.09 against 54.99",
              (say.better("iv", "top1", SCALES, GWAP),)),
        Claim("Ours: the mean of weight map and class map gives better boxes than either", "not in the paper",
              tuple(say.better("fused", column, "fused", half) for half in ("weight", "class")
                    for column in ("otsu", "max"))),
    ]  # fmt: skip
    claims += _companion_claims(say, tables) if {"dgl", "background"} <= tables.keys() else []
    return claims + (_detection_claims(say, [column.key for column in tables["v"].columns]) if "v" in tables else [])


def _companion_claims(say: _Words, tables: Mapping[str, TableSpec]) -> list[Claim]:
    """Return the claims of the dual gradients' slides, and of the abstract on background images."""
    columns = [column.key for column in tables["dgl"].columns]
    grown = [column.key for column in tables["background"].columns if column.key in ("recall", "gt_known", "top1")]
    scales, closing = "dgl-multi-scale", "dgl-multi-scale-close"
    return [
        Claim("Dual gradients: several scales localize better than one", "mIoU 61.46 against 58.23 (LID, slides)",
              tuple(say.better("dgl", column, scales, "dgl", ("several scales", "one")) for column in columns)),
        Claim("Dual gradients: closing the maps helps", "mIoU 62.22 against 61.46 (LID, slides)",
              tuple(say.better("dgl", column, closing, scales, ("closed", "not closed")) for column in columns)),
        Claim("Background images: the maps grow to cover the objects", "the abstract says so without a number",
              tuple(say.better("background", column, "background", "gap") for column in grown)),
    ]  # fmt: skip


def _detection_claims(say: _Words, proportions: Sequence[str]) -> list[Claim]:
    """Return the claims on table V, whose columns are proportions of boxed images from the smallest to the largest."""
    few, many = proportions[0], proportions[-1]
    best_at = [one for one in proportions if one in ("0.01", "0.05")]  # the paper's, wherever they stand
    return [
        Claim("Detection: the weak branch helps", "at every proportion, by 9.97 to 2.12 points (GWAP)",
              tuple(say.better("v", column, "rfcn-gwap", "rfcn") for column in proportions)),
        Claim("Detection: it helps more with fewer boxes", "39.86 - 29.89 = 9.97 at 0.01, 63.17 - 61.05 = 2.12 at 0.1",
              (Comparison(f"gain at {few} above gain at {many}",
                          tuple(Side("v", row, column) for column in (few, many) for row in ("rfcn-gwap", "rfcn")),
                          lambda n: (n[0] - n[1]) - (n[2] - n[3])),)),
        Claim("Detection: GWAP is above GAP", "except at 0.05: 57.34 against 57.36",
              tuple(say.better("v", column, "rfcn-gwap", "rfcn-gap") for column in proportions)),
        Claim("Detection: GWAP+GAP is best at 0.01 and 0.05", "40.24 and 57.48; at 0.02 and 0.1 GWAP alone",
              tuple(say.better("v", column, "rfcn-gwap-gap", row) for column in best_at
                    for row in ("rfcn", "rfcn-gap", "rfcn-gwap"))),
    ]  # fmt: skip


@dataclass(frozen=True)
class _Words:
    """Writes comparisons of two cells, the better one first, with the names that the tables print."""

    tables: Mapping[str, TableSpec]

    def better(
        self, table: str, column: str, better: str, worse: str, called: tuple[str, str] | None = None
    ) -> Comparison:
        """Say that row ``better`` is above row ``worse`` in a column where high is good, below where low is.

        ``called``: what to call them; by default their first labels.
        """
        spec = self.tables[table]
        asked = next(one for one in spec.columns if one.key == column)
        sign = 1 if asked.best == "highest" else -1
        names = {row.id: row.labels[0] for row in spec.rows}
        first, second = called or (names[better], names[worse])
        text = f"{asked.name}: {first} {'above' if sign > 0 else 'below'} {second}"
        sides = (Side(table, better, column), Side(table, worse, column))
        return Comparison(text, sides, lambda numbers: sign * (numbers[0] - numbers[1]), max(2, asked.decimals))


def _no_drop() -> Comparison:
    """Compare what GWAP takes back of GAP's drop with half of that drop: our reading of "has not the drop"."""
    sides = tuple(Side("iii", row, "top1") for row in (GAP, GWAP, ORIGINAL))
    text = "GWAP takes back more than half of GAP's drop (top-1 error)"
    return Comparison(text, sides, lambda n: (n[0] - n[1]) - (n[0] - n[2]) / 2)


def _correlation() -> Comparison:
    """Correlate mAP with F-measure over the four heads of one seed, by ranks."""
    heads = (GAP, NO_SIGMOID, NO_EXP, GWAP)
    sides = tuple(Side(table, head, column) for table, column in (("i", "map"), ("ii", "f")) for head in heads)
    text = "Spearman's rank correlation of mAP and F-measure over the four heads"
    return Comparison(text, sides, lambda n: spearman(n[: len(heads)], n[len(heads) :]))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties sharing their mean rank; 0 where one side has no order at all."""
    ranks = [pd.Series(values).rank() for values in (first, second)]
    return 0.0 if any(one.nunique() == 1 for one in ranks) else statistics.correlation(*map(list, ranks))
