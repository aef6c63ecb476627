"""PxAP by counting pixels at every threshold."""

from __future__ import annotations

import numpy as np


def pixel_ap(scores: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> float:
    """Return the area in percent; ``scores`` and ``truth`` (0, 1, other = ignored) hold the pixels of all images."""
    inside, outside = scores[truth == 1], scores[truth == 0]
    precision, recall = [], []
    for edge in [2.0, 1.0, *thresholds[::-1]]:
        right, wrong = (inside >= edge).sum(), (outside >= edge).sum()
        precision.append(right / (right + wrong) if right + wrong else 0.0)
        recall.append(right / len(inside))
    return 100 * sum(precision[i] * (recall[i] - recall[i - 1]) for i in range(1, len(recall)))
