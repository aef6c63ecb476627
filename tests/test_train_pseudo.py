"""A detector from boxes that something else found: what is kept of them, rounds, exact resume, no true box learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwapctl.boxes import Detections, as_boxes
from gwapctl.config import DetectorConfig
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import Dataset, Sample
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate.training_boxes import TrainingBoxes
from gwapctl.networks.rfcn.base import BoxTarget
from gwapctl.networks.rfcn.losses import region_losses
from gwapctl.networks.rfcn.store import load_detector
from gwapctl.predict.predictions import read_predictions
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from gwapctl.train.loop import train_with
from gwapctl.train.pseudo import PseudoBoxes, boxes_file, next_round, pseudo_boxes
from gwapctl.train.task import Listener, Resources
from tests.factories import SMALL_DETECTOR, copy_with_other_boxes, differing, start, stop_after, train_config, write

SMALL: dict[str, Any] = {**SMALL_DETECTOR, "boxes_from": "somebody"}
config_for = partial(train_config, **SMALL)


def found_boxes(dataset: Dataset, samples: Sequence[Sample], progress: ProgressCallback) -> list[PseudoBoxes]:
    """One box in every image but the last, of its first class, and one of a class that it does not show."""
    del dataset, progress
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 30, (len(samples), 2))
    found = [
        pseudo_boxes([[x, y, x + 32, y + 24], [0, 0, 9, 9]], [sample.labels[0], sample.labels[0]], [0.9, 0.4])
        for sample, (x, y) in zip(samples, corners.tolist(), strict=True)
    ]
    return [*found[:-1], pseudo_boxes([], [], [])]


def train_from(config: DetectorConfig, out: Path, source: Any = found_boxes, **options: Any) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    listener = Listener(**{name: options.pop(name) for name in ("announce", "progress") if name in options})
    return train_with(Resources(torch.device("cpu"), boxes=source), config, out, listener=listener, **options)


# ----------------------------------------------------------------------------------------------------- the next round


def boxes_and_classes(kept: PseudoBoxes) -> list[tuple[list[float], int]]:
    return list(zip(kept.boxes.tolist(), kept.labels.tolist(), strict=True))


def found(*rows: tuple[list[float], int, float]) -> Detections:
    boxes, labels, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(as_boxes(boxes), np.array(scores, np.float64), np.array(labels, np.int64))


FIRST = pseudo_boxes([[0, 0, 40, 20], [50, 0, 70, 20]], [0, 1], [0.8, 0.6])


def test_what_both_see_stays_where_the_detector_sees_it() -> None:
    kept = next_round(FIRST, found(([0, 0, 40, 24], 0, 0.2), ([50, 0, 70, 22], 1, 0.7)), (0, 1))
    assert boxes_and_classes(kept) == [([0, 0, 40, 24], 0), ([50, 0, 70, 22], 1)]
    assert kept.weights.tolist() == [0.8, 0.7]


def test_of_several_that_agree_with_one_box_the_surest_stays() -> None:
    kept = next_round(FIRST, found(([0, 0, 40, 24], 0, 0.3), ([0, 0, 40, 19], 0, 0.2)), (0,))
    assert boxes_and_classes(kept) == [([0, 0, 40, 24], 0)]


def test_an_object_that_only_the_detector_sees_counts_from_a_high_score_on() -> None:
    kept = next_round(FIRST, found(([100, 50, 140, 70], 0, 0.6), ([200, 50, 240, 70], 0, 0.4)), (0,))
    assert boxes_and_classes(kept) == [([100, 50, 140, 70], 0)]


def test_a_class_that_the_labels_do_not_name_is_impossible() -> None:
    kept = next_round(FIRST, found(([100, 50, 140, 70], 2, 0.99), ([50, 0, 70, 20], 1, 0.99)), (0,))
    assert 1 not in kept.labels
    assert 2 not in kept.labels


def test_a_class_that_is_there_keeps_its_best_box() -> None:
    first = pseudo_boxes([[0, 0, 40, 20], [50, 0, 70, 20]], [0, 0], [0.4, 0.6])
    kept = next_round(first, found(), (0, 1))
    assert boxes_and_classes(kept) == [([50, 0, 70, 20], 0)]
    assert kept.weights.tolist() == [0.3]
    assert len(next_round(pseudo_boxes([], [], []), found(), (0,))) == 0


def test_agreement_is_within_a_class_and_from_an_iou_of_a_half_on() -> None:
    half, less = ([0, 0, 40, 40], 0, 0.2), ([0, 0, 40, 41], 0, 0.2)
    assert boxes_and_classes(next_round(FIRST, found(half), (0,))) == [(half[0], 0)]
    assert boxes_and_classes(next_round(FIRST, found(less), (0,))) == [([0, 0, 40, 20], 0)]
    other = ([0, 0, 40, 20], 1, 0.2)
    assert boxes_and_classes(next_round(FIRST, found(other), (0, 1))) == [([0, 0, 40, 20], 0), ([50, 0, 70, 20], 1)]


# ------------------------------------------------------------------------------------------------------------- weights


def test_a_box_counts_as_much_as_its_weight_says() -> None:
    """Three regions: one on each of two objects, one on nothing."""
    boxes, labels = torch.tensor([[0.0, 0, 10, 8], [20, 0, 30, 8]]), torch.tensor([0, 1])
    regions = [torch.tensor([[0.0, 0, 10, 9], [20, 0, 30, 9], [50, 50, 60, 70]])]
    scores, offsets = torch.randn(3, 3, generator=torch.manual_seed(0)), torch.zeros(3, 4)

    def losses(weights: list[float] | None) -> dict[str, float]:
        counted = None if weights is None else torch.tensor(weights)
        target = BoxTarget(boxes, labels, torch.zeros(2, dtype=torch.bool), counted)
        return {name: float(loss) for name, loss in region_losses(scores, offsets, regions, [target.usable()]).items()}

    assert losses(None) == losses([1, 1])
    assert losses([0, 0]) == {"roi_class": 0, "roi_box": 0}
    whole, first, second = (losses(weights) for weights in ([1, 1], [1, 0], [0, 1]))
    for name in ("roi_class", "roi_box"):  # the background counts as the two do on average
        assert whole[name] == pytest.approx(first[name] + second[name])
        assert losses([0.5, 0.5])[name] == pytest.approx(whole[name] / 2)
    assert first["roi_class"] != second["roi_class"]


def test_an_image_of_nothing_counts_fully() -> None:
    regions = [torch.tensor([[0.0, 0, 10, 9]])]
    empty = BoxTarget(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    weighted = replace(empty, weights=torch.zeros(0))
    losses = [region_losses(torch.ones(1, 3), torch.zeros(1, 4), regions, [one]) for one in (empty, weighted)]
    assert losses[0] == losses[1]
    assert losses[0]["roi_class"] > 0


def test_boxes_that_have_a_doubt_count_by_its_rank(voc: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(voc))
    samples = [one for one in dataset.samples("train") if 0 in one.labels][:3]
    name = dataset.classes[0].name
    boxes = [
        {"label": name, "label_id": name, "score": 0.9, "box": [1, 2, 30, 40], "doubt": doubt}
        for doubt in (0.3, 0.8, 0.5)
    ]
    rows = [
        {"schema_version": 1, "image": str(one.path), "id": one.id, "width": 80, "height": 64, "predictions": [box]}
        for one, box in zip(samples, boxes, strict=True)
    ]
    file = write(tmp_path / "boxes.jsonl", "".join(f"{json.dumps({**row, 'error': None})}\n" for row in rows))
    kept = TrainingBoxes(str(file), "cpu", 0)(dataset, samples, silent)
    assert [one.weights.tolist() for one in kept] == [[pytest.approx(share)] for share in (1, 1 / 3, 2 / 3)]


# ------------------------------------------------------------------------------------------------------------ training


def test_no_true_box_is_learned_from(voc: Path, tmp_path: Path) -> None:
    """Other true boxes in every image: the same weights, and another AP, which is all that looks at them."""
    other = copy_with_other_boxes(voc, tmp_path / "other")
    options = {"rounds": 2, "weak": "gwap"}
    runs = [train_from(config_for(folder, **options), tmp_path / folder.name / "run") for folder in (voc, other)]
    assert differing(runs[0].folder, runs[1].folder) == []
    assert runs[0].document["rounds"][0]["n_boxes"] == 2 * (runs[0].document["dataset"]["n_train"] - 1)
    before, after = ([row["det_map_area"] for row in run.document["rounds"]] for run in runs)
    assert before != after
    assert runs[0].document["box_subset"]["n"] == 0
    assert (runs[0].folder / "box_labelled.txt").read_text() == ""
    assert load_detector(runs[0].folder).info.provenance["boxes_from"] == "somebody"


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_of_two_rounds_resumes_to_the_bit(voc: Path, tmp_path: Path, stop: int) -> None:
    config = config_for(voc, rounds=2, iterations=6, weak="gwap")
    whole = train_from(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_from(config, tmp_path / "parts", progress=stop_after(stop))

    def fails(*_: object) -> list[PseudoBoxes]:
        pytest.fail("boxes are found again")

    parts = train_from(config, tmp_path / "parts", fails, resume=True)
    assert differing(whole.folder, parts.folder) == []
    texts = [boxes_file(run.folder, 2).read_text() for run in (whole, parts)]
    assert texts[0] == texts[1]
    assert whole.document["rounds"] == parts.document["rounds"]
    assert whole.history()[-1] | {"images_per_second": 0} == parts.history()[-1] | {"images_per_second": 0}


def test_one_that_stops_while_boxes_are_found_resumes(voc: Path, tmp_path: Path) -> None:
    def stopped(*_: object) -> list[PseudoBoxes]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from(config_for(voc), tmp_path / "run", stopped)
    assert Run.open(tmp_path / "run").document["status"] == "interrupted"
    assert train_from(config_for(voc), tmp_path / "run", resume=True).finished


def test_a_round_that_was_killed_before_it_was_told_is_told(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_from(config_for(voc), tmp_path / "whole")

    def killed(*_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gwapctl.train.rounds.judge", killed)  # the file of the round is there by then
        with pytest.raises(KeyboardInterrupt):
            train_from(config_for(voc), tmp_path / "parts")
    assert boxes_file(tmp_path / "parts", 1).is_file()
    parts = train_from(config_for(voc), tmp_path / "parts", resume=True)
    assert parts.document["rounds"] == whole.document["rounds"]


def test_rounds_differ_and_each_has_its_schedule(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc, rounds=2, iterations=20, schedule="cosine", warmup=0)
    said: list[str] = []
    run = train_from(config, tmp_path / "run", announce=said.append)
    rates = {row["iteration"]: row["lr"] for row in run.history()}
    assert rates[10] < rates[2] / 10
    assert rates[12] == rates[2]
    first, second = (list(read_predictions(boxes_file(run.folder, number))) for number in (1, 2))
    assert [item.id for item in first] == [item.id for item in second]
    assert first != second
    assert any(text.startswith("round 2: ") and "AP" in text for text in said)


def test_boxes_of_other_images_or_none_at_all_are_refused(voc: Path, tmp_path: Path) -> None:
    def nothing(_: Dataset, samples: Sequence[Sample], progress: ProgressCallback) -> list[PseudoBoxes]:
        return [pseudo_boxes([], [], []) for _ in samples]

    with pytest.raises(DataError, match="somebody has no box"):
        train_from(config_for(voc), tmp_path / "nothing", nothing)
    with pytest.raises(UsageError, match="finds the boxes"):
        start(config_for(voc), tmp_path / "nobody")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"boxes_from": None, "rounds": 2}, "rounds are of boxes_from"),
        ({"box_proportion": 0.5}, "leave out box_proportion"),
        ({"rounds": 5}, "at least rounds"),
    ],
)
def test_settings_that_contradict_each_other(voc: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config_for(voc, **settings)


# ------------------------------------------------------------------------------------------------- where boxes are from


def silent(_: Progress) -> None: ...


def test_boxes_of_a_file_are_those_of_classes_that_the_labels_name(voc: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(voc))
    samples = dataset.samples("train")[:3]
    names = [item.name for item in dataset.classes]
    absent = next(index for index in range(len(names)) if index not in samples[1].labels)
    rows = ["image,width,height,label,label_id,score,x0,y0,x1,y1"]
    for sample in samples[:2]:
        label = names[sample.labels[0]]
        rows.append(f"{sample.path.name},80,64,{label},{label},0.75,1,2,30,40")
    rows.append(f"{samples[1].path.name},80,64,{names[absent]},{names[absent]},0.9,5,5,20,20")
    boxes = write(tmp_path / "boxes.csv", "\n".join(rows))
    kept = TrainingBoxes(str(boxes), "cpu", 0)(dataset, samples, silent)
    assert [boxes_and_classes(one) for one in kept] == [
        [([1, 2, 30, 40], samples[0].labels[0])],
        [([1, 2, 30, 40], samples[1].labels[0])],
        [],
    ]
    assert kept[0].weights.tolist() == [0.75]


def test_a_classifier_draws_boxes_of_the_classes_that_are_there(voc: Path, tmp_path: Path) -> None:
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "iterations": 1}
    start(train_config(voc, **settings), tmp_path / "a")
    dataset = open_dataset(str(voc))
    samples, done = dataset.samples("train")[:4], list[Progress]()
    kept = TrainingBoxes(str(tmp_path / "a"), "cpu", 0)(dataset, samples, done.append)
    assert [(one.done, one.total) for one in done] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for sample, one in zip(samples, kept, strict=True):
        assert set(one.labels.tolist()) <= set(sample.labels)
        assert all(0 <= weight <= 1 for weight in one.weights)
        assert (one.boxes[:, 2:] <= sample.size).all()
    assert sum(map(len, kept)) > 0


def test_the_command(voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "iterations": 1}
    start(train_config(voc, **settings), tmp_path / "a")
    asked = ["train", voc, "--detector", "rfcn", "--backbone", "resnet-s", "--weights", "none", "--iterations", 2]
    asked += ["--boxes-from", tmp_path / "a", "--rounds", 2, "--set", "short_side=40", "--set", "long_side=56"]
    asked += ["--workers", 0, "--device", "cpu", "--out", tmp_path / "b"]
    plan = run_cli(*asked, "--dry-run", "--json")
    assert json.loads(plan.stdout)["config"]["boxes_from"] == str(tmp_path / "a")
    assert not (tmp_path / "b").exists()
    done = run_cli(*asked)
    assert done.code == 0, done.stderr
    assert "round 1: " in done.stderr
    assert "boxes-2.jsonl" in done.stderr
    assert {path.name for path in (tmp_path / "b").glob("boxes-*")} == {"boxes-1.jsonl", "boxes-2.jsonl"}
    missing = run_cli(*asked[:-1], tmp_path / "c", "--boxes-from", tmp_path / "nothing")
    assert missing.code in (2, 4)
    assert not (tmp_path / "c").exists()
    boxes = tmp_path / "b" / "boxes-1.jsonl"
    assert run_cli("boxes", boxes, "--out", tmp_path / "b.json", "--format", "coco").code == 0
    judged = run_cli("evaluate", boxes, "--dataset", voc, "--split", "train")
    assert judged.code == 0, judged.stderr
