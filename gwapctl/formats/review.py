"""The review page: a folder that a person opens in a browser to look boxes over. Nothing leaves the machine.

``index.html`` holds its script, its style and what is known of the images; pictures, heat and masks are files beside
it, which the browser loads when they are looked at. What is decided there comes back as ``decisions.json``
(``formats.decisions``).
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gwapctl import __version__, draw
from gwapctl.boxes import to_list
from gwapctl.errors import DataError, option
from gwapctl.files import Written, prepare_output_folder, remove_below, synced_once, write_text
from gwapctl.formats.base import usable
from gwapctl.images.decode import read_image
from gwapctl.images.files import find_file
from gwapctl.lock import locked
from gwapctl.predict.folder import MASKS
from gwapctl.predict.image_index import ImageFiles
from gwapctl.predict.map_folder import MapFolder, map_path
from gwapctl.predict.prediction import ClassPrediction, Heatmap, ImageArray, Prediction
from gwapctl.regions import BoxRule, normalise, resize_map

PAGE = "index.html"
THUMBS, PICTURES, HEAT, MASK = "thumbs", "images", "heat", "mask"
SIDES = {THUMBS: 320, PICTURES: 1280}  # pixels that the longer side of a picture has at most
QUALITY = 82  # of their JPEG
HEAT_SIDE, MASK_SIDE = 96, 256
HEAT_OPACITY = 0.75  # where the map is hottest
MASK_COLOUR = (0, 229, 255, 130)
DECIMALS = 2  # of a box in the page
REVIEW = "review"  # ``.gwapctl-review`` lists the pictures, so that they can be replaced
_DATA = re.compile('<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

Class = tuple[str, str]  # label, label id


class Review:
    """A page in the making: images pass through ``watch``, then ``finish`` writes it.

    Args:
        folder: where it goes; empty, new, or an earlier page with ``overwrite``.
        images: where the images are found that are not at their recorded path.
        maps: those of the images, None: the predictions carry their own, or there are none.
        rule: what is object on a map, where no mask was saved beside it.
        classes: that a box may get beside those found.

    Raises:
        UsageError: the folder holds files, and ``overwrite`` is not set.

    """

    def __init__(
        self,
        folder: Path,
        *,
        images: ImageFiles,
        maps: MapFolder | None,
        rule: BoxRule,
        classes: Iterable[str] = (),
        overwrite: bool = False,
    ) -> None:
        prepare_output_folder(folder, overwrite=overwrite)
        self.folder, self._lock = folder, ExitStack()
        self._written, self._names = Written(folder, REVIEW), set[str]()
        self.missing: list[str] = []  # images that are not there to be shown
        self._images, self._maps, self._rule = images, maps, rule
        self._classes: dict[Class, int] = {}
        self._listed = list(classes)
        self._entries: dict[str, dict[str, Any]] = {}
        self._model = ""

    def watch(self, items: Iterable[Prediction]) -> Iterator[Prediction]:
        """Pass ``items`` on; of each that did not fail, write the pictures, and keep what the page says.

        An earlier page goes. From here on until ``finish`` nobody else can write the folder.
        """
        self._lock.enter_context(locked(self.folder))
        remove_review(self.folder)
        for item in usable(items, keep_failed=True):
            if item.error is None:
                with synced_once():
                    self._add(item)
            yield item

    def finish(self, title: str) -> Path:
        """Write the page and return its path.

        Raises:
            DataError: there is no image to show.

        """
        if not self._entries:
            where = f"say where they are with {option('images')}"
            missing = f" {self.missing[0]!r} is not there: {where}." if self.missing else ""
            raise DataError(f"there is no image to review.{missing}")
        for name in self._listed:
            if name not in {label for label, _ in self._classes}:
                self._number((name, ""))
        entries = list(self._entries.values())
        classes = [{"label": label, "label_id": label_id} for label, label_id in self._classes]
        page = {
            "review": hashlib.sha256(json.dumps([entries, classes]).encode()).hexdigest()[:16],
            "model": self._model,
            "classes": classes,
            "colours": [f"rgb({red}, {green}, {blue})" for red, green, blue in draw.COLOURS],
            "images": entries,
        }
        self._written.keep(self._names)
        write_text(self.folder / PAGE, _render(title, page))  # the last: whoever sees it sees all of it
        self._lock.close()
        return self.folder / PAGE

    def _number(self, one: Class) -> int:
        return self._classes.setdefault(one, len(self._classes))

    def _add(self, item: Prediction) -> None:
        shown = [self._shown(one) for one in item.predictions if one.box is not None]
        if item.id in self._entries:  # listed again: its boxes go together
            kept = self._entries[item.id]["shown"]
            kept += [box for box in shown if box not in kept]
            return
        found = self._images.find(item.id, item.image)
        if found is None:
            self.missing.append(item.image)
            return
        number = f"{len(self._entries) + 1:06d}"
        self._write_pictures(number, read_image(found.path))
        self._model = self._model or item.model
        self._entries[item.id] = {
            "n": number,
            "id": item.id,
            "image": item.image,
            "w": item.width,
            "h": item.height,
            "doubt": round(doubt(item), 4),
            "none": not item.predictions,
            "shown": shown,
            "unboxed": [self._number((one.label, one.label_id)) for one in item.predictions if one.box is None],
            "maps": self._write_maps(number, item),
        }

    def _shown(self, one: ClassPrediction) -> list[float]:
        corners = np.round(np.asarray(one.box), DECIMALS)
        return [self._number((one.label, one.label_id)), round(one.score, 4), *to_list(corners)]

    def _write_pictures(self, number: str, image: ImageArray) -> None:
        for name, side in SIDES.items():
            draw.write_jpeg(self._place(f"{name}/{number}.jpg"), _shrunk(image, side), quality=QUALITY)

    def _place(self, name: str) -> Path:
        """Return where a picture goes, and note that it is this page's."""
        self._written.note(name)
        self._names.add(name)
        return self.folder / name

    def _write_maps(self, number: str, item: Prediction) -> list[list[int]]:
        """Write heat and mask of every map of an image; return the classes that each is of."""
        written: list[list[int]] = []
        for classes, heatmap in self._maps_of(item):
            name = f"{number}-{len(written)}.png"
            draw.write_png(self._place(f"{HEAT}/{name}"), heat_picture(heatmap))
            draw.write_png(self._place(f"{MASK}/{name}"), self._mask(item, heatmap, first=not written))
            written.append([self._number(one) for one in classes])
        return written

    def _maps_of(self, item: Prediction) -> Iterator[tuple[list[Class], Heatmap]]:
        """Yield the maps of the classes found in an image, each with those that it is of."""
        classes = list(dict.fromkeys((one.label, one.label_id) for one in item.predictions))
        if len(item.maps):
            heatmaps: Any = item.maps[:1] if item.shared else item.maps
            order = classes
        elif self._maps is not None and find_file(map_path(self._maps.path, item.id)) is not None:
            heatmaps = self._maps.channels(item.id)
            order = list(self._maps.about(item.id).classes)
        else:
            return
        if len(heatmaps) == 1:
            yield classes, heatmaps[0]
        elif len(heatmaps) == len(order):
            yield from (([one], heatmap) for one, heatmap in zip(order, heatmaps, strict=True) if one in classes)

    def _mask(self, item: Prediction, heatmap: Heatmap, *, first: bool) -> ImageArray:
        """Return the object as a picture: the mask that ``localize`` saved of the best class, else the map's own."""
        saved = None if self._maps is None else find_file(self._maps.path.parent / MASKS / f"{item.id}.png")
        mask = self._rule.without_image().mask(np.asarray(heatmap, np.float32)) if saved is None or not first else None
        levels = (read_image(saved)[:, :, 0] > 0) if mask is None and saved is not None else mask
        small = _shrunk(np.asarray(levels, np.uint8) * 255, MASK_SIDE)
        picture = np.full((*small.shape, 4), MASK_COLOUR, np.uint8)
        picture[:, :, 3] = small.astype(np.uint16) * MASK_COLOUR[3] // 255
        return picture


def remove_review(folder: Path) -> None:
    """Remove the page in ``folder`` and its pictures, also what one left that was killed; nothing else."""
    written, page = Written(folder, REVIEW), folder / PAGE
    names = written.names()
    if not written.list.is_file() and page.is_file():  # an older version's has no list
        names |= _pictures_of(page)
        written.note(*names)
    if names:
        page.unlink(missing_ok=True)
    remove_below(folder, names)
    written.remove()


def _pictures_of(page: Path) -> set[str]:
    """Return the names of the pictures that a page shows; none where it is no page of ours."""
    data = _DATA.search(page.read_text(encoding="utf-8", errors="replace"))
    names = set[str]()
    with suppress(ValueError, TypeError, KeyError):
        for image in json.loads(data[1])["images"] if data else []:
            maps = [f"{name}/{image['n']}-{index}.png" for name in (HEAT, MASK) for index in range(len(image["maps"]))]
            names |= {*maps, *(f"{name}/{image['n']}.jpg" for name in SIDES)}
    return names


def doubt(item: Prediction) -> float:
    """Return how doubtful an image is, in 0..1: its most doubtful box counts, 1 where a class has no box.

    A box that carries no doubt of its own is doubted as far as its score is below 1.
    """
    doubts = [
        1.0 if one.box is None else (1 - one.score if one.doubt is None else one.doubt) for one in item.predictions
    ]
    return min(max(doubts, default=0.0), 1.0)


def heat_picture(heatmap: Heatmap) -> ImageArray:
    """Return a map (h, w) as a small picture ``(h', w', 4)`` RGBA, the more opaque the hotter."""
    height, width = heatmap.shape
    ratio = min(HEAT_SIDE / max(height, width), 1.0)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    heat = normalise(resize_map(np.asarray(heatmap, np.float32), size))
    colours = cv2.cvtColor(cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = (255 * HEAT_OPACITY * heat).astype(np.uint8)
    return np.dstack([colours, opacity])


def _shrunk(image: ImageArray, side: int) -> ImageArray:
    """Return an image or mask whose longer side has at most ``side`` pixels."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _render(title: str, page: dict[str, Any]) -> str:
    """Return the page; its policy lets the browser run this script and style alone, and load files beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("gwapctl.formats")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    script, style = (loader.get_source(environment, f"review.{kind}")[0] for kind in ("js", "css"))
    data = json.dumps(page, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return environment.get_template("review.html").render(
        title=title,
        version=__version__,
        script=script,
        style=style,
        script_hash=_digest(script),
        style_hash=_digest(style),
        data=data.replace("<", "\\u003c"),  # nothing in it can end the element
    )


def _digest(text: str) -> str:
    """Return the SHA-256 of a text as a content-security policy writes it."""
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()
