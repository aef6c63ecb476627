"""Windows of a larger image as the network's input: CAM's ten crops, and the centre crop that networks are tested with.

Ten crops are those of CAM's released code (zhoubolei/CAM, the MATLAB files; not in its paper). The image is warped to
256 x 256 and cut into windows of 224 x 224 in the four corners and the centre, each also mirrored. The class is decided
by the mean of the ten probabilities. Maps are resized bilinearly to their window, turned back and pasted on the warped
image; where windows overlap, absolute values add up.

The centre crop is one window of 224 x 224 in the middle: of the image whose shorter side has 256 pixels, as torchvision
tests its weights, or of the image warped to 256 x 256, as Caffe's are tested. Its map is min-max normalised and pasted;
around it, where the network saw nothing, there is 0, no evidence.

AlexNet's windows of 227 come out of 256 pixels, too; other input sizes are enlarged in the proportion of 224: ours.
"""

from __future__ import annotations

import numpy as np

from gwapctl.geometry import Geometry
from gwapctl.maps.forward import ImageArray
from gwapctl.maps.heatmap import FloatArray, Size
from gwapctl.regions import resize_map

TEN = 10
WARPED, WINDOW, ALEXNET = 256, 224, 227


def warped_size(size: Size) -> Size:
    """Return the size (width, height) that an image is warped to before windows of ``size`` are cut out."""
    width, height = (WARPED if side == ALEXNET else round(side * WARPED / WINDOW) for side in size)
    return width, height


def cut(warped: ImageArray, size: Size) -> list[ImageArray]:
    """Cut the ten windows of ``size`` out of an image ``(H, W, channels)``: five, then the same five mirrored."""
    windows = [warped[window] for window in _windows(size)]
    return [*windows, *(window[:, ::-1] for window in windows)]


def centre(width: int, height: int, size: Size, resize: str) -> Geometry:
    """Return how an image of ``width x height`` is resized, by ``warp`` or ``keep``, and its window of ``size`` cut."""
    warped = warped_size(size)
    whole = Geometry.warp(width, height, *warped)
    if resize == "keep":
        whole = Geometry.scaled(width, height, max(warped[0] / width, warped[1] / height))
    x, y = (whole.input_width - size[0]) // 2, (whole.input_height - size[1]) // 2
    return whole.crop(x, y, *size)


def whole_size(window: Geometry) -> Size:
    """Return the size of the resized image out of which ``window`` is cut."""
    return round(window.width * window.scale_x), round(window.height * window.scale_y)


def cut_out(whole: ImageArray, window: Geometry) -> ImageArray:
    """Cut ``window`` out of the resized image ``(H, W, channels)``."""
    return whole[_place(window)]


def paste_in(maps: FloatArray, window: Geometry) -> FloatArray:
    """Lay maps ``(k, h, w)`` of values from 0 on the resized image, 0 around their window: ``(k, H, W)``."""
    width, height = whole_size(window)
    pasted = np.zeros((len(maps), height, width), np.float32)
    for pixels, heatmap in zip(pasted, maps, strict=True):
        pixels[_place(window)] = resize_map(heatmap, (window.input_width, window.input_height))
    return pasted


def _place(window: Geometry) -> tuple[slice, slice]:
    x, y = -round(window.offset_x), -round(window.offset_y)
    return slice(y, y + window.input_height), slice(x, x + window.input_width)


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
