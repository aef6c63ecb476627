"""Class folders: ``<split>/<class>/*`` or ``<class>/*``; the folder's name is the label.

Folders that parts of data sets are called (``images``, ``train``, ...) are classes only beside one that is called
otherwise. A lone folder that holds the class folders is passed through. Images in ``_none`` show none of the classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gwapctl.datasets.base import BoxedSample, ClassName, Dataset
from gwapctl.datasets.folders import SPLIT_ORDER, has_images, is_container, list_images, split_of
from gwapctl.errors import DataError, printable
from gwapctl.images.files import HEIC_ADVICE, HEIC_SUFFIXES, Overlooked, nfc, walk_images

NONE = "_none"  # the folder of images that show none of the classes


class ClassFolders(Dataset):
    """One label per image, no boxes. Sample ids are ``<class>/<file>``.

    Where there are images of nothing, a label may be missing, so that every class is a question of its own.
    """

    def __init__(self, root: Path, split_folders: dict[str, Path], notes: Sequence[str] = ()) -> None:
        self.name = root.resolve().name
        self.root = root
        self._splits = {split: _by_class(folder) for split, folder in split_folders.items()}
        found = {name for folders in self._splits.values() for name in folders}
        names = sorted(found - {NONE})
        if not names:
            raise DataError(
                f"{root} has no class beside {NONE}. Put the images of each class into a folder of its own."
            )
        self.multi_label = NONE in found
        self.classes = tuple(ClassName(name, name) for name in names)
        self.problems.warn(*notes)

    def _read(self, split: str) -> list[BoxedSample]:
        """Return the samples, sorted by class and file name, those of nothing last; none has a box."""
        samples: list[BoxedSample] = []
        overlooked = Overlooked()
        labels = {item.name: (label,) for label, item in enumerate(self.classes)} | {NONE: ()}
        for name, label in labels.items():
            for folder in self._splits[split].get(name, ()):
                images = list_images(folder, overlooked)
                if not images:
                    self.problems.error(f"{folder} has no image{_other_files(folder)}.")
                samples += [BoxedSample(f"{folder.name}/{file}", path, label) for file, path in images.items()]
        self.problems.warn(*overlooked.messages())
        return samples


def open_class_folders(folder: Path) -> ClassFolders | None:
    """Open ``folder`` if its subfolders are classes, or splits with classes; None if they are neither.

    Raises:
        DataError: two folders are the same split.

    """
    splits, notes = _find_splits(folder)
    if not splits:
        return _open_single(folder)
    for path in subfolders(folder).values():
        if split_of(path.name) not in splits and (images := list_images(path)):
            notes.append(f"{path} has {len(images)} images but is no split with class folders; it is left out.")
    return ClassFolders(folder, {split: splits[split] for split in SPLIT_ORDER if split in splits}, notes)


def _open_single(folder: Path) -> ClassFolders | None:
    """Open ``folder`` as one split, if any of its folders can only be a class."""
    with_images = _with_images(folder)
    if all(is_container(name) for name in with_images) or only_folder(folder) is not None:
        return None
    return ClassFolders(folder, {"train": folder}, _swapped_levels(with_images))


def _swapped_levels(classes: dict[str, Path]) -> list[str]:
    """Say it where all class folders hold folders of the same names instead of images: splits, or the real classes."""
    shared = set.intersection(*(set(_with_images(path)) for path in classes.values()))
    inner = sorted(name for name in shared if split_of(name) or not is_container(name))
    if not inner or any(map(has_images, classes.values())) or len(classes) < 2:
        return []
    outer, named = ", ".join(list(classes)[:3]), ", ".join(inner[:3])
    if all(map(split_of, inner)):
        return [f"{outer} hold folders called {named}: all their images count as one split, 'train'."]
    return [f"{outer} are taken for classes, but all of them hold folders called {named}. Are these the classes?"]


def _find_splits(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return split -> folder of class folders, and what is to be said about that."""
    named: dict[str, Path] = {}
    for name, path in subfolders(folder).items():
        split = split_of(name)
        if split is None or not _with_images(path):
            continue
        if split in named:
            raise DataError(f"{named[split]} and {path} are both split {split!r}. Rename or merge them.")
        named[split] = path
    notes: list[str] = []
    for split, path in named.items():
        classes = {name for other, other_path in named.items() if other != split for name in _by_class(other_path)}
        inner = only_folder(path)
        if inner is not None and nfc(inner.name) not in classes and _with_images(inner):
            named[split] = inner
            notes.append(passed_through(path, inner))
    return {split: path for split, path in named.items() if not all(map(is_container, _with_images(path)))}, notes


def only_folder(folder: Path) -> Path | None:
    """Return the one subfolder of a folder without images, if it holds no image itself: a wrapping, not a class."""
    inner = list(subfolders(folder).values())
    if len(inner) != 1 or has_images(folder) or has_images(inner[0]):
        return None
    return inner[0]


def passed_through(folder: Path, inner: Path) -> str:
    """Say that ``inner`` was read instead of ``folder``."""
    return f"{folder} holds just the folder {inner.name}, which is read in its place."


def subfolders(folder: Path) -> dict[str, Path]:
    """Map names to the folders in ``folder``, sorted; not hidden ones and what macOS adds to archives."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    }


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Map class names to their folders: two that differ in their Unicode form alone are one class."""
    found: dict[str, list[Path]] = defaultdict(list)
    for name, path in subfolders(folder).items():
        found[nfc(printable(name))].append(path)
    return found


def _with_images(folder: Path) -> dict[str, Path]:
    """Map names to the subfolders that hold an image, at any depth."""
    return {name: path for name, path in subfolders(folder).items() if _holds_images(path)}


def _holds_images(folder: Path) -> bool:
    """Tell whether an image or a HEIC photo lies in ``folder`` or below; stops at the first."""
    overlooked = Overlooked()
    return any(names or overlooked.heic for _, names in walk_images(str(folder), overlooked))


def _other_files(folder: Path) -> str:
    """Say what to do about a class folder without images: of other files it may be no class at all."""
    file = next((path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")), None)
    if file is not None and file.suffix.lower() in HEIC_SUFFIXES:
        return f" but HEIC photos, which are not read: {HEIC_ADVICE}"
    if file is None:
        return ". Put some there or remove the folder"
    return f" but other files, such as {file.name}. If these are annotations, {folder.parent} has no class folders"
