"""Kept images: a training sees the same pixels with and without them, and they tell of the files they were made of.

JPEGs larger than twice what is asked for are decoded at a reduced size; all others as ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_images
from PIL import Image

from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample, Sample
from gwapctl.errors import DataError
from gwapctl.images.decode import read_image, read_reduced
from gwapctl.networks.transforms import TrainingBatches, TrainingImages, largest_asked_for, load_batches, resize
from gwapctl.train import kept_images
from gwapctl.train.kept_images import InMemory, OnDisk, Reader, keep_images
from gwapctl.train.loop import train
from gwapctl.train.task import Listener

SIZES = ((180, 130), (61, 240), (40, 30), (300, 301), (97, 64))
ASKED = ((48, 40), (32, 32))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found: list[Sample] = []
    for index, image in enumerate(make_images(*SIZES)):
        path = tmp_path / f"{index}.jpg"
        Image.fromarray(image).save(path, quality=95)
        found.append(Sample(path.name, path, (index % 2,)))
    return found


def reader_of(samples: list[Sample]) -> Reader:
    return Reader(samples, largest_asked_for(ASKED, 0.5, 4 / 3))


def batches(source: Callable[[Sample], np.ndarray], samples: list[Sample]) -> list[torch.Tensor]:
    images = TrainingImages(samples, 3, True, 0.5, 4 / 3, source)
    sampler = TrainingBatches(len(samples), 2, ASKED, seed=3, start=0, stop=7)
    return [images for images, _ in load_batches(images, sampler, 2)]


def fill(kept: OnDisk) -> OnDisk:
    kept.fill(1, lambda: False, Listener())
    return kept


def test_batches_are_identical_kept_or_not(samples: list[Sample], tmp_path: Path) -> None:
    reader = reader_of(samples)
    plain = batches(reader, samples)
    disk = fill(OnDisk(reader, tmp_path / "cache"))
    for kept in (InMemory(reader), disk, OnDisk(reader, tmp_path / "cache")):
        if isinstance(kept, OnDisk):
            assert not kept.missing()
        for _ in range(2):
            assert all(torch.equal(one, other) for one, other in zip(batches(kept, samples), plain, strict=True))
    assert len({batch.shape for batch in plain}) == 2


def test_the_smallest_crop_still_has_the_pixels_of_the_largest_size(samples: list[Sample]) -> None:
    assert largest_asked_for([(64, 64), (96, 48)], 0.25) == (192, 128)
    reader = reader_of(samples)
    width, height = reader.size
    assert (width, height) == (79, 66)
    assert [reader(sample).shape[1::-1] for sample in samples] == [
        (min(wide, width), min(high, height)) for wide, high in SIZES
    ]
    bound = reader.most_bytes
    assert bound == len(samples) * 3 * width * height
    assert sum(reader(sample).nbytes for sample in samples) < bound


def test_regions_are_kept_with_their_images_and_renewed_with_their_boxes(tmp_path: Path, samples: list[Sample]) -> None:
    def boxed(x1: float) -> list[Sample]:
        box = np.array([[10.0, 5.0, x1, 25.0]])
        return [BoxedSample(one.id, one.path, one.labels, boxes=box) for one in samples]

    first, second = reader_of(boxed(30)), reader_of(boxed(20))
    kept = fill(OnDisk(first, tmp_path / "cache"))
    assert all(np.array_equal(kept(sample), first(sample)) for sample in first.samples)
    assert kept(first.samples[0]).shape[2] == 4
    assert 0 < (kept(first.samples[0])[..., 3] > 0).mean() < 0.1
    renewed = OnDisk(second, tmp_path / "cache")
    assert renewed.missing() == [0]
    assert np.array_equal(fill(renewed)(second.samples[0]), second(second.samples[0]))


def test_a_shard_of_changed_or_torn_files_is_written_anew(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_images, "SHARD_IMAGES", 2)
    reader = reader_of(samples)
    kept = fill(OnDisk(reader, tmp_path / "cache"))
    shards = sorted(kept.folder.glob("*.images"))
    assert len(shards) == 3
    os.utime(samples[2].path, ns=(1, 1))
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    left = kept.folder / ".00001-abc.images"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    again = OnDisk(reader, tmp_path / "cache")
    assert again.missing() == [1, 2]
    written = shards[0].stat().st_mtime_ns
    fill(again)
    assert shards[0].stat().st_mtime_ns == written
    assert not left.exists()
    assert all(np.array_equal(again(sample), reader(sample)) for sample in samples)


def test_where_images_are_kept_follows_from_what_is_free(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = reader_of(samples), Reader(samples[:2], (33, 20), exact=True)
    heard: list[str] = []
    listener = Listener(announce=heard.append, detail=heard.append)
    needed = sum(reader.most_bytes for reader in readers)

    def keep() -> list[str]:
        return [type(one).__name__ for one in keep_images(readers, tmp_path / "cache", 0, lambda: False, listener)]

    assert keep() == ["InMemory", "InMemory"]
    monkeypatch.setattr(kept_images, "free_memory", lambda: 4 * needed - 4)
    monkeypatch.setattr(kept_images, "free_bytes", lambda folder: 4 * needed - 4)
    assert keep() == ["Reader", "Reader"]
    monkeypatch.setattr(kept_images, "free_bytes", lambda folder: 4 * needed)
    assert keep() == ["OnDisk", "OnDisk"]
    monkeypatch.setattr(kept_images, "free_bytes", lambda folder: 0)
    assert keep() == ["OnDisk", "OnDisk"]  # they are there
    assert [line.split()[0] for line in heard] == ["decoded", "images", "keeping", "reading"]


def test_images_that_validate_are_decoded_whole(tmp_path: Path, samples: list[Sample]) -> None:
    reader = Reader(samples, (33, 20), exact=True)
    kept = fill(OnDisk(reader, tmp_path / "cache"))
    for sample in samples:
        assert np.array_equal(kept(sample), resize(read_image(sample.path), (33, 20)))


def test_ctrl_c_keeps_whole_shards(tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_images, "SHARD_IMAGES", 2)
    kept = OnDisk(reader_of(samples), tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        kept.fill(0, lambda: True, Listener())
    assert kept.missing() == [1, 2]


def test_an_image_that_is_gone_is_named(tmp_path: Path, samples: list[Sample]) -> None:
    samples[1].path.unlink()
    with pytest.raises(DataError, match=r"1\.jpg"):
        fill(OnDisk(reader_of(samples), tmp_path / "cache"))


def test_a_training_is_the_same_to_the_bit_wherever_images_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, image in enumerate(make_images(*SIZES, *SIZES, seed=4)):
        path = tmp_path / "set" / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 24), "batch_size": 2, "epochs": 2}
    config = build_train_config(str(tmp_path / "set"), None, settings | {"precision": "fp32", "val_fraction": 0.2})
    open_dataset(config.dataset)
    runs = []
    for name, memory, disk in (("memory", 1e12, 0), ("disk", 0, 1e12), ("no", 0, 0)):
        monkeypatch.setattr(kept_images, "free_memory", lambda memory=memory: int(memory))
        monkeypatch.setattr(kept_images, "free_bytes", lambda folder, disk=disk: int(disk))
        folder = tmp_path / name
        train(config, folder, device="cpu", workers=1, feature_cache=tmp_path / "cache")
        runs.append((folder / "weights.safetensors").read_bytes())
        assert any((tmp_path / "cache").glob("images-*/*.images")) == (name != "memory")
    assert runs[0] == runs[1] == runs[2]


# --------------------------------------------------------------------------------------------- decoding at reduced size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_image_is_upright_and_like_the_whole_one(tmp_path: Path, orientation: int, factor: int) -> None:
    [image] = make_images((333, 248))
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, quality=95, exif=exif)
    whole = read_image(path)
    height, width = whole.shape[:2]
    least = width // factor, height // factor
    reduced, size = read_reduced(path, least)
    assert size == (width, height)
    assert reduced.shape == (round(height / factor), round(width / factor), 3)
    assert np.abs(resize(reduced, least).astype(int) - resize(whole, least)).mean() < 3
    less, _ = read_reduced(path, (least[0] + 1, 1))
    assert less.shape == (round(height / factor * 2), round(width / factor * 2), 3)


def test_what_is_no_jpeg_or_small_is_read_whole(tmp_path: Path) -> None:
    [image] = make_images((90, 70))
    for name in ("a.png", "b.jpg"):
        Image.fromarray(image).save(tmp_path / name)
    png, size = read_reduced(tmp_path / "a.png", (9, 7))
    assert np.array_equal(png, image)
    assert size == (90, 70)
    assert np.array_equal(read_reduced(tmp_path / "b.jpg", (46, 7))[0], read_image(tmp_path / "b.jpg"))


def test_a_truncated_jpeg_is_refused_at_reduced_size_as_well(tmp_path: Path) -> None:
    [image] = make_images((640, 480))
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, quality=95)
    data = path.read_bytes()
    for cut in (data[: len(data) // 2], data[: len(data) // 2] + b"\xff\xd9"):
        path.write_bytes(cut)
        with pytest.raises(DataError, match=r"truncated|damaged"):
            read_reduced(path, (60, 60))
