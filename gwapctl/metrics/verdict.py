"""The verdict on boxes: right more often than the better box that never looks at the image, or not, or nobody can tell.

The difference is paired, on the same images, and its interval is that of the bootstrap over them (Efron, 1979): the
standard deviation over ``replicates.RESAMPLES`` resamples times Student's t. The better floor is the one that is right
more often on all images, on every resample the same. Its choice looks at the images, too, which makes the difference
smaller, if anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from gwapctl.boxes import FloatArray
from gwapctl.errors import option
from gwapctl.metrics import METRICS
from gwapctl.metrics.replicates import RESAMPLES, decode

Answer = Literal["better", "not distinguishable", "worse"]

LEVEL = 0.95  # of the interval
JUDGED_BY = ("gt_known_error", "max_box_acc")  # the first that was measured; protocol wsoleval has the second alone


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """Write it for a person, in percent points.

        >>> Interval(-0.01, -2.0, 2.04).text()
        '+0.0 points (95 % interval -2.0 to +2.0)'
        """
        value, low, high = (f"{round(one, 1) + 0.0:+.1f}" for one in self)  # no -0.0
        return f"{value} points (95 % interval {low} to {high})"


class Verdict(NamedTuple):
    """The ``answer`` over ``n`` images: the accuracy under ``metric`` minus that of ``floor``, in percent points."""

    answer: Answer
    metric: str
    floor: str
    difference: Interval
    n: int
    next: str

    def text(self) -> str:
        """Say it in one line, with what to try next where the boxes are not better."""
        words = {"better": "better than", "worse": "worse than"}
        accuracy = METRICS[self.metric].accuracy or METRICS[self.metric].label
        said = (
            f"boxes: {words.get(self.answer, 'not distinguishable from')} the better floor "
            f"({self.floor.replace('_', ' ')}): {accuracy} {self.difference.text()}, {self.n:,} images"
        )
        return f"{said}. Next: {self.next}." if self.next else f"{said}."

    def to_json(self) -> dict[str, Any]:
        """Return it for the document of an evaluation."""
        found = {**self._asdict(), "difference": self.difference.value}
        return {**found, "interval": [self.difference.low, self.difference.high]}


def with_interval(value: float, replicates: FloatArray, n: int) -> Interval:
    """Return ``value`` in percent points with its interval, from its ``replicates`` (B,) on resamples of ``n`` images.

    Where all images agree, resamples do too: then it reaches as far as the rule of three (Hanley and Lippman-Hand,
    JAMA 1983), 3 / n, so that a handful of images settles nothing.
    """
    freedom = max(min(n, RESAMPLES) - 1, 1)
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * float(replicates.std(ddof=1)) or 300 / n
    return Interval(value, value - reach, value + reach)


def find_verdict(document: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict on the boxes of an evaluation, from its document.

    None where it judged no boxes, where there are no floors (a detector's average precision), and where the document is
    of an earlier version, which kept no replicates.
    """
    metrics, floors, replicates = document["metrics"], document.get("floors") or {}, document.get("replicates") or {}
    key = next((key for key in JUDGED_BY if key in metrics), None)
    if key is None or key not in replicates.get("metrics", {}):
        return None
    known = {name: row for name, row in replicates.get("floors", {}).items() if key in row and key in floors[name]}
    if not known:
        return None
    sign = -1 if METRICS[key].direction == "lowest" else 1
    floor = max(known, key=lambda name: sign * floors[name][key])
    deviations = sign * (decode(replicates["metrics"][key]) - decode(known[floor][key]))
    found = with_interval(sign * (metrics[key] - floors[floor][key]), deviations, document["n"])
    answer: Answer = "better" if found.low > 0 else "worse" if found.high < 0 else "not distinguishable"
    best = metrics.get("max_box_acc") if key == "gt_known_error" else None
    headroom = None if best is None else best - (100 + sign * floors[floor][key])
    advice = "" if answer == "better" else _advice(document.get("options") or {}, found, headroom)
    return Verdict(answer, key, floor, found, document["n"], advice)


def _advice(options: Mapping[str, Any], found: Interval, headroom: float | None) -> str:
    """Return what to try where boxes are not better: what moves a box, else what moves the map.

    ``headroom`` is by how much the best threshold for these very images would beat the floor, in percent points.
    """
    rule, of_model = str(options.get("box_rule") or ""), "precision" in options
    maps = "other maps (a network with ImageNet features: gwapctl train DATA --recipe photos)"
    if "map" not in options:  # a file of boxes
        return "boxes cut anew from the maps (gwapctl boxes OUT --refine grabcut), or of another model"
    tries = []
    if headroom is not None and headroom > found.high - found.value:  # the map shows more than the rule cuts
        tries.append(f"another box threshold ({option('calibrate' if of_model else 'calibrate_on')})")
    if rule and "grabcut" not in rule:
        tries.append(option("refine", "grabcut"))
    if not tries:
        tries.append(maps)
    if found.high > 0:
        tries.append("more images, for a shorter interval")
    return ", or ".join(tries)
