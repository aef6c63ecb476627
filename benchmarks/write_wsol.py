"""Write docs/wsol.md: the field's published numbers, and ours apart from them, from models/results.csv.

python benchmarks/write_wsol.py

Run it at the top of the checkout; it writes the same text every time and measures nothing. What others published is
in benchmarks/published_wsol.csv, one number per row: method, year, network, dataset, metric, value, source, mark. The
marks are explained on the page. Ours are the rows of profile ``real`` on the parts of ILSVRC and CUB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gwapctl.paper.measured import read_results, records

PAGE, PUBLISHED = Path("docs/wsol.md"), Path(__file__).with_name("published_wsol.csv")
PROFILE = "real"
PARTS = {"ILSVRC": ("imagenet", "imagenet-20", "imagenet-val"), "CUB": ("cub", "cub-20")}  # names of data sets of ours
MARKS = {"read": "", "list": "ˡ", "recalled": "ʳ", "derived": "ᵈ"}
THEIRS = {"top1_loc": "Top-1 Loc", "top5_loc": "Top-5 Loc", "gt_known": "GT-known", "max_box_acc_v2": "MaxBoxAccV2"}
TABLES = ("methods", "last-stages")  # whose rows are shown
# metrics of ours by protocol; errors are turned into the accuracies that the field prints
OURS = {
    "paper": ("top1_loc_error", "gt_known_error", "gt_known_error_calibrated"),
    "wsoleval": ("max_box_acc", "box_acc", "max_box_acc_v2", "box_acc_v2"),
}
NAMES = {
    "top1_loc_error": "Top-1 Loc",
    "gt_known_error": "GT-known",
    "gt_known_error_calibrated": "GT-known, threshold chosen elsewhere",
    "max_box_acc": "MaxBoxAcc (oracle)",
    "box_acc": "MaxBoxAcc, threshold chosen elsewhere",
    "max_box_acc_v2": "MaxBoxAccV2 (oracle)",
    "box_acc_v2": "MaxBoxAccV2, thresholds chosen elsewhere",
}
FLOORS = {"full_image": "box over the whole image", "centred_box": "centred box"}
SAME = ["dataset", "split", "n", "backbone", "method", "settings", "recipe", "reading"]  # but for seed and protocol
Z = 1.959964  # two-sided 95 % of the normal distribution

HEAD = """# Beside the field

Made by `python benchmarks/write_wsol.py` from `benchmarks/published_wsol.csv` and `models/results.csv`; nothing here is
written by hand. All numbers are accuracies in percent at an IoU of 0.5; MaxBoxAccV2 is the mean over 0.3, 0.5 and 0.7.

## What others published

Measured on the whole ILSVRC 2012 validation set (50,000 images) and CUB-200-2011 test set (5,794 images), with
networks, trainings and thresholds of the authors' choice: rows can be compared only where one source has both.
wsolevaluation's are its own trainings of the methods that others invented. Where two networks are named, the first one
classifies.

Without a mark: read in the paper's text or abstract, or on the page of its own code. ˡ: read where others list it. ʳ:
from memory, the source was not at hand; check it before quoting. ᵈ: computed from a difference that was read.

Left out, because no number on these two sets was found as text: DGL (Tan et al., ACM MM 2020), the background images of
Kou et al. (arXiv 1909.03619; their next method is CSoA), TriLite on CUB, and everybody's MaxBoxAcc at one IoU, which
wsolevaluation replaced by MaxBoxAccV2.
"""

OWN = f"""
## Ours

Measured by gwapctl on parts of the two data sets, in profile `{PROFILE}` (`models/profiles/{PROFILE}.toml`).
**They cannot be set beside the numbers above**, because:

- the images are few, and 20 classes are easier to tell apart than 1,000 or 200, which raises Top-1 Loc most;
- half of the 20 classes of ILSVRC are breeds of dogs, and the images were shrunk to at most 256 pixels, some of them
  squashed to a square;
- the network is small, its ImageNet training saw the labels of these classes of ILSVRC, and the budget is that of two
  processor cores;
- of the thresholds, those called an oracle are the best on these very images, as wsolevaluation has it; those chosen
  elsewhere are the best on images that are not reported on: those of train (CUB), or the other half of val in turn
  (ILSVRC, whose training images of this part have no boxes). Top-1 Loc and GT-known are by Otsu's threshold, which
  knows no box at all.

The floors never look at the image. A number is the mean over the seeds. The range is its 95 % interval over images
(Wilson), as if the mean were one network's: how far another draw of as many images would move it.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(pd.read_csv(PUBLISHED, dtype="str"), read_results()), encoding="utf-8")
    print(f"wrote {PAGE}")


def page(published: pd.DataFrame, measured: pd.DataFrame) -> str:
    """Return the page's text."""
    parts = [HEAD]
    for dataset in PARTS:
        parts += [f"\n### {dataset}\n\n", published_table(published[published["dataset"] == dataset])]
    parts.append(OWN)
    for dataset, names in PARTS.items():
        of_profile = measured["run"].astype(str).str.contains(rf"-{PROFILE}(?:-seed\d+)?$")
        of_table = measured["recipe"].astype(str).str.startswith(TABLES)
        rows = measured[of_profile & of_table & measured["dataset"].isin(names) & measured["protocol"].isin(OURS)]
        parts += [f"\n### Ours on a part of {dataset}\n\n", own_table(rows) if len(rows) else "Not measured yet.\n"]
    return "".join(parts)


# --- the field's ----------------------------------------------------------------------------------------------------


def published_table(numbers: pd.DataFrame) -> str:
    """Return one row per method, network and source, by year; a method's rows stay together."""
    numbers = numbers.assign(value=numbers["value"] + numbers["mark"].map(MARKS), source=numbers["source"].map(linked))
    keys = ["method", "year", "network", "source"]
    table = numbers.pivot_table(index=keys, columns="metric", values="value", aggfunc="first", sort=False)
    table = table.reindex(columns=[*THEIRS]).fillna("").reset_index()
    first = {method: index for index, method in enumerate(table["method"].drop_duplicates())}
    table = table.assign(first=table["method"].map(first)).sort_values(["year", "first"], kind="stable")
    return _markdown(table[["method", "year", "network", *THEIRS, "source"]].rename(columns=THEIRS))


def linked(source: str) -> str:
    """Return a source with a link to the repository or paper that it begins with."""
    text = re.sub(r"^github\.com/([\w-]+/[\w-]+)", r"[\1](https://github.com/\1)", source)
    return re.sub(r"^arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


# --- ours -----------------------------------------------------------------------------------------------------------


def own_table(rows: pd.DataFrame) -> str:
    """Return one row per network and way to read its maps, and the floors of each group of images.

    Heads that see boxes are no rivals of anybody, and are left out.
    """
    rows = rows[rows["method"] != "gwap-gt"]
    rows = rows.assign(reading=[reading(options) for options in rows["options"]])
    lines = []
    for images, of_images in rows.groupby(["dataset", "split", "n"], sort=False):
        where = f"{images[0]} {images[1]}"
        for _, same in of_images.groupby(SAME, sort=False, dropna=False):
            one = records(same)[0]
            means = {
                key: same.loc[same["protocol"] == protocol, key].astype(float).mean()
                for protocol, keys in OURS.items()
                for key in keys
                if key in same
            }
            about = [str(one["recipe"] or one["method"]), one["backbone"], one["reading"], str(same["seed"].nunique())]
            lines.append([*about, where, f"{images[2]:,}", *_cells(means, int(images[2]))])
        for key, name in FLOORS.items():
            if found := _floor(records(of_images), key):
                lines.append([name, "", "floor", "", where, f"{images[2]:,}", *_cells(found, int(images[2]))])
    head = ["trained by", "network", "maps", "seeds", "images of", "n", *NAMES.values()]
    return _markdown(pd.DataFrame(lines, columns=head))


def reading(options: Mapping[str, Any]) -> str:
    """Say how maps were read: ``weight map, 224 px``."""
    layers, scales = (options.get(key) or () for key in ("layer", "scales"))
    at = f" at {', '.join(layers)}" if layers else ""
    return f"{options.get('map', '?')} map{at}" + (f", {'+'.join(map(str, scales))} px" if scales else "")


def wilson(percent: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval, in percent, of a share that ``n`` images gave (Wilson 1927, without correction).

    Example:
        >>> [round(end, 1) for end in wilson(50.0, 100)]
        [40.4, 59.6]

    """
    share, slack = percent / 100, Z * Z / n
    middle = (share + slack / 2) / (1 + slack)
    half = Z / (1 + slack) * math.sqrt(share * (1 - share) / n + slack / (4 * n))
    return 100 * (middle - half), 100 * (middle + half)


def _cells(metrics: Mapping[str, float], n: int) -> list[str]:
    return [_cell(key, metrics.get(key, math.nan), n) for key in NAMES]


def _cell(key: str, value: float, n: int) -> str:
    if math.isnan(value):
        return ""
    accuracy = 100 - value if "_error" in key else value
    low, high = wilson(accuracy, n)
    return f"{accuracy:.1f} ({low:.1f} to {high:.1f})"


def _floor(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return the floor's metrics of one group of images; Top-1 is not its own, for it takes the model's classes."""
    found: dict[str, float] = {}
    for row in rows:
        of_protocol = OURS[row["protocol"]]
        found |= {name: value for name, value in row["floors"].get(key, {}).items() if name in of_protocol}
    return {name: value for name, value in found.items() if name != "top1_loc_error"}


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[*frame.columns], [":---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


if __name__ == "__main__":
    main()
