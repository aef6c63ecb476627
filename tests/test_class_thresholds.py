"""Box thresholds of single classes: chosen only beyond chance, stored in the rule's name, used where boxes are cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_classifier, make_manifest, make_run, make_small_classifier

from gwapctl import load_model
from gwapctl.errors import UsageError
from gwapctl.evaluate.class_thresholds import class_thresholds
from gwapctl.evaluate.predictions import boxes_from_maps
from gwapctl.evaluate.stored_rule import Held
from gwapctl.metrics.box_accuracy import THRESHOLDS, AccuracyCurve
from gwapctl.networks.classifier import load_info, save_info, save_model
from gwapctl.predict.cut import Cut, with_boxes
from gwapctl.predict.prediction import ANY, ClassPrediction, Prediction
from gwapctl.regions import parse_box_rule
from gwapctl.regions.rules import fixed_rule

HEAT = np.linspace(0, 1, 11)[None].repeat(4, axis=0)  # falls to the left: a threshold is where the box begins


def curve(n: int, low: float, high: float, share: float = 1.0) -> AccuracyCurve:
    """Return a curve of n boxes, of which a ``share`` is right at thresholds from ``low`` to ``high``."""
    found = AccuracyCurve(THRESHOLDS)
    for index in range(n):
        right = (low <= THRESHOLDS) & (high > THRESHOLDS) & (index < share * n)
        found.add(right.astype(float))
    return found


def test_a_class_gets_its_own_threshold_where_it_is_better_beyond_chance() -> None:
    curves = {"fox": curve(60, 0.6, 0.8), "owl": curve(60, 0.2, 0.5), "hen": curve(49, 0.6, 0.8)}
    found = class_thresholds(curves, shared=0.4)
    assert found.keys() == {"fox"}  # the owl is right already, the hen has too few boxes
    assert found["fox"] == pytest.approx(0.7, abs=0.1)


def test_a_class_that_gains_by_luck_alone_shares() -> None:
    """Two boxes in sixty are right elsewhere: that is less than twice its standard error."""
    found = AccuracyCurve(THRESHOLDS)
    for index in range(60):
        found.add(((THRESHOLDS < 0.5) | ((index < 2) & (THRESHOLDS < 0.7)) & (index >= 0)).astype(float))
    assert class_thresholds({"fox": found}, shared=0.4) == {}
    assert class_thresholds({"fox": found}, shared=0.6).keys() == {"fox"}


def test_a_rule_is_read_back_from_its_name_whatever_the_class_is_called() -> None:
    names = {"a,b": 0.2, "c=d": 0.3, "e+grabcut": 0.4, "f:g h": 0.5, "é": 0.6}
    for refinement in ("", "+grabcut"):
        rule = parse_box_rule(fixed_rule(0.1, names) + refinement)
        assert parse_box_rule(rule.name) == rule
        thresholds = {name: rule.without_image().of_class(name).threshold for name in (*names, "other")}
        assert thresholds == {**names, "other": 0.1}
    assert parse_box_rule(fixed_rule(0.1)).name == "fixed:0.100"
    with pytest.raises(UsageError, match="threshold '2' is not"):
        parse_box_rule("fixed:0.1,fox=2")


def test_every_class_is_cut_at_its_own_threshold() -> None:
    cut = Cut(parse_box_rule(fixed_rule(0.25, {"fox": 0.65})))
    item = Prediction(
        "a.jpg", 11, 4, predictions=(ClassPrediction("fox", "fox", 0.9), ClassPrediction("owl", "owl", 0.8))
    )
    for heatmaps, channels in ((HEAT[None], [0, 0]), (np.stack([HEAT, HEAT]), [0, 1])):
        assert with_boxes(item, heatmaps, channels, cut).boxes[:, 0].tolist() == [7, 3]
    found = boxes_from_maps({ANY: HEAT}, cut, 11, 4, {0: "owl", 3: "fox"})
    assert {label: boxes[0, 0] for label, boxes in found.items()} == {ANY: 3, 0: 3, 3: 7}
    plain = boxes_from_maps({ANY: HEAT}, replace(cut, rule=parse_box_rule("fixed:0.25")), 11, 4, {0: "owl", 3: "fox"})
    assert plain.keys() == {ANY}


@pytest.mark.parametrize("method", ["weight", "class"])
@pytest.mark.parametrize("refine", ["none", "grabcut"])
def test_a_model_cuts_its_classes_as_it_stores_and_so_do_its_maps(
    method: str, refine: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    save_model(make_classifier("gwap", ("fox", "owl")), tmp_path / "model")
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    expected = {}
    for name, threshold in (("fox", "0.7"), ("owl", "0.2")):
        rule = {"box_rule": f"fixed:{threshold}", "refine": refine, "map": method, "top_k": 2}
        (found,) = load_model(tmp_path / "model", device="cpu").localize(image, **rule)
        expected[name] = found.boxes[found.classes.index(name)].tolist()
    info = load_info(tmp_path / "model")
    save_info(info.model_copy(update={"box_rule": fixed_rule(0.2, {"fox": 0.7})}), tmp_path / "model")
    (found,) = load_model(tmp_path / "model", device="cpu").localize(image, map=method, refine=refine, top_k=2)
    assert dict(zip(found.classes, found.boxes.tolist(), strict=True)) == expected


def test_folds_choose_thresholds_of_classes_for_the_others() -> None:
    """Of two folds with 30 boxes of a class each, one alone has too few."""
    fold = [curve(70, 0.2, 0.5), {"fox": curve(30, 0.6, 0.8), "owl": curve(40, 0.2, 0.5)}]
    held = Held([], [fold[0]] * 2, [fold[1]] * 2)
    whole, half = held.rule("grabcut"), held.rule("grabcut", left_out=0)
    assert whole.name.startswith(f"fixed:{held.threshold():.3f},fox=0.")
    assert whole.name.endswith("+grabcut")
    assert half.name == f"fixed:{held.threshold(0):.3f}+grabcut"


def test_curves_join_image_by_image() -> None:
    joined = AccuracyCurve.joined([curve(3, 0.2, 0.5), curve(1, 0.6, 0.8)])
    assert joined.n == 4
    assert (joined.at(0.3), joined.at(0.7)) == (75, 25)
    assert joined.right()[:, 300].tolist() == [True, True, True, False]


def test_boxes_cut_again_from_saved_maps_are_the_same(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    data = make_manifest(tmp_path / "data")
    run = make_run(tmp_path / "run", data, make_small_classifier())
    rule = fixed_rule(0.2, {"apple": 0.9, "banana": 0.5})
    save_info(load_info(run.folder).model_copy(update={"box_rule": rule}), run.folder)
    found = run_cli("localize", data, "--model", run.folder, "--out", tmp_path / "found", "--save", "map")
    assert found.code == 0, found.stderr
    again = run_cli("boxes", tmp_path / "found", "--max-boxes", 1, "--format", "jsonl")
    recorded = [json.loads(line) for line in (tmp_path / "found" / "predictions.jsonl").read_text().splitlines()]
    boxes = [[one["box"] for one in document["predictions"]] for document in recorded]
    assert [[one["box"] for one in json.loads(line)["predictions"]] for line in again.stdout.splitlines()] == boxes
    for subject, dataset in ((run.folder, ()), (tmp_path / "found", ("--dataset", data))):
        judged = run_cli("evaluate", subject, *dataset, "--split", "val", "--json")
        assert judged.code == 0, judged.stderr
        assert json.loads(judged.stdout)["options"]["box_rule"] == rule
