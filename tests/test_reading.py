"""``MapReading``: one value that says how maps are read, from Python or the command line to the stored model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwapctl.cli import options as cli_options
from gwapctl.errors import UsageError, flags_spoken
from gwapctl.evaluate.predictions import reading_options
from gwapctl.maps.forward import Network
from gwapctl.maps.localizer import Localizer
from gwapctl.maps.methods import minmax
from gwapctl.maps.reading import (
    READING_OPTIONS,
    MapReading,
    ResolvedReading,
    split_options,
    store_reading,
    stored_reading,
)
from gwapctl.maps.resolve import resolve_reading
from gwapctl.networks.classifier import ModelInfo
from gwapctl.networks.transforms import resize
from gwapctl.predict.classifier import Model
from gwapctl.predict.map_folder import MapFolder, MapsInfo, write_maps_info
from gwapctl.regions import parse_box_rule, resize_map
from tests.factories import make_classifier, make_images


def test_flags_name_what_is_asked_for() -> None:
    assert MapReading().flags == ()
    assert MapReading("dgl", close=0.0, backprop_seg="mean").flags == ("map=", "close=", "backprop_seg=")
    with flags_spoken():
        assert MapReading("dgl", close=0.0, backprop_seg="mean").flags == ("--map", "--close", "--backprop-seg")
        assert MapReading(scales=[224, 448], flip=True).flags == ("--scales", "--flip")


def test_every_field_is_an_option_of_the_command_line() -> None:
    assert set(cli_options.READING) == set(READING_OPTIONS)
    assert set(READING_OPTIONS.values()) == {field.name for field in fields(MapReading)}


def test_sequences_become_tuples() -> None:
    assert MapReading(scales=[64, 96], layer=[3, "a"]) == MapReading(scales=(64, 96), layer=(3, "a"))


def test_what_is_left_open_is_what_the_model_stores() -> None:
    model = make_classifier(map="dgl", layer=("layers.2", "layers.3"), fuse="max", scales=(64, 96), close=0.1)
    stored = ResolvedReading("dgl", (64, 96), ("layers.2", "layers.3"), "max", "warp", close=0.1)
    assert resolve_reading(MapReading(), model) == stored
    assert resolve_reading(stored_reading(model.info), model) == stored
    assert resolve_reading(stored, model) == stored
    assert resolve_reading(MapReading("class", close=0.0), model) == ResolvedReading("class", (64, 96))
    assert resolve_reading(MapReading("class", crops="ten"), model).scales == model.info.input_size[:1]


def test_a_stored_reading_comes_back() -> None:
    model = make_classifier()
    reading = ResolvedReading("dgl", (64, 80), ("layers.1", "layers.2"), "product", "keep", close=0.05, beta=3.0)
    info = store_reading(model.info, reading)
    assert ModelInfo.model_validate_json(info.model_dump_json()) == info
    model.info = info
    assert resolve_reading(MapReading(), model) == reading
    assert store_reading(info, replace(reading, layer=("layers.1",), fuse="mean")).fuse is None


def test_beta_reaches_the_map_and_the_model(tmp_path: Path) -> None:
    model, (image,) = make_classifier(), make_images((90, 70))
    maps = {
        beta: Localizer(model, MapReading("dgl", layer=["layers.2"], beta=beta)).run([image])[0].heatmap(0)
        for beta in (None, 10.0, 0.5, 1e6)
    }
    np.testing.assert_array_equal(maps[None], maps[10.0])
    assert min(np.abs(maps[10.0] - maps[beta]).max() for beta in (0.5, 1e6)) > 3e-3
    network = Network(model, device=torch.device("cpu"), gradient_at="layer", layers=["layers.2"])
    forward = network([resize(image, model.info.input_size)])
    classes = forward.probabilities.argmax(1)[:, None]
    (gradient,) = forward.gradients(torch.zeros_like(forward.probabilities).scatter_(1, classes, 1))
    unit = [one / one.norm() for one in (forward.gradient_tensors[0].detach(), gradient)]
    limit = minmax((gradient * sum(unit)).sum(1, keepdim=True))[0, 0].numpy()  # G2M's SGL-G1
    np.testing.assert_allclose(maps[1e6], resize_map(limit, (90, 70)), atol=2e-3)
    stored = model.info.model_copy(update={"map": "dgl", "beta": 2.5})
    assert [store_reading(stored, ResolvedReading("dgl", beta=beta)).beta for beta in (10.0, 4.0)] == [None, 4.0]
    model.info = stored
    assert resolve_reading(MapReading(), model).beta == 2.5
    assert resolve_reading(MapReading("dgl", beta=10), model).beta == 10
    assert resolve_reading(MapReading("class"), model).beta == 10
    write_maps_info(tmp_path, MapsInfo(resolve_reading(MapReading(), model)))
    assert MapFolder(tmp_path).info.reading.beta == 2.5
    assert reading_options(MapFolder(tmp_path).info.reading, None)["beta"] == 2.5
    assert reading_options(ResolvedReading("dgl"), None)["beta"] is None  # as documents of before say it


@pytest.mark.parametrize("beta", [-1.0, float("inf"), float("nan")])
def test_beta_is_a_number(beta: float) -> None:
    with pytest.raises(UsageError, match=r"is not a number from 0[.] Write it like beta=10"):
        MapReading("dgl", beta=beta)


def test_beta_is_of_dgl_alone() -> None:
    with pytest.raises(UsageError, match=r"beta= is not of map class[.] Drop it, or choose map='dgl'"):
        resolve_reading(MapReading("class", beta=5), make_classifier())


def test_options_are_divided() -> None:
    reading, others = split_options({"map": "class", "top_k": 2, "scales": [64]}, MapReading("dgl", flip=True))
    assert (reading, others) == (MapReading("class", (64,), flip=True), {"top_k": 2})


def test_python_takes_options_or_the_value() -> None:
    model, (image,) = Model(make_classifier(), "m", device="cpu"), make_images((70, 50))
    reading = MapReading("class", (64, 96), flip=True)
    (expected,) = model.localize(image, map="class", scales=(64, 96), flip=True, box_rule="otsu")
    (found,) = model.localize(image, reading=reading, box_rule=parse_box_rule("otsu"))
    np.testing.assert_array_equal(found.maps, expected.maps)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    changed = model.predictor(reading=reading, flip=False, map="weight").localizer.reading
    assert changed == ResolvedReading("weight", (64, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (64,)}, "unknown option 'scale'. Did you mean 'scales'"),
        ({"map_method": "class"}, "unknown option 'map_method'.*backprop_seg, batch_size.*on_error, reading"),
        ({"map": "clas"}, "unknown map method 'clas'. Did you mean 'class'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    model = Model(make_classifier(), "m", device="cpu")
    with pytest.raises(UsageError, match=message) as caught:
        model.localize(make_images((40, 30)), **options)
    assert "'images'" not in str(caught.value)


def test_maps_json_keeps_its_flat_fields(tmp_path: Path) -> None:
    reading = ResolvedReading("dgl", (64, 96), ("layers.2",), flip=True, close=0.1)
    info = MapsInfo(reading, "tiny", "minmax_mean", class_agnostic=False, box_rule="otsu")
    write_maps_info(tmp_path, info)
    document = json.loads((tmp_path / "maps.json").read_text())
    assert set(document) == {
        *("schema_version", "method", "model", "scales", "flip", "resize", "values", "class_agnostic", "box_rule"),
        *(
            "min_score",
            "layer",
            "fuse",
            "close",
            "crops",
            "backprop_seg",
            "beta",
            "images",
            "engine",
            "precision",
            "refine",
        ),
    }
    assert MapFolder(tmp_path).info == info


def test_other_peoples_maps_may_say_what_we_do_not_know(tmp_path: Path) -> None:
    (tmp_path / "maps.json").write_text('{"method": "score-cam", "resize": "letterbox", "close": 3, "reading": 1}')
    reading = MapFolder(tmp_path).info.reading
    assert reading == ResolvedReading("score-cam", resize="letterbox", close=3.0)
    with pytest.raises(UsageError, match="letterbox"):
        resolve_reading(reading, make_classifier())


def test_verbs_take_the_same_options(run_cli: Callable[..., Any]) -> None:
    for verb in ("localize", "evaluate", "boxes"):
        text = run_cli(verb, "--help").stdout
        assert [name for name in READING_OPTIONS if f"--{name.replace('_', '-')}" not in text] == []


def test_one_parser_of_box_rules() -> None:
    otsu = parse_box_rule("otsu")
    assert parse_box_rule() == parse_box_rule("paper20")
    assert parse_box_rule(otsu) is otsu
    assert parse_box_rule(threshold="0.3", refine="grabcut").name == "fixed:0.3+grabcut"
    assert parse_box_rule(default="otsu+grabcut", refine="none") == otsu
    assert parse_box_rule("fixed:0.2", default="otsu").name == "fixed:0.2"
    with pytest.raises(UsageError, match="threshold= and box_rule="):
        parse_box_rule("otsu", threshold="0.3")
    with pytest.raises(UsageError, match="unknown box rule ''"):
        parse_box_rule("")
