"""What came of ``gwapctl label``: counts of boxes, and what they are worth where true boxes are at hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gwapctl.errors import printable
from gwapctl.files import read_json
from gwapctl.formats.review import PAGE
from gwapctl.label.plan import FOUND, REVIEW, Plan
from gwapctl.label.steps import Judge
from gwapctl.predict.predictions import read_predictions

DOUBTFUL = 0.5  # from this doubt on a box is better looked at; a detector's is 1 - score
MEASURED = ("det_map_area", "cor_loc")  # of boxes; the first needs several in an image


@dataclass
class Summary:
    """What was found: numbers of ``boxes``, of ``images`` that have some, and of those that do not, by the reason.

    ``doubtful`` boxes have a doubt of 0.5 or more. ``measured`` has, where there are true boxes, a row for each split
    and whose boxes it is about: detection AP and CorLoc in percent, at an IoU of 0.5.
    """

    review: str
    boxes: int = 0
    images: int = 0
    doubtful: int = 0
    none: int = 0
    empty: int = 0
    failed: int = 0
    measured: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as a document."""
        return {"schema_version": 1, **asdict(self)}


def summary(plan: Plan) -> Summary:
    """Read what the steps of a plan wrote."""
    out = plan.asked.out
    labelled = {printable(str(sample.path)) for sample in plan.samples if sample.labels}
    said = Summary(str(out / REVIEW / PAGE))
    for image in read_predictions(out / FOUND):
        doubts = [1 - one.score if one.doubt is None else one.doubt for one in image.predictions if one.box is not None]
        said.boxes += len(doubts)
        said.images += bool(doubts)
        said.doubtful += sum(doubt >= DOUBTFUL for doubt in doubts)
        said.failed += image.error is not None
        without = not doubts and image.error is None
        said.empty += without and image.image in labelled
        said.none += without and image.image not in labelled
    for step in plan.steps:
        if isinstance(step, Judge) and step.done:
            found = read_json(step.out)
            numbers = {key: found["metrics"].get(key) for key in MEASURED}
            said.measured.append({"split": step.split, "n": found["n"], "boxes": step.whose, **numbers})
    return said
