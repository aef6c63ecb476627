"""Training of a head that sees ground-truth boxes: the region goes with the image, and everything says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from gwapctl.datasets.base import BoxedSample, without_boxes
from gwapctl.errors import DataError
from gwapctl.networks.classifier import load_classifier, load_info
from gwapctl.networks.transforms import EvaluationImages, Key, TrainingImages, collate, split_region
from gwapctl.runs import Run
from gwapctl.train.classification import ClassificationTask
from gwapctl.train.data import load_train_data
from gwapctl.train.task import Resources
from tests.factories import assert_same_weights, start, stop_after, train_config

SMALL: dict[str, Any] = {
    "backbone": "resnet-s",
    "weights": "none",
    "head": "gwap-gt",
    "image_size": (40, 32),
    "batch_size": 6,
    "epochs": 2,
    "lr": 0.05,
    "min_crop": 0.6,
    "precision": "fp32",
}
config_for = partial(train_config, **SMALL)
BOXES = [[3.0, 5.0, 30.0, 20.0], [25.0, 12.0, 60.5, 40.25]]


@pytest.fixture
def drawn(tmp_path: Path) -> BoxedSample:
    """Make an image that shows its own region: white inside the boxes, black outside."""
    picture = np.zeros((47, 71, 3), np.uint8)
    picture[5:20, 3:30] = 255
    picture[12:40, 25:60] = 255  # the centre of column 60 lies at 60.5: outside; that of row 40 at 40.5, too
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    return BoxedSample(
        "a", tmp_path / "a.png", (0, 1), boxes=np.array(BOXES), box_labels=np.array([0, 1]), difficult=np.ones(2, bool)
    )


def test_the_region_is_cropped_resized_and_mirrored_with_the_image(drawn: BoxedSample) -> None:
    """The picture of a region and the region end up the same, however they are cut; difficult objects count."""
    images = TrainingImages([drawn], seed=5, flip=True, min_crop=0.3)
    batch, _ = collate([images[Key(0, epoch, (33, 52))] for epoch in range(12)])
    pictures, regions = split_region(batch)
    assert regions is not None
    assert pictures.shape == (12, 3, 52, 33)
    assert regions.shape == (12, 1, 52, 33)
    assert torch.equal(regions, pictures[:, :1].float() / 255)
    assert regions.flatten(1).unique(dim=0).shape[0] == 12  # each cut in its own way
    whole, region = split_region(collate([EvaluationImages([drawn], (33, 52))[0]])[0])
    assert region is not None
    assert torch.equal(region, whole[:, :1].float() / 255)


def test_a_sample_without_boxes_gives_the_same_image_and_no_region(drawn: BoxedSample) -> None:
    key = Key(0, 3, (33, 52))
    boxed, _ = TrainingImages([drawn], seed=5, flip=True, min_crop=0.3)[key]
    plain, _ = TrainingImages([without_boxes(drawn)], seed=5, flip=True, min_crop=0.3)[key]
    assert np.array_equal(plain, boxed[..., :3])
    batch, _ = collate([(plain, 0)])
    images, region = split_region(batch)
    assert images is batch
    assert region is None


def test_boxes_reach_the_head_and_the_run_says_so(voc: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    flags = {"--backbone": "resnet-s", "--weights": "none", "--head": "gwap-gt", "--image-size": "40x32"}
    flags |= {"--batch-size": "6", "--epochs": "1", "--workers": "0", "--out": str(tmp_path / "run")}
    result = run_cli("train", voc, *(part for pair in flags.items() for part in pair))
    assert result.code == 0, result.stderr
    assert "this head sees ground-truth boxes" in result.stderr
    run = Run.open(tmp_path / "run")
    assert run.document["sees_boxes"] is True
    assert load_info(run.folder).provenance["sees_boxes"] is True
    assert run.document["best"]["voc_map_area"] > 0

    config = config_for(voc)
    task = ClassificationTask(config, load_train_data(config, None), Resources(torch.device("cpu")))
    task.model.load_state_dict(load_classifier(run.folder).state_dict())
    scores = task.validate()
    for sample in task.data.val:
        assert isinstance(sample, BoxedSample)
        sample.boxes[:] = [0, 0, 8, 8]
    assert task.validate() != scores
    weak = start(config_for(voc, head="gap", epochs=1), tmp_path / "weak")
    assert weak.document["sees_boxes"] is False
    assert "sees_boxes" not in load_info(weak.folder).provenance


def test_a_resumed_run_that_sees_boxes_is_bit_identical(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc, keep="last", train_sizes=(32, 48))
    whole = start(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", progress=stop_after(4))
    parts = start(config, tmp_path / "parts", resume=True)
    assert_same_weights(whole.folder, parts.folder)


def test_data_without_boxes_is_refused_in_one_line(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(4):
            assert cv2.imwrite(str(tmp_path / "set" / label / f"{number}.png"), np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(DataError, match=r"head gwap-gt pools inside ground-truth boxes, and .* has none") as caught:
        load_train_data(config_for(tmp_path / "set", val_fraction=0.25), None)
    assert "\n" not in str(caught.value)
