"""Training settings are declared once: flags, ``--set``, ``--settings``, recipe checks and the docs come from that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import write_settings

from gwapctl.config import DetectorConfig, TrainConfig, all_settings, resolve
from gwapctl.config.settings import (
    ClassifierSettings,
    DetectorSettings,
    as_arguments,
    parse_changes,
    settings_of,
    successor,
)
from gwapctl.errors import UsageError

RunCli = Callable[..., Any]
WRITER = Path(__file__).parent.parent / "benchmarks" / "write_settings.py"
USED = """
    --backbone --head --weights --recipe --image-size --batch-size --epochs --iterations --lr --precision --device
    --seed --out --resume --root --output-stride --cam-conv --freeze-backbone --cache-features --background
    --val-fraction --skip-broken --detector --weak --box-proportion --set --settings
"""  # what DESIGN and README name


# --- the declarations ---


def test_every_field_but_two_is_a_setting() -> None:
    for config, declared in ((TrainConfig, ClassifierSettings), (DetectorConfig, DetectorSettings)):
        settings = settings_of(declared)
        assert config.model_fields.keys() - settings.keys() == {"dataset", "recipe"}
        assert {key: config.model_fields[key].default for key in settings} == {
            key: setting.default for key, setting in settings.items()
        }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("momentum=0.8", 0.8),
        ("warmup=20", 20),
        ("flip=no", False),
        ("compile=True", True),
        ("output_stride=16", 16),
        ("output_stride=none", None),
        ("weights=none", "none"),
        ("map=none", None),
        ("image_size=224", (224, 224)),
        ("image_size=320x240", (320, 240)),
        ("train_sizes=32, 48", (32, 48)),
        ("scales=", ()),
        ("background_classes=cat, wild dog", ("cat", "wild dog")),
        ("head_options=r=10,q=0.5", {"r": 10, "q": 0.5}),
    ],
)
def test_a_value_is_read_and_written_as_its_setting_says(text: str, value: object) -> None:
    key = text.partition("=")[0]
    assert parse_changes([text]) == {key: value}
    assert parse_changes([f"{key}={all_settings()[key].write(value)}"]) == {key: value}


def test_options_of_the_head_may_come_one_by_one() -> None:
    assert parse_changes(["head_options=r=10", "head_options=q=2"]) == {"head_options": {"r": 10, "q": 2}}


def test_settings_become_options_of_train(run_cli: RunCli) -> None:
    settings = {"cam_conv": True, "freeze_backbone": False, "image_size": (32, 48), "momentum": 0.8, "flip": False}
    options = as_arguments(settings)
    assert " ".join(options) == "--cam-conv --train-backbone --image-size 32x48 --set momentum=0.8 --set flip=false"
    planned = run_cli("train", "voc", *options, "--weights", "none", "--dry-run", "--json")
    config = json.loads(planned.stdout)["config"]
    assert {key: config[key] for key in settings} == settings | {"image_size": [32, 48]}


def test_origins_are_told() -> None:
    config, origins = resolve("voc", None, {"lr": 0.25, "epochs": 3})
    assert (origins["lr"], origins["epochs"], origins["keep"]) == ("given", "given", "data set")
    assert not {"iterations", "momentum"} & origins.keys()
    assert isinstance(config, TrainConfig)
    assert (config.epochs, config.iterations) == (3, None)


# --- the command line ---


def test_help_shows_what_people_use_and_nothing_else(run_cli: RunCli) -> None:
    words = set(run_cli("train", "--help").stdout.split())
    assert set(USED.split()) <= words
    flags = [setting for setting in all_settings().values() if setting.about.flag]
    assert len(flags) <= 24
    for setting in all_settings().values():
        assert (setting.words[0] in words) == setting.about.flag, setting.key


def test_a_flag_that_is_no_more_names_its_successor(run_cli: RunCli) -> None:
    for setting in all_settings().values():
        for word in setting.words:
            assert (successor(word) is None) == setting.about.flag
    for words, said in (
        (("--momentum", "0.8"), "--momentum is now --set momentum=VALUE."),
        (("--momentum=0.8",), "--momentum is now --set momentum=VALUE."),
        (("--head-option", "r=10"), "--head-option is now --set head_options=VALUE."),
        (("--no-flip",), "--no-flip is now --set flip=false."),
        (("--take-head",), "--take-head is now --set new_head=false."),
        (("--fast",), "--fast is now --set deterministic=false."),
    ):
        result = run_cli("train", "voc", *words)
        assert (result.code, result.stdout, result.stderr) == (2, "", f"error: {said}\n")
    assert "No such option" in run_cli("localize", "a.jpg", "--momentum", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "momentum"], "--set takes KEY=VALUE, not 'momentum'"),
        (["--set", "recipe=photos"], "--recipe"),
        (["--set", "dataset=voc"], "DATASET"),
        (["--set", "momentm=0.8"], "unknown key 'momentm'. Did you mean 'momentum'?"),
        (["--set", "momentum=3"], "momentum = 3: Input should be less than 1."),
        (["--set", "momentum=much"], "momentum = 'much' is not a number >= 0, < 1."),
        (["--set", "schedule=none"], "schedule = 'none' is not step, cosine or constant."),
        (["--set", "flip=maybe"], "flip = 'maybe' is not true or false."),
        (["--image-size", "1x2x3"], "image_size = '1x2x3' is not pixels >= 16, <= 4096, such as 224 or 320x240"),
        (["--image-size", "wide"], "224 or 320x240 (width x height)"),
        (["--image-size", "8"], "image_size.0 = 8: Input should be greater than or equal to 16."),
        (["--set", "scales=0"], "scales.0 = 0: Input should be greater than or equal to 1."),
        (["--set", "weak=gwap"], "weak is a detector's: add --detector rfcn."),
        (["--set", "head=gap", "--detector", "rfcn"], "head is a classifier's."),
        (["--lr", "0.1", "--set", "lr=0.2"], "--lr and --set lr are the same setting."),
        (["--set", "momentum=3", "--set", "lr=-1", "--set", "keep=all"], "3 wrong settings"),
    ],
)
@pytest.mark.parametrize("listing", [(), ("--settings",)], ids=["train", "settings"])
def test_wrong_settings_are_one_line(run_cli: RunCli, arguments: list[str], said: str, listing: tuple[str]) -> None:
    result = run_cli("train", "voc", *arguments, *listing)
    assert (result.code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


def test_a_data_set_is_needed_except_to_list_settings(run_cli: RunCli) -> None:
    result = run_cli("train", "--epochs", "3")
    assert (result.code, result.stdout) == (2, "")
    assert "Missing argument 'DATASET'" in result.stderr
    assert run_cli("train", "--settings").code == 0


def listed(run_cli: RunCli, *arguments: object) -> dict[str, dict[str, Any]]:
    document = json.loads(run_cli("train", *arguments, "--settings", "--json").stdout)
    assert document["schema_version"] == 1
    return {row["key"]: row for row in document["settings"]}


def test_settings_are_listed_with_value_and_origin(run_cli: RunCli) -> None:
    defaults = listed(run_cli)
    assert defaults.keys() == all_settings().keys()
    assert {row["origin"] for row in defaults.values()} == {"default", "detector"}
    assert all(row["value"] == row["default"] for row in defaults.values())
    rows = listed(run_cli, "photos", "--lr", "0.25", "--set", "momentum=0.8")
    for key, value, origin in (
        ("lr", 0.25, "flag"),
        ("momentum", 0.8, "--set"),
        ("optimizer", "adamw", "recipe"),
        ("step_every", 20_000, "default"),
        ("weak", "none", "detector"),
    ):
        assert (rows[key]["value"], rows[key]["origin"]) == (value, origin)
    assert rows["lr"]["flag"] == "--lr"
    assert rows["momentum"]["flag"] is None
    voc = listed(run_cli, "voc07+12", "--detector", "rfcn")
    assert voc.keys() == settings_of(DetectorSettings).keys()
    assert (voc["short_side"]["value"], voc["detector"]["origin"]) == (600, "flag")
    assert listed(run_cli, "voc")["iterations"]["origin"] == "data set"


def test_the_list_of_settings_fits_80_columns(run_cli: RunCli, tmp_path: Path) -> None:
    long = tmp_path / "a-folder-with-a-long-name-of-many-images-without-any-object"
    for arguments in ((), ("photos", "--background", long), ("voc", "--detector", "rfcn")):
        result = run_cli("train", *arguments, "--settings")
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
    assert "momentum              0.9" in run_cli("train", "--settings").stdout


def test_reproduce_takes_set_on_top_of_every_row(run_cli: RunCli, tmp_path: Path) -> None:
    def plan(*arguments: object) -> Any:
        return run_cli("reproduce", "i", "--rows", "caffenet-gwap", "--runs", tmp_path, "--dry-run", *arguments)

    (table,) = json.loads(plan("--set", "momentum=0.8", "--json").stdout)["tables"]
    assert [work["config"]["momentum"] for work in table["plan"]] == [0.8]
    for wrong, said in (
        ("momentm=1", "Did you mean 'momentum'?"),
        ("seed=3", "--seeds"),
        ("momentum=3", "less than 1"),
    ):
        result = plan("--set", wrong)
        assert result.code == 2
        assert said in result.stderr


# --- one declaration, everywhere ---


def test_the_page_is_what_the_declarations_give() -> None:
    page = write_settings.PAGE.read_text(encoding="utf-8")
    assert page == write_settings.page(), "run python benchmarks/write_settings.py"


NEW_SETTING = f"""
import sys
from typing import Annotated
from gwapctl.config.settings import IMAGES, About, Bounds, ClassifierSettings
annotation = Annotated[int, Bounds(ge=2), About("Pixels of sparkle.", IMAGES)]
ClassifierSettings.__annotations__["sparkle"] = annotation
ClassifierSettings.sparkle = 7
from gwapctl import cli
cli.run(["train", "--settings"])
cli.run(["train", "voc", "--weights", "none", "--set", "sparkle=9", "--dry-run"])
cli.run(["train", "voc", "--set", "sparkle=1"])
cli.run(["train", "voc", "--sparkle", "1"])
sys.path.insert(0, {str(WRITER.parent)!r})
import write_settings
print(write_settings.page())
"""


def test_a_new_setting_is_everywhere_by_its_declaration_alone() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_SETTING], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["sparkle", "7", "default", "Pixels", "of", "sparkle."] in lines
    assert ["sparkle", "9"] in lines
    assert "sparkle = 1: Input should be greater than or equal to 2." in done.stderr
    assert "--sparkle is now --set sparkle=VALUE." in done.stderr
    assert "| `sparkle` | `--set` | 7 | - | a whole number >= 2 | Pixels of sparkle. |" in done.stdout


def test_declarations_and_help_need_no_pydantic() -> None:
    script = "import sys\nfrom gwapctl.cli import run\nrun(['train', '--help'])\nassert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


def test_a_setting_that_is_not_declared_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown key 'sparkle'"):
        resolve("voc", None, {"sparkle": 3})
