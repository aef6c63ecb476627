"""How likely a box is wrong, learned from boxes that somebody has checked: a small logistic regression. Ours.

It starts from the doubt: weights are drawn to those that rank by doubt alone, so that a few checked boxes change little
and many change what they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, centred, iou

CLUES = ("doubt", "score", "side", "width", "height", "centred")
PULL = 10.0  # how strongly weights are drawn to the start, in boxes: chosen on imagenet-20 and cub-20
STEPS = 30  # of Newton's method, which needs about six
SURE = 1e-4  # scores are counted from here to 1 minus that


def clues(boxes: BoxesLike, sizes: FloatArray, doubts: FloatArray, scores: FloatArray) -> FloatArray:
    """Return what may tell of each box whether it is wrong, (N, 6), in the order of ``CLUES``.

    That is its doubt (N,), the logit of its score (N,), the root of its area, its width and its height as shares of the
    image, whose ``sizes`` are (N, 2), and its IoU with the centred box: an object in the middle that fills the image is
    hard to miss. Where the size is not known, the last four are 0.
    """
    boxes, known = as_boxes(boxes), sizes.min(axis=1) > 0
    shares = (boxes[:, 2:] - boxes[:, :2]) / np.where(known[:, None], sizes, np.inf)
    middle = [iou(box, centred(*size))[0, 0] if size.all() else 0.0 for box, size in zip(boxes, sizes, strict=True)]
    side = np.sqrt(shares.clip(min=0).prod(axis=1))
    return np.column_stack([doubts, logit(np.clip(scores, SURE, 1 - SURE)), side, shares, middle])


@dataclass(frozen=True)
class Ranking:
    """Weights (6,) of clues that are shifted by ``mean`` (6,) and divided by ``spread`` (6,), and a constant."""

    weights: FloatArray
    constant: float
    mean: FloatArray
    spread: FloatArray

    def chance(self, found: FloatArray) -> FloatArray:
        """Return how likely each box is wrong (N,), of the clues ``found`` (N, 6)."""
        return np.asarray(expit(self.constant + (found - self.mean) / self.spread @ self.weights), np.float64)


def learn(found: FloatArray, wrong: npt.NDArray[np.bool_]) -> Ranking:
    """Fit a logistic regression to boxes of which the clues ``found`` (N, 6) are known and which are ``wrong`` (N,).

    It maximises the likelihood less ``PULL`` / 2 times the squared distance of the weights, of clues in units of their
    spread, from the start: 1 for the doubt, 0 for the others. One right and one wrong box are added for the constant,
    so that it is finite where all are alike.
    """
    mean, spread = found.mean(axis=0), found.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    constant, start = np.eye(1 + found.shape[1])[:2]
    rows = np.vstack([np.column_stack([np.ones(len(found)), (found - mean) / spread]), constant, constant])
    target = np.append(wrong.astype(np.float64), [0.0, 1.0])
    pull = PULL * (1 - constant)
    weights = start
    for _ in range(STEPS):
        chance = expit(rows @ weights)
        slope = rows.T @ (chance - target) + pull * (weights - start)
        step = np.linalg.solve((rows.T * (chance * (1 - chance))) @ rows + np.diag(pull), slope)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return Ranking(weights[1:], float(weights[0]), mean, spread)
