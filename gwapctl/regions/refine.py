"""What is done to a heatmap before it is thresholded: closing its gaps, or cutting a saliency map into a mask."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.regions.components import FloatMap, ImageArray, normalise
from gwapctl.regions.edges import grabcut

BLUR = 0.02  # sigma, as a share of the shorter side
OBJECT_QUANTILE, BACKGROUND_QUANTILE = 0.95, 0.30  # Simonyan et al., arXiv 1312.6034, section 3.2
GRABCUT_STEPS = 5


def close_gaps(heatmap: npt.ArrayLike, share: float) -> FloatMap:
    """Return the morphological closing of the min-max map (H, W), in [0, 1]: dark gaps narrower than the kernel fill.

    "Morph close" of DGL's slides, which name no kernel; ours is an ellipse of ``share`` of the shorter side, made odd,
    on 256 levels.
    """
    heat = normalise(heatmap)
    side = round(share * min(heat.shape)) | 1
    levels = cv2.convertScaleAbs(heat, alpha=255)
    closed = cv2.morphologyEx(levels, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    return np.asarray(closed, np.float32) / np.float32(255)


def mean_mask(saliency: npt.ArrayLike, image: ImageArray) -> FloatMap:
    """Return 1 where the blurred saliency map (H, W) is above its mean, else 0. Ours."""
    del image
    heat = normalise(saliency)
    blurred = cv2.GaussianBlur(heat, (0, 0), BLUR * min(heat.shape))
    return np.asarray(blurred > blurred.mean(), np.float32)


def grabcut_mask(saliency: npt.ArrayLike, image: ImageArray) -> FloatMap:
    """Return 1 on the object and 0 elsewhere, cut out of ``image`` (H, W, 3) by colour.

    As Simonyan et al. (arXiv 1312.6034, section 3.2), pixels above the 95 % quantile of the saliency map (H, W) are
    sure to be the object and those not above the 30 % quantile to be background. GrabCut instead of their GraphCut, and
    "probably background" for the rest (as in CAM's released tool), are ours. A map that has no such pixels gives zeros.
    """
    heat = normalise(saliency)
    low, high = np.quantile(heat, [BACKGROUND_QUANTILE, OBJECT_QUANTILE])
    sure = heat > high
    found = grabcut(image, sure=sure, likely=sure, never=heat <= low, steps=GRABCUT_STEPS)
    return np.zeros_like(heat) if found is None else found.astype(np.float32)


SEGMENTATIONS: dict[str, Callable[[npt.ArrayLike, ImageArray], FloatMap]] = {
    "mean": mean_mask,
    "grabcut": grabcut_mask,
}
