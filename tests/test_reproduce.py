"""``gwapctl reproduce``: what a table lacks is trained and measured once, whatever fails, stops or is there already."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gwapctl.paper.reproduce as verb
from gwapctl.datasets.synthetic import make_synthetic_voc
from gwapctl.errors import DataError, UsageError
from gwapctl.lock import LOCK, _machine
from gwapctl.paper.measured import read_results
from gwapctl.paper.profile import apply_profile, load_profile, profile_names
from gwapctl.paper.reproduce import Machine, carry_out, make_plan
from gwapctl.paper.specification import load_table
from gwapctl.runs import STATE, Run, find_runs

Reproduce = Callable[..., Any]

PROFILE = """
caption = "Profile tiny: three iterations."
[settings]
backbone = "resnet-s"
weights = "none"
batch_norm = "train"
lr = 1e-3
image_size = [32, 24]
batch_size = 4
iterations = 3
val_fraction = 0.0
keep = "last"
[tables.i]
rows = ["googlenet-gap", "googlenet-gwap"]
[tables.ii]
rows = ["googlenet-gap", "googlenet-gwap"]
[tables.ii.row.googlenet-gwap.evaluate]
scales = [32, 48]
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_synthetic_voc(folder, images=20, seed=0, size=(64, 80))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def reproduce(run_cli: Reproduce, tiny: Path, scenes: Path, tmp_path: Path) -> Reproduce:
    """Run the verb on the synthetic scenes in the tiny profile, runs below ``tmp_path/runs``."""

    def run(table: str, *more: object) -> Any:
        runs = tmp_path / "runs"
        return run_cli(
            *("reproduce", table, "--profile", tiny, "--dataset", scenes, "--runs", runs, "--device", "cpu"), *more
        )

    return run


def trainings(result: Any) -> int:
    return sum(": training " in line for line in result.stderr.splitlines())


def evaluations(result: Any) -> int:
    return sum(": evaluating " in line for line in result.stderr.splitlines())


# --- from nothing to a table ----------------------------------------------------------------------------------------


def test_a_table_is_filled_from_nothing_and_then_there_is_nothing_to_do(reproduce: Reproduce, tmp_path: Path) -> None:
    first = reproduce("ii", "--seeds", "2", "--json")
    assert first.code == 0, first.stderr
    assert (trainings(first), evaluations(first)) == (4, 4)
    (table,) = json.loads(first.stdout)["tables"]
    assert (table["dataset"], table["paper_dataset"]) == ("scenes", False)
    assert "Profile tiny: three iterations." in table["caption"]
    numbers = {row["id"]: row["cells"][0] for row in table["rows"]}
    assert list(numbers) == ["googlenet-gap", "googlenet-gwap"]
    for number in numbers.values():
        assert 0 <= number["value"] <= 1
        assert number["sd"] is not None
        assert [source["seed"] for source in number["runs"]] == [0, 1]
    again = reproduce("ii", "--seeds", "2", "--json")
    assert (again.code, trainings(again), evaluations(again)) == (0, 0, 0)
    assert again.stdout == first.stdout
    more = reproduce("ii", "--seeds", "3", "--rows", "googlenet-gap")
    assert (more.code, trainings(more), evaluations(more)) == (0, 1, 1)


def test_tables_share_their_trainings_and_what_was_measured(reproduce: Reproduce, tmp_path: Path) -> None:
    assert trainings(reproduce("ii")) == 2
    shared = reproduce("i")
    assert (shared.code, trainings(shared), evaluations(shared)) == (0, 0, 0)  # any map classifies the same
    assert len(find_runs(tmp_path / "runs")) == 2


def test_report_prints_the_table_of_a_profile(
    reproduce: Reproduce, run_cli: Reproduce, tiny: Path, tmp_path: Path
) -> None:
    made = reproduce("i", "--json")
    told = run_cli(
        *("report", "--table", "i", "--profile", tiny, "--runs", tmp_path / "runs", "--dataset", "scenes"),
        *("--format", "json"),
    )
    assert told.code == 0
    assert json.loads(told.stdout)["tables"][0]["rows"] == json.loads(made.stdout)["tables"][0]["rows"]


def test_the_rows_of_a_profile_are_evaluated_as_it_says(reproduce: Reproduce, tmp_path: Path) -> None:
    reproduce("ii")
    options = {run.document["config"]["head"]: run.evaluations()[0]["options"] for run in find_runs(tmp_path / "runs")}
    assert (options["gap"]["map"], options["gwap"]["map"]) == ("class", "weight")
    assert options["gwap"]["scales"] == [32, 48]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_one_failing_row_stops_nothing_and_is_told_at_the_end(
    reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = verb._train

    def broken(plan: Any, work: Any, watch: Any) -> Run:
        if work.config.head == "gap":
            raise DataError("the disk is full.")
        return train(plan, work, watch)

    monkeypatch.setattr(verb, "_train", broken)
    result = reproduce("ii")
    assert result.code == 3
    assert (
        "error: googlenet-gap, seed 0: training of voc-googlenet-gap-on-scenes-tiny failed: the disk is full."
        in result.stderr
    )
    assert evaluations(result) == 1
    assert "1 empty cell: `gwapctl reproduce ii" in result.stdout
    monkeypatch.undo()
    repaired = reproduce("ii")
    assert (repaired.code, trainings(repaired)) == (0, 1)


def test_an_interrupted_call_continues_where_it_stopped(
    reproduce: Reproduce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gwapctl.train.loop as training

    step, count = training.train_step, 0

    def stop_in_the_fifth(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", stop_in_the_fifth)
    assert reproduce("ii").code == 130
    assert [run.document["status"] for run in find_runs(tmp_path / "runs")] == ["finished", "interrupted"]
    plan = json.loads(reproduce("ii", "--dry-run", "--json").stdout)["tables"][0]["plan"]
    assert [item["state"] for item in plan] == ["trained", "interrupted"]
    count = 5
    result = reproduce("ii")
    assert (result.code, trainings(result)) == (0, 1)
    assert count == 5 + 2  # one of its three iterations was done
    assert [run.document["status"] for run in find_runs(tmp_path / "runs")] == ["finished", "finished"]


def test_what_a_kill_at_the_end_of_a_training_left_is_cleared(reproduce: Reproduce, tmp_path: Path) -> None:
    assert reproduce("ii", "--rows", "googlenet-gap").code == 0
    (run,) = find_runs(tmp_path / "runs")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    (run.folder / STATE).write_bytes(b"")
    (run.folder / LOCK).write_text(json.dumps({"machine": _machine(), "pid": os.getpid()}))
    (evaluation,) = (run.folder / "evaluations").iterdir()
    half = evaluation.with_name(f".gwapctl-{evaluation.name}")  # one that is no evaluation
    half.write_text(evaluation.read_text()[:99])
    again = reproduce("ii", "--rows", "googlenet-gap")
    assert (again.code, trainings(again), evaluations(again)) == (0, 0, 0)
    half.unlink()
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_a_metric_that_the_data_cannot_give_is_a_failure(tiny: Path, tmp_path: Path, scenes: Path) -> None:
    spec = apply_profile(load_table("ii"), load_profile(str(tiny)))
    column = spec.columns[0].model_copy(update={"metric": "top1_error"})
    plan = make_plan(
        spec.model_copy(update={"columns": (column,)}),
        dataset=str(scenes),
        rows=["googlenet-gap"],
        machine=Machine(runs=tmp_path / "runs", device="cpu"),
    )
    (failure,) = carry_out(plan, watch=_silent)
    assert failure.rows == ("googlenet-gap",)
    assert "top1_error cannot be measured on scenes test" in failure.why


def test_runs_with_other_settings_do_not_count(reproduce: Reproduce, tiny: Path, tmp_path: Path) -> None:
    reproduce("ii", "--rows", "googlenet-gap")
    tiny.write_text(PROFILE.replace("lr = 1e-3", "lr = 2e-3"))
    other = reproduce("ii", "--rows", "googlenet-gap", "--json")
    assert trainings(other) == 1
    (table,) = json.loads(other.stdout)["tables"]
    (source,) = table["rows"][0]["cells"][0]["runs"]
    assert Run.open(Path(source["run"])).document["config"]["lr"] == 2e-3


# --- what others measured -------------------------------------------------------------------------------------------


def test_what_the_results_have_is_not_measured_again(
    reproduce: Reproduce, scenes: Path, tmp_path: Path, tiny: Path
) -> None:
    """Each evaluation is recorded as it is done, and another machine goes on from there, on the same data alone."""
    file = tmp_path / "results.csv"
    first = reproduce("ii", "--rows", "googlenet-gap", "--record", file)
    assert (first.code, len(file.read_text().splitlines())) == (0, 2)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    dry = reproduce("ii", "--record", file, "--dry-run", "--json")
    assert [item["state"] for item in json.loads(dry.stdout)["tables"][0]["plan"]] == ["recorded", "new"]
    assert "1 of 2 evaluations of table ii are among the results already" in dry.stderr
    second = reproduce("ii", "--record", file, "--json")
    assert (second.code, trainings(second), len(file.read_text().splitlines())) == (0, 1, 3)
    rows = json.loads(second.stdout)["tables"][0]["rows"]
    assert all(row["cells"][0]["value"] is not None for row in rows)
    again = reproduce("ii", "--record", file, "--again", "--dry-run", "--json", "--runs", tmp_path / "none")
    assert [item["state"] for item in json.loads(again.stdout)["tables"][0]["plan"]] == ["new", "new"]
    other = tmp_path / "other" / "scenes"  # of the same name
    make_synthetic_voc(other, images=20, seed=1, size=(64, 80))
    plan = make_plan(
        apply_profile(load_table("ii"), load_profile(str(tiny))),
        dataset=str(other),
        machine=Machine(runs=tmp_path / "none"),
        results=read_results(file),
    )
    assert [len(plan.missing(work)) for work in plan.works] == [1, 1]


# --- the plan -------------------------------------------------------------------------------------------------------


def test_dry_run_counts_images_and_does_nothing(reproduce: Reproduce, tmp_path: Path) -> None:
    result = reproduce("ii", "--dry-run", "--json", "--seeds", "2")
    (document,) = json.loads(result.stdout)["tables"]
    assert (document["table"], len(document["plan"])) == ("ii", 4)
    first = document["plan"][0]
    assert (first["rows"], first["state"], first["iterations"], first["images"]) == (["googlenet-gap"], "new", 3, 12)
    assert first["images_per_second"] is None
    assert not (tmp_path / "runs").exists()
    told = reproduce("ii", "--dry-run")
    assert "2 of 2 networks to train; 24 image presentations in training" in told.stderr
    assert "their time is not known" in told.stderr


def test_dry_run_uses_the_speed_of_earlier_runs(reproduce: Reproduce) -> None:
    reproduce("ii", "--rows", "googlenet-gap")
    plan = json.loads(reproduce("ii", "--dry-run", "--json", "--seeds", "2").stdout)["tables"][0]["plan"]
    by_seed = {(item["rows"][0], item["seed"]): item for item in plan}
    assert by_seed["googlenet-gap", 1]["seconds"] == pytest.approx(
        12 / by_seed["googlenet-gap", 1]["images_per_second"]
    )
    assert by_seed["googlenet-gap", 0]["images"] == 0
    assert by_seed["googlenet-gwap", 0]["images_per_second"] == by_seed["googlenet-gap", 1]["images_per_second"]
    assert by_seed["googlenet-gap", 1]["evaluation_seconds"] > 0
    assert by_seed["googlenet-gwap", 0]["evaluation_seconds"] is None  # at other sizes, which nobody tried


def test_epochs_are_counted_in_whole_batches(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    tiny.write_text(PROFILE.replace("iterations = 3", "epochs = 5"))
    spec = apply_profile(load_table("ii"), load_profile(str(tiny)))
    plan = make_plan(spec, dataset=str(scenes), machine=Machine(runs=tmp_path))
    images = len((scenes / "ImageSets" / "Main" / "train.txt").read_text().split())
    assert plan.cost(plan.works[0]).iterations == 5 * (images // 4)


def test_a_paper_table_is_planned_without_its_data(tmp_path: Path) -> None:
    plan = make_plan(load_table("i"), machine=Machine(runs=tmp_path, root=tmp_path))
    assert [work.name for work in plan.works][:2] == ["voc-caffenet-gap", "voc-caffenet-gwap-no-sigmoid"]
    cost = plan.cost(plan.works[0])
    assert (cost.iterations, cost.images, cost.evaluated) == (60_000, 240_000, None)


def test_tables_iii_iv_and_cam_train_the_same_ten_networks(tmp_path: Path) -> None:
    machine = Machine(runs=tmp_path)
    keys = {
        name: {verb._key(w.config) for w in make_plan(load_table(name), machine=machine).works}
        for name in ("iii", "iv", "cam")
    }
    assert len(keys["iii"]) == 10
    assert keys["iv"] == keys["iii"]
    assert keys["cam"] < keys["iii"]


def test_all_tables_of_a_profile_one_after_the_other(reproduce: Reproduce) -> None:
    plans = json.loads(reproduce("all", "--dry-run", "--json", "--rows", "googlenet-gap").stdout)["tables"]
    assert [(plan["table"], len(plan["plan"])) for plan in plans] == [("i", 1), ("ii", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "unknown table 'x'"),
        (["ii", "--profile", "reel"], "Did you mean 'real'?"),
        (["ii", "--rows", "gap"], "unknown row 'gap'"),
        (["ii", "--seeds", "0"], "--seeds"),
    ],
    ids=str,
)
def test_mistakes_are_usage_errors(run_cli: Reproduce, arguments: list[str], message: str) -> None:
    result = run_cli("reproduce", *arguments, "--dry-run")
    assert result.code == 2
    assert message in result.stderr


# --- profiles -------------------------------------------------------------------------------------------------------


def test_the_profiles_are_these_and_fit_their_tables() -> None:
    assert profile_names() == ("paper", "real", "smoke")
    assert load_profile("paper") is None
    for name in profile_names()[1:]:
        profile = load_profile(name)
        assert profile is not None
        for table in profile.tables:
            spec = apply_profile(load_table(table), profile)
            assert spec.profile_caption.startswith(f"Profile {name}")
            plan = make_plan(spec, dataset="voc", machine=Machine(runs=Path("none")))
            backbone = "efficientnet-lite0" if name == "real" else "resnet-s"
            assert all(work.config.backbone == backbone for work in plan.works)


@pytest.mark.parametrize("tables", [("i", "ii"), ("iii", "iv", "cam", "fused")], ids=str)
def test_tables_of_real_share_their_trainings(tables: tuple[str, ...], tmp_path: Path) -> None:
    profile = load_profile("real")
    works = {}
    for table in tables:
        spec, machine = apply_profile(load_table(table), profile), Machine(runs=tmp_path)
        works[table] = {verb._key(work.config) for work in make_plan(spec, dataset="x", seeds=1, machine=machine).works}
    assert all(works[table] <= works[tables[0]] for table in tables)
    assert len(works[tables[0]]) == {"i": 6, "iii": 4}[tables[0]]


def test_every_row_of_real_has_the_same_settings_beside_network_and_head() -> None:
    profile = load_profile("real")
    for table in ("i", "ii", "iii", "iv", "cam"):
        spec = apply_profile(load_table(table), profile)
        settings = []
        for row in (row for row in spec.rows if row.quoted is None):
            plan = make_plan(spec, dataset="x", seeds=1, rows=[row.id], machine=Machine(runs=Path("none")))
            (work,) = plan.works
            assert work.config.schedule == "cosine"  # so that step_every means nothing
            own = {"head", "output_stride", "recipe", "step_every", "cam_groups"}
            settings.append(work.config.model_dump(exclude=own))
        assert all(one == settings[0] for one in settings)


def test_a_data_set_may_have_rows_columns_and_seeds_of_its_own(tiny: Path) -> None:
    tiny.write_text(
        PROFILE
        + """
[tables.iii]
seeds = 2
caption = "Short."
rows = ["googlenet-gap", "mine"]
[tables.iii.settings]
iterations = 2
[[tables.iii.added]]
id = "mine"
labels = ["Mine"]
recipe = "imagenet-googlenet-gwap"
[tables.iii.on.birds]
seeds = 3
rows = ["mine"]
[tables.iii.on.birds.row.mine.settings]
lr = 1e-2
[[tables.iii.on.birds.columns]]
key = "top1"
name = "top-1"
metric = "top1_error"
decimals = 1
[data]
birds = "Birds of two kinds."
"""
    )
    spec = apply_profile(load_table("iii"), load_profile(str(tiny)))
    assert ([row.id for row in spec.rows], spec.seeds, len(spec.columns)) == (["googlenet-gap", "mine"], 2, 2)
    birds = spec.on("data/birds", "cub")
    assert ([row.id for row in birds.rows], birds.seeds, len(birds.columns)) == (["mine"], 3, 1)
    assert birds.profile_caption == "Profile tiny: three iterations. Short. Birds of two kinds."
    assert (birds.rows[0].instead["lr"], birds.rows[0].instead["iterations"]) == (1e-2, 2)
    plan = make_plan(spec, dataset="x", machine=Machine(runs=Path("none")))
    assert [(work.rows, work.config.seed) for work in plan.works] == [
        (("googlenet-gap",), 0),
        (("mine",), 0),
        (("googlenet-gap",), 1),
        (("mine",), 1),
    ]


def test_a_profile_that_names_no_row_of_the_table_is_refused(tiny: Path) -> None:
    tiny.write_text(PROFILE.replace('"googlenet-gap"', '"googlenet-gup"'))
    with pytest.raises(DataError, match="googlenet-gup"):
        apply_profile(load_table("ii"), load_profile(str(tiny)))


def test_a_profile_without_the_table_says_which_it_has(tiny: Path) -> None:
    with pytest.raises(UsageError, match="It has: i, ii"):
        apply_profile(load_table("iv"), load_profile(str(tiny)))


def test_a_broken_profile_lists_its_mistakes(tiny: Path) -> None:
    tiny.write_text("[settings]\nlr = []\n[tables.ii]\nrow = 3\n")
    with pytest.raises(DataError, match=r"caption: .*row: "):
        load_profile(str(tiny))


def _silent(_: str) -> Any:
    from contextlib import nullcontext

    return nullcontext(lambda _: None)
