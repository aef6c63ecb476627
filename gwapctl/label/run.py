"""Taking the steps of a plan: the folder made ready, each step that is not done taken, in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gwapctl.errors import UsageError, option
from gwapctl.files import in_use, prepare_output_folder, read_json, remove_below, require_output_folder, write_json
from gwapctl.formats.base import remove_export
from gwapctl.formats.review import remove_review
from gwapctl.label.plan import EVALUATIONS, FOUND, JUDGED, REVIEW, RUNS, Plan, written_names
from gwapctl.label.steps import Ears, Step
from gwapctl.predict.folder import remove_localized
from gwapctl.runs import remove_run

DOCUMENT = "label.json"


def check_folder(plan: Plan, *, resume: bool, overwrite: bool) -> None:
    """Refuse what ``prepare_folder`` refuses, and change nothing."""
    out, folder = plan.asked.out, Path(plan.asked.folder)
    require_output_folder(out, overwrite=True)  # a file is none
    if out.resolve().is_relative_to(folder.resolve()):  # what is written would be taken for labelled images
        raise UsageError(
            f"{out} lies in {folder}, whose images are labelled. Choose a place outside with {option('out')}."
        )
    is_ours = (out / DOCUMENT).is_file()
    if not is_ours and in_use(out):
        raise UsageError(f"{out} holds other files than label writes. Choose another folder with {option('out')}.")
    if resume and not is_ours:
        raise UsageError(f"there is nothing in {out} to resume. Leave out {option('resume')}.")
    if resume:
        _require_same(read_json(out / DOCUMENT), plan)
    else:
        require_output_folder(out, overwrite=overwrite)


def _require_same(stored: dict[str, Any], plan: Plan) -> None:
    """Refuse to continue what was started with other settings."""
    now = _comparable(plan.asked.to_json())
    was = {key: stored.get(key) for key, value in now.items() if stored.get(key) != value}
    if was:
        said = ", ".join(f"{key} {value!r}" for key, value in was.items())
        raise UsageError(
            f"{plan.asked.out} was started with {said}. Repeat that, or choose another folder with {option('out')}."
        )


def _comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document as it comes back from a file: tuples are lists there."""
    listed = {name: {key: _plain(one) for key, one in part.items()} for name, part in document.items() if _is_map(part)}
    return {**document, **listed}


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def prepare_folder(plan: Plan, *, resume: bool = False, overwrite: bool = False) -> None:
    """Make the folder ready; with ``overwrite`` what an earlier call wrote there goes, and nothing else.

    Raises:
        UsageError: it holds files that are not ours; or ours, and neither ``resume`` nor ``overwrite``; or it was
            started with other settings.

    """
    check_folder(plan, resume=resume, overwrite=overwrite)
    out = plan.asked.out
    if overwrite:
        for name in written_names():
            _remove(out, name)
    prepare_output_folder(out, overwrite=overwrite, resume=resume)
    write_json(out / DOCUMENT, plan.to_json())


def _remove(out: Path, name: str) -> None:
    """Remove what label wrote under a name, and nothing else: below a folder what the verb that wrote it knows."""
    folder = out / name
    if folder.is_symlink() or not folder.is_dir():
        remove_below(out, [name])
        return
    if name == EVALUATIONS:
        remove_below(out, [f"{name}/{file.name}" for who in JUDGED for file in folder.glob(f"*-{who}.json")])
    elif name in RUNS:
        remove_run(folder)
    else:
        {FOUND: remove_localized, REVIEW: remove_review}.get(name, remove_export)(folder)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def carry_out(plan: Plan, ears: Ears, begin: Callable[[int, Step, bool], None]) -> None:
    """Take the steps that are not done; ``begin`` hears of each: its number, and whether its result is there already.

    Raises:
        KeyboardInterrupt: it was stopped; the same call continues.
        GwapctlError: a step failed.

    """
    for number, step in enumerate(plan.steps, start=1):
        done = step.done
        begin(number, step, done)
        if not done:
            step.carry_out(ears)
