"""The whole way in a few minutes: three photos, then synthetic scenes, training, numbers, maps, boxes, report.

Nothing is downloaded. The photos are those that come with scikit-image: the cat (CC0, Stefan van der Walt), the coffee
cup (CC0, Pikolo Espresso Bar, photo by Rachel Michetti) and the rocket (public domain, SpaceX), which shows a failure:
on its launch pad the model takes it for something else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data

from gwapctl import evaluate
from gwapctl.config import build_train_config
from gwapctl.datasets import open_dataset, reporting_split
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.draw import ImageArray, write_jpeg, write_png
from gwapctl.files import OWN, prepare_output_folder
from gwapctl.formats import EXPORTERS
from gwapctl.formats.stored import recorded
from gwapctl.inputs import find_inputs
from gwapctl.networks.zoo import find_recipe
from gwapctl.paper.run_page import write_run_page
from gwapctl.predict.classifier import load_model
from gwapctl.predict.folder import localize_inputs
from gwapctl.predict.prediction import Prediction
from gwapctl.predict.predictions import PREDICTIONS
from gwapctl.progress import Progress, ProgressCallback

RECIPE = "photos"  # what a folder of one's own gets
SETTINGS: dict[str, Any] = {
    "flip": False,  # reading mirror images, too, would take twice as long
    "map": "fused",
    "scales": (224, 448),  # these and the threshold were chosen on val; the numbers are measured on test
    "box_rule": "fixed:0.7",
}
PHOTOS = {"cat": "chelsea", "coffee": "coffee", "rocket": "rocket"}  # file: name in skimage.data
PHOTO_SCALES, PHOTO_HEIGHT = (224, 448, 672), 400

Step = Callable[[str], AbstractContextManager[ProgressCallback]]
"""Opens a step of the work by its name and hands out the callback for its progress."""


def run_demo(
    folder: Path,
    *,
    step: Step,
    images: int,
    seed: int = 0,
    overwrite: bool = False,
    show: Callable[[list[Prediction]], None] = lambda _: None,
) -> dict[str, Any]:
    """Localize three photos with the default model, and ``show`` what was found; then the same with a model of its own.

    For that, make scenes, train on their image-level labels, and localize, measure, export and report on held-out ones.
    Below ``folder`` are then ``photos.jpg``, ``data``, ``run``, ``found``, ``boxes.json`` and ``report.html``; returned
    is the document of the evaluation.

    Raises:
        UsageError: ``folder`` is in use and ``overwrite`` is not set.
        DataError: something cannot be written.

    """
    from gwapctl.train.loop import train
    from gwapctl.train.task import Listener

    prepare_output_folder(folder, overwrite=overwrite)
    data, run, found = folder / "data", folder / "run", folder / "found"
    with step("1/7 localizing photos") as progress:
        show(localize_photos(folder / "photos.jpg", progress))
    with step("2/7 making scenes") as progress:
        make_synthetic_voc(data, images=images, seed=seed, overwrite=overwrite, progress=progress)
    with step("3/7 training") as progress:
        features = folder / f"{OWN}features"  # of one that was killed they are used again
        config = build_train_config(str(data), find_recipe(RECIPE), {**SETTINGS, "seed": seed})
        train(config, run, feature_cache=features, listener=Listener(progress=progress))
        shutil.rmtree(features, ignore_errors=True)
    with step("4/7 measuring") as progress:
        result = evaluate.evaluate(str(run), evaluate.Options(), progress=progress)
    with step("5/7 localizing") as progress:
        dataset = open_dataset(str(data))
        paths = find_inputs([str(sample.path) for sample in dataset.samples(reporting_split(dataset))])
        predictor = load_model(run).predictor()  # reads maps as the settings say
        list(localize_inputs(predictor, run.name, paths, out=found, overwrite=overwrite, progress=progress))
    with step("6/7 writing boxes") as progress:
        EXPORTERS["coco"].build().write(folder / "boxes.json", recorded(found / PREDICTIONS))
        progress(Progress(1, 1, "file"))
    with step("7/7 reporting") as progress:
        write_run_page(run, folder / "report.html", overwrite=overwrite)
        progress(Progress(1, 1, "page"))
    return result.to_json()


def localize_photos(picture: Path, progress: ProgressCallback) -> list[Prediction]:
    """Find what the default model sees in the three photos, and draw it side by side into ``picture``, a JPEG."""
    folder = picture.with_suffix("")
    folder.mkdir(exist_ok=True)
    for file, name in PHOTOS.items():
        write_png(folder / f"{file}.png", getattr(skimage.data, name)())
    found = []
    for result in load_model().stream(folder, scales=PHOTO_SCALES):
        found.append(result)
        progress(Progress(len(found), len(PHOTOS), "photos"))
    write_jpeg(picture, side_by_side([result.plot() for result in found]))
    return found


def side_by_side(pictures: Sequence[ImageArray]) -> ImageArray:
    """Put pictures (H, W, 3) next to each other at one height, white between them."""
    height = PHOTO_HEIGHT
    sizes = [(round(picture.shape[1] * height / picture.shape[0]), height) for picture in pictures]
    scaled = [cv2.resize(picture, size) for picture, size in zip(pictures, sizes, strict=True)]
    gap = np.full((height, height // 40, 3), 255, np.uint8)
    return np.hstack([part for picture in scaled for part in (gap, picture)][1:])
