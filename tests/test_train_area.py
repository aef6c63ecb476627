"""How much the size of a box counts: what it does to scores, which exponent labels choose, and where that is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from gwapctl.boxes import Detections, FloatArray, as_boxes
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, Sample
from gwapctl.draw import write_png
from gwapctl.networks.rfcn.base import DetectorInfo
from gwapctl.networks.rfcn.inference import DetectorReader, pad
from gwapctl.networks.rfcn.store import build_detector
from gwapctl.progress import Progress, ProgressCallback
from gwapctl.runs import Run
from gwapctl.train.area import EXPONENTS, MOST_IMAGES, choose_area_exponent
from gwapctl.train.loop import train_with
from gwapctl.train.pseudo import PseudoBoxes, pseudo_boxes
from gwapctl.train.task import Listener, Resources
from tests.factories import SMALL_DETECTOR, train_config

WIDTH, HEIGHT = 60, 40
config_for = partial(train_config, **SMALL_DETECTOR | {"iterations": 2}, boxes_from="somebody")
PART, WHOLE, ALL = (20, 10, 30, 20), (12, 5, 48, 35), (0, 0, WIDTH, HEIGHT)


def test_a_score_counts_the_share_of_the_image() -> None:
    info = DetectorInfo(backbone="resnet-s", classes=(ClassName("a", "a"), ClassName("b", "b")), short_side=40)
    torch.manual_seed(0)
    detector = build_detector(info).eval()
    images, sizes = pad([np.random.default_rng(1).integers(0, 255, (40, 56, 3), np.uint8)])
    with torch.no_grad():
        features = detector.features(images, sizes)
        plain = {tuple(b.tolist()): s for b, s in _rows(detector.detect(features, sizes)[0])}
        detector.info = info.model_copy(update={"area_exponent": 0.5})
        found = [(b, s) for b, s in _rows(detector.detect(features, sizes)[0]) if tuple(b.tolist()) in plain]
    assert len(found) > 5
    for box, score in found:
        share = float((box[2] - box[0]) * (box[3] - box[1]) / (40 * 56))
        assert float(score) == pytest.approx(float(plain[tuple(box.tolist())]) * share**0.5, rel=1e-5)


def _rows(found: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    own = found["labels"] == 0
    return list(zip(found["boxes"][own], found["scores"][own], strict=True))


class Reader:
    """A detector that scores a part a little higher than the whole, and looks at the size of crops alone."""

    def __init__(self, surest: tuple[int, int, int, int]) -> None:
        self.model = SimpleNamespace(info=DetectorInfo(backbone="resnet-s", classes=(ClassName("a", "a"),)))
        self.surest = (surest[3] - surest[1], surest[2] - surest[0])
        self.asked: list[tuple[int, int]] = []

    def find(self, index: int, score: float) -> Detections:
        """Return the part, the whole, and all of the image, at any index."""
        del index, score
        boxes = as_boxes([PART, WHOLE, ALL])
        shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (WIDTH * HEIGHT)
        scores = np.array([0.6, 0.5, 0.3]) * shares**self.model.info.area_exponent
        return Detections(boxes, scores, np.zeros(3, np.int64))

    def image_chances(self, images: list[Any]) -> FloatArray:
        """Be sure of crops of one size."""
        self.asked += [image.shape[:2] for image in images]
        return np.array([[0.9 if image.shape[:2] == self.surest else 0.4] for image in images])


def samples(folder: Path, count: int, labels: tuple[int, ...] = (0,)) -> dict[int, Sample]:
    write_png(folder / "image.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return {index: Sample(str(index), folder / "image.png", labels) for index in range(count)}


def choose(reader: Reader, shown: dict[int, Sample]) -> dict[float, float]:
    seen = cast(DetectorReader, reader)
    return dict(choose_area_exponent(seen, shown, reader.find, 0, lambda _: None))


@pytest.mark.parametrize(("surest", "expected"), [(PART, 0.0), (WHOLE, 0.1), (ALL, 0.8)])
def test_the_exponent_whose_boxes_are_named_most_surely(
    tmp_path: Path, surest: tuple[int, int, int, int], expected: float
) -> None:
    reader = Reader(surest)
    means = choose(reader, samples(tmp_path, 3))
    assert reader.model.info.area_exponent == expected
    assert [*means] == [*EXPONENTS]
    assert max(means.values()) == pytest.approx(np.log(9))
    assert min(means.values()) == pytest.approx(np.log(0.4 / 0.6))


def test_each_box_is_looked_at_once_and_not_all_images_are(tmp_path: Path) -> None:
    reader = Reader(WHOLE)
    choose(reader, samples(tmp_path, MOST_IMAGES + 7))
    assert len(reader.asked) == 3 * MOST_IMAGES


def test_images_of_nothing_choose_nothing(tmp_path: Path) -> None:
    reader = Reader(WHOLE)
    assert choose(reader, samples(tmp_path, 2, labels=())) == {}
    assert reader.model.info.area_exponent == 0
    assert not reader.asked


def found_boxes(dataset: Dataset, boxed: list[BoxedSample], progress: ProgressCallback) -> list[PseudoBoxes]:
    """One box in every second image."""
    del dataset, progress
    empty = pseudo_boxes([], [], [])
    return [pseudo_boxes([[8, 8, 40, 40]], [one.labels[0]], [1.0]) if i % 2 else empty for i, one in enumerate(boxed)]


def train_from(config: Any, out: Path, **options: Any) -> Run:
    resources = Resources(torch.device("cpu"), boxes=found_boxes)  # type: ignore[arg-type]
    resume = options.pop("resume", False)
    return train_with(resources, config, out, resume=resume, listener=Listener(**options))


def test_a_training_stores_what_labels_choose_and_an_interrupted_one_chooses_the_same(
    voc: Path, tmp_path: Path
) -> None:
    config = config_for(voc, weak="gwap", area_exponent=None)
    said: list[str] = []
    train_from(config, tmp_path / "whole", announce=said.append)
    info = DetectorInfo.model_validate_json((tmp_path / "whole" / "model.json").read_text())
    means = info.provenance["area_exponents"]
    assert [*means] == ["0", "0.1", "0.2", "0.4", "0.8"]
    assert info.area_exponent == float(max(means, key=means.get))
    assert f"a box's score counts its share of the image to the power {info.area_exponent:g}" in said

    def stop(done: Progress) -> None:
        if done.text.startswith("choosing") and done.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_from(config, tmp_path / "cut", check_progress=stop)
    assert Run.open(tmp_path / "cut").document["status"] == "interrupted"
    train_from(config, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / "model.json").read_text() == (tmp_path / "whole" / "model.json").read_text()


@pytest.mark.parametrize(("weak", "asked", "stored"), [("gwap", 0.3, 0.3), ("none", None, 0.0)])
def test_a_number_stays_and_without_a_weak_branch_nothing_is_chosen(
    voc: Path, tmp_path: Path, weak: str, asked: float | None, stored: float
) -> None:
    config = config_for(voc, weak=weak, area_exponent=asked)
    train_from(config, tmp_path / "run")
    info = DetectorInfo.model_validate_json((tmp_path / "run" / "model.json").read_text())
    assert info.area_exponent == stored
    assert "area_exponents" not in info.provenance
