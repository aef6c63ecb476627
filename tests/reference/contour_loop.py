"""wsolevaluation's way (Choe et al., CVPR 2020): every threshold cuts the map and follows all contours anew."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def contours_at(levels: npt.NDArray[np.uint8], cut: int) -> list[np.ndarray]:
    """Return the contours of ``levels > cut``, outer and inner ones."""
    _, binary = cv2.threshold(levels, cut, 255, cv2.THRESH_BINARY)
    return list(cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0])


def corners(contour: np.ndarray, width: int, height: int) -> list[int]:
    """Return the inclusive corners that wsolevaluation makes of a contour: one pixel more, unless the map ends."""
    x, y, w, h = cv2.boundingRect(contour)
    return [x, y, min(x + w, width - 1), min(y + h, height - 1)]


def boxes_at_thresholds(scoremap: np.ndarray, taus: np.ndarray, every_contour: bool) -> list[list[list[int]]]:
    """Return, per threshold, the box of the contour with the largest polygon, or the boxes of all contours."""
    height, width = scoremap.shape
    levels = (scoremap.astype(np.float64) * 255).astype(np.uint8)
    found = []
    for tau in taus:
        contours = contours_at(levels, int(tau * levels.max()))
        if not contours:
            found.append([[0, 0, 0, 0]])
            continue
        if not every_contour:
            contours = [max(contours, key=cv2.contourArea)]
        found.append([corners(contour, width, height) for contour in contours])
    return found


def inclusive_iou(a: list[int], b: list[int]) -> float:
    """Return the IoU of two boxes whose corners both belong to them."""
    iw = min(a[2], b[2]) - max(a[0], b[0]) + 1
    ih = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(iw, 0) * max(ih, 0)
    size_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    size_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return common / (size_a + size_b - common)


def best_ious(scoremap: np.ndarray, taus: np.ndarray, objects: list[list[int]], every_contour: bool) -> list[float]:
    """Return, per threshold, the best IoU of any box with any object (inclusive corners)."""
    return [
        max(inclusive_iou(box, other) for box in boxes for other in objects)
        for boxes in boxes_at_thresholds(scoremap, taus, every_contour)
    ]
