r"""Which files are images, where they lie below a folder, and how their names are written down. Opens none of them.

A name is known by what it says, not by its bytes: a Mac writes ``é`` as two characters (NFD) where others write one
(NFC). A byte that is no UTF-8 (a name in Latin-1 from an old archive) is written down as ``\xe9`` wherever a name
becomes text: in ids, predictions, maps and messages. ``find_file`` goes back from either to the file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from gwapctl.errors import UsageError, counted, printable

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (  # noqa: SIM905 (one suffix a word reads best)
        "jpg jpeg jpe jfif jif pjpeg pjp mpo png apng bmp dib gif webp tif tiff ppm pgm pbm pnm avif jp2 j2k jpx"
    ).split()
)
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIC_ADVICE = "pip install 'gwapctl[heic]'"
_WANTED = SUFFIXES | HEIC_SUFFIXES
_ENDINGS = tuple(_WANTED)
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")  # what printable() makes of a byte that is no UTF-8
_FEW = 64  # files of a folder up to which each is asked whether it is a link
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?", re.IGNORECASE)  # devices, with any suffix
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]')
LONGEST_NAME = 255  # bytes of the name of a file, on every usual system
_SHOWN = 3  # files that a message names
_KINDS = 6  # suffixes
PHOTOS = "JPEGImages"  # where VOC's layout has its photos, and beside it pictures that are labels of their pixels:
PIXEL_LABELS = frozenset({"SegmentationClass", "SegmentationObject", "Masks"})


def heic_is_readable() -> bool:
    """Tell whether the extra that reads HEIC photos is installed."""
    try:
        return find_spec("pi_heif") is not None
    except ValueError:  # imported, and then taken away
        return False


def name_problem(path: str) -> str | None:
    """Return why Windows cannot have a file of this posix path, in words that follow "and"; None where it can.

    >>> name_problem("a/con.jpg"), name_problem("a./b.jpg"), name_problem("a/b.c.jpg")
    ("Windows cannot name a file or folder 'con.jpg'", "Windows cannot name a file or folder 'a.'", None)
    """
    for part in PurePosixPath(path).parts:
        if _RESERVED.fullmatch(part) or part.endswith((".", " ")) or _FORBIDDEN.search(part):
            return f"Windows cannot name a file or folder {part!r}"
    return None


def length_problem(image_id: str, path: object) -> str | None:
    """Return why no file of ours can be called as an image is, with four characters behind; None where one can."""
    longest = max((len(os.fsencode(on_disk(part))) for part in image_id.split("/")), default=0) + len(".npy")
    if longest <= LONGEST_NAME:
        return None
    return f"{path}: a file beside it would have a name of {longest} bytes, and {LONGEST_NAME} is the most. Rename it."


def check_distinct(image_ids: Iterable[str]) -> None:
    """Refuse ids that would be one file somewhere: alike but for upper and lower case, or for ``./``.

    Raises:
        UsageError: two are; the message names them.

    """
    owners: dict[str, str] = {}
    for image_id in image_ids:
        other = owners.setdefault(one_file(image_id), image_id)
        if other != image_id:
            raise UsageError(
                f"{other!r} and {image_id!r} would be one file where upper and lower case are one. Rename one."
            )


def one_file(name: str) -> str:
    """Return what two names (posix paths) of one file have in common on any system.

    >>> one_file("Cats/./A.jpg") == one_file("cats/a.JPG")
    True
    """
    return os.path.normpath(same_name(name)).replace(os.sep, "/").casefold()


def stem(name: str) -> str:
    """Return a posix path without the suffix of an image; other dots belong to the name.

    >>> stem("birds/no.7.JPG"), stem("birds/no.7")
    ('birds/no.7', 'birds/no.7')
    """
    return str(PurePosixPath(name).with_suffix("")) if name.lower().endswith(_ENDINGS) else name


def nfc(text: str) -> str:
    """Return the composed Unicode form (NFC), the one spelling in which names are compared."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def same_name(name: str) -> str:
    """Return what two names of one file have in common: the composed Unicode form, bytes escaped."""
    return name if name.isascii() else nfc(printable(name))


def on_disk(name: str) -> str:
    r"""Return a written name with the bytes that it stands for, as the tool must find it: ``\\xe9`` becomes one."""
    return _ESCAPE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name)


def find_file(path: Path) -> Path | None:
    """Return the file or folder that ``path`` means, or None: as it is written, else in another form of its name."""
    if os.path.exists(path):  # noqa: PTH110 (Path.exists raises on names that are too long)
        return path
    if str(path).isascii() and "\\x" not in str(path):
        return None
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if os.path.lexists(found / part):
            found /= part
            continue
        name = _names_in(found).get(same_name(part))
        if name is None:
            return None
        found /= name
    return found if found.exists() else None


def _names_in(folder: Path) -> dict[str, str | None]:
    try:
        return _listed(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _listed(folder: str, changed: int) -> dict[str, str | None]:
    """Map what names have in common to the name in ``folder``; None where two files share it."""
    del changed  # part of the key: a list is good until the folder changes
    names: dict[str, str | None] = {}
    for name in os.listdir(folder):  # noqa: PTH208 (names, not paths)
        key = same_name(name)
        names[key] = None if key in names else name
    return names


@dataclass
class Overlooked:
    """What a walk passed by and somebody must hear of: HEIC photos nobody can read, links that lead back, folders."""

    heic: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # files that are no images, by suffix
    labels: list[str] = field(default_factory=list)  # folders of label images in VOC's layout
    _known: dict[str, bool] = field(default_factory=dict)  # folders: whether the way to them leads back

    def messages(self) -> list[str]:
        """Return one line for each kind that there was."""
        lines = []
        if self.heic:
            photos = "1 HEIC photo is" if len(self.heic) == 1 else f"{len(self.heic)} HEIC photos are"
            lines.append(f"{photos} not read: {_some(self.heic)}. To read HEIC: {HEIC_ADVICE}.")
        if self.loops:
            what = "links that lead back to folders above them"
            if len(self.loops) == 1:
                what = "a link that leads back to a folder above it"
            lines.append(f"{_some(self.loops)}: {what}. Not followed, so that no image is taken twice.")
        if self.closed:
            lines.append(f"cannot look into {_some(self.closed)}. Allow it, or leave the folder out.")
        if self.labels:
            lines.append(f"{_some(self.labels)}: not read, for beside {PHOTOS} its images are labels of pixels.")
        if self.others:
            kinds = [f"{number} {suffix or 'without suffix'}" for suffix, number in self.others.most_common()]
            listed = ", ".join(kinds[:_KINDS]) + (f" and {len(kinds) - _KINDS} more kinds" * (len(kinds) > _KINDS))
            lines.append(f"{counted(self.others.total(), 'file')} passed over, for they are no images: {listed}.")
        return lines

    def beyond_a_loop(self, path: str) -> bool:
        """Tell whether the way to ``path`` (absolute) passes a link that leads back, and remember that link."""
        folder, name = os.path.split(path)
        if folder not in self._known:
            self._known[folder] = folder != path and self.beyond_a_loop(folder)
        if self._known[folder] or not name or not os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
            return self._known[folder]
        if _leads_back(folder, name, os.path.sep):
            self.loops.append(path)
            return True
        return False

    def note_closed(self, error: OSError) -> None:
        """Remember a folder that cannot be listed."""
        self.closed.append(f"{error.filename} ({error.strerror})")


def same_files(paths: Iterable[str | Path]) -> list[str]:
    """Return one line for each file that ``paths`` reach under several names, by links.

    No file is asked about where its folder can be: 100,000 of them would take a second.
    """
    by_folder: dict[str, list[str]] = {}
    for folder, name in map(os.path.split, dict.fromkeys(paths)):
        by_folder.setdefault(folder, []).append(name)
    first: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for folder, names in by_folder.items():
        real, links = os.path.realpath(folder), _links_among(names, folder)
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            aim = os.path.realpath(path) if name in links else os.path.join(real, name)  # noqa: PTH118
            if first.setdefault(aim, path) is not path:
                others.setdefault(aim, []).append(path)
    groups = [[first[aim], *more] for aim, more in others.items() if os.path.exists(aim)]  # noqa: PTH110
    return [f"the same file under {len(names)} names: {_some(names)}." for names in groups]


def _links_among(names: list[str], folder: str) -> set[str]:
    """Return those of ``names`` in ``folder`` that are links: of a few names each is looked at, else the folder is."""
    if len(names) < _FEW:
        return {name for name in names if os.path.islink(os.path.join(folder, name))}  # noqa: PTH114, PTH118
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:  # its files fail by name when they are read
        return set()


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(sorted(paths)[:_SHOWN]) + more


def walk_images(folder: str, overlooked: Overlooked, *, recursive: bool = True) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of the images in it) for ``folder`` and those below it; hidden ones do not count.

    Links to folders are followed, but for those that lead back to a folder above them, which would never end.
    """
    unread = () if heic_is_readable() else tuple(HEIC_SUFFIXES)
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        folders, images = _entries(path, folder, overlooked)
        if recursive:
            waiting += [os.path.join(path, name) for name in reversed(folders)]  # noqa: PTH118
        if unread and (heic := {name for name in images if name.lower().endswith(unread)}):
            overlooked.heic += [os.path.join(path, name) for name in sorted(heic)]  # noqa: PTH118
            images = [name for name in images if name not in heic]
        yield path, images


def _entries(folder: str, top: str, overlooked: Overlooked) -> tuple[list[str], list[str]]:
    """Return the names of the folders and images in ``folder``; what else is there is noted, unless it is hidden."""
    folders: list[str] = []
    images: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if _is_folder(entry):
                    if entry.is_symlink() and _leads_back(folder, name, top):
                        overlooked.loops.append(entry.path)
                    else:
                        folders.append(name)
                elif (suffix := os.path.splitext(name)[1].lower()) in _WANTED:  # noqa: PTH122 (Path is slow)
                    images.append(name)
                else:
                    overlooked.others[suffix] += 1
    except OSError as error:
        overlooked.note_closed(error)
    if PHOTOS in folders:
        overlooked.labels += [os.path.join(folder, name) for name in folders if name in PIXEL_LABELS]  # noqa: PTH118
        folders = [name for name in folders if name not in PIXEL_LABELS]
    return folders, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def _leads_back(folder: str, link: str, top: str) -> bool:
    """Tell whether ``link`` in ``folder`` leads to a folder above it, by its path from ``top`` or on the disk."""
    aim = os.stat(os.path.join(folder, link))  # noqa: PTH116, PTH118
    passed = [Path(folder), *(parent for parent in Path(folder).parents if parent.is_relative_to(top))]
    above = {other for real in {path.resolve() for path in passed} for other in (real, *real.parents)}
    return any(os.path.samestat(aim, other.stat()) for other in above)
