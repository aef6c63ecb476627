from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gwapctl.draw import (
    COLOURS,
    DARK,
    LARGEST,
    SMALLEST,
    TRUTH,
    Mark,
    _chip_corners,
    _font,
    _overlap,
    _shortened,
    draw_overlay,
    frame,
    write_jpeg,
    write_png,
)


def grey(width: int, height: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def where(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return the box around all pixels of ``colour``."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), (480, 360)), ((600, 500), (600, 500)), ((4000, 3000), (1024, 768)), ((3, 900), (3, 900))],
)
def test_pictures_have_a_readable_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = frame(grey(*size))
    assert (picture.shape[1], picture.shape[0]) == expected
    assert SMALLEST <= max(expected) <= LARGEST


@pytest.mark.parametrize("size", [(64, 100), (500, 375), (3000, 1000)])
def test_box_is_where_it_belongs(size: tuple[int, int]) -> None:
    width, height = size
    box = (0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height)
    picture = draw_overlay(grey(*size), None, [Mark(box)])
    drawn = np.array(where(picture, COLOURS[0])) / picture.shape[1]
    np.testing.assert_allclose(drawn, np.array(box) / width, atol=2 / picture.shape[1])


def test_box_of_the_whole_image_is_not_cut_off() -> None:
    picture = draw_overlay(grey(500, 300), None, [Mark((0, 0, 500, 300))])
    assert where(picture, COLOURS[0]) == (0, 0, 500, 300)


def test_shrunk_image_keeps_boxes_of_the_original() -> None:
    image = grey(2000, 1000)
    full = draw_overlay(image, None, [Mark((400, 100, 1600, 700))])
    small = draw_overlay(frame(image), None, [Mark((400, 100, 1600, 700))], size=(2000, 1000))
    np.testing.assert_array_equal(full, small)


def test_truth_is_dashed_and_green() -> None:
    box = (100, 100, 400, 250)
    found = draw_overlay(grey(500, 300), None, [Mark(box)])
    truth = draw_overlay(grey(500, 300), None, [Mark(box, ground_truth=True)])
    solid, dashed = found[101, 110:390], truth[101, 110:390]
    assert (solid == COLOURS[0]).all()
    share = (dashed == TRUTH).all(axis=1).mean()
    assert 0.4 < share < 0.9
    assert ((dashed == TRUTH).all(axis=1) | (dashed == DARK).all(axis=1)).all()


def test_several_predictions_have_several_colours() -> None:
    picture = draw_overlay(grey(500, 400), None, [Mark((10, 50, 200, 200)), Mark((250, 50, 400, 300))])
    assert where(picture, COLOURS[0])[2] <= 201
    assert where(picture, COLOURS[1])[0] >= 249


def test_heat_shows_where_it_is_hot() -> None:
    image, heat = grey(500, 400, 200), np.zeros((30, 40), np.float16)
    heat[10:20, 25:35] = 0.5
    picture = draw_overlay(image, heat, [])
    assert picture[200, 375].tolist() != [200, 200, 200]
    assert np.ptp(picture[200, 375]) > 40  # coloured
    assert np.ptp(picture[20, 20]) == 0  # still grey
    assert picture[20, 20, 0] > 100  # and still seen


def test_constant_and_missing_heat() -> None:
    image = grey(500, 400)
    np.testing.assert_array_equal(draw_overlay(image, None, []), image)
    flat = draw_overlay(image, np.full((4, 5), 7.0), [])
    assert np.ptp(flat) == 0
    assert flat[0, 0, 0] < 128
    assert (image == 128).all()


@pytest.mark.parametrize("box", [(0, 0, 500, 400), (490, 390, 500, 400), (0, 380, 30, 400), (200, 0, 300, 20)])
def test_chips_stay_inside(box: tuple[float, ...]) -> None:
    text = "Äffchen größer 99%"
    plain = draw_overlay(grey(500, 400), None, [Mark(box)])
    changed = (draw_overlay(grey(500, 400), None, [Mark(box, text)]) != plain).any(axis=2)
    rows, columns = np.nonzero(changed)
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width > _font(14).getlength(text)  # the chip is as wide as its text, wherever it is
    assert height > 14
    for corner in ((0, 0), (350, 0), (0, 380), (490, 390)):
        place = _chip_corners((*corner, 500, 400), 150, 20, (500, 400), [])
        assert min(place) >= 0
        assert place[2] <= 499
        assert place[3] <= 399


def test_chips_do_not_hide_each_other() -> None:
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(8):
        place = _chip_corners((100, 100, 300, 200), 120, 20, (500, 400), taken)
        assert not any(_overlap(place, other) for other in taken)
        taken.append(place)


def test_long_text_loses_its_middle() -> None:
    font = _font(14)
    text = _shortened("a name that is much longer than the picture is wide 87%", font, 200)
    assert text.startswith("a name")
    assert text.endswith("… 87%")
    assert font.getlength(text) <= 200
    assert _shortened("dog 5%", font, 200) == "dog 5%"


def test_extreme_shapes_are_drawn() -> None:
    for size in ((1, 1), (3, 2000), (2000, 2)):
        picture = draw_overlay(grey(*size), np.eye(3), [Mark((0, 0, *size), "thin 10%"), Mark((0, 0, 1, 1), "", True)])
        assert picture.dtype == np.uint8
        assert max(picture.shape) in (SMALLEST, LARGEST)


def test_files_are_written(tmp_path: Path) -> None:
    picture = draw_overlay(grey(300, 200), np.eye(5), [Mark((10, 20, 200, 150), "ü 5%")])
    write_jpeg(tmp_path / "ä" / "a.png.jpg", picture)
    back = np.asarray(Image.open(tmp_path / "ä" / "a.png.jpg"))
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).mean() < 6
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 5:25] = 255
    write_png(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE), mask)
