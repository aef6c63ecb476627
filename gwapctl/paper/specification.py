"""What a table of a paper says: caption, columns, rows in the paper's order, and every number of it.

A specification is ``models/tables/<name>.toml``. Beside the paper's numbers each row says what would measure it again:
the recipe of its training, the settings by which a run is recognised, and the options of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, create_model, model_validator

from gwapctl.errors import DataError, UsageError, closest, unknown_name
from gwapctl.files import parse_toml
from gwapctl.maps.reading import READING_OPTIONS, ResolvedReading, split_options
from gwapctl.metrics import METRICS
from gwapctl.networks.zoo import zoo_folder

TABLES = (
    "i",
    "ii",
    "iii",
    "iv",
    "v",
    "cam",
    "dgl",
    "background",
    "background-ilsvrc",
    "fused",
    "methods",
    "margins",
    "last-stages",
)
OURS = "ours"  # the source of a table that no paper has
TOGETHER = {"background": ("background", "background-ilsvrc")}  # one table of two data sets

Setting = bool | int | float | str | tuple[int, ...] | tuple[str, ...] | dict[str, int | float]

# what an evaluation does unless it is asked for something else
USUAL: dict[str, Any] = {
    **{option: getattr(ResolvedReading(), name) for option, name in READING_OPTIONS.items()},
    "guesses": None,
}
EXTRAS = {option: value for option, value in USUAL.items() if option not in ("map", "scales", "resize", "flip")}


Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """A model that cannot change and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_ASKED: dict[str, Any] = {
    "map": (str | None, None),
    "scales": (Literal["own"] | tuple[int, ...] | None, None),
    "box_rule": (str | None, None),
    **{option: (Any, None) for option in READING_OPTIONS if option not in ("map", "scales")},
    "guesses": (Literal["five"] | None, None),
    "calibrate_on": (str | None, None),
    "tight": (str | None, None),
    "loose": (str | None, None),
}


class EvaluateOptions(create_model("Asked", __base__=Frozen, **_ASKED)):  # type: ignore[misc]
    """The options of ``gwapctl evaluate`` that a measured number must have been made with. None: any.

    They are those of ``MapReading``, ``box_rule``, ``guesses`` with their thresholds, and ``calibrate_on``.
    ``scales = "own"`` is one forward at the model's own input size. Of ``EXTRAS`` None means that the number was made
    without them. ``calibrate_on`` adds metrics and changes none: where it is None a number made with it fits, too.
    """

    @model_validator(mode="before")
    @classmethod
    def _check(cls, options: Any) -> Any:
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
        try:
            split_options({name: value for name, value in options.items() if value not in (None, "own")})
        except UsageError as error:
            raise ValueError(str(error)) from None
        return options

    def asked(self) -> dict[str, Any]:
        """Return the options that matter."""
        return {name: value for name, value in self if value is not None}

    def recorded(self) -> dict[str, Any]:
        """Return the same as the document of an evaluation says them: thresholds of guesses by their rules' names."""
        from gwapctl.regions import parse_box_rule

        rules = {
            name: parse_box_rule(threshold=getattr(self, name)).name
            for name in ("tight", "loose")
            if getattr(self, name)
        }
        return {**self.asked(), **rules}


class Column(Frozen):
    """One column of numbers.

    ``classes``: the metric's mean over these alone, of one that is a mean over classes; the data set may have more.
    ``config`` adds to every row's settings (table V trains one model per column). A ``quoted`` column cannot be
    measured; the text says why. An ``optional`` one is left out where no row has its metric: not every data set does.
    ``percent``: the table prints a metric of 0..1 in percent. ``best``: which number is bold; by default the metric's
    own direction.
    """

    key: str
    name: str
    metric: str | None = None
    decimals: Annotated[int, Field(ge=0, le=6)]
    best: Literal["highest", "lowest", "none"]
    config: dict[str, Setting] = {}
    quoted: str | None = None
    optional: bool = False
    percent: bool = False
    classes: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _best_of_its_metric(cls, values: dict[str, Any]) -> dict[str, Any]:
        key = values.get("metric")
        if key is not None and key not in METRICS:
            raise ValueError(f"there is no metric {key!r}.{closest(key, METRICS)}")
        if values.get("classes") and not (key and METRICS[key].class_key):
            raise ValueError(f"{key} is no mean over classes whose numbers are kept, so it has none to choose")
        return values if key is None else {"best": METRICS[key].direction, **values}

    def value(self, metrics: Mapping[str, Any]) -> float | None:
        """Return the column's metric of a measured row as the table prints it, None where it was not measured."""
        value = metrics.get(self.metric or "")
        if self.classes:
            numbers = (metrics.get("per_class") or {}).get(METRICS[self.metric or ""].class_key, {})
            known = [numbers[name] for name in self.classes if name in numbers]
            value = sum(known) / len(known) if len(known) == len(self.classes) else None
        return 100 * value if value is not None and self.percent else value


class Row(Frozen):
    """One row: the paper's numbers by column key, and what measures them again.

    ``bold``: columns that the paper prints in bold. ``group``: among which rows the best measured number is bold; none
    means never. ``quoted``: why the row cannot be measured. ``instead``: what a profile sets on top of the recipe.
    """

    id: str
    labels: tuple[str, ...]
    paper: dict[str, FiniteFloat] = {}
    bold: tuple[str, ...] = ()
    group: str | None = None
    recipe: str | None = None
    config: dict[str, Setting] = {}
    evaluate: EvaluateOptions = EvaluateOptions()
    quoted: str | None = None
    instead: dict[str, Setting] = {}

    @model_validator(mode="after")
    def _measured_or_quoted(self) -> Self:
        if (self.recipe is None) == (self.quoted is None):
            raise ValueError("a row has either a recipe or a reason why it is quoted")
        return self


class TableSpec(Frozen):
    """A table of a paper, or one of our own (``source = "ours"``).

    ``dataset`` and ``split`` are what the paper evaluated on and ``images`` how many images that is (more than one
    number where protocols differ): a number measured on anything else never stands beside the paper's. ``remarks``
    explain what stands in the rows. ``profile``, its caption, its ``default_dataset`` and its number of ``seeds`` are
    filled in by ``paper.profile``: the table on another budget than the paper's; ``variants`` are the same on yet
    another budget for data sets by name.
    """

    name: str
    number: str
    caption: str
    source: str
    dataset: str
    train_dataset: str
    split: str
    images: tuple[int, ...]
    protocol: str
    label_columns: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    profile: str | None = None
    profile_caption: str = ""
    default_dataset: str | None = None
    seeds: int = 1
    variants: dict[str, TableSpec] = {}

    @model_validator(mode="before")
    @classmethod
    def _trained_on_the_same(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"train_dataset": values.get("dataset"), **values}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = {column.key for column in self.columns}
        for row in self.rows:
            if len(row.labels) != len(self.label_columns):
                raise ValueError(f"row {row.id!r} has {len(row.labels)} labels for {len(self.label_columns)} columns")
            if not set(row.paper) <= keys or not set(row.bold) <= set(row.paper):
                raise ValueError(f"row {row.id!r} names a column that the table does not have")
        ids = [row.id for row in self.rows]
        if len(set(ids)) != len(ids):
            raise ValueError("two rows have the same id")
        if any((column.metric is None) == (column.quoted is None) for column in self.columns):
            raise ValueError("a column has either a metric or a reason why it is quoted")
        return self

    @property
    def of_a_paper(self) -> bool:
        """Whether it is a paper's, beside whose numbers measured ones stand, and not one of our own."""
        return self.source != OURS

    def on(self, *datasets: str) -> TableSpec:
        """Return the table as the profile has it on a data set: by the first of its names that the profile knows.

        A name may be a part like ``lid:40``, or a folder.
        """
        names = (PurePath(dataset).name.partition(":")[0] for dataset in datasets)
        return next((self.variants[name] for name in names if name in self.variants), self)


def tables_folder() -> Path:
    """Return the folder of the table specifications: in the wheel, else in the checkout."""
    return zoo_folder() / "tables"


def table_names(name: str) -> tuple[str, ...]:
    """Return the tables that ``name`` stands for: itself, its parts, or each one for ``all``; else a UsageError."""
    if name == "all":
        return TABLES
    if name not in TABLES:
        raise unknown_name("table", name, [*TABLES, "all"])
    return TOGETHER.get(name, (name,))


def load_table(name: str) -> TableSpec:
    """Read the specification of one table; a UsageError says that there is none.

    >>> load_table("i").number, len(load_table("i").rows)
    ('TABLE I', 10)
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    return read_table(tables_folder() / f"{name}.toml")


def read_table(file: Path) -> TableSpec:
    """Read a table specification from a TOML file; a DataError lists every mistake in it."""
    return read_toml(TableSpec, file, "table", name=file.stem)


def read_toml(model: type[Model], file: Path, what: str, **usual: Any) -> Model:
    """Read a ``model`` from a TOML file; ``usual`` are the values of what it does not state.

    A DataError lists every mistake.
    """
    try:
        return model.model_validate({**usual, **parse_toml(file)})
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, item['loc'])) or what}: {item['msg']}" for item in error.errors()]
        raise DataError(f"{file} is not a {what}: {'; '.join(mistakes)}.") from error
