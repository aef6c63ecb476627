"""The registry of metrics: every number of every evaluation is in it, and one line there reaches every place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import write_metrics

from gwapctl.evaluate import EvaluationResult
from gwapctl.metrics import FRACTION, METRICS, Metric, describe, needing
from gwapctl.paper.pictures import learning_curves
from gwapctl.paper.run_page import render_run_page
from gwapctl.paper.specification import Column
from gwapctl.runs import Run

WIDTH, HEIGHT = 40, 30
BOX = (10, 6, 30, 24)
BOXES = {"a.png": BOX, "b.png": (2, 4, 14, 20), "c.png": (1, 1, 38, 29)}  # of medium, small and large objects
NAMES = ("apple", "bell")
COST = {"images_per_second", "extra_memory_mib"}  # measured on a model: test_cost.py
TOY = Metric("toy score", "a number of a test", FRACTION, ("maps", "masks"), "lowest", decimals=3)
Cli = Callable[..., Any]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "toy_score", TOY)


# --- every number is registered --------------------------------------------------------------------------------------


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def make_maps(folder: Path, names: tuple[str, ...]) -> Path:
    """Write a map per class, and predictions with boxes, of each image."""
    (folder / "maps").mkdir(parents=True)
    size = {"width": WIDTH, "height": HEIGHT}
    lines = []
    for image, box in BOXES.items():
        heat = np.zeros((HEIGHT, WIDTH), np.float16)
        heat[box[1] : box[3], box[0] : box[2]] = 1
        np.save(folder / "maps" / f"{image}.npy", np.stack([heat, heat]))
        found = [{"label": name, "label_id": "", "score": 0.6, "box": box, "map": None} for name in names]
        lines.append(json.dumps({"schema_version": 1, "image": image, **size, "predictions": found}))
    images = {image: {**size, "labels": names} for image in BOXES}
    about = {"schema_version": 1, "method": "class", "class_agnostic": False, "images": images}
    write(folder / "maps" / "maps.json", about)
    write(folder / "predictions.jsonl", "\n".join(lines))
    return folder


def one_class(folder: Path) -> Path:
    """Write the metadata of images with one class of two, which have no names there."""
    files = {
        "image_ids": "".join(f"{image}\n" for image in BOXES),
        "class_labels": "".join(f"{image},0\n" for image in BOXES),
        "localization": "".join(f"{image},{x0},{y0},{x1 - 1},{y1 - 1}\n" for image, (x0, y0, x1, y1) in BOXES.items()),
        "image_sizes": "".join(f"{image},{WIDTH},{HEIGHT}\n" for image in BOXES),
    }
    for name, text in files.items():
        write(folder / "val" / f"{name}.txt", text)
    return folder


def several_classes(folder: Path) -> Path:
    """Write a COCO data set of one image, and one of nothing."""
    document = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for number, name in ((1, "a"), (2, "b"))
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 6, 20, 18], "iscrowd": 0}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }
    write(folder / "annotations" / "instances_val.json", document)
    (folder / "images").mkdir()
    for name in "ab":
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return folder


def test_every_number_of_every_protocol_is_registered(tmp_path: Path, run_cli: Cli) -> None:
    alone, several = one_class(tmp_path / "alone"), several_classes(tmp_path / "several")
    numbered, named = make_maps(tmp_path / "numbered", ("0", "1")), make_maps(tmp_path / "named", NAMES)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    (tmp_path / "masks").mkdir()
    for image in BOXES:
        cv2.imwrite(str(tmp_path / "masks" / image), mask)
    masks = ("--masks", tmp_path / "masks")
    asked = [
        (numbered, alone, "paper", "--calibrate-on", "halves", *masks),
        (named, several, "paper", *masks),
        (named / "predictions.jsonl", several, "paper"),
        (numbered, alone, "wsoleval", "--calibrate-on", "halves", *masks),
    ]
    met: set[str] = set()
    for path, dataset, protocol, *more in asked:
        options = ("--dataset", dataset, "--split", "val", "--protocol", protocol, *more, "--json")
        done = run_cli("evaluate", path, *options)
        assert done.code == 0, done.stderr
        document = json.loads(done.stdout)
        keys = set(document["metrics"])
        of_classes = {key for row in document["per_class"] for key in row} - {"class", "id", "n"}
        assert {key for key in keys | of_classes if protocol not in METRICS[key].protocols} == set()
        assert {key for key in keys if METRICS[key].shown == "class"} == set()
        for floor in document["floors"].values():
            assert set(floor) == {key for key in keys if METRICS[key].floor}
        met |= keys | of_classes
    assert met == set(METRICS) - COST


def test_what_earlier_versions_wrote_is_registered() -> None:
    folder = Path(__file__).parent / "from_0_1_0"
    documents = [json.loads(file.read_text()) for file in folder.rglob("evaluations/*.json")]
    assert documents
    assert {key for document in documents for key in document["metrics"]} <= set(METRICS)


# --- what entries say ------------------------------------------------------------------------------------------------


def test_entries_are_complete() -> None:
    for key, metric in METRICS.items():
        assert metric.label, key
        assert len(metric.help.splitlines()) == 1, key
        assert metric.needs, key
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert len({metric.help for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize(
    ("key", "value", "page", "terminal"),
    [
        ("voc_map_11pt", 81.25, "81.2", "81.25"),
        ("gt_known_error", 41.666, "41.67", "41.67"),
        ("f_measure", 0.61239, "0.6124", "0.6124"),
        ("max_box_acc_threshold", 0.31, "0.3100", "0.3100"),
        ("fg_iou_threshold", 200.0, "200", "200"),
        ("images_per_second", 99.6, "100", "99.60"),
        ("of_another_version", 1.5, "1.50", "1.50"),
    ],
)
def test_numbers_as_text(key: str, value: float, page: str, terminal: str) -> None:
    assert (describe(key).text(value), describe(key).unit.text(value)) == (page, terminal)
    assert (describe(key).text(None), describe(key).unit.text(None)) == ("", "")


def test_titles() -> None:
    assert describe("cor_loc").title == "CorLoc (%)"
    assert describe("f_measure").title == "F-measure"
    assert describe("extra_memory_mib").title == "memory of the maps (MiB per image)"
    assert describe("of_another_version").title == "of another version"


def test_needs_name_what_is_left_out() -> None:
    assert needing("five ranked classes", "paper") == ("top5_error", "top5_loc_error")
    margins = ("margin", "margin_small", "margin_medium", "margin_large")
    assert needing("boxes", "paper") == ("gt_known_error", "cor_loc", *margins, "mean_iou")
    assert "cor_loc_calibrated" in needing("maps", "paper")
    assert "cor_loc_calibrated" not in needing("maps", "paper", calibrated=False)
    assert needing("boxes", "wsoleval") == ()
    assert "max_box_acc_v2_30" not in needing("maps", "paper")


# --- gates -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation measure the same."""
    metrics = {"extra_memory_mib": 50.0, "top1_error": 20.0, "gt_known_error": 40.0, "cor_loc": 60.0, "toy_score": 0.5}
    result = EvaluationResult(1, 0, metrics, {}, [], model="m", dataset="d", split="val", protocol="paper")
    monkeypatch.setattr("gwapctl.evaluate.evaluate", lambda *_, **__: result)
    monkeypatch.setattr("gwapctl.evaluate.check", lambda *_: None)
    monkeypatch.setattr("gwapctl.evaluate.subject.dataset_name", lambda *_: None)


@pytest.mark.parametrize(
    ("gate", "code", "message"),
    [
        ("extra_memory_mib=10", 10, "extra_memory_mib is 50, above the allowed 10."),
        ("extra_memory_mib=500", 0, ""),
        ("top1_error=19", 10, "top1_error is 20, above the allowed 19."),
        ("top1_error=21", 0, ""),
        ("gt_known_error=39", 10, "gt_known_error is 40, above the allowed 39."),
        ("gt_known_error=40", 0, ""),
        ("cor_loc=61", 10, "cor_loc is 60, below the required 61."),
        ("cor_loc=60", 0, ""),
        ("toy_score=0.4", 10, "toy_score is 0.5, above the allowed 0.4."),
        ("px_ap=3", 2, "'px_ap' was not measured"),
        ("cor_lok=3", 2, "unknown metric 'cor_lok'. Did you mean 'cor_loc'? Choose one of: "),
        ("fg_area=0.5", 2, "fg_area is neither better high nor low"),
        ("ap_11pt=50", 2, "ap_11pt is only of single classes"),
        ("cor_loc=nan", 2, "not METRIC=VALUE"),
    ],
)
@pytest.mark.usefixtures("measured", "toy")
def test_gates_take_the_direction_of_the_metric(run_cli: Cli, gate: str, code: int, message: str) -> None:
    done = run_cli("evaluate", "m", "--fail-under", gate)
    assert (done.code, message in " ".join(done.stderr.split())) == (code, True), done.stderr


# --- one line reaches every place ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("measured", "toy")
def test_a_toy_is_a_choice_of_gates_and_a_row_of_the_terminal(run_cli: Cli) -> None:
    assert "toy_score" in run_cli("evaluate", "m", "--fail-under", "x=3").stderr
    shown = run_cli("evaluate", "m").stdout.splitlines()
    assert "0.5000" in next(line for line in shown if METRICS["toy_score"].label in line)


def test_a_toy_is_in_help() -> None:
    """Help is made when the verb is imported, so this process registers first."""
    script = """
from gwapctl.metrics import FRACTION, METRICS, Metric
METRICS["toy_score"] = Metric("toy score", "a number of a test", FRACTION, ("maps", "masks"), "lowest")
from gwapctl.cli import run
run(["evaluate", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.replace("│", "").split())
    assert "adds px_ap and fg_iou and toy_score." in text
    assert "extra_memory_mib, toy_score; below it for" in text


@pytest.mark.usefixtures("toy")
def test_a_toy_is_on_the_page_of_a_run_and_in_tables(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"config": {"dataset": "data/pets"}, "dataset": {}})
    about = {"model": "run", "dataset": "pets", "split": "test", "protocol": "paper", "n": 3, "created": "2026-01-01"}
    floors = {"full_image": {"toy_score": 0.75}}
    rows = [{"class": "cat", "id": "cat", "n": 3, "toy_score": 0.25}]
    run.save_evaluation({**about, "metrics": {"toy_score": 0.12345}, "floors": floors, "per_class": rows})
    text = render_run_page(run)
    assert "toy score" in text
    assert "0.123" in text
    assert "floors: full image 0.750" in text
    assert "--share: 25.0%" in text
    (chart,) = learning_curves([{"iteration": 1, "val_toy_score": 0.5}])
    assert "toy score from 0.5 to 0.5" in chart.alt
    assert Column(key="toy", name="toy", metric="toy_score", decimals=3).best == "lowest"


def test_a_table_names_a_metric_that_there_is() -> None:
    with pytest.raises(ValueError, match=r"there is no metric 'px_app'\. Did you mean 'px_ap'\?"):
        Column.model_validate({"key": "a", "name": "a", "metric": "px_app", "decimals": 1})
    assert Column(key="a", name="a", metric="images_per_second", decimals=0, best="none").best == "none"


# --- the page of the documentation -----------------------------------------------------------------------------------

PAGES = Path(__file__).parent.parent


def test_the_page_says_what_the_registry_says() -> None:
    """A metric that is not on the page yet breaks nothing; one that says something else there does."""
    written = (PAGES / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in written if line not in write_metrics.page().splitlines()] == []
    assert len(written) > 40


@pytest.mark.usefixtures("toy")
def test_a_toy_is_on_the_page_of_the_documentation() -> None:
    row = "| `toy_score` | toy score | a number of a test | 0..1 | lowest | maps, masks | paper |  |"
    assert write_metrics.page().splitlines()[-1] == row
