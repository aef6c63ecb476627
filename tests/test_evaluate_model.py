"""Evaluation of models and runs: the same numbers as from saved maps, calibration, what is stored, the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gwapctl.datasets import open_dataset
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate import EvaluationResult, GroundTruth, Options, evaluate, stored_rule
from gwapctl.inputs import find_inputs
from gwapctl.maps.reading import MapReading
from gwapctl.metrics.verdict import Interval
from gwapctl.networks.classifier import load_info, save_info, save_model
from gwapctl.predict.classifier import Model
from gwapctl.predict.cut import Cut
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.prediction import Prediction
from gwapctl.runs import Run
from tests.factories import FRUITS, make_manifest, make_run, make_small_classifier, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    return make_run(tmp_path / "run", data, make_small_classifier())


def numbers(result: EvaluationResult) -> dict[str, Any]:
    return {key: getattr(result, key) for key in ("n", "n_degenerate", "metrics", "floors", "per_class")}


@pytest.mark.parametrize(("head", "map_method"), [("gwap", "weight"), ("gwap", "fused"), ("gap", "class")])
def test_saved_maps_give_the_numbers_of_the_model(tmp_path: Path, data: Path, head: str, map_method: str) -> None:
    model = make_small_classifier(head, (*FRUITS[::-1], "a fourth one"))
    save_model(model, tmp_path / "model")
    scales = (32, 48)
    direct = evaluate(
        str(tmp_path / "model"),
        Options(reading=MapReading(method=map_method, scales=scales), dataset=str(data), box_rule="otsu", device="cpu"),
    )
    reader = Model(model, "model", device="cpu", precision="fp32")
    predictor = reader.predictor(scales=scales, map=map_method, box_rule="otsu", top_k=4)
    stream = localize_inputs(predictor, "model", find_inputs([str(data)]), out=tmp_path / "out", save=("map",))
    assert len(list(stream)) == 24
    stored = evaluate(str(tmp_path / "out"), Options(dataset=str(data), box_rule="otsu"))
    assert stored.n == 8
    assert numbers(direct).keys() == numbers(stored).keys()
    for name in ("top1_error", "top1_loc_error", "gt_known_error", "mean_iou", "max_box_acc", "f_measure"):
        assert stored.metrics[name] == pytest.approx(direct.metrics[name], abs=1e-9), name
    assert stored.floors == direct.floors
    assert direct.options["scales"] == stored.options["scales"] == [32, 48]
    assert direct.options["map"] == stored.options["map"] == map_method


def test_batch_and_workers_do_not_matter(run: Run) -> None:
    one = evaluate(str(run.folder), Options(device="cpu", batch_size=1, workers=0))
    many = evaluate(str(run.folder), Options(device="cpu", batch_size=5, workers=2))
    for name, value in one.metrics.items():
        assert many.metrics[name] == pytest.approx(value, abs=1e-6), name


def test_a_run_evaluates_on_its_own_data_and_keeps_the_result(run: Run) -> None:
    document = evaluate(str(run.folder), Options(device="cpu"))
    assert (document.dataset, document.split, document.n) == ("manifest", "val", 8)
    assert document.options == {
        "map": "weight", "box_rule": "paper20", "scales": [32], "resize": "warp", "precision": "fp32"
    }  # fmt: skip
    stored = Run.open(run.folder).evaluations()
    assert stored == [json.loads(json.dumps(document.to_json()))]
    assert stored[0]["run"] == "run"
    assert stored[0]["seed"] == 0
    part = evaluate(str(run.folder), Options(device="cpu", limit=3))
    assert part.n == 3
    run.update(status="interrupted")
    early = evaluate(str(run.folder), Options(device="cpu", box_rule="otsu"))
    assert early.notes == ["not stored in the run: its training is interrupted"]
    assert len(Run.open(run.folder).evaluations()) == 1


def test_evaluations_with_long_options_do_not_replace_each_other(run: Run) -> None:
    document = {"dataset": "d", "split": "val", "protocol": "paper", "metrics": {}}
    for close in (0.05, 0.1):
        run.save_evaluation({**document, "options": {"layer": [f"layer{i}.conv" for i in range(20)], "close": close}})
    assert sorted(one["options"]["close"] for one in run.evaluations()) == [0.05, 0.1]


def test_held_out_images_are_those_that_training_did_not_see(run: Run, data: Path) -> None:
    document = evaluate(str(run.folder), Options(device="cpu", split="held-out"))
    assert document.n == 4
    assert document.split == "held-out 0.25 of train, seed 0"
    manifest = data / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("1.png,apple,train", "1.png,banana,train"))
    with pytest.raises(DataError, match=r"is not what .* was trained on"):
        evaluate(str(run.folder), Options(device="cpu", split="held-out"))


@pytest.fixture
def convinced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every difference be beyond chance: a few images settle nothing."""
    monkeypatch.setattr(stored_rule, "with_interval", lambda value, *_: Interval(value, 0.1, 9.0))


CALIBRATE = {"device": "cpu", "calibrate": True, "force": True}


@pytest.mark.usefixtures("convinced")
def test_calibration_chooses_on_held_out_images_alone(run: Run, data: Path) -> None:
    options = Options(reading=MapReading(method="fused", scales=(32, 64)), **CALIBRATE)
    document = evaluate(str(run.folder), options)
    chosen = document.calibration
    info = load_info(run.folder)
    assert info.box_rule == chosen["box_rule"] == document.options["box_rule"]
    assert (info.map, info.scales) == ("fused", (32, 64))
    assert info.provenance["calibration"]["split"] == chosen["split"] == "held-out 0.25 of train, seed 0"
    assert (chosen["stored"], chosen["before"], chosen["n"]) == (True, "paper20", 4)
    assert chosen["transferred"] == pytest.approx(100 - document.metrics["gt_known_error"])
    assert chosen["transferred"] <= chosen["oracle"] == document.metrics["max_box_acc"]

    # the boxes of the reported split move; the threshold does not
    manifest = data / "manifest.csv"
    rows = manifest.read_text().splitlines()
    moved = [row.rsplit(",", 4)[0] + ",0,0,9,7" if ",val," in row else row for row in rows]
    manifest.write_text("\n".join(moved))
    again = evaluate(str(run.folder), options)
    assert again.calibration["box_rule"] == chosen["box_rule"]
    assert again.calibration["oracle"] != chosen["oracle"]


@pytest.mark.usefixtures("convinced")
def test_boxes_that_a_person_checked_calibrate(run: Run, tmp_path: Path) -> None:
    """Six of the eight reported images have been checked; where the data set's own boxes are counts for nothing."""
    rows = [f"{index}.png,0,0,{FRUITS[index // 3 % 3]},,1,0,0,40,36" for index in range(0, 18, 3)]
    file = write(tmp_path / "boxes.csv", "\n".join(["image,width,height,label,label_id,score,x0,y0,x1,y1", *rows]))
    document = evaluate(str(run.folder), Options(boxes=file, **CALIBRATE))
    assert (document.split, document.n) == ("val, boxes of boxes.csv", 6)
    assert (document.calibration["split"], document.calibration["n"]) == (document.split, 6)
    assert "the threshold was chosen on the very images that it is measured on" in document.notes


@pytest.mark.usefixtures("convinced")
def test_undo_puts_back_what_was_replaced_one_after_the_other(run: Run) -> None:
    first = load_info(run.folder)
    evaluate(str(run.folder), Options(**CALIBRATE))
    second = load_info(run.folder)
    evaluate(
        str(run.folder), Options(reading=MapReading(method="fused", scales=(32, 64)), refine="grabcut", **CALIBRATE)
    )
    assert load_info(run.folder).box_rule.endswith("+grabcut")
    undone = evaluate(str(run.folder), Options(device="cpu", undo=True))
    assert undone.options["box_rule"] == second.box_rule
    assert f"box rule {second.box_rule} is back" in undone.notes
    assert load_info(run.folder) == second
    evaluate(str(run.folder), Options(device="cpu", undo=True))
    assert load_info(run.folder) == first
    with pytest.raises(UsageError, match="keeps no earlier box rule"):
        evaluate(str(run.folder), Options(device="cpu", undo=True))


def test_few_images_change_nothing(run: Run, run_cli: Callable[..., Any]) -> None:
    before = (run.folder / "model.json").read_bytes()
    with pytest.raises(UsageError, match=r"has 4 images with boxes.*Draw boxes on 46 more, or insist with --force"):
        evaluate(str(run.folder), Options(device="cpu", calibrate=True))
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--calibrate", "--force")
    assert done.code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "box rule stays paper20: cross-validated on 4 images of held-out 0.25 of train, seed 0, fixed:0." in said
    assert "(95 % interval " in said
    assert (run.folder / "model.json").read_bytes() == before
    for options in ({"force": True}, {"undo": True, "calibrate": True}):
        with pytest.raises(UsageError):
            evaluate(str(run.folder), Options(device="cpu", **options))


def test_a_rule_is_replaced_where_another_is_better_beyond_chance(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps are hot in the object and warm around it, as half of the range: only thresholds above that find it."""
    dataset = open_dataset(str(data))
    (one, *_), box = dataset.boxed_samples("val"), np.array([[12.0, 9.0, 36.0, 27.0]])
    samples = [replace(one, id=f"{i}.png", boxes=box, box_labels=np.array(one.labels[:1])) for i in range(60)]
    noise = np.random.default_rng(0)

    def read(_: Any, truth: GroundTruth, cut: Cut | None, **__: Any) -> Iterator[Prediction]:
        for sample in truth.samples:
            heat = np.full((36, 48), 0.0)
            heat[2:34, 2:46] = 0.5 + 0.1 * noise.random()
            heat[9:27, 12:36] = 1
            maps, label = {sample.labels[0]: heat}, sample.labels[0]
            boxes = {} if cut is None else {label: np.array([region.box for region in cut.regions(heat, 48, 36)])}
            yield Prediction("", 48, 36, maps_by_class=maps, boxes_by_class=boxes)

    monkeypatch.setattr(stored_rule, "predictions_from_model", read)
    localizer = Model(make_small_classifier(), "m", device="cpu", precision="fp32").predictor().localizer
    truth = GroundTruth(dataset, "val", samples)
    chosen = stored_rule.calibrate(localizer, truth, run.folder)
    assert (chosen["accuracy"], chosen["accuracy_before"], chosen["interval"]) == (100, 0, [95, 105])
    assert 0.6 < float(chosen["box_rule"].removeprefix("fixed:")) < 1
    assert load_info(run.folder).box_rule == chosen["box_rule"]


@pytest.mark.usefixtures("convinced")
def test_calibration_chooses_the_threshold_and_keeps_the_refinement(run: Run) -> None:
    plain = evaluate(str(run.folder), Options(**CALIBRATE)).calibration
    asked = evaluate(str(run.folder), Options(**CALIBRATE, refine="grabcut"))
    refined = f"{plain['box_rule']}+grabcut"
    assert (asked.calibration["tried"], asked.calibration["before"]) == (refined, plain["box_rule"])
    assert load_info(run.folder).box_rule == asked.options["box_rule"] == refined
    kept = evaluate(str(run.folder), Options(**CALIBRATE))
    assert load_info(run.folder).box_rule == kept.options["box_rule"] == refined
    evaluate(str(run.folder), Options(**CALIBRATE, refine="none"))
    assert load_info(run.folder).box_rule == plain["box_rule"]


def test_calibration_needs_held_out_images(run: Run, tmp_path: Path) -> None:
    config = {**run.document["config"], "val_fraction": 0.0}
    run.update(config=config)
    with pytest.raises(UsageError, match=r"kept no image out .*--val-fraction"):
        evaluate(str(run.folder), Options(calibrate=True))
    save_model(make_small_classifier(), tmp_path / "model")
    for target, options in ((tmp_path / "model", {}), (run.folder, {"box_rule": "otsu"}), (run.folder, {"limit": 3})):
        with pytest.raises(UsageError, match="calibrate= chooses a run's own box rule"):
            evaluate(str(target), Options(calibrate=True, **options))


def test_model_of_other_classes(tmp_path: Path, data: Path, run: Run) -> None:
    for names, message in (
        (("dog", "cat"), "share no class"),
        (("apple", "cherry", "dog"), "does not know 1 of .*'banana'"),
    ):
        save_model(make_small_classifier(names=names), tmp_path / names[1])
        with pytest.raises(DataError, match=message):
            evaluate(str(tmp_path / names[1]), Options(dataset=str(data), device="cpu"))


def test_an_image_that_cannot_be_read_is_named(run: Run, data: Path) -> None:
    (data / "0.png").write_bytes((data / "0.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"0\.png"):
        evaluate(str(run.folder), Options(device="cpu"))
    assert Run.open(run.folder).evaluations() == []


def test_a_head_that_sees_boxes_gets_them_and_says_so(tmp_path: Path, data: Path, run_cli: Callable[..., Any]) -> None:
    """Inside boxes around everything it averages as GAP does; its map is the boxes themselves."""
    told, plain = make_small_classifier("gwap-gt"), make_small_classifier("gap")
    plain.load_state_dict(told.state_dict())
    save_model(told, tmp_path / "told")
    save_model(plain, tmp_path / "plain")
    options = Options(reading=MapReading(method="class"), dataset=str(data), device="cpu")
    inside = evaluate(str(tmp_path / "told"), options)
    weights = evaluate(str(tmp_path / "told"), Options(dataset=str(data), device="cpu", box_rule="fixed:0.5"))
    assert inside.notes[0] == weights.notes[0] == "head gwap-gt sees ground-truth boxes at test time"
    assert weights.options["map"] == "weight"
    assert weights.metrics["mean_iou"] > 0.6  # 4 x 4 cells; the boxes cover a quarter of the image
    manifest = data / "manifest.csv"
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([rows[0], *(row.rsplit(",", 4)[0] + ",0,0,64,56" for row in rows[1:])]))
    everywhere, alone = evaluate(str(tmp_path / "told"), options), evaluate(str(tmp_path / "plain"), options)
    assert everywhere.metrics == pytest.approx(alone.metrics)
    assert not any("sees" in note for note in alone.notes)

    done = run_cli("localize", data / "0.png", "--model", tmp_path / "told", "--device", "cpu")
    assert done.code == 2
    assert "pools inside ground-truth boxes" in done.stderr
    assert done.stdout == ""


def test_wsoleval_protocol_of_a_model(run: Run) -> None:
    document = evaluate(str(run.folder), Options(device="cpu", protocol="wsoleval"))
    assert set(document.floors) == {"full_image", "centred_box"}
    assert {"max_box_acc", "max_box_acc_v2", "max_box_acc_threshold"} <= set(document.metrics)
    assert "box_rule" not in document.options


# -------------------------------------------------------------------------------------------------------- the command


def test_command_prints_a_table_that_fits(run: Run, run_cli: Callable[..., Any]) -> None:
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--threshold", "0.4")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    header = lines[lines.index("one box per class") + 1]
    assert header.split() == ["metric", "value", "full", "image", "centred", "box"]
    assert lines[lines.index("classification") + 1].split() == ["metric", "value"]
    caption = next(line for line in lines if line.startswith("protocol"))
    assert max(len(line) for line in lines[1:-1] if line != caption) <= 80
    assert lines[-1].startswith("boxes: ")
    assert any(line.startswith("GT-known accuracy (%)") for line in lines)
    assert "box_rule fixed:0.4" in caption


def test_command_prints_json_and_writes_it(run: Run, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    out = tmp_path / "a" / "b.json"
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--json", "--out", out, "--limit", 2)
    document = json.loads(done.stdout)
    assert document == json.loads(out.read_text())
    assert list(document)[:9] == [
        "schema_version", "model", "dataset", "split", "protocol", "n", "n_degenerate", "metrics", "floors"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "code", "message"),
    [
        ("gt_known_error=100", 0, ""),
        ("gt_known_error=-1", 10, "above the allowed -1"),
        ("mean_iou=0.999", 10, "below the required 0.999"),
        ("mean_iou=0", 0, ""),
        ("accuracy=3", 2, "unknown metric 'accuracy'"),
        ("mean_iou", 2, "not METRIC=VALUE"),
    ],
)
def test_gates(run: Run, run_cli: Callable[..., Any], gate: str, code: int, message: str) -> None:
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--limit", 2, "--fail-under", gate)
    assert (done.code, message in done.stderr) == (code, True)


def test_command_refuses_two_rules(run: Run, run_cli: Callable[..., Any]) -> None:
    done = run_cli("evaluate", run.folder, "--threshold", "0.4", "--box-rule", "otsu")
    assert done.code == 2
    assert "one of --threshold and --box-rule" in done.stderr


@pytest.mark.usefixtures("convinced")
def test_command_says_what_calibration_chose(run: Run, run_cli: Callable[..., Any]) -> None:
    save_info(load_info(run.folder).model_copy(update={"box_rule": "otsu"}), run.folder)
    done = run_cli("evaluate", run.folder, "--device", "cpu", "--calibrate", "--force")
    assert done.code == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert (
        f"box rule {load_info(run.folder).box_rule} stored in place of otsu: cross-validated on 4 images of held"
        in said
    )
    assert "Put the old one back with --undo." in said


@pytest.mark.parametrize(
    ("settings", "reading"),
    [
        ({"freeze_backbone": True}, MapReading(method="weight")),
        ({"freeze_backbone": True}, MapReading(method="gradcam")),
        ({"freeze_backbone": True}, MapReading(method="class", scales=(32, 64, 96))),
        ({"trained_stages": 1}, MapReading(method="fused")),
        ({"trained_stages": 1}, MapReading(method="weight", scales=(48, 80))),
    ],
)
def test_cached_features_give_the_numbers_of_the_images(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], reading: MapReading
) -> None:
    run = make_run(tmp_path / "run", data, make_small_classifier("gwap"))
    run.update(config=run.document["config"] | settings)
    plain = evaluate(str(run.folder), Options(reading=reading, device="cpu"))
    cached = Options(reading=reading, device="cpu", feature_cache=tmp_path / "cache")
    first = evaluate(str(run.folder), cached)
    monkeypatch.setattr("gwapctl.images.decode._decode", None)  # no image is decoded any more
    second = evaluate(str(run.folder), cached)
    assert numbers(first) == numbers(second)
    assert first.options == plain.options | {"features": "cached"}
    assert first.metrics == pytest.approx(plain.metrics, rel=1e-2)
    assert plain.metrics["gt_known_error"] > 0


@pytest.mark.parametrize(
    ("settings", "reading", "asked"),
    [
        ({"freeze_backbone": True}, MapReading(scales=(32,), resize="keep"), {}),
        ({"freeze_backbone": True}, MapReading(flip=True), {}),
        ({"freeze_backbone": True}, MapReading(method="backprop"), {}),
        ({"freeze_backbone": True}, MapReading(), {"refine": "grabcut"}),
        ({}, MapReading(), {}),  # all of it learned
    ],
)
def test_what_features_do_not_tell_is_read_from_images(
    tmp_path: Path, data: Path, settings: dict[str, Any], reading: MapReading, asked: dict[str, Any]
) -> None:
    run = make_run(tmp_path / "run", data, make_small_classifier("gwap"))
    run.update(config=run.document["config"] | settings)
    found = evaluate(str(run.folder), Options(reading=reading, device="cpu", feature_cache=tmp_path / "cache", **asked))
    assert "features" not in found.options
    assert not (tmp_path / "cache").exists()


def test_a_cache_of_features_is_of_no_use_to_maps(tmp_path: Path, data: Path) -> None:
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "0.npy", np.zeros((4, 6), np.float16))
    with pytest.raises(UsageError, match="feature_cache= cannot be used on maps"):
        evaluate(str(tmp_path / "maps"), Options(dataset=str(data), feature_cache=tmp_path / "cache"))
