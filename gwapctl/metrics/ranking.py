"""How likely a box is wrong, learned from boxes that somebody has checked: a small logistic regression. Ours.

It starts from the doubt: weights are drawn to those that rank by doubt alone, so that a few checked boxes change little
and many change what they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit

from gwapctl.boxes import BoxesLike, FloatArray, as_boxes, centred, iou

CLUES = ("doubt", "score", "side", "width", "height", "centred", "aspect", "narrow", "across", "down", "above")
PULL = (
    1.0  # how strongly weights are drawn to the start, in boxes: it and the clues were chosen on two data sets' boxes
)
START = 0.5  # weight of the doubt there
SURE = 1e-4  # scores are counted from here to 1 minus that


def clues(boxes: BoxesLike, sizes: FloatArray, doubts: FloatArray, scores: FloatArray) -> FloatArray:
    """Return what may tell of each box whether it is wrong, (N, 11), in the order of ``CLUES``.

    That is its doubt (N,), the logit of its score (N,), the root of its area, its width and its height as shares of the
    image, whose ``sizes`` are (N, 2), its IoU with the centred box, the logarithm of its width over its height and how
    far that is from 0, and how far its centre is from the image's, across, down, and down with its sign: an object in
    the middle that fills the image is hard to miss. Where the size is not known, all but the first two are 0.
    """
    boxes, known = as_boxes(boxes), sizes.min(axis=1) > 0
    extent = (boxes[:, 2:] - boxes[:, :2]).clip(min=1e-3)
    per = np.where(known[:, None], sizes, np.inf)
    shares, off = extent / per, (boxes[:, :2] + boxes[:, 2:]) / 2 / per - 0.5 * known[:, None]
    middle = [iou(box, centred(*size))[0, 0] if size.all() else 0.0 for box, size in zip(boxes, sizes, strict=True)]
    aspect = np.log(extent[:, 0] / extent[:, 1]) * known
    own = [doubts, logit(np.clip(scores, SURE, 1 - SURE))]
    form = [np.sqrt(shares.prod(axis=1)), shares, middle, aspect, np.abs(aspect)]
    return np.column_stack([*own, *form, np.abs(off), off[:, 1]])


@dataclass(frozen=True)
class Ranking:
    """Weights (11,) of clues that are shifted by ``mean`` (11,) and divided by ``spread`` (11,), and a constant."""

    weights: FloatArray
    constant: float
    mean: FloatArray
    spread: FloatArray

    def chance(self, found: FloatArray) -> FloatArray:
        """Return how likely each box is wrong (N,), of the clues ``found`` (N, 11)."""
        return np.asarray(expit(self.constant + (found - self.mean) / self.spread @ self.weights), np.float64)


def learn(found: FloatArray, wrong: npt.NDArray[np.bool_]) -> Ranking:
    """Fit a logistic regression to boxes of which the clues ``found`` (N, 11) are known and which are ``wrong`` (N,).

    It maximises the likelihood less ``PULL`` / 2 times the squared distance of the weights, of clues in units of their
    spread, from the start: ``START`` for the doubt, 0 for the others. One right and one wrong box are added for the
    constant, so that it is finite where all are alike.
    """
    mean, spread = found.mean(axis=0), found.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    constant, doubt = np.eye(1 + found.shape[1])[:2]
    start = START * doubt
    rows = np.vstack([np.column_stack([np.ones(len(found)), (found - mean) / spread]), constant, constant])
    target = np.append(wrong.astype(np.float64), [0.0, 1.0])
    pull = PULL * (1 - constant)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        far, score = weights - start, rows @ weights
        value = float(np.logaddexp(0, score).sum() - target @ score + pull @ far**2 / 2)
        return value, rows.T @ (expit(score) - target) + pull * far

    weights = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Ranking(weights[1:], float(weights[0]), mean, spread)
