"""Options of the Python API: typed, checked before any work, named in messages as Python writes them; what is shown."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

import gwapctl
from gwapctl.errors import DataError, GwapctlError, UsageError, counted, flags_spoken, option
from gwapctl.evaluate import EvaluationResult, Predictions
from gwapctl.images.decode import read_image
from gwapctl.maps.reading import READING_OPTIONS, ReadingOptions
from gwapctl.networks.classifier import save_model
from gwapctl.predict.base import LocalizeOptions
from gwapctl.predict.classifier import Model
from gwapctl.predict.detector import DetectorModel
from gwapctl.predict.notebook import ROWS, as_html
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.runs import Run
from tests.factories import make_images, make_small_classifier, save_image

(PIXELS,) = make_images((60, 44))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_small_classifier(), "small", device="cpu", precision="fp32")


def test_all_that_the_package_offers_is_listed_and_there() -> None:
    names: dict[str, object] = {}
    exec("from gwapctl import *", names)
    assert {"GwapctlError", "DataError", "MapReading", "DetectorModel", "load_model"} < names.keys()
    assert set(gwapctl.__all__) <= names.keys() & {*dir(gwapctl)}
    assert names["UsageError"] is UsageError


def test_every_option_is_typed() -> None:
    assert ReadingOptions.__annotations__.keys() == READING_OPTIONS.keys()
    own = inspect.signature(Model.predictor).parameters.keys() - {"self", "options"}
    assert LocalizeOptions.__annotations__.keys() == own | READING_OPTIONS.keys()
    for method in (Model.localize, Model.stream):
        assert get_args(get_type_hints(method, localns=vars(gwapctl))["options"]) == (LocalizeOptions,)
    for taken in (Model.predictor, DetectorModel.predictor):
        assert all("Any" not in str(one.annotation) for one in inspect.signature(taken).parameters.values())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"scales": "224,448"}, r"scales=\(224, 448, 672\)"),
    ({"scales": [2.5]}, "not sizes in pixels"),
    ({"scales": [32], "crops": "ten"}, r"Drop scales=, flip= and resize='keep'"),
    ({"map": 3}, "map is 3"),
    ({"map": ["class"]}, "map is"),
    ({"map": "wieght"}, "Did you mean 'weight'"),
    ({"map": "gradcam", "layer": [None]}, "layer=3"),
    ({"map": "class", "layer": [3]}, "Drop layer=, or choose map='gradcam'"),
    ({"fuse": "max"}, r"fuse='max' needs several layers[.] Give them like layer=\(3, 4\)"),
    ({"backprop_seg": "mean", "map": "class"}, "backprop_seg= cuts .* Choose map='backprop'"),
    ({"close": "5%"}, "close=0.05"),
    ({"beta": "x"}, "beta=10"),
    ({"reading": 3}, "MapReading"),
    ({"box_rule": 3}, "box rule 3"),
    ({"refine": ["x"]}, "Choose one of: grabcut, none"),
    ({"top_k": "3"}, "top_k is '3'"),
    ({"top_k": 0}, "top_k is 0"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"min_score": 1.5}, "min_score is 1.5"),
    ({"min_score": "high"}, "min_score is 'high'"),
    ({"max_boxes": 0}, "max_boxes is 0"),
    ({"min_area": "5%"}, "min_area is '5%'"),
    ({"labels": ["cat"]}, "labels are the classes of each image by its path"),
    ({"labels": {"a.jpg": "cat"}}, "labels are the classes of each image by its path"),
    ({"workers": -1}, "workers is -1"),
    ({"on_error": "ignore"}, "keep, raise"),
    ({"scalse": [64]}, "Did you mean 'scales'"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_option_is_a_usage_error_that_speaks_python(model: Model, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        model.localize(PIXELS, **options)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    "images",
    [3, None, [3], b"a.jpg", PIXELS.astype(float), PIXELS[:, :, 0], PIXELS[:0], "a\0b.jpg", "x" * 5000, "no.jpg"],
)
def test_what_is_no_image_is_an_error_of_ours(model: Model, images: Any) -> None:
    with pytest.raises(GwapctlError):
        model.localize(images, workers=0)


@pytest.mark.parametrize("wrong", [{"device": None}, {"device": "cuda:99"}, {"spec": "x" * 5000}, {"spec": 3}])
def test_what_is_no_model_or_device_is_an_error_of_ours(wrong: dict[str, Any]) -> None:
    with pytest.raises(GwapctlError) as caught:
        gwapctl.load_model(**({"spec": "resnet-s-gwap-tiny-imagenet"} | wrong))
    assert "--" not in str(caught.value)


def test_the_command_line_speaks_flags(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    save_model(make_small_classifier(), tmp_path / "model")
    image = save_image(tmp_path / "a.png")
    done = run_cli("localize", image, "--model", tmp_path / "model", "--map", "class", "--layer", 3)
    assert done.code == 2
    assert "Drop --layer, or choose --map gradcam, layercam or dgl." in done.stderr
    assert option("box_rule") == "box_rule="  # and Python speaks Python again
    with flags_spoken():
        assert option("box_rule") == "--box-rule"


def test_one_value_stands_for_a_list_of_one(model: Model) -> None:
    reading = model.predictor(scales=48, map="gradcam", layer="1").localizer.reading  # type: ignore[arg-type]
    assert reading.scales == (48,)
    assert len(reading.layer) == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_an_image_of_pillow_is_what_its_file_is(model: Model, tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.fromarray(PIXELS).convert(mode).save(path)
    (of_file,) = model.localize(path, top_k=2)
    with Image.open(path) as image:
        (of_image,) = model.localize([image], top_k=2)
        assert of_image.plot().shape == of_file.plot().shape
    assert of_image.image == ""
    np.testing.assert_array_equal(of_image.boxes, of_file.boxes)
    np.testing.assert_array_equal(of_image.scores, of_file.scores)


def test_an_image_of_pillow_is_turned_upright(model: Model, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.jpg", 80, 60, orientation=6)
    with Image.open(path) as image:
        (found,) = model.localize(image)
    assert (found.width, found.height) == (60, 80) == read_image(path).shape[1::-1]


def test_a_bad_image_of_pillow_is_kept_or_raised(model: Model) -> None:
    bad = Image.new("F", (8, 6))
    with pytest.raises(DataError, match="floating-point"):
        model.localize(bad)
    kept, good = model.localize([bad, Image.fromarray(PIXELS)], on_error="keep")
    assert isinstance(kept.error, DataError)
    assert good.error is None


def test_a_line_says_what_there_is(model: Model) -> None:
    assert repr(model).startswith("Model('small': network resnet-s + gwap")
    (found,) = model.localize(PIXELS, top_k=2)
    assert re.fullmatch(r"Prediction\('', 60 x 44: \w+ 0\.\d\d, \w+ 0\.\d\d\)", repr(found))
    many = Prediction("a.jpg", 80, 60, predictions=tuple(ClassPrediction(f"c{n}", "", 0.1) for n in range(9)))
    assert repr(many) == "Prediction('a.jpg', 80 x 60: c0 0.10, c1 0.10, c2 0.10, 6 more)"
    assert repr(Prediction("a.jpg", 80, 60)) == "Prediction('a.jpg', 80 x 60: nothing)"
    assert repr(Prediction("a.jpg", 80, 60, none=True)) == "Prediction('a.jpg', 80 x 60: none of the classes)"
    assert repr(Prediction("a.jpg", 0, 0, error=DataError("gone"))) == "Prediction('a.jpg': gone)"


def test_a_notebook_shows_picture_and_table(model: Model, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a<b.png")
    (found,) = model.localize(path, top_k=2)
    shown = found._repr_html_()
    assert html.escape(str(path)) in shown
    assert shown.count("<tr>") == 3
    assert 'src="data:image/jpeg;base64,/9j/' in shown
    path.unlink()
    gone = found._repr_html_()
    assert "<img" not in gone
    assert gone.count("<tr>") == 3
    assert "resnet-s + gwap" in model._repr_html_()
    assert as_html("many", [("x",)] * (ROWS + 2)).endswith("and 2 more</p>")
    assert "&lt;b&gt;gone" in Prediction("a.jpg", 0, 0, error=DataError("<b>gone"))._repr_html_()


def test_a_result_is_short_in_a_line_and_a_table_in_a_notebook() -> None:
    metrics = {"gt_known_error": 40.0, "top1_error": 10.0, "top1_loc_error": 45.0, "mean_iou": 0.6, "max_box_acc": 62.0}
    floors = {"centred_box": {"gt_known_error": 50.0}}
    found = EvaluationResult(
        1200, 0, metrics, floors, [], notes=["<b> is left out"], model="a", dataset="d", split="val"
    )
    said = repr(found)
    assert said.startswith("EvaluationResult(a on d val, 1,200 images: ")
    assert "GT-known accuracy (%) 60.00" in said
    assert said.endswith(", 1 more)")
    shown = found._repr_html_()
    assert shown.count("<tr>") == 1 + len(metrics)
    assert "<td>60.00</td><td>50.00</td>" in shown
    assert "<p>&lt;b&gt; is left out</p>" in shown
    assert repr(Predictions(iter(()), "a")) == "Predictions(name='a', options={}, notes=[], detector=False)"
    assert repr(Run(Path("runs/a"), {"status": "finished"})) == "Run('runs/a': finished)"


def test_nouns_agree_with_their_number() -> None:
    assert [counted(number, "problem") for number in (0, 1, 2000)] == ["0 problems", "1 problem", "2,000 problems"]
