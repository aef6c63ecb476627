"""A trained detector in every verb: evaluate, localize, boxes, models, and Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import gwapctl
from gwapctl.boxes import iou
from gwapctl.cli.localize import DEFAULT_MIN_SCORE
from gwapctl.config import DetectorConfig, build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.evaluate import GroundTruth, Options, evaluate, from_detector
from gwapctl.images.decode import read_image
from gwapctl.maps.reading import split_options
from gwapctl.metrics.detection import DetectionAP
from gwapctl.networks.classifier import load_classifier
from gwapctl.networks.rfcn.inference import DetectorReader
from gwapctl.networks.rfcn.store import load_detector
from gwapctl.predict.classifier import load_model
from gwapctl.predict.detector import MIN_SCORE, DetectorModel
from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.predictions import read_predictions
from gwapctl.regions.edges import move_to_edges
from gwapctl.runs import Run
from gwapctl.train.loop import train

RunCli = Callable[..., Any]


@pytest.fixture(scope="module")
def run(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A detector with the weak branch after a few steps: it knows little, but it finds boxes."""
    settings = {"detector": "rfcn", "weak": "gwap", "backbone": "resnet-s", "weights": "none", "box_proportion": 0.5}
    schedule = {"short_side": 40, "long_side": 60, "iterations": 12, "optimizer": "adamw", "lr": 2e-3, "warmup": 1}
    config = build_train_config(str(voc), None, {**settings, **schedule, "precision": "fp32"})
    assert isinstance(config, DetectorConfig)
    folder = tmp_path_factory.mktemp("run")
    return train(config, folder, device="cpu", workers=0)


@pytest.fixture(scope="module")
def paths(voc: Path) -> list[Path]:
    return [sample.path for sample in open_dataset(str(voc)).samples("test")]


def test_the_whole_way_on_the_command_line(voc: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "run"
    settings = ["--backbone", "resnet-s", "--weights", "none", "--workers", 0]
    settings += ["--set", "short_side=32", "--set", "long_side=48"]
    asked = ["--detector", "rfcn", "--weak", "gwap", "--box-proportion", 0.25, "--iterations", 2]
    planned = run_cli("train", voc, *asked, *settings, "--dry-run", "--json")
    assert json.loads(planned.stdout)["config"]["weak"] == "gwap"
    trained = run_cli("train", voc, *asked, *settings, "--out", out, "--json", "--device", "cpu")
    assert trained.code == 0, trained.stderr
    assert json.loads(trained.stdout)["box_subset"]["n"] == len((out / "box_labelled.txt").read_text().split())
    measured = run_cli("evaluate", out, "--json", "--device", "cpu", "--workers", 0)
    assert measured.code == 0, measured.stderr
    assert {"det_map_11pt", "det_map_area", "coco_map"} <= json.loads(measured.stdout)["metrics"].keys()
    again = run_cli("train", voc, "--out", out, "--resume", "--weak", "gap")
    assert again.code == 2
    assert "weak = gwap" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--detector", "rfcn", "--head", "gap"], "head is a classifier's."),
        (["--weak", "gwap"], "weak is a detector's: add --detector rfcn."),
        (["--detector", "rfcn", "--box-proportion", "0"], "box_proportion"),
        (["--detector", "rfcn", "--backbone", "vgg16", "--weights", "none", "--workers", "0"], "'vgg16'"),
        (["--detector", "rfcn", "--backbone", "resnet-s", "--offline"], "no ImageNet weights"),
    ],
)
def test_wrong_settings_are_one_line(
    voc: Path, tmp_path: Path, run_cli: RunCli, arguments: list[str], said: str
) -> None:
    result = run_cli("train", voc, *arguments, "--out", tmp_path / "run")
    assert result.code == 2
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")


def test_evaluation_judges_every_box_and_is_stored(voc: Path, run: Run) -> None:
    document = evaluate(str(run.folder), Options(device="cpu", workers=0))
    dataset = open_dataset(str(voc))
    reader = DetectorReader(load_detector(run.folder), device="cpu")
    meter = DetectionAP()  # image by image, without the verb
    for sample in dataset.boxed_samples("test"):
        found = reader.run([read_image(sample.path)])[0]
        meter.update(found.boxes, found.scores, found.labels, sample.boxes, sample.box_labels, sample.difficult)
    assert {key: document.metrics[key] for key in meter.compute()} == pytest.approx(meter.compute())
    assert document.n == len(dataset.samples("test"))
    assert document.options["box_subset"] == run.document["box_subset"]["hash"]
    assert (document.options["short_side"], document.seed) == (40, 0)
    assert {row["class"] for row in document.per_class} <= {item.name for item in dataset.classes}
    stored = Run.open(run.folder).evaluations()
    assert [item["metrics"] for item in stored] == [document.metrics]


@pytest.mark.parametrize("flag", [{"scales": (64,)}, {"box_rule": "otsu"}, {"calibrate": True}, {"map": "weight"}])
def test_what_reads_maps_is_refused(run: Run, flag: dict[str, Any]) -> None:
    reading, others = split_options(flag)
    with pytest.raises(UsageError, match="cannot be used on detector"):
        evaluate(str(run.folder), Options(reading=reading, device="cpu", **others))


def test_an_image_does_not_depend_on_those_beside_it(run: Run, paths: list[Path]) -> None:
    images = [read_image(path) for path in paths[:3]]
    images.insert(1, np.ascontiguousarray(images[0].transpose(1, 0, 2)))  # another shape
    reader = DetectorReader(load_detector(run.folder), device="cpu", batch_size=4)
    together = reader.run(images, maps=True)
    for image, found in zip(images, together, strict=True):
        alone = reader.run([image], maps=True)[0]
        assert (found.width, found.height) == (image.shape[1], image.shape[0])
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.weight_maps is not None
        np.testing.assert_allclose(found.weight_maps.sum(axis=(1, 2)), 1, atol=1e-4)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [found.width, found.height] * 2).all()
        assert (np.diff(found.scores) <= 0).all()
        for label in set(found.labels.tolist()):  # after NMS
            boxes = found.boxes[found.labels == label]
            assert (iou(boxes, boxes) - np.eye(len(boxes)) < 0.31).all()


def test_python_gives_one_class_per_box(run: Run, paths: list[Path]) -> None:
    model = gwapctl.load_model(run.folder, device="cpu")
    assert isinstance(model, DetectorModel)
    assert model.classes == tuple(item["name"] for item in run.document["dataset"]["classes"])
    everything, confident = (model.localize(paths[0], min_score=score)[0] for score in (0.0, 0.3))
    assert len(everything.boxes) == len(everything.classes) == len(everything.scores) > 1
    assert len(everything.maps) == len(set(everything.classes))
    assert everything.maps.dtype == np.float16
    assert everything.maps.shape[1:] == (everything.height, everything.width)
    assert (confident.scores >= 0.3).all()
    assert len(confident.boxes) == (everything.scores >= 0.3).sum()
    assert everything.plot().shape[2] == 3
    with pytest.raises(DataError):
        model.localize("nowhere.jpg")
    kept = model.localize(["nowhere.jpg", paths[0]], on_error="keep")
    assert [found.error is None for found in kept] == [False, True]
    with pytest.raises(UsageError, match="between 0 and 1"):
        model.localize(paths[0], min_score=2)


def test_localize_writes_boxes_maps_and_overlays(run: Run, voc: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "out"
    images = sorted((voc / "JPEGImages").iterdir())[:2]
    asked = ["localize", *images, "--model", run.folder, "--device", "cpu", "--workers", 0]
    result = run_cli(*asked, "--min-score", 0.02, "--out", out, "--format", "jsonl")
    assert result.code == 0, result.stderr
    found = list(read_predictions(out))
    assert [json.loads(line)["predictions"] for line in result.stdout.splitlines()] == [
        item.to_json()["predictions"] for item in found
    ]
    maps = MapFolder(out)
    assert (maps.info.reading.method, maps.info.class_agnostic, maps.info.reading.scales) == ("weight", False, (40,))
    for item in found:
        labels = [prediction.label for prediction in item.predictions]
        assert len(labels) > len(set(labels)) > 1  # several boxes of a class
        about = maps.info.images[item.id]
        assert about.labels == tuple(dict.fromkeys(labels))
        assert maps.load(item.id).shape == (len(about.labels), item.height, item.width)
        assert (out / "overlays" / f"{item.id}.jpg").is_file()
        assert cv2.imread(str(out / "masks" / f"{item.id}.png")).shape[:2] == (item.height, item.width)
    exported = run_cli("boxes", out, "--format", "coco", "--out", tmp_path / "boxes.json")
    assert exported.code == 0, exported.stderr
    annotations = json.loads((tmp_path / "boxes.json").read_text())["annotations"]
    assert len(annotations) == sum(len(item.predictions) for item in found)
    direct = run_cli("boxes", images[0].parent, "--model", run.folder, "--min-score", 0.02, "--format", "jsonl")
    assert direct.code == 0, direct.stderr
    again = {item["image"]: item["predictions"] for item in map(json.loads, direct.stdout.splitlines())}
    assert len(again[str(images[0])]) == len(found[0].predictions)
    resumed = run_cli(*asked, "--min-score", 0.02, "--out", out, "--resume")
    assert resumed.code == 0, resumed.stderr
    other = run_cli(*asked, "--out", out, "--resume")
    assert other.code == 2
    assert "was written with min_score 0.02" in " ".join(other.stderr.split())


def test_boxes_follow_edges_where_asked(voc: Path, run: Run, paths: list[Path], run_cli: RunCli) -> None:
    image = read_image(paths[0])
    reader = DetectorReader(load_detector(run.folder), device="cpu")
    plain, moved = reader.run([image])[0], reader.run([image], refine="grabcut")[0]
    np.testing.assert_array_equal(moved.scores, plain.scores)
    np.testing.assert_array_equal(moved.boxes[:2], move_to_edges(image, plain.boxes[:2]))
    np.testing.assert_array_equal(moved.boxes[20:], plain.boxes[20:])
    reader.info = reader.info.model_copy(update={"area_exponent": 0.2})  # boxes may be parts
    larger = reader.run([image], refine="grabcut")[0]
    np.testing.assert_array_equal(larger.boxes[:2], move_to_edges(image, plain.boxes[:2], 0.15))
    model = load_model(run.folder, device="cpu", precision="fp32")
    for stored in ("none", "grabcut"):
        model.reader.info = model.info.model_copy(update={"refine": stored})
        for way in (None, "none", "grabcut"):
            (found,) = model.localize(image, min_score=0.0, refine=way)
            expected = plain if (way or stored) == "none" else moved
            np.testing.assert_array_equal(found.boxes, expected.boxes, err_msg=f"{stored} {way}")
    with pytest.raises(UsageError, match="refinement"):
        model.localize(image, refine="crf")  # type: ignore[arg-type]
    for way, expected in (("none", plain), ("grabcut", moved)):
        truth = GroundTruth(open_dataset(str(voc)), "test", [BoxedSample(paths[0].stem, paths[0], ())])
        (judged,) = from_detector(model.predictor(refine=way), truth, name="a run", workers=0).items
        np.testing.assert_array_equal(judged.detections.boxes, expected.boxes)
    options = Options(device="cpu", workers=0, refine="grabcut", limit=2)
    assert evaluate(str(run.folder), options).options["refine"] == "grabcut"
    found = (
        "localize",
        paths[0],
        "--model",
        run.folder,
        "--device",
        "cpu",
        "--min-score",
        0,
        "--out",
        run.folder / "out",
    )
    assert run_cli(*found, "--refine", "grabcut").code == 0
    mixed = run_cli(*found, "--resume")
    assert (mixed.code, "was written with refine 'grabcut'" in " ".join(mixed.stderr.split())) == (2, True)
    said = run_cli("localize", paths[0], "--model", run.folder, "--device", "cpu", "--refine", "grabcut", "--dry-run")
    assert "boxes refined by grabcut" in " ".join(said.stderr.split())


def test_options_of_maps_are_refused(run: Run, paths: list[Path], run_cli: RunCli) -> None:
    refused = run_cli("localize", paths[0], "--model", run.folder, "--scales", "64", "--top-k", 2)
    assert refused.code == 2
    assert "--scales, --top-k cannot be used with a detector" in refused.stderr
    nothing = run_cli("localize", paths[0], "--model", run.folder, "--min-score", 1)
    assert nothing.code == 0, nothing.stderr
    assert "without any object; a lower --min-score shows what is less sure" in nothing.stderr
    assert DEFAULT_MIN_SCORE == MIN_SCORE
    cut = run_cli("boxes", paths[0], "--model", run.folder, "--threshold", "0.3", "--format", "csv")
    assert cut.code == 2
    assert "--box-rule cannot be used with a detector" in cut.stderr


def test_models_show_and_what_needs_a_classifier(run: Run, run_cli: RunCli) -> None:
    shown = run_cli("models", "show", run.folder, "--json")
    assert shown.code == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert (document["task"], document["kind"], document["weak"]) == ("detection", "rfcn", "gwap")
    assert document["layers"]
    with pytest.raises(ModelError, match="holds a detector"):
        load_classifier(run.folder)
    assert not isinstance(load_model(device="cpu"), DetectorModel)
