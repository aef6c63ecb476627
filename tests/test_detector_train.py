"""Training a detector: who sees which boxes, exact resume, mixed batches, the same steps for every row of Table V."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gwapctl.config import DetectorConfig, TrainConfig, build_train_config, stored_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample
from gwapctl.draw import write_png
from gwapctl.errors import DataError, ModelError, UsageError
from gwapctl.images.decode import read_image
from gwapctl.networks.rfcn.store import load_detector
from gwapctl.networks.zoo import find_recipe
from gwapctl.runs import Run
from gwapctl.train.data import load_detector_data
from gwapctl.train.detection import DetectionTask
from gwapctl.train.detector_batches import Batch, DetectorImages, Key, MixedBatches, collate
from gwapctl.train.task import Resources
from tests.factories import (
    SMALL_DETECTOR,
    copy_with_other_boxes,
    differing,
    start,
    stop_after,
    train_config,
    weights_of,
)

SMALL: dict[str, Any] = {**SMALL_DETECTOR, "box_proportion": 0.2}
config_for = partial(train_config, **SMALL)


# ----------------------------------------------------------------------------------------------------------- settings


def test_a_detector_has_settings_of_its_own() -> None:
    config = build_train_config("voc07+12", None, {"detector": "rfcn", "weak": "gwap", "box_proportion": 0.05})
    assert isinstance(config, DetectorConfig)
    assert (config.backbone, config.short_side, config.long_side) == ("resnet50", 600, 1000)
    assert (config.batch_size, config.accumulate, config.iterations, config.step_every) == (1, 2, 110_000, 80_000)
    assert (config.lr, config.weak_weight, config.val_fraction, config.method) == (1e-3, 0.1, 0.0, "rfcn+gwap")
    assert stored_config(config.model_dump(mode="json")) == config
    assert isinstance(build_train_config("voc07+12", None, {}), TrainConfig)


def test_settings_of_the_other_kind_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"2 wrong settings: \w+ is a classifier's\. \w+ is a classifier's\."):
        build_train_config("voc", None, {"detector": "rfcn", "head": "gap", "epochs": 3})
    with pytest.raises(UsageError, match=r"weak is a detector's: add detector='rfcn'\."):
        build_train_config("voc", None, {"weak": "gwap"})
    with pytest.raises(UsageError, match="long_side"):
        build_train_config("voc", None, {"detector": "rfcn", "short_side": 500, "long_side": 400})


@pytest.mark.parametrize(
    ("name", "weak", "batch", "accumulate"),
    [
        ("voc-resnet50-rfcn", "none", 1, 2),
        ("voc-resnet50-rfcn-gap", "gap", 1, 2),
        ("voc-resnet50-rfcn-gwap", "gwap", 1, 2),
        ("voc-resnet50-rfcn-gwap-gap", "gwap+gap", 1, 2),
        ("voc-resnet50-rfcn-matlab", "none", 2, 1),
    ],
)
def test_the_recipes_of_table_v(name: str, weak: str, batch: int, accumulate: int) -> None:
    config = build_train_config("voc07+12", find_recipe(name), {"box_proportion": 0.01})
    assert isinstance(config, DetectorConfig)
    assert (config.weak, config.batch_size, config.accumulate) == (weak, batch, accumulate)
    default = build_train_config("voc07+12", None, {"detector": "rfcn", "weak": weak, "box_proportion": 0.01})
    same = default.model_dump() | {"recipe": name, "batch_size": batch, "accumulate": accumulate}
    assert config.model_dump() == same


# ------------------------------------------------------------------------------------------------------------ batches

WIDE = {index: index % 3 != 0 for index in range(23)}
BOXED, OTHERS = [0, 1, 2, 4, 7, 9, 12], [index for index in range(23) if index not in (0, 1, 2, 4, 7, 9, 12)]


def batches(others: list[int], start: int = 0, stop: int = 30, size: int = 2) -> list[list[Key]]:
    return list(MixedBatches(WIDE, BOXED, others, size, 5, start, stop))


def test_every_row_sees_the_same_boxed_images() -> None:
    plain, weak = batches([]), batches(OTHERS)
    assert plain == [keys[:2] for keys in weak]
    assert {key.image for keys in plain for key in keys} == set(BOXED)
    assert {key.image for keys in weak for key in keys[2:]} == set(OTHERS)
    assert all(len(keys) == 4 for keys in weak)


def test_a_batch_is_all_wide_or_all_high() -> None:
    assert all(len({WIDE[key.image] for key in keys}) == 1 for keys in batches(OTHERS, size=3))


def test_images_go_round_evenly() -> None:
    seen = Counter(key.image for keys in batches(OTHERS, stop=70) for key in keys)  # 20 rounds of 7 images
    assert all(18 <= seen[index] <= 22 for index in BOXED)
    for kind in (True, False):
        rounds = [seen[index] for index in OTHERS if WIDE[index] == kind]
        assert max(rounds) - min(rounds) <= 1


def test_steps_are_a_pure_function_of_the_seed() -> None:
    assert batches(OTHERS)[11:] == batches(OTHERS, start=11)
    other = list(MixedBatches(WIDE, BOXED, OTHERS, 2, 6, 0, 30))
    assert other != batches(OTHERS)


def test_without_others_of_its_kind_a_batch_takes_the_other_kind() -> None:
    only_wide = [index for index in OTHERS if WIDE[index]]
    drawn = {key.image for keys in batches(only_wide) for key in keys[2:]}
    assert drawn == set(only_wide)


@pytest.fixture
def bright(tmp_path: Path) -> BoxedSample:
    """A dark image of 60 x 44 with one bright object in its box."""
    image = np.zeros((44, 60, 3), np.uint8)
    image[8:20, 30:54] = 255
    write_png(tmp_path / "a.png", image)
    box = np.array([[30.0, 8.0, 54.0, 20.0]])
    return BoxedSample("a", tmp_path / "a.png", (1,), (), (60, 44), box, np.array([1]), np.array([False]))


def test_boxes_follow_their_image_when_it_is_resized_and_mirrored(bright: BoxedSample) -> None:
    images = DetectorImages([bright], {0: bright}, 0, True, 88, 96)  # the long side decides: factor 1.6
    found = set()
    for epoch in range(8):
        picture = images[Key(0, epoch)]
        assert picture.image.shape == (70, 96, 3)
        assert picture.target is not None
        rows, columns = np.where(picture.image[..., 0] > 127)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert picture.target.boxes[0].tolist() == pytest.approx(seen, abs=1)
        assert picture.target.labels.tolist() == [1]
        found.add(bool(seen[0] > 40))
    assert found == {True, False}  # mirrored, and not
    assert DetectorImages([bright], {}, 0, True, 88, 96)[Key(0, 0)].target is None


def test_padding_is_at_the_right_and_the_bottom(bright: BoxedSample) -> None:
    small = DetectorImages([bright], {}, 0, False, 22, 96)[Key(0, 0)]
    large = DetectorImages([bright], {0: bright}, 0, False, 44, 96)[Key(0, 0)]
    batch = collate([small, large])
    assert batch.images.shape == (2, 3, 44, 60)
    assert batch.sizes == [(22, 30), (44, 60)]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images[0, :, :22, :30], torch.from_numpy(small.image.copy()).permute(2, 0, 1))
    assert not batch.images[0, :, 22:].any()
    assert not batch.images[0, :, :, 30:].any()
    assert [target is None for target in batch.targets] == [True, False]


# ----------------------------------------------------------------------------------------------------------- training


def test_resumed_run_is_bit_identical(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc, weak="gwap+gap", iterations=5, accumulate=2, batch_size=1)
    whole = start(config, tmp_path / "whole", workers=2)  # threads change nothing, either
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "parts", progress=stop_after(3))
    assert Run.open(tmp_path / "parts").document["status"] == "interrupted"
    parts = start(config, tmp_path / "parts", resume=True)
    assert differing(whole.folder, parts.folder) == []
    assert parts.finished
    assert not (parts.folder / "state.pt").exists()
    last = [run.history()[-1] | {"images_per_second": 0} for run in (whole, parts)]
    assert last[0] == last[1]
    assert {"rpn_objectness", "rpn_box", "roi_class", "roi_box", "weak_image", "weak_region"} <= last[0].keys()


def test_boxes_outside_the_subset_never_reach_training(voc: Path, tmp_path: Path) -> None:
    """Random boxes in all other images: identical weights. In an image of the subset: others."""
    config = config_for(voc, weak="gwap")
    run = start(config, tmp_path / "run")
    subset = set((run.folder / "box_labelled.txt").read_text().split())
    assert 0 < len(subset) < run.document["dataset"]["n_train"]
    hidden = copy_with_other_boxes(voc, tmp_path / "hidden", but=lambda name: name in subset)
    before, after = (open_dataset(str(folder)).boxed_samples("train") for folder in (voc, hidden))
    changed = {a.id for a, b in zip(before, after, strict=True) if not np.array_equal(a.boxes, b.boxes)}
    assert changed == {sample.id for sample in before} - subset
    same = start(config_for(hidden, weak="gwap"), tmp_path / "same")
    assert differing(run.folder, same.folder) == []
    assert same.document["box_subset"] == run.document["box_subset"]
    shown = copy_with_other_boxes(voc, tmp_path / "shown", but=lambda name: name not in subset)
    other = start(config_for(shown, weak="gwap"), tmp_path / "other")
    assert differing(run.folder, other.folder)
    assert not any(hasattr(sample, "boxes") for sample in load_detector_data(config, None).train)


def test_lambda_0_is_the_plain_detector_step_for_step(voc: Path, tmp_path: Path) -> None:
    """All boxes shown, so that the batches are the same; the branch has weights of its own and changes no others."""
    plain = start(config_for(voc, box_proportion=1), tmp_path / "plain")
    weak = start(config_for(voc, box_proportion=1, weak="gwap", weak_weight=0.0), tmp_path / "weak")
    assert differing(plain.folder, weak.folder) == []
    losses = [[row["roi_class"] for row in run.history()] for run in (plain, weak)]
    assert losses[0] == losses[1]
    mixed = start(config_for(voc, box_proportion=1, weak="gwap", weak_weight=1.0), tmp_path / "mixed")
    assert differing(plain.folder, mixed.folder)


def test_rows_start_alike_and_see_the_same_images(voc: Path) -> None:
    rows = {}
    for weak in ("none", "gap", "gwap", "gwap+gap"):
        config = config_for(voc, weak=weak)
        rows[weak] = DetectionTask(config, load_detector_data(config, None), Resources(torch.device("cpu")))
    plain = rows["none"].model.state_dict()
    for task in rows.values():
        state = task.model.state_dict()
        assert all(torch.equal(plain[name], state[name]) for name in plain)
    assert rows["none"].images_per_step == 2
    assert rows["gwap"].images_per_step == 4

    def boxed(stream: Iterator[Batch]) -> list[list[int]]:
        return [batch.indices[:2].tolist() for batch in islice(stream, 4)]

    assert boxed(rows["none"].batches(0)) == boxed(rows["gwap"].batches(0))
    batch = next(rows["gwap"].batches(0))
    assert [target is None for target in batch.targets] == [False, False, True, True]
    assert set(rows["gwap"].labels_of(batch).unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_the_run_says_which_images_showed_their_boxes(voc: Path, tmp_path: Path) -> None:
    few, more = (config_for(voc, box_proportion=share, iterations=1) for share in (0.1, 0.3))
    run = start(few, tmp_path / "few")
    text = (run.folder / "box_labelled.txt").read_text()
    assert run.document["box_subset"] == {
        "hash": hashlib.sha256(text.encode()).hexdigest()[:16],
        "n": len(text.split()),
        "fraction": len(text.split()) / run.document["dataset"]["n_train"],
    }
    assert load_detector_data(more, None).listing.startswith(text)  # subsets nest
    assert load_detector(run.folder).info.provenance["box_subset"] == run.document["box_subset"]["hash"]
    assert {key: run.document["config"][key] for key in ("detector", "weak", "box_proportion", "backbone")} == {
        "detector": "rfcn",
        "weak": "none",
        "box_proportion": 0.1,
        "backbone": "resnet-s",
    }


def test_images_held_out_are_judged_and_not_trained_on(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc, iterations=2, val_fraction=0.5)
    run = start(config, tmp_path / "run")
    row = run.history()[-1]
    assert 0 <= row["val_det_map_area"] <= 100
    assert run.document["best"]["det_map_11pt"] == row["val_det_map_11pt"]
    data = load_detector_data(config, None)
    assert {sample.id for sample in data.val}.isdisjoint(sample.id for sample in data.train)
    assert load_detector_data(config_for(voc), None).val == []


def test_a_trunk_from_a_classifier(voc: Path, tmp_path: Path) -> None:
    classifier = train_config(voc, backbone="resnet-s", weights="none", image_size=(32, 32), epochs=1)
    start(classifier, tmp_path / "first")
    config = config_for(voc, weights=str(tmp_path / "first"), iterations=1)
    run = start(config, tmp_path / "second")
    before, after = weights_of(tmp_path / "first"), weights_of(run.folder)
    pairs = {f"trunk.{name.removeprefix('backbone.')}": t for name, t in before.items() if name.startswith("backbone.")}
    fixed = [name for name, tensor in pairs.items() if torch.equal(after[name], tensor)]
    assert "trunk.layers.0.0.weight" in fixed  # the first stages and every batch norm stay
    assert len(fixed) < len(pairs)
    assert run.finished
    with pytest.raises(ModelError, match="fit"):
        start(config_for(voc, weights=str(tmp_path / "first"), backbone="resnet18"), tmp_path / "third")


def test_resuming_with_other_boxed_images_is_refused(voc: Path, tmp_path: Path) -> None:
    config = config_for(voc)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", progress=stop_after(1))
    run = Run.open(tmp_path / "run")
    run.update(box_subset={**run.document["box_subset"], "hash": "0" * 16})
    with pytest.raises(DataError, match="not those"):
        start(config, tmp_path / "run", resume=True)


def test_a_small_set_is_read_once(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = open_dataset(str(voc)).samples("train")
    images = DetectorImages(samples, {}, 0, True, 40, 56)
    first = images[Key(2, 0)].image.copy()
    monkeypatch.setattr("gwapctl.train.detector_batches.read_image", lambda path: pytest.fail("read again"))
    assert np.array_equal(images[Key(2, 0)].image, first)
    monkeypatch.setattr("gwapctl.train.detector_batches.read_image", read_image)
    monkeypatch.setattr("gwapctl.train.detector_batches.KEPT_BYTES", 0)
    assert np.array_equal(DetectorImages(samples, {}, 0, True, 40, 56)[Key(2, 0)].image, first)
