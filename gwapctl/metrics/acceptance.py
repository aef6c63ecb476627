"""Which boxes can be accepted unseen: the largest set, by doubt, whose share of wrong ones is surely small enough.

Cuts of the doubt are tried in an order that is fixed before anything is known of right and wrong, from the least doubt
on, and the first that fails ends it (fixed-sequence testing: Maurer, Hothorn and Lehmacher, 1995). So each cut may be
tested at the whole level, and the chance that an accepted set has more wrong boxes than asked for is at most 1 minus
the confidence. A test is Clopper and Pearson's upper bound (Biometrika 26(4), 1934) of the share of wrong boxes among
the checked ones below the cut. It holds for checked images that were drawn by chance, or by doubt, from all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from gwapctl.boxes import FloatArray

Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.9
STEPS = 20  # cuts: after each twentieth of all boxes
FIRST = 0.1
MOST = 1_000_000  # checked boxes: nobody checks more


@dataclass(frozen=True)
class Acceptance:
    """What was accepted of ``total`` boxes: those with a doubt of at most ``cut``, ``accepted`` of them; None: nothing.

    ``checked`` and ``wrong`` count the checked boxes in the set that was accepted, or that failed as the first one, and
    ``bound`` is the share of wrong boxes in it that is not exceeded with ``CONFIDENCE``. ``more`` boxes to check, drawn
    by chance from all, would let that first set pass if they are as often wrong as those so far; None: no number that
    there is would.
    """

    total: int
    cut: float | None
    accepted: int
    checked: int
    wrong: int
    bound: float
    more: int | None = 0


def upper_bound(wrong: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the highest share of wrong ones that is plausible where ``wrong`` of ``n`` are (Clopper and Pearson).

    >>> round(upper_bound(0, 45), 4), upper_bound(3, 3)
    (0.0499, 1.0)
    """
    return 1.0 if wrong >= n else float(betaincinv(wrong + 1, n - wrong, confidence))


def accept(doubts: FloatArray, checked: Bools, wrong: Bools, error: float) -> Acceptance:
    """Accept boxes by their ``doubts`` (N,), where ``wrong`` (N,) is known of those that are ``checked`` (N,).

    The first cut that is tested has room for as many wrong boxes as a share ``error`` of a tenth of the checked ones:
    one bad box among few would end all. Where none has, it is the first that can pass at all.
    """
    total = len(doubts)
    ends = [math.ceil(total * step / STEPS) - 1 for step in range(1, STEPS + 1)] if total else []
    cuts = np.unique(np.sort(doubts)[ends]).tolist()
    counts = {cut: int((checked & (doubts <= cut)).sum()) for cut in cuts}
    least = [least_checked(error, room) for room in (int(error * checked.sum() * FIRST), 0)]
    testable = next((some for n in least if (some := [cut for cut in cuts if counts[cut] >= n])), [])
    found: Acceptance | None = None
    for cut in testable:
        n, bad = counts[cut], int((checked & wrong & (doubts <= cut)).sum())
        bound = upper_bound(bad, n)
        if bound > error:
            return found or Acceptance(total, None, 0, n, bad, bound, _more(bad, n, checked, error))
        found = Acceptance(total, cut, int((doubts <= cut).sum()), n, bad, bound)
    n = int(checked.sum())
    lacking = max(least[-1] - n, 1)
    more = lacking if n + lacking <= total else None
    return found or Acceptance(total, None, 0, n, int((checked & wrong).sum()), 1.0, more)


def least_checked(error: float, wrong: int = 0) -> int:
    """Return how many checked boxes show, ``wrong`` of them being wrong, that at most a share ``error`` is wrong."""
    return _first(lambda n: upper_bound(min(wrong, n), n) <= error)


def _more(wrong: int, n: int, checked: Bools, error: float) -> int | None:
    """Return how many further boxes to check, of all, where ``wrong`` of ``n`` in the first set are wrong."""
    share = wrong / n
    if share >= error:
        return None
    needed = _first(lambda count: upper_bound(math.ceil(share * count), count) <= error)
    more = math.ceil((needed - n) * checked.sum() / n)
    return more if checked.sum() + more <= len(checked) else None


def _first(holds: Callable[[int], bool]) -> int:
    """Return the smallest count for which ``holds``, which does from somewhere on; ``MOST`` where none does."""
    high = 1
    while high < MOST and not holds(high):
        high *= 2
    low, high = high // 2, min(high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def effort(doubts: FloatArray, wrong: Bools, goal: float) -> float:
    """Return which share of the boxes (N,) a reviewer opens, the most doubtful first, until a share ``goal`` is right.

    What is opened is right afterwards.
    """
    order = np.argsort(-doubts, kind="stable")
    left = wrong.sum() - np.concatenate([[0], np.cumsum(wrong[order])])
    return float(np.argmax(1 - left / len(wrong) >= goal)) / len(wrong)
