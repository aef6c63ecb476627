"""Is anything lost when gwapctl is killed? At every file operation of every verb that writes, and then it goes on.

python benchmarks/kill_everywhere.py [--verbs train,localize] [--every 1] [--points N] [--no-torn] [--json]

A verb runs once, on small synthetic data, and what a kill would leave is kept before each of its file operations
(``crashes.py``): with a whole and, where something is being written, with a half written file. Each of these states
that differs from the others, a point, is laid there again, and a person's next command follows: ``--resume`` where
there is something to resume, else the same again. Recovered is a point from which that ends well and leaves the same
files as the undisturbed run, to the byte; only the times that documents say are left out. ``--points`` spreads N of
them over the verbs asked for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crashes import Crash, Outcome, Recorder, Store, attempt, distinct

TIMES = {"started", "finished", "images_per_second", "created", "seconds"}  # that documents say
REFUSED = 2
OUT = "out"  # the folder that is watched
CPU = ("--device", "cpu", "--workers", "0")
SMALL = ("--backbone", "resnet-s", "--weights", "none", "--image-size", "32", "--batch-size", "4", *CPU)
SET, PHOTOS, MODEL, OTHER = "in/set", "in/set/JPEGImages", "in/run", "in/other"
FOUND = ("--model", MODEL, "--device", "cpu", "--workers", "1", "--out", f"{OUT}/found")


@dataclass(frozen=True)
class Verb:
    """A command whose writing is disturbed.

    Attributes:
        words: the command.
        before: commands that make what is there already, undisturbed, the same for all.
        again: what a person types after it was stopped, given the folder; None: ``words``.
        slow: whether one run takes longer than about a second.

    """

    words: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    again: Callable[[Path], tuple[str, ...]] | None = None
    slow: bool = False


def _train(*words: str, data: str = SET) -> tuple[str, ...]:
    return ("train", data, *SMALL, *words, "--out", f"{OUT}/run")


def _resumed(words: tuple[str, ...]) -> Callable[[Path], tuple[str, ...]]:
    """Return what goes on with a training: ``--resume`` where there is a run, else it starts over."""

    def again(out: Path) -> tuple[str, ...]:
        begun = (out / "run" / "run.json").is_file() or (out / "run" / "folds" / "1" / "run.json").is_file()
        plain = tuple(word for word in words if word != "--overwrite")
        return (*plain, "--resume") if begun else (*plain, "--overwrite")

    return again


def _training(*words: str, data: str = SET, slow: bool = False, before: tuple[tuple[str, ...], ...] = ()) -> Verb:
    command = _train(*words, data=data)
    return Verb(command, before, _resumed(command), slow)


def _label_again(out: Path) -> tuple[str, ...]:
    return (*LABEL, "--resume") if (out / "labelled" / "label.json").is_file() else LABEL


LABEL = (
    *("label", "in/photos", "--out", f"{OUT}/labelled", "--device", "cpu", "--workers", "0"),
    *("--set", "classifier.epochs=1", "--set", "classifier.batch_size=4", "--set", "detector.iterations=2"),
    *("--set", "classifier.backbone=resnet-s", "--set", "classifier.weights=none", "--set", "detector.weights=none"),
    *("--set", "classifier.cache_features=false", "--set", "classifier.freeze_backbone=false"),
    *("--set", "classifier.output_stride=none", "--set", "classifier.scales=", "--set", "classifier.box_rule=paper20"),
    *("--set", "detector.backbone=resnet-s", "--set", "detector.cache_features=false"),
    *("--set", "classifier.image_size=32", "--set", "detector.short_side=40", "--set", "detector.long_side=56"),
)
PROFILE = """
caption = "Two small networks"
[settings]
backbone = "resnet-s"
weights = "none"
image_size = [32, 32]
batch_size = 4
iterations = 2
val_fraction = 0.0
keep = "last"
[tables.ii]
rows = ["googlenet-gap", "googlenet-gwap"]
"""
REPRODUCE = ("reproduce", "ii", "--profile", "in/profile.toml", "--dataset", SET, "--runs", f"{OUT}/runs", *CPU[:2])
FINDING = ("localize", PHOTOS, *FOUND)
SHARD = (*FINDING, "--shard", "0/2")
MERGE = ("merge", "in/shards", "--out", f"{OUT}/all")
EARLIER = ("localize", OTHER, *FOUND)
STORED = ("localize", PHOTOS, *FOUND[:-1], "in/found")
YOLO = ("boxes", "in/found", "--format", "yolo", "--out", f"{OUT}/yolo")
REVIEW = ("boxes", "in/found", "--review", f"{OUT}/review")
SYNTH = ("data", "synth", "--images", "5", "--image-size", "64", "--out", f"{OUT}/scenes")
BACKGROUND = ("data", "synth", "--background", "--images", "3", "--image-size", "64", "--out", f"{OUT}/grounds")
DETECTOR = (
    *("train", SET, "--detector", "rfcn", "--boxes-from", "in/boxes.jsonl", "--backbone", "resnet-s"),
    *("--weights", "none", "--set", "short_side=40", "--set", "long_side=56", "--batch-size", "2"),
    *("--set", "iterations=4", "--set", "rounds=2", "--set", "composites=0.5", *CPU, "--out", f"{OUT}/run"),
)

VERBS: dict[str, Verb] = {
    "train": _training("--epochs", "2"),
    "train, replacing a run": _training(
        "--epochs", "2", "--overwrite", before=(_train("--epochs", "1", "--seed", "5"), ("evaluate", f"{OUT}/run"))
    ),
    "train, cached features": _training(
        *("--epochs", "2", "--freeze-backbone", "--cache-features", "--feature-cache", f"{OUT}/cache")
    ),
    "train, folds": _training(*("--epochs", "1", "--folds", "2", "--set", "keep=last"), data="in/photos", slow=True),
    "train, a detector": Verb(DETECTOR, again=_resumed(DETECTOR), slow=True),
    "localize": Verb(FINDING, again=lambda _: (*FINDING, "--resume")),
    "localize, a shard": Verb(SHARD, again=lambda _: (*SHARD, "--resume")),
    "merge": Verb(MERGE, again=lambda out: ("--version",) if (out / "all").is_dir() else MERGE),  # it is there whole
    "localize, replacing": Verb((*FINDING, "--overwrite"), (EARLIER,)),
    "boxes, one file": Verb(
        ("boxes", "in/found", "--out", f"{OUT}/boxes.json", "--overwrite"),
        (("boxes", "in/found", "--threshold", "0.5", "--out", f"{OUT}/boxes.json"),),
    ),
    "boxes, a folder": Verb((*YOLO, "--overwrite")),
    "boxes, replacing a folder": Verb(
        (*YOLO, "--overwrite"), (("boxes", "in/earlier", "--format", "yolo", "--out", f"{OUT}/yolo"),)
    ),
    "boxes, a review page": Verb((*REVIEW, "--overwrite")),
    "boxes, replacing a page": Verb((*REVIEW, "--overwrite"), (("boxes", "in/earlier", "--review", f"{OUT}/review"),)),
    "evaluate": Verb(("evaluate", f"{OUT}/run"), (_train("--epochs", "1"),)),
    "evaluate, to a file": Verb(
        ("evaluate", "in/found", "--dataset", SET, "--split", "test", "--out", f"{OUT}/found.json")
    ),
    "evaluate, calibrating": Verb(("evaluate", f"{OUT}/run", "--calibrate", "--force"), (_train("--epochs", "1"),)),
    "reproduce": Verb(REPRODUCE, slow=True),
    "models publish": Verb(("models", "publish", MODEL, f"{OUT}/entry")),
    "report, results": Verb(("report", "--runs", "in", "--record", f"{OUT}/results.csv")),
    "report, a page": Verb(("report", MODEL, "--out", f"{OUT}/report.html", "--overwrite")),
    "label": Verb(LABEL, again=_label_again, slow=True),
    "export onnx": Verb(("export", "onnx", "--model", MODEL, "--out", f"{OUT}/model.onnx", "--overwrite"), slow=True),
    "export openvino": Verb(
        ("export", "openvino", "--model", MODEL, "--out", f"{OUT}/model.xml", "--overwrite"), slow=True
    ),
    "data synth": Verb((*SYNTH, "--overwrite")),
    "data synth, replacing": Verb((*SYNTH, "--overwrite"), ((*SYNTH[:3], "7", *SYNTH[4:], "--seed", "3"),)),
    "data synth, backgrounds": Verb((*BACKGROUND, "--overwrite")),
}


def typed(*words: str) -> Callable[[], int]:
    """Return what calls the command line."""
    from gwapctl import cli

    return lambda: cli.run(list(words))


def make_inputs(place: Path) -> None:
    """Make what the verbs read: a data set, other photos, class folders, a run, what it found, and its boxes."""
    commands = [
        ("data", "synth", "--images", "12", "--image-size", "64-80", "--out", SET),
        ("data", "synth", "--images", "6", "--image-size", "64", "--seed", "9", "--out", "in/other-set"),
        ("train", SET, *SMALL, "--epochs", "1", "--out", MODEL),
        ("evaluate", MODEL),
        ("localize", SET, "--labels", "from-dataset", *FOUND[:-1], "in/found"),
        ("localize", "in/other-set", "--labels", "from-dataset", *FOUND[:-1], "in/earlier"),
        ("boxes", "in/found", "--out", "in/boxes.jsonl"),
        *((*FINDING[:-1], f"in/shards/{one}", "--shard", f"{one}/2") for one in (0, 1)),
    ]
    for words in commands:
        run_whole(place, *words)
    (place / "in/profile.toml").write_text(PROFILE, encoding="utf-8")
    shutil.copytree(place / "in/other-set/JPEGImages", place / OTHER)
    for index, file in enumerate(sorted((place / PHOTOS).iterdir())):
        folder = place / "in/photos" / ("ball", "leaf")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)


def run_whole(place: Path, *words: str, recorder: Recorder | None = None) -> None:
    """Run a command undisturbed, in a process of its own, for this one must not use torch."""
    outcome = attempt(typed(*words), place / "notes", recorder)
    if outcome.code:
        raise SystemExit(f"gwapctl {' '.join(words)} ended with {outcome.code}:\n{outcome.said}")


def content(folder: Path) -> dict[str, object]:
    """Return every file below ``folder``, hidden ones, too: its bytes, or what a document says without its times."""
    return {
        path.relative_to(folder).as_posix(): _without_times(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


def _without_times(path: Path) -> object:
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _timeless(json.loads(data))
        if path.suffix == ".jsonl":
            return [_timeless(json.loads(line)) for line in data.decode().splitlines()]
    except ValueError:
        pass
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


class Trial:
    """One verb, recorded in the folder ``place``: every crash of it, and what it leaves undisturbed."""

    def __init__(self, name: str, verb: Verb, place: Path) -> None:
        self.name, self.verb, self.place, self.out = name, verb, place, place / OUT
        self.store = Store(place / "kept")
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for words in verb.before:
            run_whole(place, *words)
        recorder = Recorder(self.out, self.store, place / "crashes.jsonl")
        run_whole(place, *verb.words, recorder=recorder)
        self.crashes, self.whole = recorder.crashes(), content(self.out)
        self.operations = self.crashes[-1].at + 1

    def states(self, torn: bool) -> list[Crash]:
        """Return the crashes that leave something different, those with half written files only if asked for."""
        return distinct([crash for crash in self.crashes if torn or not crash.torn])

    def lost(self, crash: Crash) -> str | None:
        """Go on after a crash; return what is wrong then, None: nothing."""
        self.store.lay(crash.files, self.out)
        words = self.verb.again(self.out) if self.verb.again else self.verb.words
        after = self._run(words)
        if after.code == REFUSED and "--overwrite" in self.verb.words:  # what is there is still what is to be replaced
            words = self.verb.words
            after = self._run(words)
        if after.code and "there is nothing to resume" not in after.said:
            return f"`gwapctl {' '.join(words)}` ended with {after.code}: {after.said[-300:]}"
        found = content(self.out)
        other = sorted(name for name in found.keys() | self.whole.keys() if found.get(name) != self.whole.get(name))
        return f"other than undisturbed: {', '.join(other)}" if other else None

    def _run(self, words: tuple[str, ...]) -> Outcome:
        return attempt(typed(*words), self.place / "notes")


def spread(points: list[Any], count: int) -> list[Any]:
    """Return ``count`` of the points, evenly spread, or all where there are fewer."""
    step = len(points) / count
    return points if step <= 1 else [points[int(index * step + step / 2)] for index in range(count)]


def main() -> int:
    """Print a row per verb; the exit code is 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"train,localize: all of these. Or with semicolons, of: {'; '.join(VERBS)}. cheap: the fast ones."
    parser.add_argument("--verbs", help=names)
    parser.add_argument("--every", type=int, default=1, help="take every so many-th point only")
    parser.add_argument("--points", type=int, help="spread so many points over the verbs")
    parser.add_argument("--torn", action=argparse.BooleanOptionalAction, default=True, help="also half written files")
    parser.add_argument("--json", action="store_true", help="print a document instead of a table")
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="gwapctl-kills-") as folder:
        place = Path(folder).resolve()
        os.chdir(place)
        os.environ |= {"NO_COLOR": "1", "XDG_CACHE_HOME": str(place / "cache"), "GWAPCTL_OFFLINE": "1"}
        _load()
        make_inputs(place)
        names = _names(asked.verbs)
        for name in names:
            trial = Trial(name, VERBS[name], place)
            states = trial.states(asked.torn)[:: asked.every]
            chosen = states if asked.points is None else spread(states, max(1, asked.points // len(names)))
            lost = [f"{crash}: {wrong}" for crash in chosen if (wrong := trial.lost(crash)) is not None]
            counts = {"operations": trial.operations, "points": len(chosen), "recovered": len(chosen) - len(lost)}
            rows.append({"verb": name, **counts, "lost": lost})
            if not asked.json:
                _print(rows[-1], first=len(rows) == 1)
    total = sum(row["points"] for row in rows), sum(row["recovered"] for row in rows)
    if asked.json:
        print(json.dumps({"points": total[0], "recovered": total[1], "verbs": rows}, indent=2))
    else:
        print(f"{'in all':<28}{'':>12}{total[0]:>10}{total[1]:>12}")
    return int(total[0] != total[1])


def _print(row: dict[str, Any], *, first: bool) -> None:
    if first:
        print(f"{'verb':<28}{'operations':>12}{'points':>10}{'recovered':>12}")
    print(f"{row['verb']:<28}{row['operations']:>12}{row['points']:>10}{row['recovered']:>12}", flush=True)
    for text in row["lost"]:
        print(f"  {text}", flush=True)


def _names(asked: str | None) -> list[str]:
    if asked is None:
        return list(VERBS)
    if asked == "cheap":
        return [name for name, verb in VERBS.items() if not verb.slow]
    if ";" in asked:
        wanted = [name for name in VERBS if name in map(str.strip, asked.split(";"))]
    else:
        wanted = [name for name in VERBS if name.partition(",")[0] in asked.split(",")]
    if not wanted:
        raise SystemExit(f"no such verb: {asked}. Choose of: {'; '.join(VERBS)}.")
    return wanted


def _load() -> None:
    """Import what the verbs need once, so that forked processes start at once; no thread may run before they do."""
    import cv2
    import torch

    import gwapctl.cli.boxes
    import gwapctl.cli.evaluate
    import gwapctl.cli.label
    import gwapctl.cli.localize
    import gwapctl.cli.report
    import gwapctl.evaluate.run
    import gwapctl.label
    import gwapctl.predict.classifier
    import gwapctl.train.loop  # noqa: F401

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    gc.freeze()  # what a forked process does not touch need not be copied


if __name__ == "__main__":
    sys.exit(main())
