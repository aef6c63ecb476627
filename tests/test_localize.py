from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import gwapctl
from gwapctl.boxes import iou
from gwapctl.datasets.base import ClassName
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.inputs import ImageInput
from gwapctl.networks.backbones.base import Backbone
from gwapctl.networks.classifier import Classifier, ModelInfo, save_model
from gwapctl.networks.heads.averaging import GWAP
from gwapctl.predict.classifier import Model, scale_warning
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.map_folder import MapFolder
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.predictions import read_predictions
from gwapctl.regions import map_to_boxes, parse_box_rule
from tests.factories import make_classifier

STRIDE = 4


class Brightness(Backbone):
    """A backbone whose three channels are the mean red, green and blue of each 4 x 4 pixels."""

    channels, stride = 3, STRIDE

    def forward(self, images: Tensor) -> Tensor:
        return functional.avg_pool2d(images, STRIDE)


def bright_model() -> Model:
    """Return a model that looks where an image is bright and calls it by its colour."""
    names = tuple(ClassName(name, f"n{name[0]}") for name in ("red", "green", "blue"))
    info = ModelInfo(
        backbone="bright",
        head="gwap",
        classes=names,
        multi_label=False,
        input_size=(64, 64),
        train_sizes=(48, 64),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        box_rule="fixed:0.5",
    )
    head = GWAP(3, 3)
    with torch.no_grad():
        head.weight_score.weight.fill_(2.0)
        head.weight_score.bias.fill_(-3.0)
        head.classifier.weight.copy_(10 * torch.eye(3))
        head.classifier.bias.zero_()
    return Model(Classifier(info, Brightness(), head).eval(), "bright", device="cpu")


def square_image(width: int, height: int, box: tuple[int, int, int, int], colour: int = 1) -> np.ndarray:
    """Return a dark image with a bright rectangle; ``colour`` is its strongest channel."""
    image = np.full((height, width, 3), 10, np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 180
    image[y0:y1, x0:x1, colour] = 255
    return image


# ------------------------------------------------------------------------------------------------- where boxes are


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    width=st.integers(40, 300),
    height=st.integers(40, 300),
    place=st.tuples(*[st.floats(0.0, 1.0)] * 4),
    resize=st.sampled_from(["warp", "keep"]),
    flip=st.booleans(),
    scales=st.sampled_from([(64,), (96, 64)]),
)
@example(width=259, height=144, place=(0.9296875, 0.0, 0.375, 0.0), resize="keep", flip=False, scales=(64,))
def test_box_is_right_at_any_shape(
    width: int, height: int, place: tuple[float, ...], resize: str, flip: bool, scales: tuple[int, ...]
) -> None:
    wide, high = (int(side * (0.3 + 0.5 * share)) for side, share in zip((width, height), place[2:], strict=True))
    x0, y0 = int((width - wide) * place[0]), int((height - high) * place[1])
    image = square_image(width, height, (x0, y0, x0 + wide, y0 + high))
    (found,) = BRIGHT.localize(image, resize=resize, flip=flip, scales=scales, workers=0)
    side = min(width, height)
    cell_x, cell_y = (width / 16, height / 16) if resize == "warp" else (side / 16, side / 16)
    assert (found.width, found.height) == (width, height)
    assert found.classes == ("green",)
    error = np.abs(found.boxes[0] - [x0, y0, x0 + wide, y0 + high])
    assert (error <= [cell_x, cell_y, cell_x, cell_y]).all(), (error, cell_x, cell_y)


BRIGHT = bright_model()
TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_the_upright_image(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(square_image(160, 90, (100, 10, 150, 40)))
    stored = upright.transpose(TO_STORED[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (found,) = BRIGHT.localize(tmp_path / "a.jpg", workers=0)
    assert (found.width, found.height) == (160, 90)
    assert iou(found.boxes, [[100, 10, 150, 40]])[0, 0] > 0.8


def test_large_images_are_scaled_back_from_the_canvas() -> None:
    (found,) = BRIGHT.localize(square_image(1600, 800, (400, 200, 1200, 600)), workers=0)
    assert found.maps.shape == (1, 256, 512)
    assert iou(found.boxes, [[400, 200, 1200, 600]])[0, 0] > 0.85


# ----------------------------------------------------------------------------------------------------- Python API


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder of five images of several shapes, in subfolders, one of them broken."""
    folder = tmp_path / "photos"
    for name, size, colour in (("a.png", (90, 50), 0), ("b/a.png", (50, 90), 1), ("b/c.d.png", (64, 64), 2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square_image(*size, (10, 10, 40, 40), colour)).save(folder / name)
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    Image.fromarray(square_image(120, 70, (60, 20, 110, 60), 2)).save(folder / "z.png")
    return folder


def test_three_lines(tmp_path: Path) -> None:
    save_model(make_classifier(classes=("cat", "dog")), tmp_path / "model")
    Image.fromarray(square_image(90, 50, (10, 10, 40, 40))).save(tmp_path / "a.png")
    model = gwapctl.load_model(tmp_path / "model")
    (found,) = model.localize([tmp_path / "a.png"], scales=(64, 96), top_k=2)
    assert isinstance(found, gwapctl.Localization)
    assert sorted(found.classes) == ["cat", "dog"]
    assert sorted(found.class_ids) == ["cat", "dog"]
    assert found.scores.sum() == pytest.approx(1)
    assert found.boxes.shape == (2, 4)
    assert found.maps.shape == (2, 50, 90)
    assert found.maps.dtype == np.float16
    assert found.plot().shape == (267, 480, 3)
    assert found.image == str(tmp_path / "a.png")
    assert model.classes == ("cat", "dog")


def test_unknown_model_names_the_zoo() -> None:
    with pytest.raises(ModelError, match=r"no model .*Zoo:"):
        gwapctl.load_model("no-such-model")


def test_single_list_folder_and_array_agree(photos: Path) -> None:
    image = np.asarray(Image.open(photos / "a.png"))
    (one,) = BRIGHT.localize(str(photos / "a.png"))
    (array,) = BRIGHT.localize(image)
    listed = BRIGHT.localize([photos / "z.png", photos / "a.png"])
    folder = BRIGHT.localize(photos, on_error="keep")
    for other in (array, listed[1], folder[0]):
        assert other.boxes.tolist() == one.boxes.tolist()
        assert other.classes == one.classes == ("red",)
    assert [Path(item.image).name for item in folder] == ["a.png", "a.png", "broken.jpg", "c.d.png", "z.png"]
    assert array.image == ""
    assert array.plot().shape == one.plot().shape


def test_broken_image_raises_or_is_kept(photos: Path) -> None:
    with pytest.raises(DataError, match=r"broken\.jpg"):
        BRIGHT.localize(photos)
    kept = BRIGHT.localize(photos, on_error="keep")[2]
    assert isinstance(kept.error, DataError)
    assert (kept.width, kept.classes, kept.boxes.shape, kept.maps.shape[0]) == (0, (), (0, 4), 0)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        kept.plot()


def test_shared_map_gives_one_box_class_maps_their_own() -> None:
    image = square_image(120, 60, (5, 5, 50, 50), 0)
    image[10:50, 70:110] = (180, 180, 255)
    (shared,) = BRIGHT.localize(image, top_k=2)
    assert shared.shared
    assert shared.boxes[0].tolist() == shared.boxes[1].tolist()
    (own,) = BRIGHT.localize(image, top_k=3, map="class", box_rule="fixed:0.8")
    assert not own.shared
    assert own.boxes[own.classes.index("red")][2] < 60 < own.boxes[own.classes.index("blue")][0]
    assert own.maps.shape == (3, 60, 120)


def test_map_without_contrast_gives_no_box() -> None:
    (found,) = BRIGHT.localize(np.full((40, 60, 3), 90, np.uint8), workers=0)
    assert np.isnan(found.boxes).all()
    assert found.plot().shape == (320, 480, 3)


def test_wrong_arguments() -> None:
    for image in (np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8)):
        with pytest.raises(UsageError, match=r"uint8 array \(H, W, 3\)"):
            BRIGHT.localize(image)
    for options in ({"top_k": 0}, {"box_rule": "paper30"}, {"map": "cam"}):
        with pytest.raises(UsageError):
            BRIGHT.localize([], **options)
    assert BRIGHT.localize([]) == []


def test_scale_beyond_training_is_warned_about() -> None:
    assert scale_warning(BRIGHT.info, (64, 192)) is None
    with pytest.warns(UserWarning, match="scale 193 is more than three times"):
        BRIGHT.localize([], scales=(64, 193))


# --------------------------------------------------------------------------------------------------------- folders


def inputs_of(folder: Path) -> list[ImageInput]:
    files = sorted(path for path in folder.rglob("*.*") if path.is_file())
    return [ImageInput(path, path.relative_to(folder).as_posix()) for path in files]


def run(photos: Path, out: Path, count: int | None = None, **options: object) -> list[str]:
    made = {name: options.pop(name) for name in ("scales", "map", "flip", "top_k", "min_score") if name in options}
    stream = localize_inputs(BRIGHT.predictor(**made), "bright", inputs_of(photos)[:count], out=out, **options)
    return [image.id for image in stream]


def test_everything_is_written_where_the_inputs_were(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(photos, out, top_k=2) == ["a.png", "b/a.png", "b/broken.jpg", "b/c.d.png", "z.png"]
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    good = ["a.png", "b/a.png", "b/c.d.png", "z.png"]
    expected = {f"{kind}/{name}{suffix}" for name in good for kind, suffix in KINDS}
    assert files == expected | {"predictions.jsonl", "maps/maps.json"}
    info = MapFolder(out).info
    assert (info.reading.method, info.reading.scales, info.values, info.class_agnostic) == (
        "weight",
        (64,),
        "minmax",
        True,
    )
    assert info.box_rule == "fixed:0.5"
    assert list(info.images) == good
    assert info.images["b/a.png"].labels == ("green", "red")
    assert (info.images["b/a.png"].width, info.images["b/a.png"].height) == (50, 90)
    mask = cv2.imread(str(out / "masks" / "z.png.png"), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(mask)) == {0, 255}
    assert mask.shape == (70, 120)
    assert mask[40, 85] == 255
    assert mask[10, 10] == 0


KINDS = (("overlays", ".jpg"), ("maps", ".npy"), ("masks", ".png"))


@pytest.mark.parametrize("options", [{}, {"scales": (64, 96), "flip": True}, {"map": "class", "top_k": 3}])
def test_saved_maps_give_the_recorded_boxes(photos: Path, tmp_path: Path, options: dict[str, object]) -> None:
    run(photos, tmp_path / "out", save=("map",), **options)
    maps, rule = MapFolder(tmp_path / "out"), parse_box_rule("fixed:0.5")
    for image in read_predictions(tmp_path / "out"):
        for place, item in enumerate(image.predictions):
            channels = maps.channels(image.id)
            heatmap = channels[min(place, len(channels) - 1)]
            box = map_to_boxes(heatmap, rule)[0].box
            rows, columns = heatmap.shape
            scale = [image.width / columns, image.height / rows] * 2
            assert item.box == pytest.approx(box * scale)
            assert item.map == f"maps/{image.id}.npy"
            stored, raw = maps.load(image.id), maps.info.raw
            assert (stored.dtype, item.map_range is None) == (np.float16, not raw)
            if raw:
                assert (stored.min(), stored.max()) == (0, 1)
                assert item.map_range == pytest.approx((heatmap.min(), heatmap.max()))


def test_only_what_is_asked_for_is_saved(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", save=())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.jsonl"]


def test_output_is_not_overwritten_unasked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (out / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="overwrite=True"):
        run(photos, out)
    run(photos, out, count=1, save=("overlay",), overwrite=True)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["mine.txt", "overlays/a.png.jpg", "predictions.jsonl"]


def test_resume_continues_after_a_crash(photos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(photos, whole)
    run(photos, out, count=2)
    log = out / "predictions.jsonl"
    log.write_text(log.read_text() + '{"schema_version": 1, "image": "torn')
    (photos / "b" / "broken.jpg").unlink()
    assert run(photos, out, resume=True) == ["b/c.d.png", "z.png"]
    lines = [line for line in (whole / "predictions.jsonl").read_text().splitlines() if '"error": null' in line]
    assert log.read_text().splitlines() == lines
    assert MapFolder(out).info.images == MapFolder(whole).info.images


def test_failed_images_are_tried_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    Image.fromarray(square_image(80, 50, (10, 10, 40, 40))).save(photos / "b" / "broken.jpg")
    assert run(photos, out, resume=True) == ["b/broken.jpg"]
    assert all(image.error is None for image in read_predictions(out))


@pytest.mark.parametrize("options", [{"scales": (96,)}, {"map": "class"}, {"flip": True}, {"min_score": 0.3}])
def test_resume_with_other_settings_is_refused(photos: Path, tmp_path: Path, options: dict[str, object]) -> None:
    run(photos, tmp_path / "out", count=2)
    with pytest.raises(UsageError, match="was written with"):
        run(photos, tmp_path / "out", resume=True, **options)


def test_a_folder_of_a_version_that_kept_no_least_score_goes_on(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, count=2)
    about = json.loads((out / "maps" / "maps.json").read_text())
    assert about.pop("min_score") == 0
    (out / "maps" / "maps.json").write_text(json.dumps(about))
    assert run(photos, out, resume=True, min_score=0.3)[-1] == "z.png"


def test_stream_given_up_leaves_a_folder_to_resume(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stream = localize_inputs(BRIGHT.predictor(batch_size=1), "bright", inputs_of(photos), out=out, workers=1)
    next(stream)
    stream.close()
    assert [image.id for image in read_predictions(out)] == ["a.png"]
    assert list(MapFolder(out).info.images) == ["a.png"]
    assert run(photos, out, resume=True)[0] == "b/a.png"


def test_progress_counts_failures(photos: Path) -> None:
    seen: list[gwapctl.progress.Progress] = []
    list(localize_inputs(BRIGHT.predictor(), "bright", inputs_of(photos), progress=seen.append))
    assert [state.done for state in seen] == [1, 2, 3, 4, 5]
    assert {state.total for state in seen} == {5}
    assert seen[-1].text == "1 failed"


# ---------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def cli(run_cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run ``gwapctl localize`` with the bright model."""
    monkeypatch.setattr("gwapctl.predict.classifier.load_model", lambda *_, **__: BRIGHT)
    return lambda *arguments: run_cli("localize", *arguments)


def test_table(cli: Callable[..., object], photos: Path) -> None:
    (photos / "b" / "broken.jpg").unlink()
    done = cli(photos, "--top-k", 2)
    header, *rows = done.stdout.splitlines()
    assert done.code == 0
    assert header.split() == ["image", "class", "score", "x0", "y0", "x1", "y1", "doubt"]
    assert len(rows) == 8
    assert rows[0].split()[:2] == ["a.png", "red"]


def test_jsonl_and_json_say_the_same(cli: Callable[..., object], photos: Path) -> None:
    lines, whole = cli(photos, "--format", "jsonl"), cli(photos, "--format", "json", "-q")
    documents = [json.loads(line) for line in lines.stdout.splitlines()]
    assert lines.code == whole.code == 3
    assert json.loads(whole.stdout) == {"schema_version": 1, "images": documents}
    assert documents[2]["error"]["type"] == "DataError"
    assert documents[0]["predictions"][0]["label_id"] == "nr"
    assert "broken.jpg" in lines.stderr
    assert "1 of 5 images failed" in lines.stderr
    assert whole.stderr == ""


def test_out_and_resume(cli: Callable[..., object], photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "broken.jpg").unlink()
    out = tmp_path / "out"
    assert cli(photos, "--out", out, "--save", "map", "--limit", 2).code == 0
    assert cli(photos, "--out", out, "--save", "map").code == 2
    done = cli(photos, "--out", out, "--save", "map", "--resume")
    assert done.code == 0
    assert len(done.stdout.splitlines()) == 3
    assert "2 were done before" in done.stderr
    assert MapFolder(out).ids() == ["a.png", "b/a.png", "b/c.d.png", "z.png"]


def test_dry_run_touches_nothing(cli: Callable[..., object], photos: Path, tmp_path: Path) -> None:
    done = cli(photos, "--out", tmp_path / "out", "--dry-run", "--threshold", 0.25, "--scales", "64,300")
    assert done.code == 0
    assert done.stdout == ""
    assert "5 images, model bright, map weight, scales 64,300, box rule fixed:0.25" in done.stderr
    assert "scale 300 is more than three times" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "map"], "--out"),
        (["--resume"], "--out"),
        (["--save", "maps", "--out", "x"], "overlay, map, mask"),
        (["--box-rule", "otsu", "--threshold", "0.2"], "Give one of them"),
        (["--box-rule", "paper02"], "Did you mean 'paper20'"),
        (["--threshold", "20"], "from 0"),
        (["--scales", "big"], "224,448,672"),
        (["--map", "wight"], "Did you mean 'weight'"),
    ],
)
def test_wrong_options(cli: Callable[..., object], photos: Path, arguments: list[str], message: str) -> None:
    done = cli(photos, *arguments)
    assert done.code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_importing_localize_needs_no_torch() -> None:
    code = "import sys, gwapctl.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_may_be_any_module() -> None:
    """The public classes take plain arguments, so that a network of one's own can be used."""
    assert isinstance(BRIGHT.classifier, nn.Module)
    assert isinstance(BRIGHT.localize(square_image(50, 40, (5, 5, 25, 30)))[0], Prediction)
