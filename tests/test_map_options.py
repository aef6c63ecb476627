"""``--layer``, ``--fuse``, ``--close``, ``--crops`` and ``--backprop-seg`` in localize and evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwapctl.cli import parse
from gwapctl.errors import UsageError
from gwapctl.evaluate import Options, evaluate, stored_rule
from gwapctl.inputs import find_inputs
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.reading import MapReading, split_options
from gwapctl.metrics.verdict import Interval
from gwapctl.networks.classifier import load_info, save_model
from gwapctl.predict.classifier import Model
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.map_folder import MapFolder
from gwapctl.runs import Run
from tests.factories import make_classifier, make_images, make_manifest, make_run, make_small_classifier


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Run:
    return make_run(tmp_path / "run", data, make_small_classifier())


@pytest.mark.parametrize(
    "reading",
    [
        {"map": "dgl", "layer": ("3", "layers.4"), "fuse": "max", "close": 0.05, "scales": (32, 48)},
        {"map": "backprop", "backprop_seg": "mean"},
        {"map": "class", "crops": "ten"},
    ],
)
def test_stored_maps_say_how_they_were_made_and_measure_the_same(
    tmp_path: Path, data: Path, reading: dict[str, Any]
) -> None:
    save_model(make_small_classifier(), tmp_path / "model")
    rule = "cam-released" if "crops" in reading else "paper20"
    asked = Options(dataset=str(data), device="cpu", box_rule=rule, reading=split_options(reading)[0])
    direct = evaluate(str(tmp_path / "model"), asked)
    predictor = Model(make_small_classifier(), "m", device="cpu", precision="fp32").predictor(
        box_rule=rule, top_k=3, **reading
    )
    assert (
        len(list(localize_inputs(predictor, "m", find_inputs([str(data)]), out=tmp_path / "out", save=("map",)))) == 24
    )
    info = MapFolder(tmp_path / "out").info
    assert info.reading.layer == (("layers.2.conv2", "layers.4") if "layer" in reading else ())
    assert info.reading.close == reading.get("close", 0)
    assert (info.reading.crops, info.reading.backprop_seg) == (
        reading.get("crops", "none"),
        reading.get("backprop_seg", "none"),
    )
    assert info.values == ("minmax" if "crops" in reading else "minmax_mean")
    stored = evaluate(str(tmp_path / "out"), Options(dataset=str(data), box_rule=rule))
    assert stored.metrics["gt_known_error"] == direct.metrics["gt_known_error"]
    said = {"layer", "fuse", "close", "crops", "backprop_seg"}
    kept = [{key: value for key, value in item.options.items() if key in said} for item in (direct, stored)]
    assert kept[0] == kept[1]
    expected = {key: value for key, value in reading.items() if key in said}
    assert kept[0] == expected | ({"layer": ["layers.2.conv2", "layers.4"]} if "layer" in reading else {})


def test_calibration_stores_where_the_map_was_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_rule, "with_interval", lambda value, *_: Interval(value, 0.1, 9.0))
    layers = ("layers.2.conv2", "layers.4")
    asked = MapReading("dgl", layer=layers, fuse="product", close=0.1)
    document = evaluate(str(run.folder), Options(device="cpu", calibrate=True, force=True, reading=asked))
    info = load_info(run.folder)
    assert (info.map, info.layer, info.fuse, info.close) == ("dgl", layers, "product", 0.1)
    again = evaluate(str(run.folder), Options(device="cpu"))
    assert again.metrics == document.metrics
    assert again.options["layer"] == list(layers)
    for reading in (MapReading(crops="ten"), MapReading("backprop", backprop_seg="mean")):
        with pytest.raises(UsageError, match="does not store crops= and backprop_seg="):
            evaluate(str(run.folder), Options(calibrate=True, reading=reading))


def test_maps_on_disk_are_not_read_again(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    np.save(folder / "0.npy", np.zeros((4, 5)))
    given = {"layer": ("3",), "fuse": "max", "close": 0.1, "crops": "ten", "backprop_seg": "mean"}
    for name, value in given.items():
        with pytest.raises(UsageError, match=f"{name}= cannot be used on maps"):
            evaluate(str(folder), Options(dataset=str(data), reading=MapReading(**{name: value})))


def test_resuming_with_other_layers_is_refused(tmp_path: Path, data: Path) -> None:
    def localize(**reading: Any) -> int:
        predictor = Model(make_small_classifier(), "m", device="cpu").predictor(map="dgl", **reading)
        inputs = find_inputs([str(data)])[:3]
        return len(list(localize_inputs(predictor, "m", inputs, out=tmp_path / "out", save=("map",), resume=True)))

    assert localize(layer=[3]) == 3
    assert localize(layer=["layers.2.conv2"]) == 0  # the same layer
    for other in ({"layer": [4]}, {"layer": [3], "close": 0.1}, {"layer": [3, 4]}):
        with pytest.raises(UsageError, match="was written with"):
            localize(**other)


def test_commands(run: Run, data: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    reading = ("--map", "dgl", "--layer", "2,layers.3", "--fuse", "mean", "--scales", "32,48", "--close", "5%")
    done = run_cli("evaluate", run.folder, "--device", "cpu", *reading, "--json")
    assert done.code == 0, done.stderr
    options = json.loads(done.stdout)["options"]
    assert (options["layer"], options["close"]) == (["layers.2.conv1", "layers.3"], 0.05)
    done = run_cli("localize", data, "--model", run.folder, "--device", "cpu", *reading, "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "out/maps/maps.json").read_text())["layer"] == ["layers.2.conv1", "layers.3"]
    for wrong, message in (
        (("--map", "weight", "--layer", "3"), "map weight is not read at a layer"),
        (("--map", "dgl", "--layer", "77"), "no layer '77'"),
        (("--close", "5 percent"), "--close '5 percent' is not a share"),
        (("--layer", "3,,4"), "--layer '3,,4' names no layer"),
        (("--crops", "ten", "--scales", "32,48"), "Drop --scales"),
        (("--backprop-seg", "mean"), "Choose --map backprop"),
    ):
        for verb in ("localize", "evaluate"):
            target = (data, "--model", run.folder) if verb == "localize" else (run.folder,)
            done = run_cli(verb, *target, "--device", "cpu", *wrong)
            assert (done.code, message in " ".join(done.stderr.split())) == (2, True), (verb, wrong, done.stderr)


def test_layers_are_numbered_as_models_show_prints_them(run: Run, run_cli: Callable[..., Any]) -> None:
    lines = run_cli("models", "show", run.folder).stdout.splitlines()
    assert [line.split() for line in lines if line.strip().startswith("3 ")] == [["3", "layers.2.conv2"]]
    assert Localizer(make_classifier(), MapReading(method="dgl", layer=[3])).reading.layer == ("layers.2.conv2",)


def test_shares() -> None:
    assert [parse.parse_share(text, "--close") for text in (None, "5%", "0.05", "0")] == [None, 0.05, 0.05, 0]
    assert parse.parse_layers("3, a.b") == ("3", "a.b")
    for text in ("-1", "100%", "x", "nan"):
        with pytest.raises(UsageError, match="--close"):
            parse.parse_share(text, "--close")


# ----------------------------------------------------------------------------------------------- heads that see boxes


def test_weights_lie_inside_the_given_regions() -> None:
    model, images = make_classifier("gwap-gt"), make_images((128, 64), (60, 100))
    regions = [np.zeros(image.shape[:2], np.uint8) for image in images]
    regions[0][16:48, 64:128] = 1
    localizer = Localizer(model, MapReading(method="weight", scales=(64, 128)))
    results = localizer.run(images, regions=regions)
    heat = results[0].heatmap(0)
    assert heat[20:44, 72:120].min() > 0.9
    assert heat[:, :56].max() < 0.05
    assert not results[1].heatmaps.any()  # no box: all positions weigh the same
    with torch.no_grad():
        view = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(view, (64, 64), mode="area")
        region = torch.zeros(1, 1, 64, 64)
        region[..., 16:48, 32:] = 1
        expected = model.probabilities(model.head(model.feature_map(small), region).logits)[0].numpy()
    np.testing.assert_allclose(results[0].probabilities, expected, atol=0.02)
    whole = localizer.run(images, regions=[np.ones_like(region) for region in regions])
    assert np.abs(whole[0].probabilities - results[0].probabilities).max() > 1e-3


def test_flip_and_gradients_use_the_regions_too() -> None:
    model, (image,) = make_classifier("gwap-gt"), make_images((96, 64))
    region = np.zeros((64, 96), np.uint8)
    region[:, :40] = 1
    (plain,) = Localizer(model, MapReading(method="dgl", flip=True)).run([image], [(1,)], 0, [region])
    turned = [np.ascontiguousarray(array[:, ::-1]) for array in (image, region)]
    (mirrored,) = Localizer(model, MapReading(method="dgl", flip=True)).run(turned[:1], [(1,)], 0, turned[1:])
    np.testing.assert_allclose(mirrored.heatmaps[..., ::-1], plain.heatmaps, atol=3e-2)
    (ten,) = Localizer(model, MapReading(method="weight", crops="ten")).run([image], regions=[region])
    assert ten.heatmap(0)[:, :30].min() > ten.heatmap(0)[:, 50:].max()


def test_without_regions_such_a_head_cannot_work() -> None:
    localizer = Localizer(make_classifier("gwap-gt"))
    with pytest.raises(UsageError, match=r"pools inside ground-truth boxes \(head gwap-gt\)") as caught:
        localizer.run(make_images((40, 30)))
    assert "\n" not in str(caught.value)


def test_other_heads_do_not_look_at_regions() -> None:
    model, images = make_classifier(), make_images((40, 30), (30, 50))
    localizer = Localizer(model)
    plain = localizer.run(images)
    given = localizer.run(images, regions=[np.zeros(image.shape[:2], np.uint8) for image in images])
    for one, other in zip(plain, given, strict=True):
        np.testing.assert_array_equal(one.heatmaps, other.heatmaps)


def test_background_head_is_read_by_its_names() -> None:
    model, images = (
        make_classifier("background", head_options={"hidden": 8, "foreground_hidden": 6}),
        make_images((64, 48)),
    )
    assert Localizer(model).reading.method == "class"
    foreground, weight = (Localizer(model, MapReading(method=name)).run(images)[0] for name in ("foreground", "weight"))
    np.testing.assert_array_equal(foreground.heatmaps, weight.heatmaps)
    assert foreground.shared
    assert Localizer(model, MapReading(method="dgl")).run(images)[0].heatmaps.shape == (1, 48, 64)
