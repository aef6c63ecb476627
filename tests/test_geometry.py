"""Boxes find their way from the original image into the network's input and back."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwapctl.errors import DataError
from gwapctl.geometry import Geometry

steady = settings(derandomize=True, deadline=None, max_examples=100)
side = st.integers(1, 3000)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    width, height = draw(side), draw(side)
    how = draw(st.sampled_from(["warp", "keep", "fit"]))
    if how == "warp":
        geometry = Geometry.warp(width, height, draw(st.integers(1, 700)), draw(st.integers(1, 700)))
    else:
        geometry = getattr(Geometry, how)(width, height, draw(st.integers(1, 700)))
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            geometry = geometry.mirror()
        else:
            corner = draw(st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
            geometry = geometry.crop(*corner, draw(st.integers(1, 500)), draw(st.integers(1, 500)))
    return geometry


@st.composite
def boxes_in(draw: st.DrawFn, geometry: Geometry) -> list[float]:
    share = st.floats(0, 1, allow_nan=False)
    x, y = sorted(draw(st.tuples(share, share))), sorted(draw(st.tuples(share, share)))
    return [x[0] * geometry.width, y[0] * geometry.height, x[1] * geometry.width, y[1] * geometry.height]


@steady
@given(st.data())
def test_there_and_back(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    box = data.draw(boxes_in(geometry))
    there = geometry.to_input(box)
    assert (there[:, 2:] >= there[:, :2]).all()
    np.testing.assert_allclose(geometry.to_original(there)[0], box, rtol=1e-9, atol=1e-6)


@steady
@given(st.data())
def test_mirroring_twice_changes_nothing(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    box = data.draw(boxes_in(geometry))
    np.testing.assert_allclose(geometry.mirror().mirror().to_input(box), geometry.to_input(box), atol=1e-6)


@steady
@given(side, side, st.integers(1, 700))
def test_keep_fixes_the_short_side_and_the_aspect(width: int, height: int, short: int) -> None:
    geometry = Geometry.keep(width, height, short)
    assert min(geometry.input_width, geometry.input_height) == short
    long, exact = max(geometry.input_width, geometry.input_height), short * max(width, height) / min(width, height)
    assert abs(long - exact) <= 0.5


@steady
@given(side, side, st.integers(1, 20), st.sampled_from([4, 8, 16, 32]))
def test_keep_makes_the_long_side_whole_cells(width: int, height: int, cells: int, stride: int) -> None:
    geometry = Geometry.keep(width, height, cells * stride, stride)
    short, long = sorted((geometry.input_width, geometry.input_height))
    assert (short, long % stride) == (cells * stride, 0)
    assert abs(long - short * max(width, height) / min(width, height)) <= (stride + 1) / 2
    assert (geometry.input_width > geometry.input_height) <= (width > height)


@steady
@given(side, side, st.integers(1, 700))
def test_fit_bounds_the_long_side_and_never_enlarges(width: int, height: int, long: int) -> None:
    geometry = Geometry.fit(width, height, long)
    assert 1 <= geometry.input_width <= min(width, long)
    assert 1 <= geometry.input_height <= min(height, long)
    if max(width, height) <= long:
        assert (geometry.input_width, geometry.input_height) == (width, height)


def test_warp_by_hand() -> None:
    geometry = Geometry.warp(200, 100, 50, 100)  # x / 4, y as it is
    assert geometry.to_input([20, 30, 60, 90]).tolist() == [[5, 30, 15, 90]]
    assert geometry.mirror().to_input([20, 30, 60, 90]).tolist() == [[35, 30, 45, 90]]
    assert geometry.crop(3, 10, 40, 80).to_input([20, 30, 60, 90]).tolist() == [[2, 20, 12, 80]]
    assert geometry.crop(3, 10, 40, 80).mirror().to_input([20, 30, 60, 90]).tolist() == [[28, 20, 38, 80]]


@pytest.mark.parametrize("make", [lambda: Geometry.warp(0, 3, 4, 4), lambda: Geometry.keep(0, 0, 8)])
def test_no_pixels_are_no_image(make: Callable[[], Geometry]) -> None:
    with pytest.raises(DataError, match="an image of 0 x"):
        make()


@pytest.mark.parametrize("mirrored", [False, True])
def test_boxes_follow_the_pixels_that_opencv_moves(mirrored: bool) -> None:
    image = np.zeros((12, 20), np.uint8)
    image[2:7, 4:10] = 255
    geometry = Geometry.warp(20, 12, 60, 48).crop(3, 5, 50, 40)
    resized = cv2.resize(image, (60, 48), interpolation=cv2.INTER_NEAREST)[5:45, 3:53]
    if mirrored:
        geometry, resized = geometry.mirror(), resized[:, ::-1]
    rows, columns = np.nonzero(resized)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert geometry.to_input([4, 2, 10, 7])[0].tolist() == expected
