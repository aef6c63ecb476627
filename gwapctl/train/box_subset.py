"""Which images of a training split show their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from gwapctl.datasets.base import BoxedSample
from gwapctl.errors import DataError, UsageError


def box_labelled_subset(samples: Sequence[BoxedSample], classes: int, proportion: float, seed: int) -> list[str]:
    """Return the ids of the images whose boxes may be seen: of every class the same share of its images.

    The paper says "for each category some images have boxes" (arXiv 1809.08264, section VI) and no more; the procedure
    is ours. Every class has one seeded permutation of its images (those with an object of it that is not difficult).
    One sequence of images is built: the class of which the smallest share is chosen so far appends the next unused
    image of its permutation. The subset is the shortest prefix that holds ``ceil(proportion N_c)`` images of every
    class, so subsets of one seed nest. It depends on ids and ``seed``, not on the order of ``samples``. A chosen image
    shows all its boxes, and images hold several classes, so the subset may be a larger share of all images than
    ``proportion``. An image without any object that counts is never chosen.

    Raises:
        UsageError: ``proportion`` is not above 0 and at most 1.
        DataError: no image has a box of an object that is not difficult.

    """
    if not 0 < proportion <= 1:
        raise UsageError(f"--box-proportion must be above 0 and at most 1, not {proportion}.")
    present = {s.id: sorted(set(s.box_labels[~s.difficult].tolist())) for s in samples}
    queues: list[list[str]] = []
    for label in range(classes):
        members = sorted(name for name, labels in present.items() if label in labels)
        order = np.random.default_rng([seed, label]).permutation(len(members))
        queues.append([members[index] for index in order[::-1]])  # the next one is the last
    totals = [len(queue) for queue in queues]
    if not any(totals):
        raise DataError("no image of the training split has a box, which a detector needs. Train without --detector.")
    wanted = [math.ceil(Fraction(str(proportion)) * total) for total in totals]  # 0.1 of 30 is 3, never 4
    counts = [0] * classes
    chosen: dict[str, None] = {}
    while any(count < need for count, need in zip(counts, wanted, strict=True)):
        _, label = min((Fraction(counts[c], totals[c]), c) for c in range(classes) if queues[c])
        name = queues[label].pop()
        if name in chosen:
            continue
        chosen[name] = None
        for other in present[name]:
            counts[other] += 1
    return list(chosen)
