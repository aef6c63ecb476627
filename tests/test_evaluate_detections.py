"""Detections judged: by one call, and from files of boxes; five guesses instead of the five best classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gwapctl.boxes import Detections, as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.errors import DataError, UsageError
from gwapctl.evaluate import GroundTruth, Options, evaluate, evaluate_predictions, from_detections
from gwapctl.evaluate.predictions import FiveGuesses
from gwapctl.maps.reading import ResolvedReading
from gwapctl.predict.map_folder import MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.prediction import ClassPrediction, Prediction
from gwapctl.regions import parse_box_rule
from tests.judging import evaluate_boxes, evaluate_maps

WIDTH, HEIGHT = 60, 40
NAMES = ("apple", "bell", "cello", "drum")
LEFT, RIGHT = (0.0, 0.0, 20.0, 30.0), (30.0, 5.0, 60.0, 40.0)


class Scenes(Dataset):
    """A data set in memory; its images need not exist because their sizes are known."""

    name = "scenes"

    def __init__(self, samples: Sequence[BoxedSample], multi_label: bool) -> None:
        self.root = Path()
        self.classes = tuple(ClassName(name, name) for name in NAMES)
        self.multi_label = multi_label
        self._samples = list(samples)

    def splits(self) -> tuple[str, ...]:
        return ("test",)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        return self._samples


def scene(name: str, *objects: tuple[int, Sequence[float], bool]) -> BoxedSample:
    """Return an image with objects (class, box, difficult)."""
    easy = {label for label, _, difficult in objects if not difficult}
    return BoxedSample(
        name,
        Path(name),
        tuple(sorted(easy)),
        tuple(sorted({label for label, _, _ in objects} - easy)),
        (WIDTH, HEIGHT),
        as_boxes([box for _, box, _ in objects]),
        np.array([label for label, _, _ in objects], np.int64),
        np.array([difficult for _, _, difficult in objects], np.bool_),
    )


def ground(samples: Sequence[BoxedSample], *, multi_label: bool = True) -> GroundTruth:
    return GroundTruth(Scenes(samples, multi_label), "test", samples)


def found(*rows: tuple[Sequence[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(as_boxes(boxes), np.array(scores, np.float64), np.array(labels, np.int64))


SCENES = (
    scene("a.png", (0, LEFT, False), (1, RIGHT, False)),
    scene("b.png", (0, RIGHT, True)),
    scene("c.png", (0, LEFT, False)),
)
FOUND = (
    found((LEFT, 0.9, 0), (LEFT, 0.8, 0), (LEFT, 0.7, 1), (LEFT, 0.95, -2)),  # right, again, wrong place, no such class
    found((RIGHT, 0.99, 0)),  # difficult: neither right nor wrong
    found(),
)


def test_detections_of_three_images_by_hand() -> None:
    document = evaluate_predictions(
        from_detections(FOUND, "detector", options={"scale": 600}, notes=["trained"]), ground(SCENES)
    )
    # apple: 1 of 2 found first, then a wrong one; bell: not found
    rows = {row["class"]: row for row in document.per_class}
    assert rows["apple"]["det_ap_11pt"] == pytest.approx(600 / 11)
    assert rows["apple"]["det_ap_area"] == pytest.approx(50)
    assert rows["apple"]["n"] == 2
    assert rows["bell"]["det_ap_area"] == 0
    assert set(rows) == {"apple", "bell"}
    metrics = document.metrics
    assert set(metrics) == {"det_map_11pt", "det_map_area", "coco_map"}
    assert metrics["det_map_11pt"] == pytest.approx(300 / 11)
    assert metrics["det_map_area"] == pytest.approx(25)
    assert metrics["coco_map"] == pytest.approx((100 * 51 / 101 + 0) / 2)  # COCO's 101 recalls; the box is exact
    assert (document.n, document.n_degenerate, document.floors) == (3, 1, {})
    assert (document.options, document.notes) == ({"scale": 600}, ["trained"])
    json.dumps(document.to_json(), allow_nan=False)


def test_every_image_needs_its_detections() -> None:
    with pytest.raises(ValueError, match="shorter"):
        evaluate_predictions(from_detections(FOUND[:2], "detector"), ground(SCENES))
    with pytest.raises(DataError, match="nothing can be measured"):
        evaluate_predictions(from_detections(FOUND[1:2], "detector"), ground(SCENES[1:2]))


def write_lines(path: Path, images: dict[str, Sequence[tuple[str, float, Sequence[float] | None]]]) -> Path:
    lines = [
        Prediction(
            name,
            WIDTH,
            HEIGHT,
            predictions=tuple(ClassPrediction(label, "", score, box and tuple(box)) for label, score, box in rows),
        ).to_json()
        for name, rows in images.items()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_file_of_boxes_is_one_of_detections_where_an_image_has_several(tmp_path: Path) -> None:
    several = [("apple", 0.9, LEFT), ("apple", 0.8, LEFT), ("bell", 0.7, LEFT), ("a foreign one", 0.95, LEFT)]
    file = write_lines(tmp_path / "boxes.jsonl", {"a.png": several, "b.png": [("apple", 0.99, RIGHT)]})
    document = evaluate_boxes(file, ground(SCENES))  # c is not in the file: nothing was found there
    called = evaluate_predictions(from_detections(FOUND, "detector"), ground(SCENES))
    assert called.metrics.items() <= document.metrics.items()
    assert document.metrics["cor_loc"] == 25  # apple in a but not in c, bell not
    apple = next(row for row in document.per_class if row["class"] == "apple")
    assert apple["det_ap_area"] == pytest.approx(50)

    one = write_lines(tmp_path / "one.jsonl", {"a.png": [("apple", 0.9, LEFT), ("bell", 0.7, None)]})
    assert not any(key.startswith("det_") for key in evaluate_boxes(one, ground(SCENES)).metrics)


def test_maps_with_recorded_boxes_are_not_detections(tmp_path: Path) -> None:
    for item in SCENES:
        write_map(tmp_path / "maps", item.id, np.eye(4, 6))
    write_lines(
        tmp_path / "predictions.jsonl", {item.id: [("apple", 0.9, LEFT), ("bell", 0.7, RIGHT)] for item in SCENES}
    )
    assert "det_map_11pt" not in evaluate_maps(tmp_path, ground(SCENES)).metrics


# ------------------------------------------------------------------------------------------------------- five guesses


def hill(box: Sequence[float], height: float) -> np.ndarray:
    """Return a map of full height in a box, and of ``height`` in the 10 pixels around it."""
    x0, y0, x1, y1 = map(int, box)
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    heat[max(0, y0 - 10) : y1 + 10, max(0, x0 - 10) : x1 + 10] = height
    heat[y0:y1, x0:x1] = 1
    return heat


CORE = (20.0, 15.0, 40.0, 25.0)  # with its hill 10, 5, 50, 35
WIDE = (10.0, 5.0, 50.0, 35.0)
FIVE = FiveGuesses(parse_box_rule("fixed:0.5"), parse_box_rule("fixed:0.2"))


def write_hills(folder: Path, names: Sequence[str], labels: Sequence[str]) -> None:
    maps = np.stack([hill(CORE, 0.4)] * len(labels))
    for name in names:
        write_map(folder / "maps", name, maps)
    about = {name: MapImage(WIDTH, HEIGHT, tuple(labels)) for name in names}
    write_maps_info(folder / "maps", MapsInfo(ResolvedReading(method="class"), class_agnostic=False), about.items())
    ranks = [(label, 0.9 - place / 10, None) for place, label in enumerate(NAMES)]
    write_lines(folder / "predictions.jsonl", dict.fromkeys(names, ranks))


@pytest.mark.parametrize(
    ("label", "box", "usual", "five"),
    [
        (0, CORE, 100, 0),  # paper20 gives the wide box alone
        (0, WIDE, 0, 0),
        (1, CORE, 100, 0),
        (2, CORE, 100, 100),  # rank 3 has no tight box
        (2, WIDE, 0, 0),
        (3, WIDE, 0, 100),  # rank 4 has none at all
    ],
)
def test_five_guesses_are_two_boxes_twice_and_one(
    tmp_path: Path, label: int, box: Sequence[float], usual: float, five: float
) -> None:
    samples = [scene("a.png", (label, box, False))]
    write_hills(tmp_path, ["a.png"], NAMES)
    judged = ground(samples, multi_label=False)
    plain = evaluate_maps(tmp_path, judged)
    guessed = evaluate_maps(tmp_path, judged, guesses=FIVE)
    assert plain.metrics["top5_loc_error"] == usual
    assert guessed.metrics["top5_loc_error"] == five
    same = {key: value for key, value in guessed.metrics.items() if key != "top5_loc_error"}
    assert same.items() <= plain.metrics.items()  # top-1 too: it is that of the box rule
    assert "guesses" not in plain.options
    assert {key: guessed.options[key] for key in ("guesses", "tight", "loose")} == {
        "guesses": "five", "tight": "fixed:0.5", "loose": "fixed:0.2"
    }  # fmt: skip
    assert any("thresholds of ours" in note for note in guessed.notes)


def test_floors_guess_three_classes(tmp_path: Path) -> None:
    whole = (0.0, 0.0, WIDTH, HEIGHT)
    for label, error in ((2, 0), (3, 100)):
        write_hills(tmp_path, ["a.png"], NAMES)
        judged = ground([scene("a.png", (label, whole, False))], multi_label=False)
        floor = evaluate_maps(tmp_path, judged, guesses=FIVE).floors["full_image"]
        assert floor["top5_loc_error"] == error
        assert evaluate_maps(tmp_path, judged).floors["full_image"]["top5_loc_error"] == 0


def test_a_missing_map_leaves_five_guesses_out(tmp_path: Path) -> None:
    write_hills(tmp_path, ["a.png"], NAMES[:2])  # none of the third best class
    document = evaluate_maps(tmp_path, ground([scene("a.png", (0, WIDE, False))], multi_label=False), guesses=FIVE)
    assert "top5_loc_error" not in document.metrics
    assert document.metrics["top1_loc_error"] == 0
    assert any("without maps of their three best classes" in note for note in document.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(guesses="six"), "unknown kind of guesses 'six'"),
        (Options(tight="0.3"), "tight= and loose= are the boxes of guesses="),
        (Options(guesses="five", protocol="wsoleval"), "guesses="),
        (Options(guesses="five", tight="1.5"), "1.5"),
    ],
)
def test_guesses_that_make_no_sense(tmp_path: Path, options: Options, message: str) -> None:
    write_hills(tmp_path, ["a.png"], NAMES)
    with pytest.raises(UsageError, match=message):
        evaluate(str(tmp_path), options)


def test_command_with_five_guesses(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    write_hills(tmp_path / "out", ["a.png"], NAMES)
    rows = ["image,label,split,x0,y0,x1,y1", "a.png,cello,test,10,5,50,35"]
    rows += [f"{name}.png,{name},train,,,," for name in NAMES]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows))
    command = ("evaluate", tmp_path / "out", "--dataset", tmp_path / "data", "--json")
    for name in ("a", *NAMES):
        cv2.imwrite(str(tmp_path / "data" / f"{name}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    done = run_cli(*command, "--guesses", "five", "--tight", "otsu", "--loose", "0.1")
    assert done.code == 0, done.stderr
    options = json.loads(done.stdout)["options"]
    assert (options["guesses"], options["tight"], options["loose"]) == ("five", "otsu", "fixed:0.1")
