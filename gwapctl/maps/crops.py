"""Ten crops, as CAM's released code makes its maps (zhoubolei/CAM, the MATLAB files; not in its paper).

The image is warped to 256 x 256 and cut into windows of 224 x 224 in the four corners and the centre, each also
mirrored. The class is decided by the mean of the ten probabilities. Maps are resized bilinearly to their window, turned
back and pasted on the warped image; where windows overlap, absolute values add up. Other input sizes are warped in the
same proportion: ours.
"""

from __future__ import annotations

import numpy as np

from gwapctl.maps.forward import ImageArray
from gwapctl.maps.heatmap import FloatArray, Size
from gwapctl.regions import resize_map

TEN = 10
WARPED, WINDOW = 256, 224


def warped_size(size: Size) -> Size:
    """Return the size (width, height) that an image is warped to before windows of ``size`` are cut out."""
    return round(size[0] * WARPED / WINDOW), round(size[1] * WARPED / WINDOW)


def cut(warped: ImageArray, size: Size) -> list[ImageArray]:
    """Cut the ten windows of ``size`` out of an image ``(H, W, channels)``: five, then the same five mirrored."""
    windows = [warped[window] for window in _windows(size)]
    return [*windows, *(window[:, ::-1] for window in windows)]


def paste(maps: FloatArray, size: Size) -> FloatArray:
    """Sum the absolute maps ``(10, k, h, w)`` of ten windows of ``size`` on the warped image: ``(k, H, W)``."""
    width, height = warped_size(size)
    pasted = np.zeros((maps.shape[1], height, width), np.float32)
    for number, window in enumerate(_windows(size)):
        for heatmap in (maps[number], maps[number + TEN // 2][..., ::-1]):
            for pixels, of_class in zip(pasted, heatmap, strict=True):
                pixels[window] += np.abs(resize_map(of_class, size))
    return pasted


def _windows(size: Size) -> list[tuple[slice, slice]]:
    """Return rows and columns of the five windows: corners, then the centre."""
    width, height = size
    warped_width, warped_height = warped_size(size)
    right, bottom = warped_width - width, warped_height - height
    corners = [(x, y) for y in (0, bottom) for x in (0, right)]
    return [(slice(y, y + height), slice(x, x + width)) for x, y in [*corners, (right // 2, bottom // 2)]]
