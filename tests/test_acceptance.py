"""Boxes accepted unseen: the bound, the order of the cuts, what is guaranteed, and the command on drawn boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from gwapctl.errors import DataError
from gwapctl.evaluate.acceptance import LEARNED_FROM, accepted_boxes, checked_images, judge_boxes, learned
from gwapctl.metrics.acceptance import CONFIDENCE, accept, effort, least_checked, upper_bound
from gwapctl.metrics.ranking import START, clues, learn
from gwapctl.predict.prediction import ClassPrediction, Prediction

TRUE, NEAR, FAR = (10.0, 6.0, 30.0, 24.0), (10.0, 6.0, 30.0, 20.0), (0.0, 0.0, 9.0, 6.0)


def test_the_bound_is_clopper_and_pearsons() -> None:
    for wrong, n in ((0, 45), (3, 132), (10, 60)):
        bound = upper_bound(wrong, n)
        assert binom.cdf(wrong, n, bound) == pytest.approx(1 - CONFIDENCE)  # its definition
    assert least_checked(0.05) == 45
    assert 0.95**45 <= 0.1 < 0.95**44


def test_cuts_are_tried_from_the_least_doubt_and_the_first_failure_ends_it() -> None:
    """Of 400 boxes, all checked, those with a doubt between 0.5 and 0.6 are wrong: what follows stays out, too."""
    doubts = np.arange(400) / 400
    found = accept(doubts, np.ones(400, bool), (doubts >= 0.5) & (doubts < 0.6), 0.05)
    assert found.cut == doubts[199]
    assert (found.total, found.accepted, found.checked, found.wrong) == (400, 200, 200, 0)
    assert found.bound == pytest.approx(1 - 0.1 ** (1 / 200))
    every = accept(doubts, np.ones(400, bool), np.zeros(400, bool), 0.05)
    assert every.accepted == 400
    flat = accept(np.zeros(400), np.ones(400, bool), np.zeros(400, bool), 0.05)  # a doubt that tells nothing apart
    assert (flat.cut, flat.accepted) == (0, 400)


def test_where_nothing_is_accepted_it_says_how_many_more_to_check() -> None:
    doubts, none = np.arange(400) / 400, np.zeros(400, bool)
    few = accept(doubts, doubts < 0.1, none, 0.05)  # 40 checked, none wrong
    assert (few.cut, few.checked, few.more) == (None, 40, 5)
    drawn = np.arange(400) % 2 == 0
    some = accept(doubts, drawn, doubts * 400 % 40 == 0, 0.05)  # one in 20 of the checked is wrong: no number would do
    assert (some.cut, some.more) == (None, None)
    doubts, drawn = np.arange(4000) / 4000, np.arange(4000) % 20 == 0
    rare = accept(doubts, drawn, np.isin(np.arange(4000), (0, 100, 200)), 0.05)  # 3 of the first 80 that are checked
    assert (rare.cut, rare.wrong) == (None, 3)
    assert rare.more is not None
    share = rare.wrong / rare.checked
    needed = rare.checked + rare.more * rare.checked / drawn.sum()
    assert upper_bound(int(np.ceil(share * needed)), int(np.ceil(needed))) <= 0.05


def test_what_is_accepted_is_wrong_too_often_in_at_most_a_tenth_of_cases() -> None:
    """The worst case: a share of wrong boxes that is a little too great, whatever the doubt."""
    chance, broken = np.random.default_rng(0), 0
    for _ in range(300):
        doubts, wrong = chance.random(1000), chance.random(1000) < 0.055
        checked = np.isin(np.arange(1000), chance.choice(1000, 300, replace=False))
        broken += accept(doubts, checked, wrong, 0.05).cut is not None
    assert broken / 300 < 0.1


def test_a_reviewer_opens_the_most_doubtful_first() -> None:
    wrong = np.array([False] * 8 + [True] * 2)
    assert effort(np.arange(10.0), wrong, 1.0) == pytest.approx(0.2)
    assert effort(-np.arange(10.0), wrong, 1.0) == 1
    assert effort(np.arange(10.0), wrong, 0.8) == 0


def make_checked(count: int) -> list[Prediction]:
    """Return images with a box each: the larger it is, the more often it is right, and its doubt tells nothing."""
    chance = np.random.default_rng(0)
    items = []
    for number in range(count):
        side = float(chance.uniform(0.1, 0.9))
        box = (50 - 50 * side, 40 - 40 * side, 50 + 50 * side, 40 + 40 * side)
        found = ClassPrediction("cat", "n1", 0.5, box, doubt=float(chance.random()))
        items.append(Prediction(f"{number}.jpg", 100, 80, predictions=(found,)))
    return items


def test_what_is_wrong_is_learned_from_a_part_of_the_checked_boxes() -> None:
    items = make_checked(1000)
    shares = [(one.predictions[0].box[2] - 50) / 50 for one in items]  # type: ignore[index]
    images = [one.id for one in items[:300]]
    truth = {
        one.id: one if share > 0.5 else replace(one, predictions=())
        for one, share in zip(items[:300], shares, strict=False)
    }
    judged = judge_boxes(items, truth)
    plain = accept(judged.doubts, judged.checked, judged.wrong, 0.05)
    assert plain.cut is None
    taught = learned(judged)
    assert taught.checked.sum() == 200
    assert set(taught.images[taught.checked]) <= set(images)
    found = accept(taught.doubts, taught.checked, taught.wrong, 0.05)
    assert found.accepted > 300
    assert np.mean(np.array(shares)[taught.doubts <= found.cut] <= 0.5) <= 0.05
    few = judge_boxes(items, dict(list(truth.items())[: LEARNED_FROM - 1]))
    assert learned(few) is few
    said = accepted_boxes(items, truth, 0.05)
    assert said[0] == found
    assert said[1] == "learned chance to be wrong"


def test_learning_starts_from_the_doubt_and_survives_what_is_all_alike() -> None:
    chance = np.random.default_rng(0)
    found = chance.normal(size=(60, 11))
    alike = learn(found, np.zeros(60, bool))
    assert np.argsort(alike.chance(found)).tolist()[:3] == np.argsort(found @ alike.weights).tolist()[:3]
    assert abs(alike.weights[0] - START) < 0.5
    assert np.abs(alike.weights[1:]).max() < 0.3
    wrong = chance.random(4000) < 1 / (1 + np.exp(1 - 2 * (many := chance.normal(size=(4000, 11)))[:, 2]))
    taught = learn(many, wrong)
    oracle = LogisticRegression(C=1e6).fit(many, wrong)
    assert taught.weights / taught.spread == pytest.approx(oracle.coef_[0], abs=0.15)
    assert taught.chance(many).mean() == pytest.approx(wrong.mean(), abs=0.01)
    same = learn(np.ones((10, 11)), np.arange(10) < 5)  # nothing to tell boxes apart
    assert same.chance(np.ones((2, 11))) == pytest.approx([0.5, 0.5])


def test_clues_of_a_box() -> None:
    told = clues(
        [[10, 8, 90, 72], [0, 0, 50, 40]], np.array([[100.0, 80], [0, 0]]), np.array([0.2, 0.3]), np.array([0.5, 1])
    )
    assert told[0] == pytest.approx([0.2, 0, 0.8, 0.8, 0.8, (0.75 / 0.8) ** 2, *[np.log(80 / 64)] * 2, 0, 0, 0])
    assert told[1, 2:].tolist() == [0] * 9  # of an image whose size is not known
    assert np.isfinite(told).all()


def make_boxes(folder: Path, boxes: int = 200) -> Path:
    """Write images with a box each, of which the second half, less sure of itself, is wrong; every fifth is checked."""
    folder.mkdir(exist_ok=True)
    lines, truth = [], []
    for number in range(boxes):
        sure = number < boxes // 2
        found = {"label": "cat", "label_id": "n1", "score": 0.9 - number / 1000, "box": NEAR if sure else FAR}
        image = {"schema_version": 1, "image": f"photos/{number}.jpg", "width": 40, "height": 30, "id": f"{number}.jpg"}
        lines.append(json.dumps({**image, "predictions": [found]}))
        if number % 2:
            truth.append(json.dumps({**image, "predictions": [{**found, "label": "Cat", "score": 1, "box": TRUE}]}))
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    (folder / "true.jsonl").write_text("\n".join(truth))
    return folder


def test_the_command_writes_what_is_accepted(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    folder, out = make_boxes(tmp_path / "out"), tmp_path / "boxes.jsonl"
    asked = ("boxes", folder, "--accept-error", "5%", "--calibrated-on", folder / "true.jsonl", "--out", out)
    done = run_cli(*asked)
    assert done.code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "accepted 100 of 200 boxes, with a 1 - score of at most 0.199: 0 of 50 checked boxes among them are" in said
    assert "with 90% confidence at most 4.5% are. 100 are left to look at." in said
    images = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert images == [f"{number}.jpg" for number in range(100)]

    few = make_boxes(tmp_path / "few", 60)
    nothing = run_cli(
        "boxes", few, "--accept-error", 0.05, "--calibrated-on", few / "true.jsonl", "--out", tmp_path / "a.csv"
    )
    assert nothing.code == 10
    assert "too few to be sure. Check at least 15 more boxes, drawn by chance." in " ".join(nothing.stderr.split())
    assert not (tmp_path / "a.csv").exists()
    assert run_cli("boxes", folder, "--accept-error", "5%").code == 2
    assert run_cli("boxes", folder, "--accept-error", "0", "--calibrated-on", folder).code == 2


def test_rejected_images_of_the_review_page_have_no_right_box(tmp_path: Path) -> None:
    image = {"image": "a.jpg", "width": 40, "height": 30}
    box = {"label": "cat", "label_id": "n1", "score": 0.5, "box": TRUE}
    entries = [
        {**image, "image": f"{name}.jpg", "decision": name, "predictions": [box], "proposed": [box]}
        for name in ("accepted", "rejected")
    ]
    (tmp_path / "decisions.json").write_text(json.dumps({"schema_version": 1, "review": "r", "images": entries}))
    checked = checked_images(str(tmp_path / "decisions.json"))
    found = (ClassPrediction("cat", "n1", 0.9, NEAR), ClassPrediction("cat", "n1", 0.8, None))
    items = [Prediction(f"{name}.jpg", 40, 30, predictions=found) for name in ("accepted", "rejected", "unseen")]
    judged = judge_boxes(items, checked)
    assert judged.checked.tolist() == [True, True, False]
    assert judged.wrong.tolist() == [False, True, False]
    assert judged.doubts == pytest.approx([0.1] * 3)
    with pytest.raises(DataError, match="none of these images was checked"):
        judge_boxes(items[2:], checked)
