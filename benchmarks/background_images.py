"""Copy the photos of a VOC set that show none of some classes into a folder: background images for ``--background``.

python benchmarks/background_images.py data/voc2012-part data/voc2012-without-birds --without bird

Photos of the training split alone; one that shows such a class as a difficult object is left out, too.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from gwapctl.datasets import open_dataset, training_splits
from gwapctl.errors import DataError, UsageError


def main() -> None:
    """Copy the photos and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of the data set")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--without", required=True, help="classes, separated by commas")
    asked = parser.parse_args()
    count = copy_without(asked.dataset, asked.out, asked.without.split(","))
    print(f"{count} photos without {asked.without} in {asked.out}")


def copy_without(folder: Path, out: Path, names: list[str]) -> int:
    """Copy the training images of ``folder`` without the classes ``names`` to ``out``, and return how many.

    Raises:
        UsageError: there is no such class.
        DataError: no image is left.

    """
    dataset = open_dataset(str(folder))
    index = {item.name: number for number, item in enumerate(dataset.classes)}
    if unknown := [name for name in names if name not in index]:
        raise UsageError(f"{dataset.name} has no class {', '.join(unknown)}. It has: {', '.join(index)}.")
    removed = {index[name] for name in names}
    samples = dataset.samples(training_splits(dataset)[0])
    kept = [sample for sample in samples if removed.isdisjoint((*sample.labels, *sample.ignored))]
    if not kept:
        raise DataError(f"every training image of {dataset.name} shows one of {', '.join(names)}.")
    out.mkdir(parents=True, exist_ok=True)
    for sample in kept:
        shutil.copy(sample.path, out)
    return len(kept)


if __name__ == "__main__":
    main()
