"""The look at all images of a training before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gwapctl.datasets.check import DECODED, unreadable_images
from gwapctl.errors import DataError, option
from gwapctl.images.files import same_files
from gwapctl.train.data import TrainData, require_all_classes
from gwapctl.train.task import Listener


@dataclass(frozen=True)
class ImageCheck:
    """Looks at all images before anything is built, and refuses or leaves out (``skip``) those that cannot be read.

    ``known`` are those that the run left out when it was started: a resumed run leaves out the same, and no others.
    ``listener`` is told what was left out and how thorough the check was.
    """

    skip: bool = False
    known: Mapping[str, Sequence[str]] | None = None
    listener: Listener = Listener()  # noqa: RUF009

    def __call__(self, data: TrainData) -> TrainData:
        """Return the data without what is left out.

        It is a ``DataError`` that an image cannot be read and none may be left out, or that a class has no other image.
        """
        if self.known:
            data = data.without(self.known)
        skip = self.skip and self.known is None
        samples = [sample for part in data.parts.values() for sample in part]
        if len(samples) > DECODED and not skip:
            whole = f"{option('skip_broken', True)} reads them whole"
            self.listener.announce(f"checking the headers of {len(samples):,} images; {whole}")
        for message in same_files(sample.path for sample in samples)[:1]:
            self.listener.warn(f"{message} `gwapctl data check` lists all.")
        broken = unreadable_images(samples, every=skip, progress=self.listener.check_progress)
        if not broken:
            return data
        first, more = next(iter(broken.values())), len(broken) - 1
        others = f" {more} more images cannot be read." if more else ""
        if not skip:
            leaving = f"{option('skip_broken', True)} leaves them out"
            raise DataError(f"{first}{others} `gwapctl data check` lists all, {leaving}.")
        self.listener.warn(
            f"{len(broken)} of {len(samples)} images cannot be read and are left out. The first: {first}"
        )
        ids = {part: [item.id for item in found if item.path in broken] for part, found in data.parts.items()}
        kept = data.without({part: found for part, found in ids.items() if found})
        require_all_classes(kept.dataset, kept.train, kept.train_split)
        return kept
