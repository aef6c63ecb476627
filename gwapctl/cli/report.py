"""``gwapctl report``: the papers' tables beside what was measured, their figures, and a page per run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gwapctl.cli import complete, console, options, parse
from gwapctl.cli.options import DATA, MODEL, OUTPUT, argument, option, require_suffix
from gwapctl.errors import UsageError, counted

FORMATS = ("table", "markdown", "latex", "csv", "json", "html")
SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}


def report(
    run: Annotated[Path | None, argument("RUN", "A run folder: write its page.")] = None,
    table: Annotated[
        str | None,
        option(
            "--table -t",
            "A table: i, ii, iii, iv, v, cam, ... or all.",
            autocompletion=complete.names(complete.tables),
        ),
    ] = None,
    figure: Annotated[
        str | None, option("--figure", "A figure of the paper: 7 (heads side by side), 8 (scales) or 9 (detections).")
    ] = None,
    runs: Annotated[Path | None, option("--runs", "Folder whose runs fill the table or figure.", DATA, "runs")] = None,
    models: Annotated[
        str | None,
        option(
            "--models",
            "Runs, model folders or zoo entries of a figure, separated by commas.",
            MODEL,
            "the newest run of each head",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        option(
            "--images",
            "Image, folder, glob or image id of a figure. Can be repeated.",
            DATA,
            "the first of the data set's test images",
        ),
    ] = None,
    limit: Annotated[int, option("--limit", "How many images a figure shows.", DATA, min=1)] = 4,
    map: options.MapMethod = None,
    scales: options.Scales = None,
    dataset: Annotated[
        str | None,
        option(
            "--dataset",
            "Data set (name or folder) of the table's numbers, or of the figure's images, instead of the paper's.",
            DATA,
        ),
    ] = None,
    profile: Annotated[
        str, option("--profile", "The table of a profile's runs: paper, real, smoke or a TOML file.", DATA)
    ] = "paper",
    shipped: Annotated[
        bool, option("--shipped/--no-shipped", "Below a table: what we measured in its stead, on other data.", DATA)
    ] = True,
    record: Annotated[
        Path | None,
        option(
            "--record",
            "Add the finished runs below --runs to a CSV of results, one row per evaluation.",
            OUTPUT,
            metavar="FILE",
        ),
    ] = None,
    commands: Annotated[bool, option("--commands", "One command per empty cell of a table.", OUTPUT)] = False,
    root: options.Root = None,
    format: Annotated[str | None, option("--format", f"{', '.join(FORMATS)}.", OUTPUT, "by --out, else table")] = None,
    out: options.Out = None,
    dpi: Annotated[int, option("--dpi", "Pixels per inch of a figure.", OUTPUT, min=50)] = 300,
    overwrite: options.Overwrite = False,
) -> None:
    """Print the papers' tables with measured numbers, draw their figures, or write one HTML page for a run.

    Examples:
      gwapctl report runs/a
      gwapctl report --table all --format markdown
      gwapctl report --figure 7 --models runs/gap,runs/gwap --out heads.pdf
      gwapctl report --runs runs --record results.csv

    """
    require_suffix(record, ".csv", name="--record")
    if record is not None and table is None and figure is None:
        _record(run or runs or Path("runs"), record)
    elif figure is not None and table is None and record is None:
        from gwapctl.paper import figures

        path = out or Path(f"figure-{figure}.png")
        figures.check_figure(figure, path, overwrite=overwrite)
        specs = [*([] if run is None else [str(run)]), *parse.listed(models)]
        shown = figures.find_models(specs, runs or Path("runs"), detectors=figure == "9")
        known = figures.find_images(images or [], shown[0].model.name, dataset=dataset, root=root, count=limit)
        wishes = figures.Wishes(map, parse.parse_scales(scales))
        figures.save_layout(figures.build_figure(figure, shown, known, wishes, console.warn), path, dpi=dpi)
        console.print_text(str(path))
    elif run is not None and table is None and figure is None:
        from gwapctl.paper.run_page import write_run_page

        require_suffix(out, ".html", ".htm")
        console.print_text(str(write_run_page(run, out, root=root, overwrite=overwrite)))
    elif table is not None and run is None and figure is None and record is None:
        from gwapctl.paper.tables import build_tables, render_tables

        if format is None:
            require_suffix(out, *SUFFIXES, ".txt")
        kind = format or SUFFIXES.get(out.suffix.lower() if out else "", "table")
        tables = build_tables(table, runs=runs, dataset=dataset, profile=profile, shipped=shipped)
        _write(render_tables(tables, kind, commands=commands), out, overwrite)
    else:
        raise UsageError(
            "give a run for its page (gwapctl report runs/a), a table (gwapctl report --table i, or all), a figure "
            "(gwapctl report --figure 7) or a file of results (gwapctl report --record results.csv)."
        )


def _record(runs: Path, file: Path) -> None:
    from gwapctl.paper.measured import measured_rows, record

    if not runs.is_dir():
        raise UsageError(f"{runs} is not a folder. Give the folder that holds the runs with --runs.")
    rows = measured_rows(runs)
    record(rows, file)
    counts = f"{counted(len(rows), 'evaluation')} of {counted(rows['run'].nunique(), 'run')}"
    console.note(f"recorded {counts} in {file}")


def _write(text: str, out: Path | None, overwrite: bool) -> None:
    from gwapctl.paper.pages import write_report

    if out is None:
        console.print_text(text)
    else:
        write_report(out, lambda: text, overwrite=overwrite)
        console.note(f"wrote {out}")
