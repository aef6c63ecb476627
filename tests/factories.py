"""What many tests make: images, data sets, models, runs, and what they compare maps with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset
from gwapctl.datasets.base import BoxedSample, ClassName, Dataset, fingerprint, holdout
from gwapctl.maps.heatmap import HEATMAP_SIDE
from gwapctl.maps.localizer import MapResult
from gwapctl.networks.classifier import Classifier, ModelInfo, build_classifier, load_tensors, save_model
from gwapctl.networks.transforms import resize
from gwapctl.progress import Progress
from gwapctl.regions import unstretch
from gwapctl.runs import Run
from gwapctl.train.loop import train
from gwapctl.train.task import Listener

FRUITS = ("apple", "banana", "cherry")

# ---------------------------------------------------------------------------------------------------- images and files


# a detector that trains in a second
SMALL_DETECTOR: dict[str, Any] = {
    "detector": "rfcn",
    "backbone": "resnet-s",
    "weights": "none",
    "short_side": 40,
    "long_side": 56,
    "batch_size": 2,
    "iterations": 4,
    "lr": 2e-3,
    "warmup": 1,
    "precision": "fp32",
}


def make_images(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Return smooth random images ``(H, W, 3)`` of the sizes (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (5, 6, 3), dtype=np.uint8) for _ in sizes]
    return [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image, size in zip(coarse, sizes, strict=True)]


def save_image(path: Path, width: int = 80, height: int = 60, orientation: int = 1) -> Path:
    """Write a gradient, stored as ``width x height``, shown as the EXIF ``orientation`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path, exif=exif)
    return path


def write(path: Path, content: object, encoding: str = "utf-8") -> Path:
    """Write a text, bytes, or anything else as JSON; make the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode(encoding)
    path.write_bytes(content)
    return path


# ----------------------------------------------------------------------------------------------------------- data sets


def voc_object(name: str = "cat", box: Sequence[float] | None = (11, 21, 30, 40), extra: str = "") -> str:
    """Return an ``<object>``; VOC's corners count from 1."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=bool(box))
    corners = "".join(f"<{tag}>{value:g}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{extra}{f'<bndbox>{corners}</bndbox>' if box else ''}</object>"


def voc_xml(*objects: str, size: tuple[int, int] | None = (80, 60), filename: str = "other.jpg") -> str:
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return (
        f"<annotation><path>C:\\x\\y.jpg</path><filename>{filename}</filename>{stated}{''.join(objects)}</annotation>"
    )


def make_voc(
    root: Path,
    images: dict[str, str],
    lists: dict[str, str] | None = None,
    size: tuple[int, int] = (80, 60),
    suffix: str = ".jpg",
) -> Path:
    """Write a folder in VOC layout: id -> XML, split -> text of its list."""
    for name, xml in images.items():
        write(root / "Annotations" / f"{name}.xml", xml)
        if not list((root / "JPEGImages").glob(f"{name}.*")):
            save_image(root / "JPEGImages" / f"{name}{suffix}", *size)
    for split, text in (lists or {}).items():
        write(root / "ImageSets" / "Main" / f"{split}.txt", text)
    return root


def coco(
    images: list[dict[str, object]] | None = None,
    annotations: list[dict[str, object]] | None = None,
    categories: list[object] | None = None,
) -> dict[str, object]:
    """Return a COCO document; what is not given is two images, a cat on the first and a dog on the second."""
    usual = [{"id": n, "file_name": f"{name}.jpg", "width": 80, "height": 60} for n, name in ((1, "a"), (2, "b"))]
    return {
        "images": usual if images is None else images,
        "annotations": [coco_object(1, 1, 1), coco_object(2, 2, 2)] if annotations is None else annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}] if categories is None else categories,
    }


def coco_object(number: object, image: object, category: object, bbox: object = (10, 20, 20, 20)) -> dict[str, object]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0}


def make_coco(root: Path, document: dict[str, object], split: str = "train", images: str = "ab") -> Path:
    for name in images:
        if not (root / "images" / f"{name}.jpg").exists():
            save_image(root / "images" / f"{name}.jpg")
    write(root / "annotations" / f"instances_{split}.json", document)
    return root


def make_manifest(folder: Path, images: int = 24, names: Sequence[str] = FRUITS) -> Path:
    """Write a manifest of smooth images of several sizes, each with a bright object and its box; a third is val."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,label,split,x0,y0,x1,y1"]
    for index in range(images):
        width, height = 48 + 8 * (index % 3), 40 + 16 * (index % 2)
        image = cv2.resize(rng.integers(0, 120, (4, 5, 3), dtype=np.uint8), (width, height))
        x0, y0 = rng.integers(0, 20, 2)
        box = (x0, y0, x0 + 24, y0 + 18)
        image[box[1] : box[3], box[0] : box[2]] += 120
        cv2.imwrite(str(folder / f"{index}.png"), image)
        split = "train" if index % 3 else "val"
        rows.append(f"{index}.png,{names[index // 3 % 3]},{split},{','.join(map(str, box))}")
    write(folder / "manifest.csv", "\n".join(rows))
    return folder


def copy_with_other_boxes(folder: Path, copy: Path, but: Callable[[str], bool] = lambda _: False) -> Path:
    """Copy a folder in VOC layout and draw all boxes anew, those of the ids ``but`` excepted."""
    shutil.copytree(folder, copy)
    generator = np.random.default_rng(0)

    def drawn(match: re.Match[str]) -> str:
        low, high = (1, 20) if match[1].endswith("min") else (21, 40)
        return f"<{match[1]}>{generator.integers(low, high)}<"

    for xml in (copy / "Annotations").glob("*.xml"):
        if not but(xml.stem):
            xml.write_text(re.sub("<([xy]m(?:in|ax))>[^<]*<", drawn, xml.read_text()))
    return copy


def boxes_by_id(dataset: Dataset, split: str = "train") -> dict[str, tuple[list[str], list[list[float]]]]:
    """Map sample ids to the names of their labels and their boxes, rounded to a thousandth of a pixel."""

    def names(sample: BoxedSample) -> list[str]:
        return [dataset.classes[label].name for label in sample.labels]

    samples = dataset.boxed_samples(split)
    assert len({sample.id for sample in samples}) == len(samples)
    return {sample.id: (names(sample), sample.boxes.round(3).tolist()) for sample in samples}


# -------------------------------------------------------------------------------------------------------------- models


def make_classifier(
    head: str = "gwap", classes: int | Sequence[str] = 4, seed: int = 0, drawn: bool = True, **fields: Any
) -> Classifier:
    """Build a classifier whose batch norms and head are ``drawn``, as if trained; ``fields`` are ``ModelInfo``'s."""
    torch.manual_seed(seed)
    if isinstance(classes, int):
        names = tuple(ClassName(f"class {index}", f"n{index}") for index in range(classes))
    else:
        names = tuple(ClassName(name, name) for name in classes)
    settings: dict[str, Any] = {"backbone": "resnet-s", "multi_label": False, "mean": (0.5, 0.4, 0.3)}
    settings |= {"std": (0.2, 0.25, 0.3), "input_size": (64, 64), "train_sizes": (64, 96), **fields}
    model = build_classifier(ModelInfo(head=head, classes=names, **settings))
    if not drawn:
        return model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_small_classifier(head: str = "gwap", names: Sequence[str] = FRUITS, **fields: Any) -> Classifier:
    """Build a classifier of the data set of ``make_manifest`` that looks at 32 x 32 pixels."""
    return make_classifier(head, names, **{"input_size": (32, 32), "train_sizes": (32, 48), **fields})


def network_input(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(resize(image, size)).permute(2, 0, 1)[None]


def stretched(maps: Tensor, image: np.ndarray) -> Tensor:
    """Resize maps ``(B, k, h, w)`` to the heatmap of ``image`` as torch does it."""
    factor = min(1, HEATMAP_SIDE / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[:2]]
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def own_values(result: MapResult) -> np.ndarray:
    """Return the maps of ``result`` (k, H, W) with their own values."""
    pairs = zip(result.heatmaps, result.ranges, strict=True)
    return np.stack([unstretch(heatmap, limits) for heatmap, limits in pairs])


def agree(result: MapResult, expected: Tensor, tolerance: float = 1e-3) -> None:
    """Fail if the maps of ``result`` are not those of ``expected`` (1, k, H, W), by a share of their spread."""
    expected_array = expected[0].numpy()
    assert result.heatmaps.shape == expected_array.shape
    spread = expected_array.max() - expected_array.min()
    np.testing.assert_allclose(own_values(result), expected_array, atol=tolerance * max(spread, 1e-3))


# ---------------------------------------------------------------------------------------------------------------- runs


def train_config(folder: Path, **settings: Any) -> Any:
    return build_train_config(str(folder), None, settings)


def start(config: Any, out: Path, **options: Any) -> Run:
    """Train in ``out`` on the CPU, loading in this thread; what a ``Listener`` takes goes to one."""
    out.mkdir(parents=True, exist_ok=True)
    listener = Listener(**{name: options.pop(name) for name in ("announce", "progress", "warn") if name in options})
    return train(config, out, device="cpu", listener=listener, **{"workers": 0, **options})


def stop_after(done: int, unit: str = "it") -> Callable[[Progress], None]:
    """Raise as a second Ctrl-C would, right after ``done`` iterations (or images) were done."""

    def progress(state: Progress) -> None:
        if state.done == done and state.unit == unit:
            raise KeyboardInterrupt

    return progress


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "weights.safetensors")


def differing(first: Path, second: Path) -> list[str]:
    """Return the names of the tensors that both runs have and that are not equal to the bit."""
    a, b = weights_of(first), weights_of(second)
    return [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]


def assert_same_weights(first: Path, second: Path) -> None:
    assert weights_of(first).keys() == weights_of(second).keys()
    assert differing(first, second) == []


def make_run(folder: Path, data: Path, model: Classifier, **state: Any) -> Run:
    """Leave a finished run of ``model``, as ``train`` would have on ``data``; ``state`` changes its document."""
    settings = {"backbone": "resnet-s", "weights": "none", "image_size": (32, 32), "epochs": 1, "val_fraction": 0.25}
    config = train_config(data, head=model.info.head, **settings)
    dataset = open_dataset(str(data))
    kept, _ = holdout(dataset.samples("train"), config.val_fraction, config.seed)
    described = {"name": dataset.name, "root": str(data), "split": "train", "fingerprint": fingerprint(kept)}
    save_model(model, folder)
    run = Run.create(folder, {"config": config.model_dump(mode="json"), "dataset": described, "seed": config.seed})
    run.update(status="finished", **state)
    return run
