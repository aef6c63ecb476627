"""What is fuzzed: one target per reader, with the small good files that are broken and the call that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, features

from gwapctl.boxes import as_boxes
from gwapctl.config import build_train_config
from gwapctl.datasets import download, open_dataset
from gwapctl.datasets.base import fingerprint
from gwapctl.formats import EXPORTERS
from gwapctl.formats.base import FileExporter, said_by
from gwapctl.formats.reading import Corrections, read_boxes
from gwapctl.formats.stored import open_stored
from gwapctl.images.decode import image_size, read_image
from gwapctl.networks.backbones.caffemodel import caffe_weights
from gwapctl.networks.classifier import load_classifier, save_model
from gwapctl.paper.measured import run_rows
from gwapctl.paper.run_page import write_run_page
from gwapctl.predict.cut import Cutting
from gwapctl.predict.map_folder import MapFolder, MapImage, MapsInfo, write_map, write_maps_info
from gwapctl.predict.predictions import finished_ids
from gwapctl.regions.masks import brush
from gwapctl.runs import Run
from tests.factories import coco, make_coco, make_small_classifier, save_image, voc_object, voc_xml, write

WIDTH, HEIGHT = 16, 12
FOUND = {
    "schema_version": 1,
    "image": "a.jpg",
    "width": 80,
    "height": 60,
    "model": "m",
    "scales": [32],
    "predictions": [
        {
            "label": "cat",
            "label_id": "n01",
            "score": 0.75,
            "box": [8, 4, 40, 30],
            "map": "maps/a.jpg.npy",
            "doubt": 0.1,
        },
        {"label": "dog", "label_id": 2, "score": 0.25, "box": None, "map": None, "map_range": [0, 1]},
    ],
    "error": None,
    "id": "a.jpg",
    "none": False,
}


@dataclass(frozen=True)
class Target:
    """A reader. ``make`` writes good files below a folder, ``read`` reads all of them, of which ``files`` are broken.

    ``codes`` are the exit codes of the errors that it may raise. Those name the broken file, or, where it is one of
    ``lists``, what lies in the folder.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    codes: tuple[int, ...] = (4,)
    lists: tuple[str, ...] = ()  # of these, files that name others: an error may be about what they name


# ------------------------------------------------------------------------------------------------------------- images


def make_pictures(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 4), np.uint8)
    colour, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0])
    save_image(folder / "turned.jpg", WIDTH, HEIGHT, orientation=6)
    for name in ("plain.jpg", "plain.bmp", "plain.webp", "plain.tif", "plain.ppm", "plain.gif"):
        colour.save(folder / name)
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.save(folder / "scans.jpg", progressive=True)
    colour.save(folder / "packed.tif", compression="tiff_lzw")
    Image.fromarray(pixels).save(folder / "clear.png", dpi=(72, 72))
    colour.convert("P").save(folder / "palette.png", transparency=3)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    grey.save(folder / "moving.gif", save_all=True, append_images=[grey.rotate(90), grey.rotate(180)])
    if features.check("avif"):
        colour.save(folder / "plain.avif")
    if features.check("jpg_2000"):
        colour.save(folder / "plain.jp2")


def read_pictures(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        if image_size(file) != (read_image(file).shape[1], read_image(file).shape[0]):
            raise AssertionError("the header says another size than the pixels")


# ---------------------------------------------------------------------------------------------------------- data sets


def make_voc(folder: Path) -> None:
    for name in "abc":
        save_image(folder / "JPEGImages" / f"{name}.jpg")
        xml = voc_xml(
            voc_object(), voc_object("dog", (5, 6, 20, 22), "<difficult>1</difficult>"), filename=f"{name}.jpg"
        )
        write(folder / "Annotations" / f"{name}.xml", xml)
    write(folder / "ImageSets/Main/train.txt", "a\nb\n")
    write(folder / "ImageSets/Main/val.txt", "c\n")


def make_coco_set(folder: Path) -> None:
    make_coco(folder, coco())


def make_wsoleval(folder: Path) -> None:
    write(folder / "test/image_ids.txt", "a.jpg\nb.jpg\n")
    write(folder / "test/class_labels.txt", "a.jpg,0\nb.jpg,3\n")
    write(folder / "test/image_sizes.txt", "a.jpg,80,60\nb.jpg,60,80\n")
    write(folder / "test/localization.txt", "a.jpg,1,2,30,40\na.jpg,5,6,20,20\nb.jpg,1,1,9,9\n")


def make_yolo(folder: Path) -> None:
    write(folder / "data.yaml", "path: .\ntrain: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n")
    write(folder / "classes.txt", "cat\ndog\n")
    for name in "ab":
        save_image(folder / "images" / f"{name}.jpg")
        write(folder / "labels" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.2\n0 0.1 0.1 0.3 0.1 0.3 0.3\n")


def make_csv(folder: Path) -> None:
    for name in "ab":
        save_image(folder / f"{name}.jpg")
    rows = ["image,label,split,x0,y0,x1,y1,difficult,width,height", "a.jpg,cat,train,1,2,30,40,0,80,60"]
    write(folder / "manifest.csv", "\n".join([*rows, "b.jpg,dog,val,1,2,20,20,1,80,60", "a.jpg,dog|cat,train,,,,,,,"]))


def read_dataset(folder: Path) -> None:
    dataset = open_dataset(str(folder))
    for split in dataset.splits():
        samples = dataset.boxed_samples(split)
        fingerprint(samples)
        as_boxes([box for sample in samples for box in sample.boxes])
        dataset.warnings()


def read_yolo(folder: Path) -> None:
    read_dataset(folder)
    exported(folder)


# ------------------------------------------------------------------------------------------------------- files of boxes


def exported(path: Path) -> None:
    """Read a file of boxes, and write what it says in every format of one file."""
    items = list(read_boxes(path).values())
    for entry in EXPORTERS.values():
        exporter = entry.build()
        if isinstance(exporter, FileExporter):
            with said_by(path):
                "".join(exporter.text(iter(items)))


def make_boxes_csv(folder: Path) -> None:
    rows = ["image,width,height,label,label_id,score,x0,y0,x1,y1,doubt", "a.jpg,80,60,cat,n01,0.75,8,4,40,30,0.1"]
    write(folder / "boxes.csv", "\n".join([*rows, "a.jpg,80,60,dog,,0.5,,,,,", "b.jpg,80,60,,,,,,,,"]))


def make_jsonl(folder: Path) -> None:
    failed = FOUND | {
        "image": "b.jpg",
        "id": "b.jpg",
        "predictions": [],
        "error": {"type": "DataError", "message": "no"},
    }
    lines = [FOUND, failed, FOUND | {"image": "c.jpg", "id": "c.jpg", "none": True, "predictions": []}]
    write(folder / "predictions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write(folder / "found.json", {"schema_version": 1, "images": lines})


def read_jsonl(folder: Path) -> None:
    exported(folder / "found.json")
    exported(folder / "predictions.jsonl")
    finished_ids(folder / "predictions.jsonl")


def make_decisions(folder: Path) -> None:
    entry = FOUND | {"decision": "corrected", "proposed": FOUND["predictions"]}
    entries = [entry, entry | {"image": "b.jpg", "id": "b.jpg", "decision": "rejected"}]
    write(folder / "decisions.json", {"schema_version": 1, "review": "boxes", "images": entries})


def read_decisions(folder: Path) -> None:
    exported(folder / "decisions.json")
    found = read_boxes(folder / "decisions.json")
    list(Corrections(folder / "decisions.json").apply(found.values()))


def make_label_studio(folder: Path) -> None:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
    oval = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "rotation": 30, "ellipselabels": ["dog"]}
    outline = {"points": [[1, 2], [30, 5], [20, 40]], "polygonlabels": ["cat"]}
    mask = np.zeros((60, 80), np.bool_)
    mask[10:20, 30:50] = True
    painted = {"format": "rle", "rle": brush(mask), "brushlabels": ["cat"]}
    kinds = (("rectangle", box), ("ellipse", oval), ("polygon", outline), ("brush", painted))
    result = [
        {"type": f"{kind}labels", "original_width": 80, "original_height": 60, "score": 0.5, "value": value}
        for kind, value in kinds
    ]
    one = {"id": 7, "result": result[:3], "was_cancelled": False, "updated_at": "2026-01-01", "ground_truth": False}
    tasks = [{"id": 1, "data": {"image": "/data/local-files/?d=a.jpg"}, "annotations": [one], "predictions": []}]
    tasks.append({"id": 2, "data": {"image": "b.jpg"}, "annotations": [one | {"result": result[3:]}]})
    write(folder / "tasks.json", tasks)


def make_cvat(folder: Path) -> None:
    shapes = (
        '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="40" rotation="15"><attribute name="score">0.5</attribute></box>'
        '<polygon label="dog" points="1,2;30,5;20,40"/>'
        '<mask label="cat" rle="1, 2" left="3" top="4" width="5" height="6"/>'
        '<ellipse label="dog" cx="20" cy="20" rx="5" ry="9"/><points label="x" points="1,2"/>'
    )
    write(
        folder / "cvat.xml",
        f'<annotations><image id="0" name="a.jpg" width="80" height="60">{shapes}</image></annotations>',
    )


def read_file(name: str) -> Callable[[Path], None]:
    return lambda folder: exported(folder / name)


# ------------------------------------------------------------------------------------------------------ maps and models


def make_maps(folder: Path) -> None:
    heat = np.random.default_rng(0).random((2, 6, 8)).astype(np.float16)
    for name, maps in (("a.jpg", heat[0]), ("b/c.jpg", heat)):
        write_map(folder, name, maps)
    about = {"a.jpg": MapImage(80, 60, ("cat",), ("n1",), ((0.0, 1.0),))}
    about["b/c.jpg"] = MapImage(80, 60, ("cat", "dog"), ("n1", "n2"), ((0.0, 1.0), (0.5, 0.7)))
    write_maps_info(folder, MapsInfo(model="m", values="minmax", class_agnostic=False), about.items())


def read_maps(folder: Path) -> None:
    maps = MapFolder(folder)
    for image_id in maps.ids():
        maps.channels(image_id)
    stream = open_stored(folder, Cutting(rule="otsu"))
    for item in stream.items if stream else ():
        if item.error is not None:
            raise item.error


def make_model(folder: Path) -> None:
    save_model(make_small_classifier(names=("a", "b")), folder / "model")


def make_caffe(folder: Path) -> None:
    def tagged(field: int, content: bytes) -> bytes:
        sizes = [len(content)]
        while sizes[-1] > 127:
            sizes[-1:] = [sizes[-1] % 128 + 128, sizes[-1] // 128]
        key = field * 8 + 2
        return bytes([key] if key < 128 else [key % 128 + 128, key // 128]) + bytes(sizes) + content

    def blob(array: np.ndarray) -> bytes:
        shape = tagged(7, tagged(1, bytes(array.shape)))
        return tagged(5, array.astype("<f4").tobytes()) + shape

    rng = np.random.default_rng(0)
    layers = {
        "conv1_1": (rng.random((4, 3, 3, 3)), rng.random(4)),
        "conv1_2": (rng.random((2, 4, 1, 1)), rng.random(2)),
    }
    net = b"".join(
        tagged(100, tagged(1, name.encode()) + b"".join(tagged(7, blob(array)) for array in arrays))
        for name, arrays in layers.items()
    )
    write(folder / "net.caffemodel", tagged(1, b"net") + net)


# ---------------------------------------------------------------------------------------------------- runs and recipes


def make_run(folder: Path) -> None:
    config = build_train_config(str(folder), None, {"backbone": "resnet-s", "weights": "none", "epochs": 1})
    dataset = {"name": "set", "root": "/nowhere", "train_split": "train", "n_train": 9, "classes": ["a", "b"]}
    run = Run.create(folder / "run", {"config": config.model_dump(mode="json"), "dataset": dataset, "seed": 0})
    for step in (1, 2):
        run.append_history(
            {"iteration": step, "loss": 1 / step, "lr": 0.1, "val_top1_error": 50.0, "images_per_second": 9}
        )
    document = {"schema_version": 1, "model": "m", "dataset": "set", "split": "test", "protocol": "paper", "n": 4}
    document |= {"n_degenerate": 0, "metrics": {"top1_error": 25.0, "gt_known_error": 50.0}, "notes": ["a note"]}
    document |= {"floors": {"full_image": {"gt_known_error": 75.0}}, "options": {"map": "weight", "scales": [32]}}
    document |= {"per_class": [{"class": "a", "id": "a", "n": 2, "top1_error": 0.0}], "created": "2026-01-01T00:00:00"}
    run.save_evaluation(document)
    run.update(status="finished", best={"iteration": 2, "top1_error": 50.0})


def read_run(folder: Path) -> None:
    run = Run.open(folder / "run")
    run_rows([run])
    with patch.object(Figure, "savefig"):  # all but the drawing, which takes a second
        write_run_page(folder / "run", overwrite=True)


def make_recipe(folder: Path) -> None:
    lines = (
        'head = "gwap"',
        'backbone = "resnet18"',
        "epochs = 5",
        "lr = 0.01",
        "image_size = [64, 96]",
        "flip = true",
    )
    write(
        folder / "recipe.toml", "# a recipe\n" + "\n".join(lines) + '\nhead_options = { q = 3 }\nschedule = "cosine"\n'
    )


def make_archives(folder: Path) -> None:
    for name in ("a.zip", "b.tar"):
        write(folder / name, b"content" * 20)


def read_archives(folder: Path) -> None:
    archives = [file for file in (folder / "a.zip", folder / "b.tar") if file.read_bytes()[:7] != b"content"]
    for file in archives:
        download.unpack(file, folder / "out")
    outside = [path for path in folder.rglob("*") if path.is_symlink()]
    if outside:
        raise AssertionError(f"a link was unpacked: {outside}")


TARGETS: dict[str, Target] = {
    "images": Target(make_pictures, read_pictures, ("*",)),
    "voc": Target(make_voc, read_dataset, ("**/*.xml", "ImageSets/Main/*.txt"), lists=("*.txt",)),
    "coco": Target(make_coco_set, read_dataset, ("**/*.json",)),
    "csv": Target(make_csv, read_dataset, ("*.csv",)),
    "boxes-csv": Target(make_boxes_csv, read_file("boxes.csv"), ("*.csv",)),
    "yolo": Target(make_yolo, read_yolo, ("*.yaml", "labels/*.txt", "classes.txt"), lists=("*.yaml", "classes.txt")),
    "jsonl": Target(make_jsonl, read_jsonl, ("*.jsonl", "*.json")),
    "decisions": Target(make_decisions, read_decisions, ("*.json",)),
    "label-studio": Target(make_label_studio, read_file("tasks.json"), ("*.json",)),
    "cvat": Target(make_cvat, read_file("cvat.xml"), ("*.xml",)),
    "npy": Target(make_maps, read_maps, ("**/*.npy", "maps.json")),
    "wsoleval": Target(make_wsoleval, read_dataset, ("test/*.txt",), lists=("image_ids.txt",)),
    "model": Target(make_model, lambda folder: load_classifier(folder / "model"), ("model/*",)),
    "caffe": Target(make_caffe, lambda folder: caffe_weights(folder / "net.caffemodel", "vgg16"), ("*.caffemodel",)),
    "recipe": Target(
        make_recipe, lambda folder: build_train_config("./x", folder / "recipe.toml", {}), ("*.toml",), (2, 4)
    ),
    "run": Target(
        make_run,
        read_run,
        ("run/*.json", "run/*.jsonl", "run/evaluations/*.json"),
        lists=("evaluations/*.json", "run.json"),  # a page of a run is made of all of them
    ),
    "archives": Target(make_archives, read_archives, ("*.zip", "*.tar")),
}


def broken_files(target: Target, folder: Path) -> Iterator[Path]:
    """Yield the files below ``folder`` that are broken, sorted."""
    found = {path for pattern in target.files for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)
