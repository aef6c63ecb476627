"""Figures: what stands where, nothing cut off, the same bytes again, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from methods_picture import Method, main_class, method_layout

from gwapctl.boxes import Detections
from gwapctl.datasets.base import ClassName
from gwapctl.draw import COLOURS
from gwapctl.errors import DataError, UsageError
from gwapctl.networks.classifier import Classifier
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.paper.figures.inputs import FigureImage, FigureModel, find_images, find_models
from gwapctl.paper.figures.layout import (
    DPI,
    Caption,
    Layout,
    Outline,
    Panel,
    Row,
    draw_layout,
    save_layout,
    text_width,
    wrapped,
)
from gwapctl.paper.figures.papers import Wishes, build_figure
from gwapctl.predict.classifier import Model
from gwapctl.predict.detector import DetectorModel
from tests.factories import make_run, make_small_classifier

NAMES = ("apple", "a banana whose name is far too long for a narrow column", "ch$rry_$^{x}")


def make_data(folder: Path, images: int = 6) -> Path:
    """Write a manifest of wide and tall images with a box each; every second is val."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,label,split,x0,y0,x1,y1"]
    for index in range(images):
        width, height = (64, 40) if index % 4 < 2 else (30, 72)
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        rows.append(f"{index}.png,{NAMES[index % 3]},{'val' if index % 2 else 'train'},{index},4,{index + 9},20")
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def model(head: str, *, multi_label: bool = False) -> Classifier:
    return make_small_classifier(head, NAMES, multi_label=multi_label)


def figure_model(head: str, *, multi_label: bool = False) -> FigureModel:
    return FigureModel(Model(model(head, multi_label=multi_label), head, device="cpu"), head)


def figure_image(width: int = 50, height: int = 34) -> FigureImage:
    image = FigureImage(
        Path("unread.png"), (ClassName("apple", "n1"),), np.array([[2.0, 3.0, 20.0, 30.0]]), np.zeros(1, int)
    )
    image.__dict__["pixels"] = np.full((height, width, 3), 90, np.uint8)
    return image


def layout(columns: int, text: str = "", label: str = "") -> Layout:
    """Return a layout with everything on it that a cell can have, beside a tall image."""
    wide = Panel(
        np.full((30, 70, 3), 200, np.uint8),
        (70, 30),
        (Outline((0, 0, 70, 30)), Outline((5, 5, 90, 20), ground_truth=True), Outline((1, 1, 4, 4), COLOURS[1])),
        (Caption(text or "one"), Caption(text or "two", COLOURS[1])),
    )
    tall = Panel(np.full((90, 20, 3), 90, np.uint8), (20, 90))
    cells = (wide, None, *[tall] * (columns - 2))[:columns]
    return Layout(tuple(text or f"head {index}" for index in range(columns)), (Row(cells, label),) * 2)


# --- the sheet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dpi", [DPI, 130])
@pytest.mark.parametrize("columns", [1, 2, 5, 9])
@pytest.mark.parametrize("text", ["", NAMES[1], NAMES[2], "W" * 60, "runs/a-b_c/one-very-long-name-of-a-run"])
def test_no_text_is_cut_off_or_covers_another(columns: int, text: str, dpi: int) -> None:
    figure = draw_layout(layout(columns, text, label=text), dpi=dpi)
    figure.draw_without_rendering()
    whole = figure.bbox
    boxes = [one.get_window_extent() for one in figure.findobj(Text) if one.get_text() and one.get_visible()]
    assert len(boxes) >= columns + 2
    for index, box in enumerate(boxes):
        assert whole.x0 <= box.x0, text
        assert box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1
        for other in boxes[:index]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(across, down) <= 2.0  # descenders may touch
    pictures = [image.get_window_extent() for axes in figure.axes for image in axes.images]
    for box in boxes:
        for picture in pictures:
            across = min(box.x1, picture.x1) - max(box.x0, picture.x0)
            assert min(across, min(box.y1, picture.y1) - max(box.y0, picture.y0)) <= 1.5


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_pictures_keep_their_shape_and_stay_on_the_page(columns: int) -> None:
    figure = draw_layout(layout(columns), width=6)
    assert figure.get_size_inches()[0] <= 6 + 1e-6
    figure.draw_without_rendering()
    pictures = [image.get_window_extent() for axes in figure.axes for image in axes.images]
    expected = {round(70 / 30, 3)} | ({round(20 / 90, 3)} if columns > 2 else set())
    assert {round(picture.width / picture.height, 3) for picture in pictures} == expected
    sheet = figure.bbox
    for picture in pictures:
        assert sheet.x0 <= picture.x0 < picture.x1 <= sheet.x1 + 0.5
        assert sheet.y0 <= picture.y0 < picture.y1 <= sheet.y1
        wide = picture.width > picture.height
        assert picture.width / DPI == pytest.approx(min(1.7, 6 / columns - 0.06), rel=0.02) or not wide


def test_boxes_stay_on_their_picture() -> None:
    figure = draw_layout(layout(1))
    first = figure.axes[0]
    for patch in first.patches:
        assert patch.get_x() >= 0
        assert patch.get_x() + patch.get_width() <= 70
        assert patch.get_y() + patch.get_height() <= 30


@pytest.mark.parametrize("width", [0.3, 0.8, 2.0])
def test_wrapping_loses_nothing(width: float) -> None:
    for text in (*NAMES, "", "x", "a\nb c", "W" * 30):
        lines = wrapped(text, width, 7).split("\n")
        assert "".join(lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")
        assert all(text_width(line, 7) <= width + 1e-9 or len(line) == 1 for line in lines)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".jpg"])
def test_the_same_layout_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save_layout(layout(3, NAMES[2]), tmp_path / f"{name}{suffix}", dpi=60)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    if suffix in (".png", ".jpg"):
        inches = draw_layout(layout(3, NAMES[2]), dpi=60).get_size_inches()
        height, width = cv2.imread(str(tmp_path / f"a{suffix}")).shape[:2]
        assert (width, height) == pytest.approx(tuple(inches * 60), abs=1)


# --- what stands on it ----------------------------------------------------------------------------------------------


def test_figure_7_has_a_column_per_model_and_names_the_class_of_a_class_map() -> None:
    models = [figure_model("gap"), figure_model("gwap"), figure_model("gwap-class")]
    sheet = build_figure("7", models, [figure_image(), figure_image(20, 60)], Wishes())
    assert sheet.heads == ("input", "gap\nclass map", "gwap\nweight map", "gwap-class\nweight map")
    assert [len(row.panels) for row in sheet.rows] == [4, 4]
    image, of_gap, of_gwap, of_class = sheet.rows[0].panels
    assert image is not None
    assert [outline.ground_truth for outline in image.outlines] == [True]
    assert [caption.text for caption in image.captions] == ["apple"]
    assert of_gwap is not None
    assert of_gwap.captions == ()
    for panel in (of_gap, of_class):
        assert panel is not None
        assert panel.captions[0].text.rsplit(" ", 1)[0] in NAMES


def test_figure_8_shows_three_scales_their_mean_and_gap() -> None:
    said: list[str] = []
    models = [figure_model("gmp"), figure_model("gap"), figure_model("gwap")]
    sheet = build_figure("8", models, [figure_image()], Wishes(), said.append)
    assert sheet.heads == (
        "input",
        *(f"gwap weight map\n{side} px" for side in (32, 64, 96)),
        "gwap weight map\nmean of 3",
        "gap\nclass map",
    )
    assert "96 is no" not in "".join(said)
    own = build_figure("8", models, [figure_image()], Wishes(scales=(256,)), said.append)
    assert own.heads == ("input", "gwap weight map\n256 px", "gap\nclass map")
    assert any("scale 256" in text for text in said)


def test_the_mean_of_figure_8_is_between_its_scales() -> None:
    found = figure_model("gwap").model.localize(
        [figure_image().pixels], map="weight", scales=(32, 64, 96), batch_size=1
    )
    assert found[0].maps.shape[0] == 1
    panels = build_figure("8", [figure_model("gwap")], [figure_image()], Wishes()).rows[0].panels
    assert len(panels) == 6  # without another model the class map is its own


@pytest.mark.parametrize(("multi_label", "most"), [(True, 3), (False, 1)])
def test_figure_9_gives_every_class_a_colour_and_a_map(multi_label: bool, most: int) -> None:
    sheet = build_figure(
        "9", [figure_model("gwap-class", multi_label=multi_label)], [figure_image(), figure_image(20, 60)], Wishes()
    )
    assert sheet.heads[:2] == ("input", "gwap-class\nwhat is found")
    assert set(sheet.heads[2:]) == {"gwap-class\nweight map"}
    for row in sheet.rows:
        found = row.panels[1]
        assert found is not None
        maps = [panel for panel in row.panels[2:] if panel is not None]
        assert 1 <= len(maps) <= most
        captions = found.captions
        assert [panel.captions[0] for panel in maps] == list(captions)
        assert len({caption.colour for caption in captions}) == len(captions)
        assert {outline.colour for outline in found.outlines} <= {caption.colour for caption in captions}


def test_figure_9_shows_the_one_map_of_all_classes() -> None:
    """A map for every class is one column and one box: the one that ``localize`` gives."""
    shown, image = figure_model("gwap"), figure_image()
    sheet = build_figure("9", [shown], [image], Wishes())
    assert sheet.heads[2:] == ("gwap\nweight map",)
    (found,) = shown.classifier.localize(image.pixels)
    panel = sheet.rows[0].panels[1]
    assert panel is not None
    assert [list(outline.box) for outline in panel.outlines] == found.boxes.tolist()


@pytest.mark.parametrize("stored", ["class", "weight"])
def test_figure_9_draws_the_boxes_of_localize(stored: str) -> None:
    shown, image = figure_model("gwap-class"), figure_image()
    shown.classifier.classifier.info = shown.classifier.info.model_copy(
        update={"map": stored, "box_rule": "fixed:0.6", "scales": (32, 48)}
    )
    panel = build_figure("9", [shown], [image], Wishes()).rows[0].panels[1]
    (found,) = shown.classifier.localize(image.pixels)
    assert panel is not None
    assert [list(outline.box) for outline in panel.outlines] == found.boxes.tolist()


# --- which models and images ----------------------------------------------------------------------------------------


def test_the_newest_run_of_each_head(tmp_path: Path, data: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "z-old", data, model("gwap"), started="2026-01-01")
    make_run(runs / "a-new", data, model("gwap"), started="2026-01-02")
    make_run(runs / "gap", data, model("gap"))
    make_run(runs / "gt", data, model("gwap-gt"))  # needs boxes: not without being asked
    make_run(runs / "b", data, model("lse")).update(status="interrupted")
    found = find_models([], runs)
    assert [(one.name, Path(one.model.name).name) for one in found] == [("GAP", "gap"), ("GWAP", "a-new")]
    both = find_models([str(runs / "z-old"), str(runs / "a-new"), str(runs / "gap")], runs)
    assert [one.name for one in both] == ["GWAP\nz-old", "GWAP\na-new", "GAP"]
    with pytest.raises(DataError, match="no finished run"):
        find_models([], tmp_path / "data")


def test_images_come_from_the_split_that_is_reported(tmp_path: Path, data: Path) -> None:
    run = str(make_run(tmp_path / "run", data, model("gap")).folder)
    images = find_images([], run, count=2)
    assert [one.path.name for one in images] == ["1.png", "3.png"]
    assert images[0].names == NAMES[1]
    assert images[0].boxes.tolist() == [[1, 4, 10, 20]]
    assert main_class(images[0]) == images[0].classes[0]


def test_images_by_id_path_and_folder_keep_their_order(tmp_path: Path, data: Path) -> None:
    run = str(make_run(tmp_path / "run", data, model("gap")).folder)
    known = find_images([], run, count=9)
    stranger = tmp_path / "x.png"
    cv2.imwrite(str(stranger), np.zeros((20, 30, 3), np.uint8))
    identity = "5.png"
    images = find_images([str(stranger), str(data / "3.png"), identity], run)
    assert [one.path.name for one in images] == ["x.png", "3.png", "5.png"]
    assert images[0].names == ""
    assert images[1].names == known[1].names
    assert len(find_images([str(data)], run)) == 6
    with pytest.raises(UsageError, match="does not exist"):
        find_images(["nothing.png"], run)


def test_images_do_not_need_the_data_set(tmp_path: Path, data: Path) -> None:
    run = str(make_run(tmp_path / "run", data, model("gap")).folder)
    picture = tmp_path / "kept.png"
    (data / "1.png").rename(picture)
    (data / "manifest.csv").unlink()
    assert [one.boxes.shape for one in find_images([str(picture)], run)] == [(0, 4)]
    with pytest.raises(DataError):
        find_images([], run)


# --- the command ----------------------------------------------------------------------------------------------------


def test_command_draws_a_figure(tmp_path: Path, data: Path, run_cli: Callable[..., Any]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "figure.png"
    for head in ("gap", "gwap"):
        make_run(runs / head, data, model(head))
    done = run_cli(
        "report", "--figure", "8", "--runs", runs, "--limit", 1, "--scales", "32,48", "--dpi", 100, "--out", out
    )
    assert done.code == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert cv2.imread(str(out)).shape[1] > 500
    again = run_cli("report", "--figure", "7", "--runs", runs, "--out", out)
    assert again.code == 2
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--figure", "6"), "unknown figure '6'"),
        (("--figure", "7", "--out", "a.bmp"), "a.bmp is no figure"),
        (("--figure", "7", "--table", "i"), "a table"),
        (("--figure", "7", "--runs", "nowhere"), "no finished run"),
    ],
)
def test_command_refuses(arguments: tuple[str, ...], message: str, run_cli: Callable[..., Any]) -> None:
    done = run_cli("report", *arguments)
    assert done.code != 0
    assert message in done.stderr


def test_a_run_as_argument_is_the_first_model(tmp_path: Path, data: Path, run_cli: Callable[..., Any]) -> None:
    run, out = make_run(tmp_path / "run", data, model("gwap")).folder, tmp_path / "nine.svg"
    done = run_cli("report", run, "--figure", "9", "--limit", "1", "--out", out)
    assert done.code == 0, done.stderr
    assert "<svg" in out.read_text()[:400]


# --- detectors ------------------------------------------------------------------------------------------------------


class FakeReader:
    """Finds the same objects in every image, with a map per class."""

    batch_size, device = 2, torch.device("cpu")

    def __init__(self, weak: str) -> None:
        classes = tuple(ClassName(name, name) for name in NAMES)
        self.info = DetectorInfo(
            backbone="resnet-s",
            classes=classes,
            weak=weak,
            pooling="ps_roi_align",
            short_side=32,
            long_side=64,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
        )

    def run(self, images: list[Any], **_: Any) -> list[Detections]:
        maps = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32) if self.info.weak != "none" else None
        boxes = np.array([[2.0, 2, 20, 20], [5, 5, 25, 30], [1, 1, 9, 9], [3, 3, 12, 12], [0, 0, 7, 7]])
        labels, scores = np.array([2, 0, 2, 2, 2]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
        return [Detections(boxes, scores, labels, image.shape[1], image.shape[0], maps) for image in images]


def test_figure_9_shows_what_a_detector_found() -> None:
    detector = FigureModel(DetectorModel(FakeReader("gwap"), "d"), "R-FCN + GWAP")  # type: ignore[arg-type]
    sheet = build_figure("9", [detector], [figure_image(), figure_image(20, 60)], Wishes())
    assert sheet.heads == ("input", "R-FCN + GWAP\nwhat is found", *["R-FCN + GWAP\nweight map"] * 2)
    first = sheet.rows[0].panels[1]
    assert first is not None
    assert len(first.outlines) == 5
    assert [caption.text for caption in first.captions] == [f"{NAMES[2]} 90%, 70%, 60% and 1 more", f"{NAMES[0]} 80%"]
    assert [outline.colour for outline in first.outlines].count(COLOURS[0]) == 4
    plain = FigureModel(DetectorModel(FakeReader("none"), "d"), "R-FCN")  # type: ignore[arg-type]
    sheet = build_figure("9", [plain], [figure_image()], Wishes())
    assert len(sheet.heads) == 2
    assert not sheet.heat
    with pytest.raises(UsageError, match="is a detector"):
        build_figure("7", [plain], [figure_image()], Wishes())


# --- the picture of all methods -------------------------------------------------------------------------------------


def test_every_method_has_a_row_of_the_same_images() -> None:
    methods = [
        Method("GAP, class", figure_model("gap").classifier, "class", "otsu"),
        Method("GWAP, weight", figure_model("gwap").classifier, "weight", "fixed:0.5"),
        Method("GWAP-gt, class", figure_model("gwap-gt").classifier, "class", "otsu"),
    ]
    images = [figure_image(), figure_image(20, 60)]
    sheet = method_layout(methods, images)
    assert sheet.heads == ("apple", "apple")
    assert [row.label for row in sheet.rows] == ["input", "GAP, class", "GWAP, weight", "GWAP-gt, class"]
    assert [outline.ground_truth for panel in sheet.rows[0].panels if panel for outline in panel.outlines] == [
        True,
        True,
    ]
    for row in sheet.rows[1:]:
        for panel, image in zip(row.panels, images, strict=True):
            assert panel is not None
            assert panel.size == image.size
            assert len(panel.outlines) <= 1
    given = build_figure("7", [figure_model("gap")], images, Wishes(map="class")).rows[0].panels[1]
    assert given is not None
    own = sheet.rows[1].panels[0]
    assert own is not None
    predicted = given.captions[0].text.startswith("apple")
    assert np.array_equal(own.picture, given.picture) == predicted  # the class is given, not predicted


def test_methods_need_known_classes() -> None:
    method = Method("GAP", figure_model("gap").classifier, "class", "otsu")
    with pytest.raises(DataError, match="no known class"):
        method_layout([method], [FigureImage(Path("x.png"))])
    stranger = figure_image()
    foreign = FigureImage(stranger.path, (ClassName("zebra", "z"),), stranger.boxes, stranger.box_classes)
    foreign.__dict__["pixels"] = stranger.pixels
    with pytest.raises(DataError, match="does not know class 'zebra'"):
        method_layout([method], [foreign])
