"""Small data sets for the tests of readers, as strangers write them: 80 x 60 images, and what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from gwapctl.datasets.base import BoxedSample, Dataset

WIDTH, HEIGHT = 80, 60
Box = tuple[float, float, float, float]


def make_image(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int = 1) -> Path:
    """Write an image, stored as ``width x height``, shown as the EXIF ``orientation`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path, exif=exif)
    return path


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def voc_object(name: str = "cat", box: Box | None = (11, 21, 30, 40)) -> str:
    """Return an ``<object>``; VOC's corners count from 1."""
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=bool(box))
    corners = "".join(f"<{tag}>{value:g}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{f'<bndbox>{corners}</bndbox>' if box else ''}</object>"


def voc_xml(*objects: str, size: tuple[int, int] | None = (WIDTH, HEIGHT), filename: str = "") -> str:
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{stated}{''.join(objects)}</annotation>"


def make_voc(root: Path, images: dict[str, str], lists: dict[str, str] | None = None) -> Path:
    """Write a folder in VOC layout: id -> XML, split -> text of its list."""
    for name, xml in images.items():
        write(root / "Annotations" / f"{name}.xml", xml)
        if not list((root / "JPEGImages").glob(f"{name}.*")):
            make_image(root / "JPEGImages" / f"{name}.jpg")
    for split, text in (lists or {}).items():
        write(root / "ImageSets" / "Main" / f"{split}.txt", text)
    return root


def coco(
    images: list[dict[str, object]] | None = None,
    annotations: list[dict[str, object]] | None = None,
    categories: list[object] | None = None,
) -> dict[str, object]:
    """Return a COCO document; what is not given is two images, a cat on the first and a dog on the second."""
    usual = [
        {"id": n, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT} for n, name in ((1, "a"), (2, "b"))
    ]
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
            make_image(root / "images" / f"{name}.jpg")
    write(root / "annotations" / f"instances_{split}.json", json.dumps(document))
    return root


def found(dataset: Dataset, split: str = "train") -> dict[str, tuple[list[str], list[list[float]]]]:
    """Map sample ids to the names of their labels and their boxes, rounded to a thousandth of a pixel."""

    def names(sample: BoxedSample) -> list[str]:
        return [dataset.classes[label].name for label in sample.labels]

    samples = dataset.boxed_samples(split)
    assert len({sample.id for sample in samples}) == len(samples)
    return {sample.id: (names(sample), sample.boxes.round(3).tolist()) for sample in samples}
