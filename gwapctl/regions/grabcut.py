"""GrabCut: an object cut out of its image by colour."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gwapctl.regions.components import BoolMask, ImageArray


def grabcut(image: ImageArray, *, sure: BoolMask, likely: BoolMask, never: BoolMask, steps: int) -> BoolMask | None:
    """Return the object (H, W) that GrabCut finds in ``image`` (H, W, 3, RGB) after ``steps`` steps.

    ``sure`` (H, W) stays the object and ``never`` the background; of the other pixels GrabCut first takes those of
    ``likely`` for the object and the rest for background, and may change its mind. None where one of the two has no
    pixel to start from. Colours are clustered from a random start, whose seed is set here and for this thread alone:
    neither other images nor other threads change what is found.
    """
    labels = np.full(sure.shape, cv2.GC_PR_BGD, np.uint8)
    labels[likely] = cv2.GC_PR_FGD
    labels[never] = cv2.GC_BGD
    labels[sure] = cv2.GC_FGD
    start = _is_object(labels)
    if start.all() or not start.any():
        return None
    cv2.setRNGSeed(0)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # of the background and of the object, for OpenCV's own use
    cv2.grabCut(bgr, labels, (0, 0, 0, 0), *colours, steps, cv2.GC_INIT_WITH_MASK)
    return _is_object(labels)


def _is_object(labels: npt.NDArray[np.uint8]) -> BoolMask:
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
