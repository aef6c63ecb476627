"""Class folders: ``<split>/<class>/*`` or ``<class>/*``; the folder's name is the label."""

from __future__ import annotations

from pathlib import Path

from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.places import list_images
from gwapctl.errors import DataError, printable
from gwapctl.image_files import HEIC_ADVICE, Overlooked

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class ClassFolders(Dataset):
    """One label per image, no boxes. Sample ids are ``<class>/<file>``."""

    multi_label = False

    def __init__(self, root: Path, split_folders: dict[str, Path]) -> None:
        self.name = root.resolve().name
        self.root = root
        self._folders = split_folders
        names = sorted({name for folder in split_folders.values() for name in _subfolders(folder)})
        self.classes = tuple(ClassName(name, name) for name in names)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have a folder."""
        return tuple(self._folders)

    def boxed_samples(self, split: str) -> list[BoxedSample]:
        """Return the samples of ``split``, sorted by class and file name; none has a box."""
        self.require_split(split)
        folder = self._folders[split]
        samples: list[BoxedSample] = []
        overlooked = Overlooked()
        places = _subfolders(folder)
        for label, item in enumerate(self.classes):
            place = places.get(item.name)
            images = {} if place is None else list_images(place, overlooked)
            if not images and place is not None:
                unread = [path for path in overlooked.heic if Path(path).is_relative_to(place)]
                why = f"has no image but HEIC photos, which are not read: {HEIC_ADVICE}" if unread else "has no image"
                self.problems.error(f"{place} {why}. Put some there or remove the folder.")
            samples += [BoxedSample(f"{item.name}/{name}", path, (label,)) for name, path in images.items()]
        for message in overlooked.messages():
            self.problems.warn(message)
        if not samples:
            raise DataError(f"{folder} has no image in its class folders. Put images there or choose another split.")
        return samples


def open_class_folders(folder: Path) -> ClassFolders | None:
    """Open ``folder`` if its subfolders are classes, or splits with classes; None if they are neither."""
    subfolders = _subfolders(folder)
    named = {SPLIT_NAMES[name.lower()]: path for name, path in subfolders.items() if name.lower() in SPLIT_NAMES}
    splits = {split: path for split, path in named.items() if _has_class_folders(path)}
    if splits:
        return ClassFolders(folder, {split: splits[split] for split in ("train", "val", "test") if split in splits})
    return ClassFolders(folder, {"train": folder}) if not named and _has_class_folders(folder) else None


def _has_class_folders(folder: Path) -> bool:
    overlooked = Overlooked()
    return any(list_images(path, overlooked) or overlooked.heic for path in _subfolders(folder).values())


def _subfolders(folder: Path) -> dict[str, Path]:
    return {
        printable(path.name): path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
