"""Replicates: each accumulator's numbers on resamples are what it computes when the images come again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gwapctl.boxes import Detections
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.errors import DataError
from gwapctl.evaluate import GroundTruth, evaluate_predictions
from gwapctl.evaluate.measures import Measures, registered
from gwapctl.evaluate.predictions import Predictions
from gwapctl.metrics.box_accuracy import BoxAccuracy
from gwapctl.metrics.calibrated import CalibratedLocalization
from gwapctl.metrics.judged import JudgedImage
from gwapctl.metrics.replicates import RESAMPLES, decode, encode, resamples, weighted_mean
from gwapctl.metrics.wsoleval import WsolevalBoxAccuracy
from gwapctl.predict.prediction import Prediction

WIDTH, HEIGHT, CLASSES = 20, 12, 3


def make_image(generator: np.random.Generator, number: int) -> JudgedImage:
    """An image of one to two classes, 20 x 12, with a random map, mask, box, ranking and detections."""
    label = int(generator.integers(CLASSES))
    x, y = generator.integers(0, 8, 2)
    objects = np.array([[x, y, x + 8, y + 4], [2, 2, 9, 8]], dtype=float)[: 1 + number % 2]
    labels = np.full(len(objects), label)
    sample = BoxedSample(str(number), Path("a.png"), (label,), (), None, objects, labels, np.arange(len(objects)) == 1)
    heat = generator.random((HEIGHT, WIDTH))
    area = np.zeros((HEIGHT, WIDTH), bool)
    area[2:8, 2:9] = True
    ranked = tuple(generator.permutation(8)[:5].tolist())
    corners = np.concatenate(
        [objects + generator.normal(0, 1, objects.shape), generator.random((3, 4)) + np.array([0, 0, 4, 4])]
    )
    found = Detections(corners, generator.random(len(corners)), generator.integers(0, CLASSES, len(corners)))
    return JudgedImage(
        sample,
        WIDTH,
        HEIGHT,
        objects={label: objects},
        area=area,
        mask=area.astype(np.uint8),
        scores=generator.random(CLASSES),
        ranked=ranked,
        boxes={one: objects[0] + generator.normal(0, 1, 4) for one in (label, *ranked)},
        maps={label: heat},
        foreground=heat > 0.5,
        heat=heat,
        detections=found,
    )


def judge(images: list[JudgedImage]) -> Measures:
    measures = Measures(registered())
    for place, image in enumerate(images):
        measures.judge(place, image)
    return measures


def test_replicates_are_what_resampled_images_give() -> None:
    generator = np.random.default_rng(0)
    images = [make_image(generator, number) for number in range(12)]
    weights = resamples(12, 6)
    found = judge(images).replicates(weights)
    assert len(found.values) == 15
    for row, counts in enumerate(weights.astype(int)):
        again = judge([image for image, count in zip(images, counts, strict=True) for _ in range(count)])
        expected, rows = again.compute(), again.per_class()
        assert {key: one[row] for key, one in found.values.items()} == pytest.approx(
            {key: expected[key] for key in found.values}, rel=1e-5
        )
        for label, numbers in found.per_class.items():
            for key, one in numbers.items():
                own = rows.get(label, {}).get(key)
                assert (np.isnan(one[row]) and own is None) or one[row] == pytest.approx(own), (label, key)


def test_replicates_of_wsoleval() -> None:
    generator = np.random.default_rng(1)
    images = [make_image(generator, number) for number in range(5)]
    whole = Measures([WsolevalBoxAccuracy()])
    for place, image in enumerate(images):
        whole.judge(place, image)
    (counts,) = resamples(5, 1).astype(int)
    again = WsolevalBoxAccuracy()
    for image, count in zip(images, counts, strict=True):
        for _ in range(count):
            again.judge(image)
    found = whole.replicates(resamples(5, 1)).values
    assert {key: one[0] for key, one in found.items()} == pytest.approx({key: again.compute()[key] for key in found})


def test_replicates_at_calibrated_thresholds_keep_the_thresholds() -> None:
    generator = np.random.default_rng(2)
    images = [make_image(generator, number) for number in range(9)]
    curve = BoxAccuracy()  # of other images, which choose
    for number in range(6):
        curve.judge(make_image(generator, number))

    def measured(shown: list[JudgedImage]) -> Measures:
        sweep = BoxAccuracy()
        both = Measures([sweep, CalibratedLocalization(curve.curve, sweep)])
        for place, image in enumerate(shown):
            both.judge(place, image)
        return both

    weights = resamples(9, 4)
    found = measured(images).replicates(weights).values
    keys = {"gt_known_error_calibrated", "cor_loc_calibrated", "top1_loc_error_calibrated"}
    assert keys <= set(found)
    for row, counts in enumerate(weights.astype(int)):
        again = measured([image for image, count in zip(images, counts, strict=True) for _ in range(count)]).compute()
        assert {key: found[key][row] for key in keys} == pytest.approx({key: again[key] for key in keys}, rel=1e-5)


def test_resamples_are_the_same_for_ever() -> None:
    """A change would unpair every replicate that is on file."""
    assert resamples(4, 3).astype(int).tolist() == [[2, 1, 0, 1], [2, 0, 1, 1], [1, 1, 1, 1]]
    drawn = resamples(50)
    assert drawn.shape == (RESAMPLES, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.std() == pytest.approx(1, abs=0.05)  # a count is nearly Poisson


def test_an_image_that_gives_no_unit_moves_nothing() -> None:
    assert weighted_mean(np.array([[0.0, 2.0], [0.0, 0.0]]), np.array([1.0, 5.0]))[0] == 5
    assert np.isnan(weighted_mean(np.array([[0.0, 0.0]]), np.array([1.0, 5.0]))).all()


def test_texts_lose_less_than_half_a_step() -> None:
    values = np.random.default_rng(0).normal(70, 2, RESAMPLES)
    text = encode(values, 70.0)
    assert len(text) < 290
    step = np.abs(values - 70).max() / 127
    assert np.abs(decode(text) + 70 - values).max() <= 0.51 * step
    assert decode(encode(np.full(3, 7.0), 7.0)).tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="no replicates"):
        decode("nothing")


class Pets(Dataset):
    name, classes, multi_label = "pets", (ClassName("cat", ""), ClassName("dog", "")), False
    splits = boxed_samples = None


def test_the_document_has_them_with_floors() -> None:
    box = np.array([[2.0, 2, 12, 9]])
    samples = [
        BoxedSample(str(n), Path("a.png"), (n % 2,), (), None, box, np.array([n % 2]), np.array([False]))
        for n in range(8)
    ]
    said = [Prediction("", WIDTH, HEIGHT, ranked=(0, 1), boxes_by_class={n % 2: box + (n % 3) * 3}) for n in range(8)]
    document = evaluate_predictions(Predictions(said, "mine"), GroundTruth(Pets(), "val", samples)).to_json()
    found = document["replicates"]
    assert set(found["metrics"]) == {"top1_error", "top5_error", "gt_known_error", "cor_loc", "mean_iou",
                                     "top1_loc_error", "top5_loc_error"}  # fmt: skip
    assert set(found["floors"]["full_image"]) == set(found["metrics"]) - {"top1_error", "top5_error"}
    deviations = decode(found["metrics"]["top1_error"])
    wrong = np.arange(8) % 2 == 1
    assert deviations + 50 == pytest.approx(100 * resamples(8) @ wrong / 8, abs=0.3)
