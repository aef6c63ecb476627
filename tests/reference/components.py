"""Components by scipy, one threshold at a time."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def minmax(heatmap: np.ndarray) -> np.ndarray:
    """Stretch to [0, 1] in float32, as maps are compared with thresholds; a constant map gives zeros."""
    values = heatmap.astype(np.float32)
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Return the masks of all 8-connected components, the one with most pixels first, then in scan order."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    masks = [labels == label for label in range(1, count + 1)]
    return sorted(masks, key=lambda each: (-each.sum(), np.flatnonzero(each)[0]))


def box_around(mask: np.ndarray) -> list[int]:
    """Return the half-open box of the set pixels."""
    rows, columns = np.nonzero(mask)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
