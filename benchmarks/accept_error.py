"""What `gwapctl boxes --accept-error` accepts, and how often it is wrong; what a reviewer opens until 95 % are right.

python benchmarks/accept_error.py --row BOXES DATASET ROOT [--row ...] [--error 5% --checked 100,300,1000 --splits 100]

A row is what `gwapctl localize` or `boxes` wrote of images of a data set (best with `--labels from-dataset`), the data
set and its root. Of all boxes so many are drawn by chance, taken for checked, and the rest is accepted or not; that
again and again. Boxes are ranked by their doubt, by 1 - score, and by chance. Two markdown tables are printed:

- accepted: share of all boxes that is accepted, mean over the splits; "any": splits in which anything is; "of them":
  share of wrong boxes among the accepted ones that nobody checked, mean over those splits; "broken": splits in which
  more of the accepted boxes are wrong than was asked for, of which at most a tenth may be, by the confidence.
- effort: the share of all boxes that a reviewer opens, most doubtful first, until 95 % are right, who makes right what
  he opens; and what share is right after so many.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from needs import run_script, stop

from gwapctl.boxes import FloatArray
from gwapctl.cli.options import parse_share
from gwapctl.evaluate.acceptance import JudgedBoxes, checked_images, judge_boxes
from gwapctl.formats.reading import read_boxes
from gwapctl.metrics.acceptance import accept, effort

GOAL = 0.95
OPENED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ACCEPTED = (
    "data set",
    "boxes",
    "wrong (%)",
    "checked",
    "ranked by",
    "accepted (%)",
    "any (%)",
    "wrong of them (%)",
    "broken (%)",
)
EFFORT = ("data set", "ranked by", "opened for 95 % right (%)", "of the share that is wrong")


def read(boxes: str, dataset: str, root: str) -> tuple[JudgedBoxes, dict[str, FloatArray]]:
    """Return the boxes of images that the data set has boxes for, and the ways to rank them: the doubtful have more."""
    checked, items = checked_images(dataset, Path(root)), list(read_boxes(Path(boxes)).values())
    judged = judge_boxes(items, checked)
    if not judged.checked.all():
        stop(f"{boxes} has {int((~judged.checked).sum())} boxes of images that {dataset} has no boxes for")
    scores = [one.score for item in items for one in item.predictions if one.box is not None]
    chance = np.random.default_rng(0).permutation(len(scores)) / len(scores)
    ways = {"doubt": judged.doubts} if judged.by == "doubt" else {}
    return judged, {**ways, "1 - score": 1 - np.array(scores), "chance": chance}


def accepted(doubts: FloatArray, wrong: np.ndarray, count: int, error: float, splits: int) -> tuple[str, ...]:
    """Return the cells of one row: means over ``splits`` draws of ``count`` checked boxes."""
    shares, unchecked, broken = [], [], 0
    for seed in range(splits):
        checked = np.zeros(len(doubts), np.bool_)
        checked[np.random.default_rng(seed).choice(len(doubts), count, replace=False)] = True
        found = accept(doubts, checked, wrong, error)
        shares.append(100 * found.accepted / len(doubts))
        if found.cut is not None:
            chosen = doubts <= found.cut
            broken += wrong[chosen].mean() > error
            unchecked += [100 * wrong[chosen & ~checked].mean()] if (chosen & ~checked).any() else []
    any_of = 100 * np.mean(np.array(shares) > 0)
    realised = f"{np.mean(unchecked):.1f}" if unchecked else ""
    return f"{np.mean(shares):.1f}", f"{any_of:.0f}", realised, f"{100 * broken / splits:.0f}"


def right_after(doubts: FloatArray, wrong: np.ndarray) -> Iterator[str]:
    """Yield the share that is right, in percent, after each share in ``OPENED``."""
    ranked = wrong[np.argsort(-doubts, kind="stable")]
    for share in OPENED:
        yield f"{100 - 100 * ranked[round(share * len(ranked)) :].sum() / len(ranked):.1f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", nargs=3, action="append", required=True, metavar=("BOXES", "DATASET", "ROOT"))
    parser.add_argument("--error", default="5%")
    parser.add_argument("--checked", default="100,300,1000")
    parser.add_argument("--splits", type=int, default=100)
    known = parser.parse_args()
    error = parse_share(known.error, "--error") or 0.05
    rows = [(Path(root).name, *read(boxes, dataset, root)) for boxes, dataset, root in known.row]
    print(f"| {' | '.join(ACCEPTED)} |\n|{'---|' * len(ACCEPTED)}")
    for name, judged, ways in rows:
        head = (name, f"{len(judged.wrong)}", f"{100 * judged.wrong.mean():.1f}")
        for count in map(int, known.checked.split(",")):
            for way, doubts in ways.items() if count < len(judged.wrong) else ():
                cells = accepted(doubts, judged.wrong, count, error, known.splits)
                print(f"| {' | '.join((*head, str(count), way, *cells))} |", flush=True)
    print(f"\n| {' | '.join(EFFORT)} | {' | '.join(f'right after {100 * share:.0f} %' for share in OPENED)} |")
    print(f"|{'---|' * (len(EFFORT) + len(OPENED))}")
    for name, judged, ways in rows:
        for way, doubts in ways.items():
            opened = effort(doubts, judged.wrong, GOAL)
            times = f"{opened / judged.wrong.mean():.2f} times"
            print(f"| {' | '.join((name, way, f'{100 * opened:.1f}', times, *right_after(doubts, judged.wrong)))} |")


if __name__ == "__main__":
    run_script(main)
