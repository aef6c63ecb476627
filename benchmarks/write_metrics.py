"""Write docs/metrics.md: every metric of an evaluation, from the registry.

python benchmarks/write_metrics.py

Run it at the top of the checkout after a change of METRICS in gwapctl/metrics.
"""

from __future__ import annotations

from pathlib import Path

from gwapctl.metrics import METRICS, Metric

PAGE = Path("docs/metrics.md")
HEAD = """# Metrics

Made by `python benchmarks/write_metrics.py` from the registry, `METRICS` in `gwapctl/metrics/__init__.py`; nothing here
is written by hand. The metrics are in the order in which pages show them.

*Unit*: rates are in percent as in the papers, F-measure and IoU in 0..1; nothing is rounded in documents. *Best*: the
number that is the best one, by which `gwapctl evaluate --fail-under METRIC=VALUE` judges; no gate can be set where
there is none. *Needs*: what every image must have; where one lacks it, the metric is left out, and a note says so.
*Protocols*: which of `--protocol` give it. *Floors*: whether the two blind boxes are measured by it, too. Metrics "of
one class" are in the rows of classes alone.

*Masks*: in a folder given by `--masks`, and in a data set's own, any value but 0 is object. The grey values of CUB's
segmentations say how many annotators marked a pixel; those that at least half of them marked are object (ours: no rule
is stated).
"""
COLUMNS = ("Metric", "Name", "What it is", "Unit", "Best", "Needs", "Protocols", "Floors")


def row(key: str, metric: Metric) -> str:
    """Return one line of the table."""
    best = "" if metric.direction == "none" else metric.direction
    protocols = ", ".join(metric.protocols) or "beside them"
    floors = "yes" if metric.floor else ""
    cells = [metric.label, metric.help, metric.unit.name, best, ", ".join(metric.needs), protocols, floors]
    return f"| `{key}` | {' | '.join(cells)} |"


def page() -> str:
    """Return the page."""
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([HEAD, *head, *(row(key, metric) for key, metric in METRICS.items())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
