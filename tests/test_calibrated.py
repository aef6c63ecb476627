"""Box thresholds that other images choose, and margins over the floors: against the plain rules and by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gwapctl.boxes import FloatArray, as_boxes, iou
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate import EvaluationResult, GroundTruth, Options, evaluate, evaluate_predictions, from_maps
from gwapctl.evaluate.calibration import halves
from gwapctl.images.decode import read_image
from gwapctl.metrics.box_accuracy import THRESHOLDS
from gwapctl.metrics.localization import FLOORS
from gwapctl.metrics.margin import Margin
from gwapctl.metrics.wsoleval import WsolevalBoxAccuracy
from gwapctl.networks.classifier import load_classifier
from gwapctl.paper.lookup import Key
from gwapctl.paper.run_page import render_run_page
from gwapctl.paper.specification import EvaluateOptions
from gwapctl.predict.map_folder import write_map
from gwapctl.regions import map_to_boxes, parse_box_rule
from gwapctl.runs import Run
from tests.factories import make_manifest, make_run, make_small_classifier, network_input

WIDTH, HEIGHT = 40, 30  # of every image here; maps are 20 x 15
NAMES = ("apple", "bell", "cello")
IMAGES = 14


class Tiny(Dataset):
    """A data set in memory; its images need not exist because their sizes are known."""

    name, multi_label = "tiny", False
    splits = boxed_samples = None
    classes = tuple(ClassName(name, f"n{index}") for index, name in enumerate(NAMES))


def sample(name: str, label: int, box: Sequence[float]) -> BoxedSample:
    fields = as_boxes([box]), np.array([label]), np.array([False])
    return BoxedSample(name, Path(name), (label,), (), (WIDTH, HEIGHT), *fields)


def ground(samples: Sequence[BoxedSample], **rest: Any) -> GroundTruth:
    return GroundTruth(Tiny(), "val", samples, **rest)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", make_manifest(tmp_path / "data"), make_small_classifier())


def make_maps(folder: Path, generator: np.random.Generator) -> tuple[list[BoxedSample], list[np.ndarray]]:
    """Write smooth random maps (15, 20) and predictions of images with one class of three, right half of the time."""
    samples, maps, lines = [], [], []
    for index in range(IMAGES):
        left, top = generator.integers(0, 20), generator.integers(0, 15)
        box = (float(left), float(top), float(left + generator.integers(6, 20)), float(top + generator.integers(5, 15)))
        samples.append(sample(f"d/{index}.jpg", index % 3, box))
        x, y = np.meshgrid(np.linspace(0, WIDTH, 20), np.linspace(0, HEIGHT, 15))
        heat = np.exp(-(((x - (box[0] + box[2]) / 2) / 9) ** 2) - ((y - (box[1] + box[3]) / 2) / 7) ** 2)
        heat = (heat + 0.4 * cv2.resize(generator.random((4, 5)), (20, 15))).astype(np.float16)
        maps.append(heat)
        write_map(folder / "maps", f"d/{index}.jpg", heat)
        best = NAMES[(index + index // 3) % 3]
        named = [{"label": name, "label_id": "", "score": 0.6 if name == best else 0.1, "box": None} for name in NAMES]
        size = {"width": WIDTH, "height": HEIGHT}
        lines.append(json.dumps({"schema_version": 1, "image": f"d/{index}.jpg", **size, "predictions": named}))
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    return samples, maps


def ious_at(heatmap: np.ndarray, objects: FloatArray, threshold: float) -> float:
    """Return the IoU of the plain rule's box, in pixels of the image, that is twice as large as the map."""
    found = map_to_boxes(heatmap, parse_box_rule(f"fixed:{threshold}"))
    return float(iou(found[0].box * 2, objects).max()) if found else 0.0


def judge(folder: Path, truth: GroundTruth) -> EvaluationResult:
    return evaluate_predictions(from_maps(folder, truth), truth, calibration=halves(truth))


# --- halves ----------------------------------------------------------------------------------------------------------


def test_halves_are_the_same_in_any_order_and_even_in_every_class() -> None:
    samples = [sample(f"{index}.jpg", index % 3, (0, 0, 9, 9)) for index in range(23)]
    parts = halves(ground(samples)).parts
    assert parts == halves(ground(samples[::-1])).parts
    assert abs(2 * sum(parts.values()) - 23) == 1
    for label in range(3):
        counts = Counter(parts[item.id] for item in samples if item.labels == (label,))
        assert abs(counts[0] - counts[1]) <= 1
    boxless = replace(samples[0], id="none.jpg", boxes=np.zeros((0, 4)), box_labels=np.zeros(0, np.int64))
    assert halves(ground([*samples, boxless])).parts == parts
    with pytest.raises(DataError, match="1 images with boxes, too few for two halves"):
        halves(ground(samples[:1]))


def test_each_half_is_judged_at_the_other_halfs_best_threshold(tmp_path: Path) -> None:
    samples, maps = make_maps(tmp_path, np.random.default_rng(5))
    truth = ground(samples)
    document = judge(tmp_path, truth)
    parts = [halves(truth).parts[item.id] for item in samples]
    table = np.array(
        [[ious_at(heat, item.boxes, t) for t in THRESHOLDS] for heat, item in zip(maps, samples, strict=True)]
    )
    best = [(table[np.array(parts) == part] >= 0.5).mean(axis=0).argmax() for part in (0, 1)]
    found = np.array([row[best[1 - part]] for row, part in zip(table, parts, strict=True)])
    right = found >= 0.5
    named = [index % 3 == (index + index // 3) % 3 for index in range(IMAGES)]
    labels = np.arange(IMAGES) % 3
    metrics = document.metrics
    assert metrics["gt_known_error_calibrated"] == pytest.approx(100 - 100 * right.mean())
    assert metrics["mean_iou_calibrated"] == pytest.approx(found.mean())
    assert metrics["top1_loc_error_calibrated"] == pytest.approx(100 - 100 * (right & named).mean())
    assert metrics["cor_loc_calibrated"] == pytest.approx(100 * np.mean([right[labels == k].mean() for k in range(3)]))
    assert 0 < right.mean() < 1
    assert best[0] != best[1]
    assert document.calibration == {
        "on": "halves",
        "split": "val",
        "n": IMAGES,
        "thresholds": {"gt_known_error_calibrated": [pytest.approx(THRESHOLDS[best[1]]), THRESHOLDS[best[0]]]},
    }
    plain = evaluate_predictions(from_maps(tmp_path, truth), truth).metrics
    assert {key: metrics[key] for key in plain} == plain
    for floor in document.floors.values():
        assert floor["gt_known_error_calibrated"] == floor["gt_known_error"]
    better = max(100 - floor["gt_known_error"] for floor in document.floors.values())
    assert metrics["margin"] == pytest.approx(100 - metrics["gt_known_error"] - better)
    assert metrics["margin_calibrated"] == pytest.approx(100 * right.mean() - better)


def test_wsoleval_gives_accuracies_at_transferred_thresholds_beside_the_oracle(tmp_path: Path) -> None:
    samples, maps = make_maps(tmp_path, np.random.default_rng(6))
    truth = ground(samples, protocol="wsoleval")
    document = judge(tmp_path, truth)
    parts = halves(truth).parts
    chosen = document.calibration["thresholds"]

    def at(part: int, thresholds: Sequence[float]) -> WsolevalBoxAccuracy:
        accuracy = WsolevalBoxAccuracy(np.array(thresholds))
        for item, heat in zip(samples, maps, strict=True):
            if parts[item.id] == part:
                accuracy.update(heat, item.boxes, WIDTH, HEIGHT)
        return accuracy

    pooled = []
    for level in (30, 50, 70):
        right = 0.0
        for part in (0, 1):
            row = (30, 50, 70).index(level)
            others = at(1 - part, THRESHOLDS).curve_v2
            assert chosen[f"box_acc_v2_{level}"][part] == THRESHOLDS[others.accuracy[row].argmax()]
            of_part = at(part, [chosen[f"box_acc_v2_{level}"][part]])
            right += of_part.curve_v2.accuracy[row, 0] * of_part.curve_v2.n
        pooled.append(right / IMAGES)
        assert document.metrics[f"box_acc_v2_{level}"] == pytest.approx(right / IMAGES)
    assert document.metrics["box_acc_v2"] == pytest.approx(np.mean(pooled))
    both = [at(part, [chosen["box_acc"][part]]).curve for part in (0, 1)]
    assert document.metrics["box_acc"] == pytest.approx(sum(one.at(0) * one.n for one in both) / IMAGES)
    assert document.metrics["box_acc"] < document.metrics["max_box_acc"]
    assert document.floors["centred_box"]["box_acc"] == document.floors["centred_box"]["max_box_acc"]
    plain = evaluate_predictions(from_maps(tmp_path, truth), truth).metrics
    assert {key: document.metrics[key] for key in plain} == plain


def test_wsoleval_resizes_a_models_own_small_map_bicubically(run: Run, tmp_path: Path) -> None:
    document = evaluate(str(run.folder), Options(device="cpu", protocol="wsoleval"))
    model, accuracy = load_classifier(run.folder), WsolevalBoxAccuracy()
    for item in open_dataset(str(tmp_path / "data")).boxed_samples("val"):
        image = read_image(item.path)
        with torch.no_grad():
            alpha = model(network_input(image, (32, 32))).weight_map[0, 0].double().numpy()
        assert alpha.shape[0] < 32
        heat = cv2.resize(alpha, (224, 224), interpolation=cv2.INTER_CUBIC)
        accuracy.update((heat - heat.min()) / (heat.max() - heat.min()), item.boxes, *image.shape[1::-1])
    assert {key: document.metrics[key] for key in accuracy.compute()} == accuracy.compute()


# --- another split ---------------------------------------------------------------------------------------------------


def test_a_split_chooses_the_threshold_that_another_is_judged_at(run: Run) -> None:
    before = (run.folder / "model.json").read_bytes()
    document = evaluate(str(run.folder), Options(device="cpu", box_rule="otsu", calibrate_on="train"))
    of_train = evaluate(str(run.folder), Options(device="cpu", split="train"))
    threshold = of_train.metrics["max_box_acc_threshold"]
    assert document.calibration["thresholds"] == {"gt_known_error_calibrated": [threshold]}
    assert (document.calibration["split"], document.calibration["n"]) == ("train", of_train.n)
    fixed = evaluate(str(run.folder), Options(device="cpu", box_rule=f"fixed:{threshold:.3f}")).metrics
    for key in ("gt_known_error", "top1_loc_error", "cor_loc", "mean_iou", "margin"):
        assert document.metrics[f"{key}_calibrated"] == pytest.approx(fixed[key]), key
    assert document.options["box_rule"] == "otsu"
    assert document.options["calibrate_on"] == "train"
    assert (run.folder / "model.json").read_bytes() == before
    run.update(dataset={**run.document["dataset"], "train_split": "train"})
    few = evaluate(str(run.folder), Options(device="cpu", calibrate_on="train", calibrate_limit=5))
    assert few.calibration["n"] == 5
    assert any("training saw the images of train" in note for note in few.notes)
    of_run = evaluate(str(run.folder), Options(device="cpu", protocol="wsoleval", calibrate_on="train"))
    train = evaluate(str(run.folder), Options(device="cpu", protocol="wsoleval", split="train"))
    assert of_run.calibration["thresholds"]["box_acc"] == [train.metrics["max_box_acc_threshold"]]


def test_what_calibrate_on_refuses(run: Run, tmp_path: Path) -> None:
    refused = (
        ({"calibrate_on": "val"}, UsageError, "reported on val, so the threshold must not be chosen there"),
        ({"calibrate_on": "halves", "calibrate": True}, UsageError, "Give one of them"),
        ({"calibrate_on": "night"}, DataError, "no split 'night'"),
    )
    for options, error, message in refused:
        with pytest.raises(error, match=message):
            evaluate(str(run.folder), Options(device="cpu", **options))
    manifest = tmp_path / "data" / "manifest.csv"
    rows = [row.rsplit(",", 4)[0] + ",,,," if ",train," in row else row for row in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"train of manifest has no image with boxes .*calibrate_on='halves'"):
        evaluate(str(run.folder), Options(device="cpu", calibrate_on="train"))
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text("")
    with pytest.raises(UsageError, match="calibrate_on= cannot be used on boxes"):
        evaluate(str(boxes), Options(dataset=str(tmp_path / "data"), calibrate_on="halves"))


def test_command_shows_thresholds_and_sizes_in_80_columns(run: Run, run_cli: Callable[..., Any]) -> None:
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--calibrate-on", "halves")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("boxes that are right"))
    assert lines[start + 1].split()[:6] == ["object", "n", "right", "margin", "calibrated", "margin"]
    assert max(map(len, lines[start:-1])) <= 80
    assert lines[-1].startswith("boxes: ")
    assert "margin_small" not in done.stdout
    assert "chosen on the other half of val (8 images)" in done.stderr
    document = json.loads(run_cli("evaluate", run.folder, "--device", "cpu", "--json").stdout)
    assert [row["area"] for row in document["by_area"]] == ["small", "medium", "large"]
    assert "calibration" not in document
    assert "By the size of the object" in render_run_page(Run.open(run.folder))


# --- margins ---------------------------------------------------------------------------------------------------------


def test_margins_by_hand() -> None:
    """Images of 40 x 20; the centred box is 30 x 15: right for an object of 20 x 15 at its place and larger ones."""
    margin = Margin()
    shown = (  # the box found, the objects
        ([0, 0, 10, 10], [[0, 0, 10, 10]]),  # 12.5 %: right, no floor is
        (None, [[0, 0, 10, 10], [20, 0, 30, 19]]),  # 23.75 %: no box, no floor is
        ([0, 0, 40, 20], [[10, 3, 30, 18]]),  # 37.5 %: wrong; the centred box is right
        ([0, 0, 20, 20], [[0, 0, 20, 20]]),  # 50 %, which is not over 50 %: right, and the full image is
        ([0, 0, 40, 20], [[0, 0, 40, 20]]),  # all: right, both floors are
    )
    for box, objects in shown:
        margin.update({0: box}, {0: objects}, 40, 20)
    small, medium, large = margin.by_area()
    assert small == {
        **{"area": "small", "from": 0.0, "to": 0.25, "n": 2, "gt_known": 50.0, "margin": 50.0},
        "floors": dict.fromkeys(FLOORS, 0.0),
    }
    assert (medium["n"], medium["gt_known"], medium["margin"]) == (2, 50, 0)
    assert medium["floors"] == {"full_image": 50, "centred_box": 50}
    assert (large["n"], large["gt_known"], large["margin"]) == (1, 100, 0)
    assert margin.compute() == pytest.approx(
        {"margin": 20, "margin_small": 50, "margin_medium": 0, "margin_large": 0}
    )  # 3 of 5, either floor 2 of 5
    calibrated = np.array([True, True, False, True, False])
    assert margin.compute(calibrated)["margin_small_calibrated"] == 100
    assert margin.by_area(calibrated)[2]["gt_known_calibrated"] == 0
    assert Margin().compute() == {}
    assert Margin().by_area() == []


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_calibrated_evaluation_serves_rows_that_do_not_ask_for_it() -> None:
    options = {"map": "weight", "scales": [224], "box_rule": "otsu"}
    row = {"recipe": "r", "settings": "s", "options": options}
    calibrated = row | {"options": {**options, "calibrate_on": "halves"}}
    plain = Key("r", "s", EvaluateOptions(box_rule="otsu"), frozenset({224}))
    asking = replace(plain, wanted=EvaluateOptions(box_rule="otsu", calibrate_on="halves"))
    assert plain.fits(row)
    assert plain.fits(calibrated)
    assert asking.fits(calibrated)
    assert not asking.fits(row)
    assert not replace(plain, wanted=EvaluateOptions(calibrate_on="train")).fits(calibrated)
