"""The verdict on boxes: by hand on paired images, its words, where it stands, and what a screen shows beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gwapctl.cli.evaluate import print_document
from gwapctl.metrics.replicates import encode, resamples, weighted_mean
from gwapctl.metrics.shown import groups
from gwapctl.metrics.verdict import find_verdict, with_interval


def document(right: list[int], blind: list[int], **said: Any) -> dict[str, Any]:
    """Return a document of images whose boxes are ``right``, where the centred box is right in ``blind``."""
    weights = resamples(len(right))

    def error(values: list[int]) -> tuple[float, str]:
        missed = 100 - 100 * np.array(values, float)
        return float(missed.mean()), encode(weighted_mean(weights, missed), float(missed.mean()))

    judged, floor, full = error(right), error(blind), error([0] * len(right))
    return {
        **{"model": "m", "dataset": "d", "split": "val", "protocol": "paper", "n": len(right), "n_degenerate": 0},
        "metrics": {"gt_known_error": judged[0], "top1_error": 0.0, "top5_error": 0.0},
        "floors": {"full_image": {"gt_known_error": full[0]}, "centred_box": {"gt_known_error": floor[0]}},
        "replicates": {
            "metrics": {"gt_known_error": judged[1]},
            "floors": {"full_image": {"gt_known_error": full[1]}, "centred_box": {"gt_known_error": floor[1]}},
        },
        **{"options": {}, "notes": [], "per_class": [{"class": "cat"}, {"class": "dog"}]},
        **said,
    }


def test_boxes_are_better_alike_or_worse() -> None:
    base = [1, 0, 0, 1] * 50
    better = find_verdict(document([1, 1, 0, 1] * 50, base))
    assert better is not None
    assert (better.answer, better.floor, better.n, better.next) == ("better", "centred_box", 200, "")
    assert better.difference.value == pytest.approx(25)
    # 25 % of paired differences are 1, the others 0: the normal interval is 25 +- 1.96 * 43.3 / sqrt(200)
    assert better.difference.high - 25 == pytest.approx(6.0, abs=0.9)
    alike = find_verdict(document([0, 1, 1, 0] * 50, base))
    assert alike is not None
    assert alike.answer == "not distinguishable"
    worse = find_verdict(document([0, 0, 0, 1] * 50, base))
    assert worse is not None
    assert (worse.answer, worse.difference.value) == ("worse", pytest.approx(-25))
    assert worse.text().startswith(
        "boxes: worse than the better floor (centred box): GT-known accuracy -25.0 points (95 % interval -"
    )
    assert "200 images. Next: boxes cut anew" in worse.text()


def test_a_handful_of_images_that_agree_settles_nothing() -> None:
    few = find_verdict(document([1] * 3, [0] * 3))
    assert few is not None
    assert few.answer == "not distinguishable"
    assert with_interval(100.0, np.zeros(200), 60).low == 95


@pytest.mark.parametrize(
    ("options", "best", "advice"),
    [
        (
            {"map": "weight", "box_rule": "otsu", "precision": "fp32"},
            90.0,
            "another box threshold (calibrate=), or ref",
        ),
        ({"map": "weight", "box_rule": "otsu"}, 50.0, "refine='grabcut', or more images"),
        (
            {"map": "weight", "box_rule": "otsu+grabcut", "precision": "fp32"},
            50.0,
            "other maps (a network with ImageNet",
        ),
    ],
)
def test_what_to_try_follows_from_what_was_done(options: dict[str, Any], best: float, advice: str) -> None:
    said = document([0, 1, 1, 0] * 20, [1, 0, 0, 1] * 20, options=options)
    said["metrics"]["max_box_acc"] = best
    found = find_verdict(said)
    assert found is not None
    assert found.next.startswith(advice)


def test_without_floors_or_replicates_there_is_no_verdict() -> None:
    said = document([1, 0], [0, 0])
    assert find_verdict(said | {"replicates": {}}) is None
    assert find_verdict(said | {"floors": {}, "replicates": {"metrics": said["replicates"]["metrics"]}}) is None
    assert find_verdict(said | {"metrics": {"det_map_11pt": 50.0}}) is None


def test_groups_hold_accuracies_alone_and_no_empty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    said = document([1, 0] * 20, [0, 0] * 20)
    assert [(group.title, [*group.metrics], group.floors) for group in groups(said)] == [
        ("one box per class", ["gt_known_error"], ("full_image", "centred_box")),
        ("classification", ["top1_error"], ()),  # two classes: one of five is always right
    ]
    assert [*groups(said | {"n_classes": 6})[1].metrics] == ["top1_error", "top5_error"]
    print_document(said)
    lines = capsys.readouterr().out.splitlines()
    assert "error" not in "".join(lines)
    assert lines[lines.index("classification") + 1].split() == ["metric", "value"]
    assert lines[lines.index("one box per class") + 2].split() == [
        "GT-known",
        "accuracy",
        "(%)",
        "50.00",
        "0.00",
        "0.00",
    ]
    assert lines[-1].startswith("boxes: better than the better floor")
