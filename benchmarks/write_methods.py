"""Write docs/methods.md: the table of all methods from models/results.csv, and its picture.

python benchmarks/write_methods.py                   the page from what is committed: the same text every time
python benchmarks/write_methods.py --picture RUNS    first draw docs/images/methods.jpg with these runs' weights, on the
                                                     first test images of the synthetic set they were trained on

Run it at the top of the checkout. It trains nothing: the commands that made the runs are on the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from methods_picture import Method, method_layout

from gwapctl.paper.build import build_table
from gwapctl.paper.figures.inputs import find_images
from gwapctl.paper.figures.layout import save_layout
from gwapctl.paper.measured import read_results
from gwapctl.paper.profile import apply_profile, load_profile
from gwapctl.paper.render import render_markdown
from gwapctl.paper.specification import TableSpec, load_table
from gwapctl.predict.classifier import load_model
from gwapctl.runs import Run, find_runs

TABLE, PROFILE = "methods", "real"
SCENES = "data/scenes"
PAGE, PICTURE = Path("docs/methods.md"), Path("docs/images/methods.jpg")
IMAGES, DPI = 5, 90
HEADS = "gap gmp-features gmp lse weldon wildcat gwap gwap-no-sigmoid gwap-no-exp gwap-class gwap-gt"

HEAD = f"""# Every head and map method, side by side

Made by `python benchmarks/write_methods.py` from `models/results.csv`; nothing here is written by hand.

The heads stand on the same frozen features of `efficientnet-lite0` with ImageNet weights and have the same budget;
nothing is chosen on the images that are reported on. Differences within the standard deviations mean nothing, and
[claims.md](claims.md) judges those between the papers' methods. Numbers of different tables do not compare. The
commands ([background-images.md](background-images.md) makes the folders for head background):

```sh
gwapctl reproduce {TABLE} --profile {PROFILE} --root data/imagenet-20 --record models/results.csv
gwapctl reproduce {TABLE} --profile {PROFILE} --dataset cub --root data/cub-20 --record models/results.csv
python benchmarks/write_methods.py
```

A head is how a feature map becomes class scores; a map is read from a trained network, so several rows share one.
`class` is the class activation map, `weight` the pooling weights of GWAP, `fused` the mean of these two (ours),
`foreground` the class-free branch of head `background`, `backprop` the gradient at the pixels; `gradcam`, `layercam`
and `dgl` use gradients at the last feature map, or at the layers that stand behind them. What they cost beside each
other, `python benchmarks/map_cost.py RUN --maps class,gradcam,dgl` measures.
"""
UNDER = f"""
## The same images under every method

The first {IMAGES} test images of a synthetic set under networks of the same kind. The class of the largest object is
given, its boxes are dashed; the solid box is Otsu's. Made by:

```sh
gwapctl data synth --images 400 --out {SCENES}
for head in {HEADS}; do
    gwapctl train {SCENES} --recipe methods-$head --out runs/$head
done
gwapctl train {SCENES} --recipe methods-background --background data/voc2012-without-imagenet-20 --out runs/background
python benchmarks/write_methods.py --picture runs
```

![Heatmaps and boxes of every head and map method on the same {IMAGES} synthetic images](images/{PICTURE.name})
"""


def main() -> None:
    """Do what is asked for, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="RUNS")
    arguments = parser.parse_args()
    spec = apply_profile(load_table(TABLE), load_profile(PROFILE))
    if arguments.picture:
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        draw_picture(spec, arguments.picture)
    PAGE.write_text(page(spec, read_results()), encoding="utf-8")


def runs_of(spec: TableSpec, folder: Path) -> list[Run]:
    """Return the finished runs below ``folder`` that were trained by a recipe of the table."""
    recipes = {row.recipe for row in spec.rows}
    return [run for run in find_runs(folder) if run.finished and run.document["config"].get("recipe") in recipes]


def page(spec: TableSpec, rows: pd.DataFrame) -> str:
    """Return the page: each data set's table, and the picture where there is one."""
    tables = [table for table in build_table(spec, rows) if table.runs()]
    text = render_markdown(tables) if tables else "Nothing is measured yet.\n"
    return "\n".join([HEAD, text]) + (UNDER if PICTURE.is_file() else "")


def draw_picture(spec: TableSpec, folder: Path) -> None:
    """Draw every row for which there is a network trained on the synthetic scenes."""
    runs = {
        run.document["config"]["recipe"]: run.folder
        for run in runs_of(spec, folder)
        if run.document["dataset"]["name"] == Path(SCENES).name
    }
    models = {recipe: load_model(path, precision="fp32") for recipe, path in runs.items()}
    methods = []
    for row in spec.rows:
        model = models.get(str(row.recipe))
        if model and not model.detects:
            rule = row.evaluate.box_rule or model.info.box_rule
            methods.append(Method(", ".join(row.labels), model, str(row.evaluate.map), rule, row.evaluate.layer))
    if not methods:
        raise SystemExit(f"{folder} holds no finished run of table {spec.name} on {SCENES}.")
    images = find_images([], methods[0].model.name, count=IMAGES)
    save_layout(method_layout(methods, images), PICTURE, dpi=DPI)


if __name__ == "__main__":
    main()
