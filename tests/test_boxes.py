"""The box convention: half-open boxes whose plain IoU is the inclusive one, and conversions that come back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.contour_loop import inclusive_iou

from gwapctl import boxes

steady = settings(derandomize=True, deadline=None, max_examples=100)
WIDTH, HEIGHT = 23, 17


@st.composite
def inclusive_boxes(draw: st.DrawFn) -> list[int]:
    """Integer corners that both belong to the box, inside of a WIDTH x HEIGHT image."""
    x = sorted(draw(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, WIDTH - 1))))
    y = sorted(draw(st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, HEIGHT - 1))))
    return [x[0], y[0], x[1], y[1]]


@st.composite
def float_boxes(draw: st.DrawFn) -> list[float]:
    number = st.floats(0, 4000, allow_nan=False, width=32)
    x, y = sorted(draw(st.tuples(number, number))), sorted(draw(st.tuples(number, number)))
    return [x[0], y[0], x[1], y[1]]


@steady
@given(inclusive_boxes(), inclusive_boxes())
def test_plain_iou_of_our_boxes_is_the_inclusive_iou_exactly(a: list[int], b: list[int]) -> None:
    assert boxes.iou(boxes.from_inclusive(a), boxes.from_inclusive(b))[0, 0] == inclusive_iou(a, b)


@steady
@given(inclusive_boxes(), inclusive_boxes())
def test_plain_iou_of_voc_boxes_is_the_inclusive_iou_exactly(a: list[int], b: list[int]) -> None:
    one_based = np.add(a, 1), np.add(b, 1)
    assert boxes.iou(boxes.from_voc(one_based[0]), boxes.from_voc(one_based[1]))[0, 0] == inclusive_iou(a, b)


@steady
@given(st.lists(inclusive_boxes(), max_size=4), st.lists(inclusive_boxes(), max_size=4))
def test_iou_is_the_share_of_common_pixels(a: list[list[int]], b: list[list[int]]) -> None:
    first, second = boxes.from_inclusive(a), boxes.from_inclusive(b)
    table = boxes.iou(first, second)
    assert table.shape == (len(a), len(b))
    for i, one in enumerate(_pixels(first)):
        for j, other in enumerate(_pixels(second)):
            assert table[i, j] == (one & other).sum() / (one | other).sum()


def _pixels(array: np.ndarray) -> list[np.ndarray]:
    masks = []
    for x0, y0, x1, y1 in array.astype(int):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return masks


@steady
@given(float_boxes(), float_boxes())
def test_iou_is_symmetric_and_between_0_and_1(a: list[float], b: list[float]) -> None:
    there, back = boxes.iou(a, b)[0, 0], boxes.iou(b, a)[0, 0]
    assert there == back
    assert 0 <= there <= 1 + 1e-12


def test_wsolevaluations_example() -> None:
    assert boxes.iou(boxes.from_inclusive([1, 2, 5, 6]), boxes.from_inclusive([3, 1, 4, 5]))[0, 0] == 8 / 27
    assert boxes.iou([1, 2, 5, 6], [3, 1, 4, 5])[0, 0] == 3 / 17  # the same numbers, read as half-open


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 4, 2], [0, 0, 4, 2], 1.0),
        ([0, 0, 4, 2], [4, 0, 8, 2], 0.0),  # they touch
        ([0, 0, 4, 2], [1, 0, 3, 2], 0.5),
        ([2, 2, 2, 5], [0, 0, 4, 6], 0.0),  # no width
        ([3, 3, 1, 1], [0, 0, 4, 4], 0.0),  # inverted
        ([1, 1, 1, 1], [1, 1, 1, 1], 0.0),  # nothing at all
    ],
)
def test_iou_values(a: list[float], b: list[float], expected: float) -> None:
    assert boxes.iou(a, b)[0, 0] == expected


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (boxes.to_inclusive, boxes.from_inclusive),
        (boxes.to_voc, boxes.from_voc),
        (boxes.to_xywh, boxes.from_xywh),
        (lambda box: boxes.to_yolo(box, WIDTH, HEIGHT), lambda box: boxes.from_yolo(box, WIDTH, HEIGHT)),
    ],
    ids=["inclusive", "voc", "xywh", "yolo"],
)
@steady
@given(box=float_boxes())
def test_conversions_come_back(
    there: Callable[[object], np.ndarray], back: Callable[[object], np.ndarray], box: list[float]
) -> None:
    np.testing.assert_allclose(back(there(box))[0], box, rtol=1e-12, atol=1e-9)


def test_conversions_of_the_whole_image() -> None:
    whole = boxes.full_image(WIDTH, HEIGHT)
    assert boxes.to_voc(whole).tolist() == [[1, 1, WIDTH, HEIGHT]]
    assert boxes.to_inclusive(whole).tolist() == [[0, 0, WIDTH - 1, HEIGHT - 1]]
    assert boxes.to_xywh(whole).tolist() == [[0, 0, WIDTH, HEIGHT]]
    assert boxes.to_yolo(whole, WIDTH, HEIGHT).tolist() == [[0.5, 0.5, 1, 1]]
    assert boxes.to_percent_xywh(whole, WIDTH, HEIGHT).tolist() == [[0, 0, 100, 100]]


def test_centred_box_has_three_quarters_of_each_side() -> None:
    assert boxes.centred(80, 40).tolist() == [[10, 5, 70, 35]]


@steady
@given(st.lists(float_boxes(), max_size=5))
def test_clip_leaves_every_box_inside_the_image(many: list[list[float]]) -> None:
    inside = boxes.clip(many, WIDTH, HEIGHT)
    assert inside.shape == (len(many), 4)
    assert (inside >= 0).all()
    assert (inside <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()


def test_valid_wants_finite_boxes_with_both_sides() -> None:
    found = boxes.valid([[0, 0, 1, 1], [0, 0, 0, 1], [2, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, np.inf, 1]])
    assert found.tolist() == [True, False, False, False, False]


def test_no_boxes() -> None:
    assert boxes.as_boxes([]).shape == (0, 4)
    assert boxes.area([]).shape == (0,)
    assert boxes.iou([], [0, 0, 1, 1]).shape == (0, 1)
    assert boxes.from_voc([]).shape == (0, 4)


def test_to_list_gives_plain_floats() -> None:
    values = boxes.to_list(boxes.as_boxes([1, 2, 3, 4])[0])
    assert values == [1.0, 2.0, 3.0, 4.0]
    assert {type(value) for value in values} == {float}
