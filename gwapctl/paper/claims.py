"""When a difference is told: the statistics behind the claims.

A difference is paired: the same seeds on both sides, on the same images. It has two sources of chance, seeds and images
(Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, MLSys 2021), and two tests, which must both
reject:

- over seeds, the paired t test (Student, Biometrika 6(1), 1908);
- over images x seeds, the bootstrap that resamples both, each draw of images for all seeds together (Owen, The
  pigeonhole bootstrap, Annals of Applied Statistics 1(2), 2007: its variance is not too small, and too great where
  most chance is peculiar to one seed on one image). Its variance is the sum of two terms and needs no drawing of seeds:
  that of the mean over seeds from one resample of images to the next, and the mean over resamples of the seeds'
  variance by their number. Degrees of freedom are Satterthwaite's (Biometrics Bulletin 2(6), 1946), those of the images
  as many as resamples, less one.

That both must reject makes the greater p value that of the comparison (intersection-union: Berger, Technometrics 24(4),
1982). Within a family p values are adjusted by Holm (Scandinavian Journal of Statistics 6(2), 1979), so that under no
difference the chance of any verdict in it is at most ``LEVEL``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from gwapctl.boxes import FloatArray

Verdict = Literal["holds", "against the paper", "cannot be told", "not decidable here"]

LEVEL = 0.05  # two-sided, of a family
POWER = 0.8
LEAST_SEEDS = 3


@dataclass(frozen=True)
class Spread:
    """A standard error of a mean, with its degrees of freedom."""

    error: float
    freedom: float

    def p_value(self, mean: float) -> float:
        """Return the two-sided p value of ``mean`` under no difference."""
        if self.error == 0:
            return float(mean == 0)
        return float(2 * stdtr(self.freedom, -abs(mean) / self.error))

    def reach(self, level: float) -> float:
        """Return half the length of the interval that misses the truth in a share ``level`` of all cases."""
        return float(stdtrit(self.freedom, 1 - level / 2)) * self.error

    def detectable(self, level: float) -> float:
        """Return the smallest true difference that a test at ``level`` finds with a chance of ``POWER``."""
        return self.reach(level) + float(stdtrit(self.freedom, POWER)) * self.error


@dataclass(frozen=True)
class Evidence:
    """A paired difference: its mean over ``seeds``, and its spreads; None: too few seeds, or no replicates."""

    mean: float
    seeds: int
    over_seeds: Spread | None
    over_images: Spread | None

    @property
    def doubt(self) -> str:
        """What is missing for a test; empty where nothing is."""
        if not self.seeds:
            return "not measured"
        if self.seeds < LEAST_SEEDS:
            return f"too few seeds: {self.seeds}"
        return "" if self.over_images else "no replicates"

    @property
    def _spreads(self) -> list[Spread]:
        return [one for one in (self.over_seeds, self.over_images) if one is not None]

    @property
    def p_value(self) -> float:
        """The greater of both tests' p values; 1 where one of them is missing."""
        return 1.0 if self.doubt else max(one.p_value(self.mean) for one in self._spreads)

    def reach(self, level: float = LEVEL) -> float | None:
        """Return half the length of the longer interval; None without any spread."""
        return max((one.reach(level) for one in self._spreads), default=None)

    def detectable(self, level: float) -> float | None:
        """Return the smallest difference that both tests at ``level`` find with a chance of ``POWER``."""
        return max((one.detectable(level) for one in self._spreads), default=None)


def weigh(differences: Sequence[float], replicates: FloatArray | None) -> Evidence:
    """Return the evidence of one difference per seed (S,), and of each on the resamples of the images (S, B)."""
    seeds = len(differences)
    mean = float(np.mean(differences)) if seeds else 0.0
    if seeds < 2:
        return Evidence(mean, seeds, None, None)
    over_seeds = Spread(float(np.std(differences, ddof=1)) / math.sqrt(seeds), seeds - 1)
    return Evidence(mean, seeds, over_seeds, None if replicates is None else _pigeonhole(replicates))


def _pigeonhole(replicates: FloatArray) -> Spread:
    """Return the spread of the bootstrap over images x seeds, from replicates (S, B)."""
    seeds, draws = replicates.shape
    of_images = float(replicates.mean(axis=0).var(ddof=1))
    of_seeds = float(replicates.var(axis=0, ddof=1).mean()) / seeds
    total = of_images + of_seeds
    parts = of_images**2 / (draws - 1) + of_seeds**2 / (seeds - 1)
    return Spread(math.sqrt(total), total**2 / parts if parts else draws - 1)


def holm(p_values: Iterable[float]) -> list[float]:
    """Return Holm's adjusted p values of a family, in the order given.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    values = list(p_values)
    adjusted, highest = [1.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def decide(evidence: Evidence, adjusted: float) -> Verdict:
    """Return what the rule says of a difference that the claim says is positive, from its ``adjusted`` p value."""
    if evidence.doubt or adjusted > LEVEL:
        return "cannot be told"
    return "holds" if evidence.mean > 0 else "against the paper"


def judge_all(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim from those on its comparisons: it holds where all do, and falls with one."""
    found = set(verdicts)
    order: tuple[Verdict, ...] = ("against the paper", "not decidable here", "cannot be told")
    return next((one for one in order if one in found), "holds" if found else "cannot be told")
